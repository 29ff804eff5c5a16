"""Rendered scenes: determinism, exact boxes and masks, number of objects, visibility."""

from collections import Counter

import numpy as np
import pytest

from virft.scenes import render
from virft.scenes.assets import TEST_STYLES, Split, Style, class_names
from virft.scenes.patches import PlanItem
from virft.scenes.render import Scene, render_scene
from virft.types import Box

CROWD = [PlanItem("cat", 2), PlanItem("drum"), PlanItem("taxi"), PlanItem("pizza"), PlanItem("rose")]


def crowded_scenes(count: int) -> list[Scene]:
    rng = np.random.default_rng(5)
    return [render_scene(rng, CROWD) for _ in range(count)]


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = (render_scene(np.random.default_rng(3), CROWD) for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes()
    assert first.objects == second.objects
    assert render_scene(np.random.default_rng(4), CROWD).image.tobytes() != first.image.tobytes()


def test_a_scene_shows_exactly_the_planned_objects() -> None:
    for scene in crowded_scenes(40):
        assert Counter(o.class_name for o in scene.objects) == {"cat": 2, "drum": 1, "taxi": 1, "pizza": 1, "rose": 1}


def test_every_object_is_at_least_60_percent_visible() -> None:
    for scene in crowded_scenes(40):
        assert min(o.visible_frac for o in scene.objects) >= 0.6


def test_visible_frac_is_the_fraction_of_the_mask_that_no_later_object_covers() -> None:
    for scene in crowded_scenes(10):
        for index, o in enumerate(scene.objects):
            later = [other.mask for other in scene.objects[index + 1 :]]
            free = o.mask & ~np.any(later, axis=0) if later else o.mask
            assert o.visible_frac == pytest.approx(free.sum() / o.patch_mask.sum())
            assert (scene.visible_mask(index) == free).all()


def test_no_two_boxes_overlap_by_an_iou_of_04_or_more() -> None:
    for scene in crowded_scenes(20):
        boxes = [o.box for o in scene.objects]
        for index, a in enumerate(boxes):
            for b in boxes[:index]:
                width = max(0, min(a.x2, b.x2) - max(a.x1, b.x1))
                height = max(0, min(a.y2, b.y2) - max(a.y1, b.y1))
                intersection = width * height
                assert intersection / (a.area + b.area - intersection) < 0.4


def drawn_box(black: Scene, white: Scene) -> Box:
    """Bounding box of the pixels that are not black on black and white on white."""
    changed = (black.image > 0).any(-1) | (white.image < 255).any(-1)
    ys, xs = np.nonzero(changed)
    return Box(x1=float(xs.min()), y1=float(ys.min()), x2=float(xs.max() + 1), y2=float(ys.max() + 1))


def test_an_object_changes_pixels_exactly_up_to_its_box(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "_OVERHANG_CHANCE", 0.5)  # boxes at the border, too
    num_at_border = 0
    for seed, name in enumerate(class_names()):
        scenes = []
        for level in (0, 255):
            flat = np.full((112, 112, 3), level, dtype=np.float32)
            monkeypatch.setattr(render, "background_crop", lambda rng, photo, size, flat=flat: flat.copy())
            scenes.append(render_scene(np.random.default_rng(seed), [PlanItem(name)]))
        box = scenes[0].objects[0].box
        assert drawn_box(*scenes) == box, name
        num_at_border += min(box.x1, box.y1) == 0 or max(box.x2, box.y2) == 112
    assert num_at_border >= 10


def test_a_mask_lies_in_its_box() -> None:
    for scene in crowded_scenes(10):
        for o in scene.objects:
            ys, xs = np.nonzero(o.mask)
            assert o.mask.shape == (112, 112)
            assert o.box.x1 <= xs.min() and xs.max() < o.box.x2
            assert o.box.y1 <= ys.min() and ys.max() < o.box.y2


def test_sides_scale_with_the_image_size() -> None:
    large = render_scene(np.random.default_rng(0), [PlanItem("pizza", 1, (60.0, 60.0))], size=224)
    box = large.objects[0].box
    assert large.image.shape == (224, 224, 3)
    # 60 pixels at size 112 are 120 at 224; rotation by up to 25 degrees changes the longer side of the box.
    assert 90 <= max(box.x2 - box.x1, box.y2 - box.y1) <= 165


def test_the_test_style_is_used_if_given() -> None:
    scene = render_scene(np.random.default_rng(0), CROWD, styles=TEST_STYLES, split=Split.TEST)
    assert {o.style for o in scene.objects} == {Style.NOTO}


def test_objects_shrink_until_they_have_a_place() -> None:
    scene = render_scene(np.random.default_rng(0), [PlanItem("soccer ball", 12, (60.0, 60.0))])
    assert len(scene.objects) == 12
    assert max(o.box.x2 - o.box.x1 for o in scene.objects) < 60
