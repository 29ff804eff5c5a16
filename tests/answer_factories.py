"""Builders of boxes and answers for tests, and hypothesis strategies for them.

The image is 1000 x 1000, so the numbers of the 0..1000 space are pixels.
"""

from __future__ import annotations

from hypothesis import strategies as st

from virft.geometry.boxes import BoxSpace
from virft.text.answers import read_classification, read_detection, read_grounding
from virft.types import Box, Detection, Detections, ImageSize, Reading

SIZE = ImageSize(1000, 1000)
FRAME = {"space": BoxSpace.RELATIVE_1000, "original": SIZE, "resized": SIZE}


def box(x1: float, y1: float, x2: float, y2: float) -> Box:
    """The box with these corners."""
    return Box(x1=x1, y1=y1, x2=x2, y2=y2)


def detections(*rows: tuple[float, ...]) -> Detections:
    """Rows of four corners and, if not 1, a confidence."""
    items = (Detection(box=box(*row[:4]), confidence=row[4] if len(row) > 4 else 1.0) for row in rows)
    return Detections(items=tuple(items))


def detection(answer: str, *, thinking: bool = False) -> Reading:
    """The reading of an answer block with this text, after a think block if thinking is on."""
    return read_detection(in_blocks(answer, thinking=thinking), thinking=thinking, **FRAME)


def classification(answer: str, *, thinking: bool = False) -> Reading:
    """As ``detection``."""
    return read_classification(in_blocks(answer, thinking=thinking), thinking=thinking)


def grounding(answer: str, *, thinking: bool = False) -> Reading:
    """As ``detection``."""
    return read_grounding(in_blocks(answer, thinking=thinking), thinking=thinking, **FRAME)


def in_blocks(answer: str, *, thinking: bool) -> str:
    """The answer block, after a think block if thinking is on."""
    return f"{'<think>I see it.</think>' if thinking else ''}<answer>{answer}</answer>"


def written(*rows: tuple[float, ...]) -> str:
    """The list of boxes as a model writes it; a fifth number is the confidence."""
    elements = [
        f"{{'Position': {list(row[:4])}" + (f", 'Confidence': {row[4]}" if len(row) > 4 else "") + "}" for row in rows
    ]
    return f"[{', '.join(elements)}]"


@st.composite
def grid_boxes(draw: st.DrawFn, max_x: int = 1000, max_y: int = 1000) -> tuple[int, int, int, int]:
    """Corners on whole numbers, inside the extent, with area."""
    x1 = draw(st.integers(0, max_x - 1))
    y1 = draw(st.integers(0, max_y - 1))
    return (x1, y1, draw(st.integers(x1 + 1, max_x)), draw(st.integers(y1 + 1, max_y)))


@st.composite
def near_boxes(draw: st.DrawFn, corners: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Corners moved by up to a third of the box's size: they often still overlap the box well."""
    x1, y1, x2, y2 = corners
    shift_x, shift_y = (x2 - x1) / 3, (y2 - y1) / 3
    moved = [draw(st.floats(-1, 1, width=32)) for _ in range(4)]
    return (x1 + moved[0] * shift_x, y1 + moved[1] * shift_y, x2 + moved[2] * shift_x, y2 + moved[3] * shift_y)


_LOOSE_CONFIDENCES = st.integers(0, 100).map(lambda hundredth: hundredth / 100)
# Strips on a coarse grid: they compete for targets, and their IoUs are equal, far more often than random boxes.
_strips = st.tuples(st.integers(0, 8), st.integers(1, 6)).map(lambda strip: (strip[0] * 10, 0, sum(strip) * 10, 100))


@st.composite
def _loose_scenes(draw: st.DrawFn) -> tuple[Detections, Detections]:
    first = draw(grid_boxes())
    rows = [first, *draw(st.lists(st.one_of(grid_boxes(), near_boxes(first)), max_size=3))]
    near = st.sampled_from(rows).flatmap(near_boxes)
    predictions = draw(st.lists(st.tuples(near, _LOOSE_CONFIDENCES), max_size=5))
    return detections(*((*corners, confidence) for corners, confidence in predictions)), detections(*rows)


@st.composite
def _crowded_scenes(draw: st.DrawFn) -> tuple[Detections, Detections]:
    rows = draw(st.lists(_strips, min_size=2, max_size=4))
    predictions = draw(st.lists(st.tuples(_strips, st.sampled_from([0.5, 1.0])), min_size=2, max_size=4))
    return detections(*((*corners, confidence) for corners, confidence in predictions)), detections(*rows)


def scenes() -> st.SearchStrategy[tuple[Detections, Detections]]:
    """Predictions close to targets, and the targets, which can overlap each other."""
    return st.one_of(_loose_scenes(), _crowded_scenes())


_SNIPPETS = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    ",",
    ":",
    "'",
    '"',
    "\\",
    " ",
]
_SNIPPETS += ["NaN", "-5.5", "1e999", "١٢", "No Objects", "```", "<box>", "</box>", "'Position'", "0.5", "\n", "7" * 25]


@st.composite
def mutated_answers(draw: st.DrawFn) -> str:
    """A valid completion with a few pieces removed, duplicated or inserted."""
    boxes = draw(st.lists(grid_boxes(), max_size=3))
    answer = draw(
        st.sampled_from([written(*((*row, 0.5) for row in boxes)), "No Objects", "(1,2),(30,40)", "tabby cat"])
    )
    text = in_blocks(answer, thinking=draw(st.booleans()))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 20)))
        put = draw(
            st.one_of(st.sampled_from(_SNIPPETS), st.just(""), st.just(text[start:end] * 2), st.text(max_size=3))
        )
        text = text[:start] + put + text[end:]
    return text
