"""Scenes of small objects in the cells of a grid, with classification questions that name a cell.

A cell has the content of the image of an ordinary classification question; the whole image is ``grid`` times as wide::

    .  .  .  .
    .  fox .  cup      Which animal in row 2 of 4, column 2 of 4 is this?  ->  fox
    .  .  .  .
    cat .  dog .

The other animals make the cell part of the question. At the image size of a model the objects are too small to
recognise; the cell is the region of a zoom call (``docs/zoom.md``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from virft.scenes.assets import class_names, scene_classes
from virft.scenes.patches import REFERENCE_SIZE, Patch, PlanItem, make_patch
from virft.scenes.plans import MAIN_SIDE_RANGE
from virft.scenes.questions import SceneQuestion
from virft.scenes.render import Scene, compose_at, random_canvas
from virft.scenes.sets import SceneKind, SceneSample, stream_generator
from virft.types import Box, Label

MIN_CELL = 16
"""Smallest side of a cell in pixels: sprites have at least 8, and up to 12 after a rotation."""
NUM_OBJECTS = 12
"""Number of objects in a scene, at most one in each cell."""
_NUM_KIN = 5  # of these, objects of other classes of the group that is queried


def grid_set(
    seed: int, classes: Sequence[str], num_questions: int, kind: SceneKind, *, grid: int, size: int
) -> Iterator[SceneSample]:
    """Yield ``num_questions`` scenes with one classification question each, about ``classes`` in turn.

    ``grid``: number of rows and of columns, at least 2. ``size``: width and height of an image in pixels, a multiple of
    ``grid`` with cells of at least ``MIN_CELL`` pixels; anything else is a ``ValueError``. The other objects are of
    ``classes`` and base classes.
    """
    if grid < 2 or size % grid or size // grid < MIN_CELL:
        raise ValueError(
            f"a grid of {grid} x {grid} cells in {size} x {size} pixels; expected at least 2 x 2 cells, and a size "
            f"that is a multiple of {grid} and at least {MIN_CELL * grid}"
        )
    key = "/".join(("grid", kind, str(grid), *classes))
    for index in range(num_questions):
        queried = classes[index % len(classes)]
        rng = stream_generator(seed, key, index)
        cells = rng.permutation(grid * grid)[:NUM_OBJECTS].tolist()
        names = _names(rng, queried, classes, len(cells))
        scene = _render(rng, names, cells, kind, grid, size)
        name = f"{kind}_grid_{index:06d}_{queried.replace(' ', '_')}"
        yield SceneSample(name, scene, (_question(queried, cells[0], grid, size),))


def _names(rng: np.random.Generator, queried: str, classes: Sequence[str], count: int) -> list[str]:
    """Return the class of each object: the queried one, then others, as many as possible of its group."""
    rows = scene_classes()
    others = [name for name in dict.fromkeys((*classes, *class_names("base"))) if name != queried]
    kin = [name for name in others if rows[name].group == rows[queried].group]
    strangers = [name for name in others if rows[name].group != rows[queried].group]
    num_kin = min(_NUM_KIN, count - 1) if kin else 0
    return [
        queried,
        *(kin[int(index)] for index in rng.integers(len(kin), size=num_kin)),
        *(strangers[int(index)] for index in rng.integers(len(strangers), size=count - 1 - num_kin)),
    ]


def _render(
    rng: np.random.Generator, names: Sequence[str], cells: Sequence[int], kind: SceneKind, grid: int, size: int
) -> Scene:
    """Return a scene with one object in each of these cells, which are numbered row by row."""
    canvas = random_canvas(rng, kind.background_split, size)
    side = size // grid
    patches = [_patch(rng, name, kind, side) for name in names]
    origins = []
    for patch, cell in zip(patches, cells, strict=True):
        row, column = divmod(cell, grid)
        height, width = patch.mask.shape
        x, y = rng.integers(side - width + 1), rng.integers(side - height + 1)
        origins.append((column * side + int(x), row * side + int(y)))
    return compose_at(canvas, patches, origins)


def _patch(rng: np.random.Generator, name: str, kind: SceneKind, side: int) -> Patch:
    """Return an object that fits into a cell, as large as the main object of a classification question in an image."""
    scale = side / REFERENCE_SIZE
    while max((patch := make_patch(rng, PlanItem(name, 1, MAIN_SIDE_RANGE), kind.styles, scale)).mask.shape) > side:
        scale *= 0.93
    return patch


def _question(class_name: str, cell: int, grid: int, size: int) -> SceneQuestion:
    row, column = divmod(cell, grid)
    side = float(size // grid)
    group = scene_classes()[class_name].group
    return SceneQuestion(
        task="classification",
        query=f"{group} in row {row + 1} of {grid}, column {column + 1} of {grid}",
        target=Label(text=class_name),
        class_name=class_name,
        kind="cell",
        region=Box(x1=column * side, y1=row * side, x2=(column + 1) * side, y2=(row + 1) * side),
    )
