"""Hugging Face datasets with the columns image, problem and solution."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from factories import box, detections, save_image
from virft.cli.main import main
from virft.data.annotations import Skipped
from virft.data.sampling import SplitPlan
from virft.data.sources.visual_rft import VisualRFTPlan, open_rows, write_visual_rft_stores
from virft.data.store import Store
from virft.errors import DataError
from virft.geometry.boxes import BoxSpace
from virft.types import Label, Sample

datasets = pytest.importorskip("datasets")

DETECT = "<image>Detect all objects belonging to the category 'bus' in the image."
ROWS = [
    (0, DETECT, "<answer>[{'Position': [100, 200, 500, 1000], 'Confidence': 1}]</answer>"),
    (0, DETECT.replace("bus", "cat"), "<answer>No Objects</answer>"),
    (1, "Which aircraft is this?", "<answer>Cessna 172</answer>"),
    (2, "Where is the left one?", "<answer>(100,200),(500,1000)</answer>"),
]


def make(folder: Path, rows: Any = ROWS) -> Any:
    """A dataset of rows (number of an image of 64 x 48, problem, solution)."""
    images = [save_image(folder / "in" / f"{number}.png", seed=number).read_bytes() for number in range(3)]
    columns = {
        "image": [None if number is None else {"bytes": images[number], "path": None} for number, _, _ in rows],
        "problem": [problem for _, problem, _ in rows],
        "solution": [solution for _, _, solution in rows],
    }
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


def build(
    folder: Path, rows: Any, task: str | None = None, space: BoxSpace = BoxSpace.RELATIVE_1000, **split: float
) -> tuple[list[Sample], dict[str, Any]]:
    make(folder, rows).save_to_disk(folder / "saved")
    plan = VisualRFTPlan(task=task, space=space, split=SplitPlan(**split))  # type: ignore[arg-type]
    cards = write_visual_rft_stores(
        open_rows(str(folder / "saved")), folder / "out", plan=plan, source={}, skipped=Skipped()
    )
    return [one for part in cards for one in Store(part)], next(iter(cards.values()))


def test_questions_are_not_changed_and_solutions_are_parsed(tmp_path: Path) -> None:
    samples, card = build(tmp_path, ROWS)
    assert [one.task for one in samples] == [*["detection"] * 2, "classification", "grounding"]
    assert [one.query for one in samples[:2]] == ["bus", "cat"]
    assert samples[0].question == DETECT.removeprefix("<image>")
    assert [one.target for one in samples] == [
        detections((6.4, 9.6, 32, 48)),
        detections(),
        Label(text="Cessna 172"),
        box(6.4, 9.6, 32, 48),
    ]
    assert card["source"]["box_space"] == "relative_1000"
    assert card["num_images"] == 3
    assert card["skipped"] == []


def test_boxes_can_be_pixels_and_the_task_can_be_given(tmp_path: Path) -> None:
    rows = [(0, "Where?", "[{'Position': [10, 20, 30, 40]}]"), (1, "Where?", "[[10, 20, 30, 40]]")]
    samples, _ = build(tmp_path, rows, space=BoxSpace.ORIGINAL_PIXELS)
    assert [one.target for one in samples] == [detections((10, 20, 30, 40))] * 2
    samples, _ = build(tmp_path / "b", rows[1:], "grounding", BoxSpace.ORIGINAL_PIXELS)
    assert samples[0].target == box(10, 20, 30, 40)
    samples, _ = build(tmp_path / "c", rows[1:], "classification")
    assert samples[0].target == Label(text="[[10, 20, 30, 40]]")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((None, "Where?", "bus"), "image is empty; expected the bytes of an image"),
        ((0, " ", "bus"), "problem is ' '; expected a text"),
        ((0, "Where?", None), "solution is None; expected a text"),
        (
            (0, "Where?", "[{'Position': [1, 2]}]"),
            "solution \"[{'Position': [1, 2]}]\" is not an answer of detection (2 values in a box; expected 4 numbers)",
        ),
        ((0, "Where?", "(5,6),(5,6)"), "solution '(5,6),(5,6)' is not an answer of grounding (a box without area)"),
        (
            (0, "Where?", "<answer> </answer>"),
            "solution '<answer> </answer>' is not an answer of classification (the answer block is empty)",
        ),
    ],
)
def test_an_invalid_row_is_skipped_and_reported(tmp_path: Path, row: Any, reason: str) -> None:
    samples, card = build(tmp_path, [ROWS[2], row])
    assert [one.id for one in samples] == ["row 0"]
    ((skipped,),) = [card["skipped"]]
    assert skipped["where"] == "row 1"
    assert skipped["reason"].partition("; expected one such as")[0] == reason


def test_bytes_that_are_not_an_image_are_skipped_and_reported(tmp_path: Path) -> None:
    rows = [
        {"image": {"bytes": data, "path": None}, "problem": "Which?", "solution": "bus"}
        for data in (b"no picture", image_bytes("JPEG"), image_bytes("WEBP"))
    ]
    plan = VisualRFTPlan(split=SplitPlan())
    cards = write_visual_rft_stores(rows, tmp_path / "out", plan=plan, source={}, skipped=Skipped())
    (card,) = cards.values()
    assert [Path(one.images[0]).suffix for one in Store(tmp_path / "out")] == [".jpg", ".webp"]
    ((skipped,),) = [card["skipped"]]
    assert skipped["where"] == "row 0"
    assert "cannot be read as an image" in skipped["reason"]


def image_bytes(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(buffer, kind)
    return buffer.getvalue()


def test_a_dataset_can_name_files_instead_of_bytes(tmp_path: Path) -> None:
    path = str(save_image(tmp_path / "a.png"))
    rows = [{"image": {"bytes": None, "path": path}, "problem": "Which?", "solution": "bus"}]
    plan = VisualRFTPlan(split=SplitPlan())
    write_visual_rft_stores(rows, tmp_path / "out", plan=plan, source={}, skipped=Skipped())
    (sample,) = Store(tmp_path / "out")
    assert Path(sample.images[0]).read_bytes() == Path(path).read_bytes()


def test_rows_about_one_image_stay_in_one_part(tmp_path: Path) -> None:
    build(tmp_path, ROWS, test_frac=0.5)
    parts = [{Path(one.images[0]).name for one in Store(tmp_path / "out" / part)} for part in ("train", "test")]
    assert not parts[0] & parts[1]
    assert sum(map(len, parts)) == 3


def test_parquet_and_saved_sets_give_the_same_samples(tmp_path: Path) -> None:
    made = make(tmp_path)
    made.save_to_disk(tmp_path / "saved")
    made.to_parquet(tmp_path / "parquet" / "data.parquet")
    places = [tmp_path / "saved", tmp_path / "parquet", tmp_path / "parquet" / "data.parquet"]
    for number, place in enumerate(places):
        assert main(["build", "visual-rft", str(place), str(tmp_path / f"d{number}")]) == 0
    texts = {(tmp_path / f"d{number}" / "samples.jsonl").read_bytes() for number in range(3)}
    assert len(texts) == 1


def test_a_split_must_be_named_if_there_are_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make(tmp_path)
    datasets.DatasetDict({"train": made, "val": made.select([2])}).save_to_disk(tmp_path / "saved")
    argv = ["build", "visual-rft", str(tmp_path / "saved"), str(tmp_path / "d")]
    assert main(argv) == 2
    assert "has several splits; expected --hf-split train or val" in capsys.readouterr().err
    assert main([*argv, "--hf-split", "tset"]) == 2
    assert "has no split tset; expected --hf-split train or val" in capsys.readouterr().err
    assert main([*argv, "--hf-split", "val"]) == 0
    assert len(Store(tmp_path / "d")) == 1


def test_other_columns_and_other_folders_are_refused(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"image": ["a"], "label": [1]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="has no column problem; expected image, problem, solution, found image"):
        open_rows(str(tmp_path / "saved"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"folder: cannot be read as a dataset \(.*expected a saved dataset, parquet"):
        open_rows(str(tmp_path / "folder"))


def test_without_the_extra_the_message_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"reading it needs Hugging Face datasets; pip install -e \"\.\[hf\]\""):
        open_rows("laolao77/ViRFT_COCO")


def test_a_hub_id_is_read_from_the_local_cache(tmp_path: Path) -> None:
    """In a separate process: the cache folders are read once, on import."""
    snapshot = tmp_path / "hub" / "datasets--someone--virft_set" / "snapshots" / ("0" * 40)
    make(tmp_path).to_parquet(snapshot / "data" / "train-00000-of-00001.parquet")
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    env = os.environ | {
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    program = "import sys; from virft.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "build", "visual-rft", "someone/virft_set", str(tmp_path / "d")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert len(Store(tmp_path / "d")) == 4
    assert json.loads((tmp_path / "d" / "card.json").read_text())["source"]["name"] == "someone/virft_set"
