"""Scenes of small objects in a grid: one object in the cell that a question names, and others elsewhere."""

from __future__ import annotations

import re

import pytest

from virft.scenes.assets import class_names, scene_classes
from virft.scenes.grid import NUM_OBJECTS, grid_set
from virft.scenes.sets import SceneKind, SceneSample
from virft.types import Box, Label

NOVEL = class_names("novel")
GRIDS = [(2, 64), (4, 128), (8, 448), (3, 48)]


def samples(grid: int = 8, size: int = 448, *, seed: int = 0, number: int = 12) -> list[SceneSample]:
    return list(grid_set(seed, NOVEL, number, SceneKind.TRAIN, grid=grid, size=size))


def is_within(inner: Box, outer: Box) -> bool:
    return inner.x1 >= outer.x1 and inner.y1 >= outer.y1 and inner.x2 <= outer.x2 and inner.y2 <= outer.y2


@pytest.mark.parametrize(("grid", "size"), GRIDS)
def test_the_named_cell_is_the_region_and_holds_the_only_object_of_the_answer(grid: int, size: int) -> None:
    for one in samples(grid, size):
        (question,) = one.questions
        assert question.region is not None
        found = re.fullmatch(rf"(\w+) in row (\d) of {grid}, column (\d) of {grid}", question.query)
        assert found is not None
        row, column, side = int(found[2]), int(found[3]), size / grid
        assert question.region.xyxy == ((column - 1) * side, (row - 1) * side, column * side, row * side)
        (shown,) = (o for o in one.scene.objects if is_within(o.box, question.region))
        assert question.target == Label(text=shown.class_name)
        assert found[1] == scene_classes()[shown.class_name].group


@pytest.mark.parametrize(("grid", "size"), GRIDS)
def test_every_object_is_in_a_cell_of_its_own(grid: int, size: int) -> None:
    side = size / grid
    for one in samples(grid, size):
        corners = [(o.box.x1 // side, o.box.y1 // side) for o in one.scene.objects]
        assert len(set(corners)) == len(corners) == min(NUM_OBJECTS, grid * grid)
        assert corners == [((o.box.x2 - 1) // side, (o.box.y2 - 1) // side) for o in one.scene.objects]


def test_the_boxes_are_those_of_the_pixels() -> None:
    for one in samples(4, 224, number=4):
        for thing in one.scene.objects:
            ys, xs = thing.mask.nonzero()
            assert (xs.min() >= thing.box.x1, xs.max() < thing.box.x2) == (True, True)
            assert (ys.min() >= thing.box.y1, ys.max() < thing.box.y2) == (True, True)
            assert thing.mask.sum() > 0.1 * thing.box.area


def test_other_objects_of_the_group_make_the_cell_part_of_the_question() -> None:
    for one in samples():
        (question,) = one.questions
        groups = [o.group for o in one.scene.objects]
        names = [o.class_name for o in one.scene.objects]
        assert groups.count(scene_classes()[question.class_name or ""].group) > 3
        assert names.count(question.class_name or "") == 1


def test_classes_take_turns_and_seeds_give_other_scenes() -> None:
    first, again, other = samples(), samples(), samples(seed=1)
    assert [one.questions[0].class_name for one in first] == [NOVEL[i % len(NOVEL)] for i in range(12)]
    assert [one.scene.image.tobytes() for one in first] == [one.scene.image.tobytes() for one in again]
    assert all(a.scene.image.tobytes() != b.scene.image.tobytes() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("grid", "size"), [(1, 448), (8, 450), (8, 120)])
def test_a_size_that_does_not_fit_the_grid_is_refused(grid: int, size: int) -> None:
    with pytest.raises(ValueError, match="expected at least 2 x 2 cells, and a size that is a multiple of"):
        samples(grid, size)
