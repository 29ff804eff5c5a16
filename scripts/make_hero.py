"""Draw the strip at the top of README: the first test images of a run, before and after training.

    python scripts/make_hero.py RUN docs/hero.png [--test test] [--count 5]

Reads the predictions and scores that ``virft eval RUN DATA`` wrote: ``RUN/eval/TEST`` and ``RUN/eval/base_TEST``. No
image is selected: they are the first ones of the test set.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from virft.data.images import load_image
from virft.data.store import Store
from virft.evaluation.joined import join_predictions
from virft.evaluation.prediction_folders import find_data
from virft.evaluation.predictions import PREDICTIONS, read_predictions_card
from virft.geometry.boxes import XYXY, iou_matrix
from virft.types import Detection, Detections, JoinedPrediction

WIDTH = 1200
MARGIN, GAP = 14, 10
LINE, FOOT = 36, 32
"""Heights of the line above a row of images, and of the line below both rows, in pixels."""
CAPTION, SMALL, LABEL = 22, 18, 15
"""Sizes of the text of rows, of the last line and of boxes, in pixels."""
SCALE = 3
"""Boxes and text of an image are drawn at this multiple of its size, then resized: smooth lines."""
COLOURS = 72
"""Size of the palette: fewer colours make a smaller file."""
TARGET, HIT, MISS = (22, 163, 74), (37, 99, 235), (220, 38, 38)
PAPER, INK, FAINT = (255, 255, 255), (31, 41, 55), (75, 85, 99)
HIT_IOU = 0.5


class Row(NamedTuple):
    """One system: a caption and its predictions on the shown images."""

    caption: str
    score: str
    predictions: Sequence[JoinedPrediction]


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that Pillow carries, in pixels."""
    return ImageFont.load_default(size)


def read_scores(folder: Path) -> dict[str, Any]:
    """Return the ``scores.json`` of a folder of predictions."""
    return dict(json.loads((folder / "scores.json").read_text(encoding="utf-8")))


def read_row(folder: Path, store: Store, caption: str, count: int) -> Row:
    """Read the predictions of a folder on the first images of a dataset, and the F1 on all of it."""
    joined = join_predictions(folder / PREDICTIONS, store).by_task["detection"]
    scores = read_scores(folder)["tasks"]["detection"]
    low, high = scores["intervals"]["f1"]
    score = f"F1 {scores['values']['f1']:.2f} ({low:.2f} to {high:.2f}) on {scores['num_samples']} test images"
    return Row(caption, score, joined[:count])


def best_blind(folder: Path) -> str:
    """Return name and F1 of the best blind baseline in the ``scores.json`` of a folder of predictions."""
    blind = read_scores(folder)["blind"]["tasks"]["detection"]
    return f"{blind['best']}, F1 {blind['baselines'][blind['best']]['values']['f1']:.2f}"


def draw_prediction(prediction: JoinedPrediction, size: tuple[int, int]) -> Image.Image:
    """Return the image with thin ground truth, and labelled predictions in the colours of hits and misses."""
    sample, _, reading = prediction
    image = load_image(sample.images[sample.target_image])
    image = image.resize((size[0] * SCALE, size[1] * SCALE), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    factor = image.width / sample.target_size.width
    targets = boxes_of(sample.target)
    for box in targets:
        draw.rectangle(scaled(box.box.xyxy, factor), outline=TARGET, width=2 * SCALE)
    for found in boxes_of(reading.answer):
        hit = max(iou_matrix([found.box.xyxy], [one.box.xyxy for one in targets])[0], default=0.0) >= HIT_IOU
        colour = HIT if hit else MISS
        draw.rectangle(scaled(found.box.xyxy, factor), outline=colour, width=3 * SCALE)
        text = f"{sample.query} {found.confidence:.2f}"
        x1, y1, x2, y2 = draw.textbbox((0, 0), text, font=font(LABEL * SCALE))
        left, top, _, _ = scaled(found.box.xyxy, factor)
        width, height = x2 - x1 + 8 * SCALE, y2 - y1 + 6 * SCALE
        left = min(left, image.width - width)
        top = top - height if top >= height else top
        draw.rectangle((left, top, left + width, top + height), fill=colour)
        draw.text((left + 4 * SCALE - x1, top + 3 * SCALE - y1), text, fill=PAPER, font=font(LABEL * SCALE))
    return image.resize(size, Image.Resampling.LANCZOS)


def boxes_of(answer: object) -> Sequence[Detection]:
    """Return the boxes of a target or of an answer; an unreadable answer has none."""
    return answer.items if isinstance(answer, Detections) else ()


def scaled(box: XYXY, factor: float) -> XYXY:
    """Return a box, in pixels of the original image, in pixels of the drawn one."""
    x1, y1, x2, y2 = (value * factor for value in box)
    return x1, y1, x2, y2


def draw_strip(rows: Sequence[Row], foot: str) -> Image.Image:
    """Return the strip: for each system a line of text and its images, then a line about both."""
    count = len(rows[0].predictions)
    width = (WIDTH - 2 * MARGIN - (count - 1) * GAP) // count
    tallest = max(one.sample.target_size.height / one.sample.target_size.width for one in rows[0].predictions)
    height = round(width * tallest)
    strip = Image.new("RGB", (WIDTH, len(rows) * (LINE + height) + FOOT + 2 * GAP), PAPER)
    draw = ImageDraw.Draw(strip)
    for number, row in enumerate(rows):
        top = GAP // 2 + number * (LINE + height)
        draw.text((MARGIN, top + LINE // 2), row.caption, fill=INK, font=font(CAPTION), anchor="lm")
        draw.text((WIDTH - MARGIN, top + LINE // 2), row.score, fill=INK, font=font(CAPTION), anchor="rm")
        for column, one in enumerate(row.predictions):
            size = (width, round(width * one.sample.target_size.height / one.sample.target_size.width))
            strip.paste(draw_prediction(one, size), (MARGIN + column * (width + GAP), top + LINE))
    middle = strip.height - FOOT // 2 - GAP // 2
    draw.text((MARGIN, middle), foot, fill=FAINT, font=font(SMALL), anchor="lm")
    legend = ((TARGET, "ground truth"), (HIT, "hit, IoU 0.5 or more"), (MISS, "false positive"))
    right = WIDTH - MARGIN
    for colour, text in reversed(legend):
        right -= round(draw.textlength(text, font=font(SMALL)))
        draw.text((right, middle), text, fill=FAINT, font=font(SMALL), anchor="lm")
        draw.rectangle((right - 24, middle - 8, right - 8, middle + 8), outline=colour, width=3)
        right -= 44
    return strip


def main(arguments: argparse.Namespace) -> None:
    """Read a run and write the strip."""
    trained, base = (arguments.run / "eval" / f"{prefix}{arguments.test}" for prefix in ("", "base_"))
    store = find_data(read_predictions_card(trained / PREDICTIONS), arguments.run)
    rows = [
        read_row(
            base,
            store,
            f"Before: {arguments.model}, zero-shot, the first {arguments.count} test images",
            arguments.count,
        ),
        read_row(trained, store, f"After: {arguments.training}", arguments.count),
    ]
    strip = draw_strip(rows, f"Best blind baseline: {best_blind(trained)}")
    strip.quantize(COLOURS, dither=Image.Dither.NONE).save(arguments.out, optimize=True)
    print(f"{arguments.out}: {strip.width} x {strip.height}, {arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--test", default="test", help="name of the test set's folder of predictions")
    parser.add_argument("--count", type=int, default=5, help="number of images")
    parser.add_argument("--model", default="virft-tiny", help="name of the base model in the caption")
    parser.add_argument(
        "--training", default="80 GRPO steps on 16 labelled images of BCCD", help="caption of the trained model"
    )
    main(parser.parse_args())
