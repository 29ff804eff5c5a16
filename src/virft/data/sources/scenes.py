"""Datasets of the built-in synthetic scenes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from virft.data.store_writer import StoreWriter
from virft.errors import ConfigError, did_you_mean
from virft.geometry.masks import mask_to_rle
from virft.scenes import SCENE_TASKS
from virft.scenes.assets import class_names
from virft.scenes.grid import grid_set
from virft.scenes.questions import SceneQuestion
from virft.scenes.render import Scene
from virft.scenes.sets import ABSENT_FRAC, SceneKind, SceneSample, evaluation_set, few_shot_set
from virft.tasks import TASKS
from virft.tasks.task import ClassAnnotation
from virft.types import Box, Detections, ImageSize, Sample, Target

SPLITS = ("base", "novel", "heldout")
"""Names of the splits of the scene classes."""
_NO_NAMES: Mapping[str, str] = MappingProxyType({})


def _scenes_of(task: str) -> str:
    """Return the task whose scenes are used: detection's for a task whose targets follow from boxes."""
    return task if task in SCENE_TASKS or TASKS[task].from_annotation is None else "detection"


def scene_classes_named(names: Sequence[str]) -> tuple[str, ...]:
    """Return the class names with each split name ("base", "novel", "heldout") replaced by its classes.

    Raises ``ConfigError`` if a name is neither a split nor a class.

    >>> len(scene_classes_named(["novel", "heldout"]))
    16
    """
    known = class_names()
    chosen: list[str] = []
    for name in names:
        if name not in SPLITS and name not in known:
            otherwise = f"expected {', '.join(SPLITS)} or one of its classes"
            hint = did_you_mean(name, [*SPLITS, *known], otherwise=otherwise)
            raise ConfigError(f"class {name!r} is not in the built-in scenes; {hint}")
        chosen += class_names(name) if name in SPLITS else [name]
    return tuple(dict.fromkeys(chosen))


def write_few_shot_scenes(
    folder: Path,
    *,
    task: str,
    classes: Sequence[str],
    shots: int,
    seed: int,
    kind: SceneKind = SceneKind.TRAIN,
    negatives_frac: float = ABSENT_FRAC,
    size: int,
    object_scale: float = 1.0,
    overwrite: bool = False,
    renamed: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write a training set of ``shots`` scenes per class, with training backgrounds; return its card.

    ``size``: width and height of an image in pixels. ``object_scale``: factor of the sizes of objects.
    ``negatives_frac``: fraction of questions about an absent class.
    ``renamed``: query -> another query, for a control experiment with wrong names. Raises ``ConfigError`` if ``kind``
    is for test sets, ``DataError`` if the folder is occupied.
    """
    if not kind.is_training:
        allowed = ", ".join(one for one in SceneKind if one.is_training)
        raise ConfigError(f"scenes of kind {kind} are for tests; expected {allowed} with shots")
    scenes = few_shot_set(
        seed,
        _scenes_of(task),
        classes,
        shots,
        kind=kind,
        absent_frac=negatives_frac,
        size=size,
        object_scale=object_scale,
    )
    facts: dict[str, Any] = {"split": kind.value, "shots": shots} | ({"renamed": dict(renamed)} if renamed else {})
    facts |= _scale_fact(object_scale)
    return _write(
        folder,
        scenes,
        task=task,
        classes=classes,
        seed=seed,
        facts=facts,
        size=size,
        overwrite=overwrite,
        renamed=renamed or {},
    )


def write_test_scenes(
    folder: Path,
    *,
    task: str,
    classes: Sequence[str],
    num_questions: int,
    kind: SceneKind,
    seed: int,
    negatives_frac: float = ABSENT_FRAC,
    size: int,
    object_scale: float = 1.0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a test set of ``num_questions`` questions on scenes of a kind; return its card.

    ``size``: width and height of an image in pixels. ``object_scale``: factor of the sizes of objects.
    ``negatives_frac``: fraction of questions about an absent class.
    Raises ``DataError`` if the folder is occupied.
    """
    scenes = evaluation_set(
        seed,
        _scenes_of(task),
        classes,
        num_questions,
        kind,
        absent_frac=negatives_frac,
        size=size,
        object_scale=object_scale,
    )
    facts = {"split": kind.value} | _scale_fact(object_scale)
    return _write(folder, scenes, task=task, classes=classes, seed=seed, facts=facts, size=size, overwrite=overwrite)


def write_grid_scenes(
    folder: Path,
    *,
    classes: Sequence[str],
    num_questions: int,
    kind: SceneKind,
    seed: int,
    size: int,
    grid: int,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a dataset of ``num_questions`` classification questions about small objects in a grid; return its card.

    ``size``: width and height of an image in pixels. ``grid``: number of rows and of columns. Each sample has its cell
    as region. Raises ``ConfigError`` for a size that does not fit the grid, ``DataError`` if the folder is occupied.
    """
    scenes = grid_set(seed, classes, num_questions, kind, grid=grid, size=size)
    facts = {"split": kind.value, "grid": grid}
    try:
        return _write(
            folder,
            scenes,
            task="classification",
            classes=classes,
            seed=seed,
            facts=facts,
            size=size,
            overwrite=overwrite,
        )
    except ValueError as error:
        raise ConfigError(f"build scenes: {error}") from error


def _scale_fact(object_scale: float) -> dict[str, float]:
    """The entry of a card for objects of another size; empty for the usual one."""
    return {} if object_scale == 1 else {"object_scale": object_scale}


def _write(
    folder: Path,
    scenes: Iterable[SceneSample],
    *,
    task: str,
    classes: Sequence[str],
    seed: int,
    facts: dict[str, Any],
    size: int,
    overwrite: bool,
    renamed: Mapping[str, str] = _NO_NAMES,
) -> dict[str, Any]:
    with StoreWriter(folder, overwrite=overwrite) as writer:
        for scene in scenes:
            path = writer.add_image(f"{scene.name}.png", Image.fromarray(scene.scene.image))
            for sample in _samples(scene, path, task):
                writer.add(replace(sample, query=renamed.get(sample.query, sample.query)))
        source = {"kind": "scenes", "task": task, "classes": list(classes), "image_size": size} | facts
        return writer.finish(source=source, seed=seed)


def _samples(scene: SceneSample, path: str, task: str) -> list[Sample]:
    return [
        Sample(
            id=f"{scene.name}:{question.query}",
            task=task,
            images=(path,),
            image_sizes=(ImageSize(*scene.scene.size),),
            query=question.query,
            target=_target(question, task),
            rle=_rle(scene.scene, question.target) if isinstance(question.target, Box) else None,
            region=question.region,
        )
        for question in scene.questions
    ]


def _target(question: SceneQuestion, task: str) -> Target:
    """Return the target of a question; for tasks without scenes of their own, that of the boxes to detect."""
    make = TASKS[task].from_annotation
    if task == question.task or make is None or not isinstance(question.target, Detections):
        return question.target
    parsed = make(ClassAnnotation(boxes=tuple(item.box for item in question.target.items)))
    assert parsed is not None, f"{task}: the boxes of a scene are complete"
    return parsed.target


def _rle(scene: Scene, target: Box) -> str:
    """Return the mask of the object with this box as COCO's run lengths; no two boxes of a scene are equal."""
    index = next(i for i, one in enumerate(scene.objects) if one.box == target)
    return mask_to_rle(scene.visible_mask(index))
