"""Masks from rows to scores on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from factories import save_image
from runs import virft
from tiny_segmenters import KINDS, save_segmenter
from virft.data.store import Store
from virft.evaluation.predictions import PredictionsCard, SizedPrediction, write_predictions
from virft.geometry.boxes import BoxSpace
from virft.types import FinishReason, ImageSize, Prediction

SIZE = ImageSize(64, 48)
TRIANGLE = [0, 0, 32, 0, 0, 24]
# rows 0 to 23 of columns 32 to 63, as run lengths down the columns
RIGHT = {"size": [48, 64], "counts": [32 * 48] + [24, 24] * 32}
ROWS: list[dict[str, Any]] = [
    {"id": "outline", "image": "a.png", "target": {"box": [0, 0, 32, 24], "polygons": [TRIANGLE]}},
    {"id": "rle", "image": "a.png", "target": {"box": [32, 0, 64, 24], "rle": RIGHT}},
    {"id": "unread", "image": "b.png", "target": {"box": [32, 0, 64, 24], "rle": RIGHT}},
    {"id": "no mask", "image": "b.png", "target": {"box": [32, 0, 64, 24]}},
]
ANSWERS = {"outline": "(0,0),(500,500)", "rle": "(500,0),(1000,750)", "unread": "no", "no mask": "(0,0),(10,10)"}


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Path]:
    """The folders of a data set of four questions, and of answers to them."""
    for name in ("a.png", "b.png"):
        save_image(tmp_path / "images" / name, SIZE)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row | {"query": "it"}) + "\n" for row in ROWS))
    assert virft("build", "rows", tmp_path / "rows.jsonl", tmp_path / "images", tmp_path / "d") == 0
    store = Store(tmp_path / "d")
    card = PredictionsCard(
        model="m", data="d", data_hash=store.hash, num_samples=4, box_space=BoxSpace.RELATIVE_1000, thinking=False,
        settings={},
    )  # fmt: skip
    texts = {one.id: f"<answer>{ANSWERS[one.id]}</answer>" for one in store}
    rows = [
        SizedPrediction(Prediction(sample_id=id, text=text, finish_reason=FinishReason.STOP), SIZE)
        for id, text in texts.items()
    ]
    write_predictions(tmp_path / "p", card, rows)
    return tmp_path / "d", tmp_path / "p"


def grounding(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "scores.json").read_text())["tasks"]["grounding"]


def test_boxes_as_masks_give_the_numbers_by_hand(
    written: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, predictions = written
    assert virft("score", predictions, data) == 0
    plain = grounding(predictions)
    assert virft("score", predictions, data, "--masks", "box") == 0
    found = grounding(predictions)
    # The triangle is half of its box of 32 x 24: 384 / 768. The next box has 32 x 36 pixels around a mask of 32 x 24:
    # 768 / 1152. Nothing was read for the third: 0 / 768.
    assert found["values"]["giou (masks: box)"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3, abs=1e-6)
    assert found["values"]["ciou (masks: box)"] == pytest.approx((384 + 768 + 0) / (768 + 1152 + 768), abs=1e-6)
    assert found["counts"]["num_with_mask"] == 3
    assert found["counts"]["num_questions"] == 4
    assert {"giou (masks: box)", "ciou (masks: box)"} <= found["intervals"].keys()
    # the other numbers are of all four, as without masks
    assert {name: value for name, value in found["values"].items() if "masks" not in name} == plain["values"]
    assert "giou (masks: box)" in capsys.readouterr().out


def test_boxes_as_masks_leave_pytorch_alone(written: tuple[Path, Path]) -> None:
    data, predictions = written
    argv = ["score", str(predictions), str(data), "--masks", "box"]
    code = f"import sys; from virft.cli.main import main; sys.exit(main({argv!r}) or 10 * ('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_segmenter_is_named_behind_its_numbers(
    written: tuple[Path, Path], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, predictions = written
    folder = save_segmenter(data.parent / f"my-{kind}", kind)
    capsys.readouterr()
    assert virft("score", predictions, data, "--masks", folder, "--no-intervals") == 0
    found = grounding(predictions)["values"]
    assert 0 <= found[f"giou (masks: my-{kind})"] < 1
    assert 0 <= found[f"ciou (masks: my-{kind})"] < 1
    assert "masks: 100%" in capsys.readouterr().err


def test_box_masks_need_no_images_but_a_segmenter_does(
    written: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, predictions = written
    for path in (data / "images").iterdir():
        path.unlink()
    assert virft("score", predictions, data, "--masks", "box") == 0
    assert virft("score", predictions, data, "--masks", "./nowhere") == 2
    assert "no such image" in capsys.readouterr().err


def test_invalid_arguments_are_reported(written: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    data, predictions = written
    assert virft("score", predictions, data, "--masks", "./nowhere") == 2
    message = capsys.readouterr().err
    assert message.startswith("virft: ./nowhere: there is no such folder; expected a folder of")
    assert message.endswith("or box\n")


def test_built_in_scenes_bring_their_masks(tmp_path: Path) -> None:
    assert virft("build", "scenes", tmp_path / "s", "--task", "grounding", "--questions", 8) == 0
    store = Store(tmp_path / "s")
    card = PredictionsCard(
        model="m", data="s", data_hash=store.hash, num_samples=8, box_space=BoxSpace.ORIGINAL_PIXELS, thinking=False,
        settings={},
    )  # fmt: skip
    rows = []
    for one in store:
        x1, y1, x2, y2 = one.target.xyxy
        text = f"<answer>({x1},{y1}),({x2},{y2})</answer>"
        rows.append(SizedPrediction(Prediction(sample_id=one.id, text=text, finish_reason=FinishReason.STOP), SIZE))
    write_predictions(tmp_path / "p", card, rows)
    assert virft("score", tmp_path / "p", tmp_path / "s", "--masks", "box") == 0
    found = grounding(tmp_path / "p")
    assert found["counts"]["num_with_mask"] == 8
    # right boxes hold their objects and some background
    assert found["values"]["box_miou"] == 1.0
    assert 0.3 < found["values"]["giou (masks: box)"] < 0.95
