"""Draw the images of docs/rewards.md and docs/shifted_boxes.md: completions with their boxes and rewards.

    python scripts/make_reward_pictures.py docs

Sprites come from the built-in scenes (Fluent Emoji, MIT). Every number is computed by ``virft.reward``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import virft
from virft.scenes.assets import Style, sprite

XYXY = tuple[float, float, float, float]
SIDE = 232
"""Side of a drawn scene, in pixels."""
MARGIN, LINE = 14, 17
TARGET, HIT, MISS = (22, 163, 74), (37, 99, 235), (220, 38, 38)
PAPER, INK, FAINT, GROUND = (255, 255, 255), (31, 41, 55), (107, 114, 128), (219, 226, 220)
FOXES: tuple[XYXY, XYXY] = ((120.0, 130.0, 450.0, 460.0), (560.0, 480.0, 880.0, 800.0))
"""Corners of the two foxes, in thousandths of the side: the ground truth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One completion, shown as an image with boxes, a title and the parts of its reward."""

    title: str
    """What the completion does."""
    boxes: Sequence[tuple[XYXY, float]] = ()
    """Predicted boxes in thousandths, each with its confidence."""
    targets: Sequence[XYXY] = FOXES
    """Ground-truth boxes in thousandths."""


REWARDS = (
    Panel(title="both boxes, confident", boxes=[(FOXES[0], 1.0), (FOXES[1], 1.0)]),
    Panel(title="boxes a little off", boxes=[((140, 160, 480, 470), 0.9), ((520, 450, 860, 800), 0.9)]),
    Panel(title="one fox missed", boxes=[(FOXES[0], 0.9)]),
    Panel(title="one box too many", boxes=[(FOXES[0], 0.9), (FOXES[1], 0.9), ((600, 80, 850, 330), 0.9)]),
    Panel(title="too loose: IoU below 0.5", boxes=[((30, 30, 560, 560), 0.9), (FOXES[1], 0.9)]),
    Panel(title="No Objects"),
)
EXPLOITS = (
    Panel(title="box spam", boxes=[((x, y, x + 330, y + 330), 0.9) for y in (10, 335, 660) for x in (10, 335, 660)]),
    Panel(title="the whole image", boxes=[((0, 0, 1000, 1000), 0.9)]),
    Panel(title="the same box four times", boxes=[(FOXES[0], 0.9)] * 4),
)


def completion(panel: Panel) -> str:
    """Return the completion that states these boxes, in the format that the prompt requests."""
    if not panel.boxes:
        return "<answer>No Objects</answer>"
    items = [{"Position": [round(value) for value in box], "Confidence": confidence} for box, confidence in panel.boxes]
    return f"<answer>{items}</answer>"


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that Pillow carries, in pixels."""
    return ImageFont.load_default(size)


def scene(boxes: Sequence[XYXY]) -> Image.Image:
    """Return a plain scene with a fox in each box."""
    image = Image.new("RGB", (SIDE, SIDE), GROUND)
    fox = sprite("fox", Style.FLUENT)
    fox = fox.crop(fox.getchannel("A").getbbox())
    for x1, y1, x2, y2 in boxes:
        size = (round((x2 - x1) * SIDE / 1000), round((y2 - y1) * SIDE / 1000))
        cut = fox.resize(size, Image.Resampling.LANCZOS)
        image.paste(cut, (round(x1 * SIDE / 1000), round(y1 * SIDE / 1000)), cut)
    return image


def draw_box(draw: ImageDraw.ImageDraw, box: XYXY, colour: tuple[int, int, int], width: int) -> None:
    """Draw a box that is given in thousandths of the side."""
    last = SIDE - 1
    draw.rectangle([min(last, round(value * SIDE / 1000)) for value in box], outline=colour, width=width)


def draw_panel(panel: Panel, *, presets: Sequence[str]) -> Image.Image:
    """Return a panel: the scene with targets and predictions, and its reward by each preset."""
    canvas = Image.new("RGB", (SIDE, SIDE + 30 + 2 * LINE * len(presets)), PAPER)
    image = scene(panel.targets)
    draw = ImageDraw.Draw(image)
    for box in panel.targets:
        draw_box(draw, box, TARGET, 4)
    text, target = completion(panel), [list(box) for box in panel.targets]
    graded = [virft.reward(text, target, preset=preset) for preset in presets]  # type: ignore[arg-type]
    lines = graded[0].explanation.splitlines()
    # a line of the explanation ends with "hit" for a matched box
    hits = [line.endswith(", hit") for line in lines if line.startswith("  ")]
    for (box, _), hit in zip(panel.boxes, hits or [False] * len(panel.boxes), strict=True):
        draw_box(draw, box, HIT if hit else MISS, 2)
    canvas.paste(image, (0, 0))
    draw = ImageDraw.Draw(canvas)
    draw.text((0, SIDE + 6), panel.title, fill=INK, font=font(15))
    for row, (preset, one) in enumerate(zip(presets, graded, strict=True)):
        parts = "   ".join(f"{name} {value:.2f}" for name, value in one.parts.items())
        name = f"{preset}: " if len(presets) > 1 else ""
        draw.text((0, SIDE + 28 + row * 2 * LINE), parts, fill=FAINT, font=font(12))
        draw.text((0, SIDE + 28 + row * 2 * LINE + LINE - 2), f"{name}reward {one.total:.2f}", fill=INK, font=font(13))
    return canvas


def sheet(panels: Sequence[Image.Image], *, columns: int = 3) -> Image.Image:
    """Return one image of all panels, ``columns`` in a line."""
    width, height = panels[0].size
    lines = -(-len(panels) // columns)
    size = (columns * width + (columns + 1) * MARGIN, lines * height + (lines + 1) * MARGIN)
    page = Image.new("RGB", size, PAPER)
    for number, panel in enumerate(panels):
        line, column = divmod(number, columns)
        page.paste(panel, (MARGIN + column * (width + MARGIN), MARGIN + line * (height + MARGIN)))
    return page


def shifted_sheet() -> Image.Image:
    """Return the panels of docs/shifted_boxes.md: one mistake each, applied to the same correct boxes."""
    mistakes: dict[str, Callable[[XYXY], XYXY]] = {
        "correct": lambda b: b,
        # pixels of a 640 x 480 image, used as if they were thousandths
        "pixels read as 0 to 1000": lambda b: (b[0] * 0.64, b[1] * 0.48, b[2] * 0.64, b[3] * 0.48),
        # thousandths, used as pixels of a 1500 x 1500 image
        "0 to 1000 read as pixels": lambda b: (b[0] / 1.5, b[1] / 1.5, b[2] / 1.5, b[3] / 1.5),
        # x, y, width, height, used as corners
        "xywh read as xyxy": lambda b: (b[0], b[1], b[2] - b[0], b[3] - b[1]),
        # a quarter turn of the image, not of the boxes
        "EXIF rotation ignored": lambda b: (b[1], 1000 - b[2], b[3], 1000 - b[0]),
        "x and y swapped": lambda b: (b[1], b[0], b[3], b[2]),
    }
    panels = []
    for title, mistake in mistakes.items():
        canvas = Image.new("RGB", (SIDE, SIDE + 30), PAPER)
        image = scene(FOXES)
        draw = ImageDraw.Draw(image)
        for box in FOXES:
            x1, y1, x2, y2 = mistake(box)
            corners = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
            draw_box(draw, corners, TARGET if title == "correct" else MISS, 3)
        canvas.paste(image, (0, 0))
        ImageDraw.Draw(canvas).text((0, SIDE + 6), title, fill=INK, font=font(15))
        panels.append(canvas)
    return sheet(panels)


def save(image: Image.Image, path: Path) -> None:
    """Save with a palette of 128 colours, which halves the file."""
    image.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def main(out: Path) -> None:
    """Write the images."""
    save(sheet([draw_panel(panel, presets=["robust"]) for panel in REWARDS]), out / "rewards.png")
    save(sheet([draw_panel(panel, presets=["robust", "paper"]) for panel in EXPLOITS]), out / "reward_hacking.png")
    save(shifted_sheet(), out / "shifted_boxes.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the images")
    main(parser.parse_args().out)
