"""Two systems on the same questions: differences of headline metrics, bootstrapped over images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from factories import detections, sample
from virft.cli.evaluate import score
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.errors import DataError
from virft.evaluation.comparison import Comparison, compare_systems, comparisons_to_text, measure
from virft.evaluation.predictions import PredictionsCard, SizedPrediction, write_predictions
from virft.geometry.boxes import BoxSpace
from virft.types import FinishReason, ImageSize, Label, Prediction

SIZE = ImageSize(64, 48)
NUM_IMAGES = 20
FOUND, NOTHING = "<answer>[{'Position':[0,0,500,500],'Confidence':1.0}]</answer>", "<answer>No Objects</answer>"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A fox in the same corner of 20 images."""
    with StoreWriter(tmp_path / "d") as writer:
        for number in range(NUM_IMAGES):
            path = writer.add_image(f"{number:02d}.png", Image.new("RGB", SIZE, (number, 0, 0)))
            writer.add(sample(detections((0, 0, 32, 24)), id=f"fox {number}", image=path))
        writer.finish(source={}, seed=0)
    return Store(tmp_path / "d")


def write(store: Store, folder: Path, texts: Mapping[int, str], **card: Any) -> Path:
    """Predictions for the questions by number; ``NOTHING`` for those not named."""
    facts = {
        "model": "m",
        "data": "d",
        "data_hash": store.hash,
        "num_samples": len(store),
        "box_space": BoxSpace.RELATIVE_1000,
        "thinking": False,
        "settings": {"template": "paper"},
    }
    rows = [
        SizedPrediction(
            Prediction(sample_id=one.id, text=texts.get(number, NOTHING), finish_reason=FinishReason.STOP), SIZE
        )
        for number, one in enumerate(store)
    ]
    return write_predictions(folder, PredictionsCard(**facts | card), rows)


def finds(*numbers: int) -> dict[int, str]:
    return dict.fromkeys(numbers, FOUND)


def compare(first: list[Path], second: list[Path], store: Store) -> Comparison:
    (one,) = compare_systems([measure(path, store) for path in first], [measure(path, store) for path in second])
    return one


def test_a_difference_has_the_sign_of_the_second_system(store: Store, tmp_path: Path) -> None:
    first = write(store, tmp_path / "a", finds(*range(10)))
    second = write(store, tmp_path / "b", finds(*range(15)))
    recall = compare([first], [second], store).differences["recall"]
    assert (recall.first.mean, recall.second.mean, recall.value) == (0.5, 0.75, 0.25)
    assert recall.interval is not None
    assert 0 < recall.interval[0] < 0.25 < recall.interval[1] < 0.5
    assert recall.is_clear


def test_a_system_does_not_differ_from_itself_on_any_images(store: Store, tmp_path: Path) -> None:
    path = write(store, tmp_path / "a", finds(*range(10)))
    found = compare([path], [path], store)
    assert found.warnings == ()
    assert {one.value for one in found.differences.values()} == {0.0}
    assert {one.interval for one in found.differences.values()} == {(0.0, 0.0)}
    assert not any(one.is_clear for one in found.differences.values())


def test_pairing_removes_the_difficulty_of_images_from_the_difference(store: Store, tmp_path: Path) -> None:
    first = write(store, tmp_path / "a", finds(*range(10)))
    nested = write(store, tmp_path / "b", finds(*range(14)))  # all that the first finds, plus four
    apart = write(store, tmp_path / "c", finds(*range(6, 20)))  # as many, but six of the first are lost
    width = []
    for other in (nested, apart):
        interval = compare([first], [other], store).differences["recall"].interval
        assert interval is not None
        width.append(interval[1] - interval[0])
    assert width[0] < 0.6 * width[1]


def test_several_seeds_are_a_mean_with_its_range(store: Store, tmp_path: Path) -> None:
    first = [write(store, tmp_path / f"a{seed}", finds(*range(10))) for seed in range(2)]
    second = [write(store, tmp_path / f"b{number}", finds(*range(number))) for number in (10, 14, 18)]
    recall = compare(first, second, store).differences["recall"]
    assert (recall.second.mean, recall.second.low, recall.second.high) == pytest.approx((0.7, 0.5, 0.9))
    assert (recall.first.num_seeds, recall.second.num_seeds) == (2, 3)
    assert recall.value == pytest.approx(0.2)


def test_settings_that_differ_are_warned_about(store: Store, tmp_path: Path) -> None:
    first = write(store, tmp_path / "a", finds(1), settings={"template": "paper", "commit": "1"})
    second = write(store, tmp_path / "b", finds(1), settings={"template": "short", "commit": "2"}, model="n")
    found = compare([first], [second], store)
    (warning,) = found.warnings
    assert warning.startswith("template differs: 'paper' (")
    assert comparisons_to_text([found], first="a", second="b").startswith(f"warning: {warning}\ndetection, b against a")


def test_predictions_for_other_questions_are_refused(store: Store, tmp_path: Path) -> None:
    first = write(store, tmp_path / "a", finds(1))
    second = write(store, tmp_path / "b", finds(1))
    second.write_text("".join(second.read_text().splitlines(keepends=True)[:7]))
    with pytest.raises(DataError, match=r"has predictions for other questions than .* \(7 and 20\)"):
        compare([first], [second], store)


def test_a_single_image_has_no_interval(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "d") as writer:
        path = writer.add_image("a.png", Image.new("RGB", SIZE))
        writer.add(sample(Label(text="cat"), id="cat", image=path, query="animal", task="classification"))
        writer.finish(source={}, seed=0)
    store = Store(tmp_path / "d")
    right = write(store, tmp_path / "a", {0: "<answer>cat</answer>"})
    wrong = write(store, tmp_path / "b", {0: "<answer>dog</answer>"})
    accuracy = compare([wrong], [right], store).differences["accuracy"]
    assert (accuracy.value, accuracy.interval) == (1.0, None)


def test_the_verb_prints_and_writes_means_and_differences(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write(store, tmp_path / f"a{number}", finds(*range(number))) for number in (10, 20)]
    base = write(store, tmp_path / "b", finds(*range(5)))
    score(predictions=paths[0], data=store.folder, seeds=paths[1:], against=[base])
    printed = capsys.readouterr().out
    assert "detection, mean over 2 seeds\n" in printed
    assert "0.750  [0.500, 1.000]" in printed
    assert "0.250 -> 0.750 [0.500, 1.000]" in printed
    written = json.loads(paths[0].with_name("scores.json").read_text())["against"]["detection"]
    assert written["num_images"] == NUM_IMAGES
    assert written["differences"]["recall"]["value"] == 0.5
    assert written["differences"]["recall"]["second"] == {"mean": 0.75, "range": [0.5, 1.0], "num_seeds": 2}
