"""The parts of the quickstart that need no training."""

from __future__ import annotations

from pathlib import Path

import pytest

from virft.config.toml_file import load_config
from virft.data.store import Store
from virft.evaluation.predictions import PredictionsCard, SizedPrediction, write_predictions
from virft.geometry.boxes import BoxSpace
from virft.recipes import quickstart
from virft.recipes.compare.runs import Compared
from virft.recipes.quickstart import TESTS, before_after_rows, quickstart_config, write_data
from virft.scenes.assets import class_names
from virft.types import Detections, FinishReason, ImageSize, Prediction

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of a quickstart with 10 questions a test."""
    folder = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart, "TEST_QUESTIONS", 10)
        write_data(folder / "data", seed=0)
    return folder


def test_the_config_file_is_the_quickstarts_own() -> None:
    assert load_config(CONFIGS / "quickstart.toml").config == quickstart_config(Path("runs/quickstart"), seed=0)


def test_the_config_file_of_photographs_is_the_quickstarts_own() -> None:
    config = quickstart.photo_quickstart_config(Path("runs/quickstart_photo"), seed=0)
    assert load_config(CONFIGS / "quickstart_photo.toml").config == config


def test_photographs_of_training_and_test_are_different(tmp_path: Path) -> None:
    quickstart.write_photographs(tmp_path, seed=0)
    train, test = (Store(tmp_path / part) for part in ("train", "test"))
    assert (len(train), len(test)) == (32, 108)
    assert {one.query for one in (*train, *test)} == {"white blood cell"}
    images = [path.read_bytes() for path in tmp_path.rglob("*.jpg")]
    assert len(set(images)) == len(images) == 140


def test_a_single_step_needs_no_warm_up() -> None:
    config = quickstart_config(Path("q"), seed=0, steps=1)
    assert (config.grpo.warmup_steps, config.sft.warmup_steps) == (0, 0)


def test_training_sees_four_images_of_each_of_eight_new_classes(data: Path) -> None:
    samples = list(Store(data / "data" / "train"))
    present = [one for one in samples if isinstance(one.target, Detections) and one.target.items]
    assert {one.query for one in samples} == set(class_names("novel"))
    assert len(present) == 32


def test_test_sets_have_trained_classes_in_two_styles_and_other_classes(data: Path) -> None:
    queries = {name: {one.query for one in Store(data / "data" / name)} for name in TESTS}
    assert queries["same_sprites"] <= set(class_names("novel"))
    assert queries["other_style"] <= set(class_names("novel"))
    assert queries["never_trained"] <= set(class_names("heldout"))
    assert all(len(Store(data / "data" / name)) == 10 for name in TESTS)


def test_images_of_training_and_tests_are_different(data: Path) -> None:
    images = [path.read_bytes() for path in (data / "data").rglob("*.png")]
    assert len(images) == len(set(images))


def test_existing_data_is_not_written_again(data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (data / "data").rglob("*")}
    write_data(data / "data", seed=0)
    assert {path: path.stat().st_mtime_ns for path in (data / "data").rglob("*")} == before


def test_classes_may_have_other_names_in_training_as_a_control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "TEST_QUESTIONS", 2)
    novel = class_names("novel")
    renamed = dict(zip(novel, novel[1:] + novel[:1], strict=True))
    write_data(tmp_path / "data", seed=0, renamed=renamed)
    write_data(tmp_path / "true", seed=0)
    other, true = (Store(tmp_path / name / "train") for name in ("data", "true"))
    assert [one.query for one in other] == [renamed[one.query] for one in true]
    assert [one.target for one in other] == [one.target for one in true]


def test_samples_with_changed_predictions_are_shown_first(data: Path) -> None:
    store = Store(data / "data" / "same_sprites")
    changed = {store[3].id, store[7].id}
    predictions = {}
    for name in ("base", "rft"):
        card = PredictionsCard(
            model=name,
            data="d",
            data_hash=store.hash,
            num_samples=10,
            box_space=BoxSpace.RELATIVE_1000,
            thinking=False,
            settings={},
        )
        box = "<answer>[{'Position':[0,0,500,500]}]</answer>"
        texts = {one.id: box if name == "rft" and one.id in changed else "<answer>No Objects</answer>" for one in store}
        rows = [
            SizedPrediction(Prediction(sample_id=id, text=text, finish_reason=FinishReason.STOP), ImageSize(112, 112))
            for id, text in texts.items()
        ]
        predictions[name] = {"same_sprites": (write_predictions(data / name, card, rows),)}
    found = Compared(systems=(), comparisons={}, predictions=predictions)
    rows_shown = before_after_rows(found, data, "same_sprites", count=2)
    assert [row.question for row in rows_shown] == [store[3].query, store[7].query]
    assert [row.before for row in rows_shown] == [Detections()] * 2
    after = rows_shown[0].after
    assert isinstance(after, Detections)
    # half of 112 pixels
    assert after.items[0].box.xyxy == (0, 0, 56, 56)
    assert rows_shown[0].target == store[3].target
    assert len(before_after_rows(found, data, "same_sprites", count=5)) == 5
