"""Draw target and predicted boxes on an image, and before/after sheets of several samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from virft.tasks import TASKS
from virft.types import Answer, Target

TARGET_COLOUR = (46, 204, 64)
ANSWER_COLOUR = (255, 65, 54)
_MARGIN = 8
_CAPTION = 16
_TAG = 32
"""Largest number of characters of a label at a box."""
_BACKGROUND = (255, 255, 255)
_INK = (30, 30, 30)


@dataclass(frozen=True, kw_only=True, slots=True)
class BeforeAfter:
    """One sample with the predictions of two models."""

    image: Image.Image
    """Image that the boxes refer to."""
    task: str
    """Task of the sample."""
    question: str
    """Caption."""
    target: Target
    """Ground truth."""
    before: Answer
    """Answer of the first model."""
    after: Answer
    """Answer of the second model."""


def draw_answer(
    image: Image.Image,
    target: Target | None,
    answer: Answer,
    *,
    task: str,
    side: int = 224,
    label: str | None = None,
    min_confidence: float = 0.0,
) -> Image.Image:
    """Draw target boxes in green and predicted boxes or points in red on a copy whose longer side is ``side`` pixels.

    ``target`` None: the ground truth is not known. ``label``: class name or expression that is written at each
    predicted box, with its confidence; None writes neither. Boxes below ``min_confidence`` are not drawn. An answer
    without boxes becomes a caption at the bottom.
    """
    scale = side / max(image.size)
    canvas = image.convert("RGB").resize((round(image.width * scale), round(image.height * scale)))
    draw = ImageDraw.Draw(canvas)
    row = TASKS[task]
    marked = [one for one in row.answer_boxes(answer) if one.confidence >= min_confidence]
    for box in row.target_boxes(target):
        draw.rectangle([scale * value for value in box.xyxy], outline=TARGET_COLOUR, width=4)
    for one in marked:
        corners = [scale * value for value in one.box.xyxy]
        if row.has_points:
            draw.circle(corners[:2], radius=max(3, side // 50), fill=ANSWER_COLOUR, outline=_BACKGROUND)
        else:
            draw.rectangle(corners, outline=ANSWER_COLOUR, width=2)
    if label is not None:
        for one in marked:
            # A box with a label of its own has it in its text.
            text = f"{label[:_TAG]} {one.text}".strip() if one.label is None else one.text
            _draw_tag(draw, canvas.size, scale * one.box.x1, scale * one.box.y1, text)
    if text := row.describe_answer(answer, "caption"):
        draw.rectangle([0, canvas.height - _CAPTION, canvas.width, canvas.height], fill=_INK)
        draw.text((4, canvas.height - _CAPTION + 2), text[:48], fill=_BACKGROUND)
    return canvas


def _draw_tag(draw: ImageDraw.ImageDraw, size: tuple[int, int], left: float, top: float, text: str) -> None:
    """Write a text on a filled box above the corner of a box, or inside it at the edge of the image."""
    font = ImageFont.load_default(max(12, size[0] // 35))
    width, height = font.getbbox(text)[2] + 6, font.getbbox("Ag")[3] + 4
    x = min(max(left, 0), max(size[0] - width, 0))
    y = top - height if top >= height else top
    draw.rectangle([x, y, x + width, y + height], fill=ANSWER_COLOUR)
    draw.text((x + 3, y + 1), text, fill=_BACKGROUND, font=font)


def before_after_sheet(rows: Sequence[BeforeAfter], *, side: int = 224, columns: int = 2) -> Image.Image:
    """Return one image of all samples: caption and both predictions each, ``columns`` samples in a line.

    ``side``: longer side of a single image in pixels.
    """
    cell_width = 2 * side + 3 * _MARGIN
    cell_height = side + _CAPTION + 2 * _MARGIN
    lines = -(-len(rows) // columns)
    sheet = Image.new("RGB", (columns * cell_width, lines * cell_height + _CAPTION + _MARGIN), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for column in range(columns):
        left = column * cell_width + _MARGIN
        draw.text((left, 2), "before", fill=_INK)
        draw.text((left + side + _MARGIN, 2), "after   (green: target, red: prediction)", fill=_INK)
    for number, row in enumerate(rows):
        left = number % columns * cell_width + _MARGIN
        top = number // columns * cell_height + _CAPTION + _MARGIN
        draw.text((left, top), row.question, fill=_INK)
        for i, answer in enumerate((row.before, row.after)):
            drawn = draw_answer(row.image, row.target, answer, task=row.task, side=side)
            sheet.paste(drawn, (left + i * (side + _MARGIN), top + _CAPTION))
    return sheet
