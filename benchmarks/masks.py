"""Accuracy of masks of a box-prompted segmenter, against exact masks and the mask of the box itself.

    python benchmarks/masks.py PACKAGE [--model medium] [--questions 60] [--size 336]

PACKAGE: the folder of npm @imgly/background-removal-data 1.4.5 (ISNet of arXiv 2203.03041, MIT), a salient-object model
that replaces SAM: its input is the image inside the box and a margin, its output the salient object. Needs onnxruntime.
The questions are about built-in scenes, whose masks are exact; the predictions are synthetic: the ground-truth boxes,
and the same boxes with displaced corners.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from record import RESULTS, markdown_table, write_results

from virft.data.sources.scenes import write_test_scenes
from virft.data.store import Store
from virft.evaluation.masks import MaskMaker
from virft.evaluation.predictions import PredictionsCard, SizedPrediction, write_predictions
from virft.evaluation.score import score_predictions
from virft.geometry.boxes import BoxSpace
from virft.geometry.masks import Mask
from virft.scenes.assets import class_names
from virft.scenes.sets import SceneKind
from virft.types import Box, FinishReason, Prediction, Sample

SIDE = 1024
MARGIN = 0.1
ANSWERS = {"ground-truth boxes": 0.0, "moved by up to 10 % of a side": 0.1, "moved by up to 20 % of a side": 0.2}
"""Kind of predictions -> largest displacement of a corner, as a fraction of the box's side."""


class SalientObject:
    """Segmenter: returns the mask of the salient object in each box, enlarged by a tenth of its sides."""

    def __init__(self, package: Path, name: str) -> None:
        import onnxruntime

        parts = json.loads((package / "dist" / "resources.json").read_text())[f"/models/{name}"]["chunks"]
        weights = b"".join((package / "dist" / part["hash"]).read_bytes() for part in parts)
        self._session = onnxruntime.InferenceSession(weights, providers=["CPUExecutionProvider"])

    def __call__(self, image: Image.Image, boxes: Sequence[Box]) -> list[Mask]:
        return [self._mask(image, box) for box in boxes]

    def _mask(self, image: Image.Image, box: Box) -> Mask:
        margin_x, margin_y = MARGIN * (box.x2 - box.x1), MARGIN * (box.y2 - box.y1)
        x1, y1 = max(0, round(box.x1 - margin_x)), max(0, round(box.y1 - margin_y))
        x2, y2 = min(image.width, round(box.x2 + margin_x)), min(image.height, round(box.y2 + margin_y))
        crop = image.crop((x1, y1, x2, y2)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        values = (np.asarray(crop, dtype=np.float32).transpose(2, 0, 1)[None] - 128) / 256  # [1, 3, SIDE, SIDE]
        (found,) = self._session.run(["output"], {"input": values})
        saliency: Any = Image.fromarray(found[0, 0]).resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR)
        mask = np.zeros((image.height, image.width), dtype=bool)
        mask[y1:y2, x1:x2] = np.asarray(saliency) > 0.5
        return mask


def answer(sample: Sample, moved: float, rng: random.Random) -> SizedPrediction:
    """Return the ground-truth box as a prediction, each corner moved by up to a fraction of the sides, and clipped."""
    assert isinstance(sample.target, Box)
    x1, y1, x2, y2 = sample.target.xyxy
    most_x, most_y = moved * (x2 - x1), moved * (y2 - y1)
    xs = [min(max(x + rng.uniform(-most_x, most_x), 0), sample.target_size.width) for x in (x1, x2)]
    ys = [min(max(y + rng.uniform(-most_y, most_y), 0), sample.target_size.height) for y in (y1, y2)]
    text = f"<answer>({xs[0]:.1f},{ys[0]:.1f}),({xs[1]:.1f},{ys[1]:.1f})</answer>"
    return SizedPrediction(
        Prediction(sample_id=sample.id, text=text, finish_reason=FinishReason.STOP), sample.target_size
    )


def rows_of(store: Store, folder: Path, makers: Sequence[MaskMaker]) -> list[list[str]]:
    """Return a row for each kind of predictions and each segmenter: box mIoU, gIoU and cIoU with their intervals."""
    card = PredictionsCard(
        model="none", data="d", data_hash=store.hash, num_samples=len(store), box_space=BoxSpace.ORIGINAL_PIXELS,
        thinking=False, settings={},
    )  # fmt: skip
    rows = []
    for kind, moved in ANSWERS.items():
        rng = random.Random(0)
        path = write_predictions(folder / kind, card, [answer(one, moved, rng) for one in store])
        for maker in makers:
            (scores,) = score_predictions(path, store, with_intervals=True, masks=maker)
            row = [kind, maker.name, f"{scores.values['box_miou']:.3f}"]
            for name in ("giou", "ciou"):
                key = f"{name} (masks: {maker.name})"
                low, high = scores.intervals[key]
                row.append(f"{scores.values[key]:.3f} ({low:.3f} to {high:.3f})")
            rows.append(row)
            print(" ".join(row), flush=True)
    return rows


def main(arguments: argparse.Namespace) -> None:
    """Make scenes and predictions, score them with each segmenter, write the table."""
    makers = [MaskMaker(), MaskMaker(name="salient", segment=SalientObject(arguments.package, arguments.model))]
    with tempfile.TemporaryDirectory() as name:
        write_test_scenes(
            Path(name) / "d",
            task="grounding",
            classes=class_names("base"),
            num_questions=arguments.questions,
            kind=SceneKind.SAME_SPRITES,
            seed=arguments.seed,
            size=arguments.size,
        )
        store = Store(Path(name) / "d")
        rows = rows_of(store, Path(name), makers)
    head = ["predictions", "masks", "box_miou", "giou", "ciou"]
    text = (
        f"{len(store)} questions about built-in scenes of {arguments.size} px, data hash {store.hash[:12]}; "
        f"ISNet `{arguments.model}`.\n\n{markdown_table(head, rows)}"
    )
    options = (f"--{name} {getattr(arguments, name)}" for name in ("model", "questions", "size", "seed"))
    command = f"python benchmarks/masks.py PACKAGE {' '.join(options)}"
    print(write_results("masks", command=command, tables=text, date=arguments.date, folder=arguments.out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", metavar="PACKAGE", type=Path)
    parser.add_argument("--model", choices=("small", "medium"), default="medium")
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--size", type=int, default=336)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--out", type=Path, default=RESULTS)
    main(parser.parse_args())
