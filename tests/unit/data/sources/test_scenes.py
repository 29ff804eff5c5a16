"""Datasets of the built-in scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from virft.cli.build_scenes import build_scenes
from virft.data.sources.scenes import scene_classes_named, write_few_shot_scenes, write_test_scenes
from virft.data.store import Store
from virft.errors import ConfigError
from virft.geometry.masks import box_to_mask, target_mask
from virft.scenes import SCENE_TASKS
from virft.scenes.assets import class_names
from virft.scenes.sets import SceneKind
from virft.types import Box, Detections, Label

CLASSES = class_names("novel")[:3]


def few_shots(folder: Path, **options: Any) -> Store:
    write_few_shot_scenes(
        folder, **{"task": "detection", "classes": CLASSES, "shots": 2, "seed": 0, "size": 112} | options
    )
    return Store(folder)


def test_a_few_shot_set_has_k_questions_per_class(tmp_path: Path) -> None:
    store = few_shots(tmp_path / "d", negatives_frac=0.25)
    present = [sample.query for sample in store if isinstance(sample.target, Detections) and sample.target.items]
    assert sorted(present) == sorted([*CLASSES, *CLASSES])
    # n / (6 + n) = 0.25: n = 2
    assert len(store) == 8
    store.check(decode=True)


def test_shots_can_have_the_other_style_but_not_a_kind_for_tests(tmp_path: Path) -> None:
    first, other = few_shots(tmp_path / "a"), few_shots(tmp_path / "b", kind=SceneKind.TRAIN_OTHER_STYLE)
    assert other.card["source"]["split"] == "train_other_style"
    assert first.card["images_hash"] != other.card["images_hash"]
    with pytest.raises(ConfigError, match="other_style are for tests; expected train, train_other_style with shots"):
        few_shots(tmp_path / "c", kind=SceneKind.OTHER_STYLE)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first, again, other = (few_shots(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert (first.hash, first.card["images_hash"]) == (again.hash, again.card["images_hash"])
    assert first.card["images_hash"] != other.card["images_hash"]


@pytest.mark.parametrize("task", SCENE_TASKS)
@pytest.mark.parametrize("kind", [SceneKind.SAME_SPRITES, SceneKind.OTHER_STYLE])
def test_a_test_set_has_the_requested_number_of_questions(tmp_path: Path, task: str, kind: SceneKind) -> None:
    write_test_scenes(tmp_path / "d", task=task, classes=CLASSES, num_questions=6, kind=kind, seed=0, size=112)
    store = Store(tmp_path / "d")
    assert len(store) == 6
    assert {sample.task for sample in store} == {task}


def test_an_unknown_class_is_reported_with_the_closest_name() -> None:
    with pytest.raises(ConfigError, match=r"class 'pandda' is not in the built-in scenes; did you mean 'panda'\?"):
        scene_classes_named(["pandda"])
    with pytest.raises(ConfigError, match=r"class 'qqq' is not in the built-in scenes; expected base, novel, heldout"):
        scene_classes_named(["qqq"])


def test_the_name_of_a_split_is_replaced_by_its_classes() -> None:
    assert scene_classes_named(["novel", CLASSES[0], "cat"]) == (*class_names("novel"), "cat")


def test_grounding_questions_have_the_mask_of_their_target(tmp_path: Path) -> None:
    write_test_scenes(
        tmp_path / "d",
        task="grounding",
        classes=CLASSES,
        num_questions=8,
        kind=SceneKind.TRAIN,
        seed=0,
        size=112,
    )
    for sample in Store(tmp_path / "d"):
        mask = target_mask(sample)
        assert mask is not None
        assert isinstance(sample.target, Box)
        inside = box_to_mask(sample.target, sample.target_size)
        # opaque pixels only, so a little smaller than the box
        assert not (mask & ~inside).any()
        assert mask.sum() > 0.2 * inside.sum()


def test_small_objects_in_a_grid_store_their_cell_as_region(tmp_path: Path) -> None:
    options = {"task": "classification", "classes": CLASSES, "grid": 4}
    build_scenes(out=tmp_path / "train", shots=2, **options)
    build_scenes(out=tmp_path / "test", questions=5, **options)
    train, test = Store(tmp_path / "train"), Store(tmp_path / "test")
    assert (len(train), len(test)) == (6, 5)
    assert [train.card["source"][key] for key in ("grid", "image_size", "split")] == [4, 224, "train"]
    for one in (*train, *test):
        assert isinstance(one.target, Label)
        assert one.target.text in CLASSES
        assert one.region is not None
        assert (one.region.x2 - one.region.x1, one.region.y2 - one.region.y1) == (56, 56)
    train.check(decode=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "detection", "questions": 2}, "--grid with --task detection; expected --task classification"),
        ({"shots": 1, "kind": "other_style"}, "--shots with --kind other_style; expected train or"),
        ({"questions": 2, "object_scale": 0.3}, "expected neither of them"),
        ({"questions": 2, "negatives_frac": 0.0}, "expected neither of them"),
        ({"questions": 2, "size": 100}, "a grid of 8 x 8 cells in 100 x 100 pixels; expected at least 2 x 2 cells"),
    ],
)
def test_options_that_a_grid_does_not_have_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scenes(out=tmp_path / "d", **{"task": "classification", "grid": 8} | options)
    assert not (tmp_path / "d").exists()
