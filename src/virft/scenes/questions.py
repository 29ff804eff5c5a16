"""Questions about a scene with their ground truth: detection of one class or several, classification, grounding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from virft.scenes.assets import scene_classes
from virft.scenes.patches import REFERENCE_SIZE
from virft.scenes.render import Scene, SceneObject
from virft.types import Box, Detection, Detections, Label, LabelledDetections, Target

MIN_AREA_RATIO = 1.4
"""Smallest ratio of the box areas of the largest (smallest) object and the next one, for "largest" and "smallest"."""
MIN_CENTRE_GAP = 12.0
"""Smallest distance of box centres along the axis, for "left of", "leftmost" ..; pixels at REFERENCE_SIZE."""
_ORDINALS = ("second", "third", "fourth", "fifth")


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneQuestion:
    """One question about a scene, in the terms of ``virft.types.Sample``."""

    task: str
    """Task of the question."""
    query: str
    """Class name, group or referring expression."""
    target: Target
    """Ground truth; boxes in pixels."""
    class_name: str | None
    """Class that the question is about; None for an expression that names only a group."""
    kind: str
    """"present" or "absent" (detection of one class or several), "lookalikes" or "cell" (classification), or "name",
    "only", "size", "extreme", "order", "relation" (grounding)."""
    region: Box | None = None
    """Region of the image that the query names, in pixels; None if it names none."""


def detection_question(scene: Scene, class_name: str) -> SceneQuestion:
    """Return the question about all objects of the class, sorted by x1, then y1; no objects if the class is absent."""
    boxes = sorted((o.box for o in scene.objects if o.class_name == class_name), key=lambda box: (box.x1, box.y1))
    return detection_of(class_name, boxes)


def detection_of(query: str, boxes: Sequence[Box]) -> SceneQuestion:
    """Return the question about all objects that a name or category fits, which have these boxes; none if absent."""
    return SceneQuestion(
        task="detection",
        query=query,
        target=Detections(items=tuple(Detection(box=box) for box in boxes)),
        class_name=query,
        kind="present" if boxes else "absent",
    )


def multiclass_question(scene: Scene, classes: Sequence[str]) -> SceneQuestion:
    """Return the question about all objects of these classes, by class in their order, then by x1 and y1."""
    items = tuple(
        Detection(box=item.box, label=name)
        for name in classes
        for item in _items_of(detection_question(scene, name).target)
    )
    return SceneQuestion(
        task="multiclass_detection",
        query=", ".join(classes),
        target=LabelledDetections(items=items, classes=tuple(classes)),
        class_name=None,
        kind="present" if items else "absent",
    )


def _items_of(target: Target) -> tuple[Detection, ...]:
    assert isinstance(target, Detections)
    return target.items


def classification_question(scene: Scene, class_name: str) -> SceneQuestion:
    """Return the question about the class of the only object of its group; the query is the group, such as "animal".

    Raises ``ValueError`` unless the scene has exactly one object of that group.
    """
    group = scene_classes()[class_name].group
    shown = [o.class_name for o in scene.objects if o.group == group]
    if shown != [class_name]:
        raise ValueError(f"the scene shows {shown} of the group {group}, expected only one {class_name}")
    return SceneQuestion(
        task="classification",
        query=group,
        target=Label(text=class_name),
        class_name=class_name,
        kind="lookalikes",
    )


def grounding_questions(scene: Scene) -> list[SceneQuestion]:
    """Return every expression that fits exactly one object by a margin, in a fixed order.

    >>> from virft.scenes.render import PlanItem, render_scene
    >>> scene = render_scene(np.random.default_rng(1), [PlanItem("cat"), PlanItem("drum")])
    >>> [question.query for question in grounding_questions(scene)]
    ['the cat', 'the drum', 'the only animal', 'the only instrument']
    """
    gap = MIN_CENTRE_GAP * scene.size.width / REFERENCE_SIZE
    found: list[SceneQuestion] = []
    for noun, members in _nouns(scene):
        found += _unique(noun, members, len(scene.objects))
        found += _by_size(noun, members)
        found += _by_place(noun, members, gap)
        found += _by_relation(noun, members, scene.objects, gap)
    return found


def questions_for(
    scene: Scene,
    rng: np.random.Generator,
    *,
    classes: Sequence[str],
    num_absent: int = 1,
    num_grounding: int = 2,
) -> tuple[SceneQuestion, ...]:
    """Return detection questions about each present class and ``num_absent`` absent ones, and ``num_grounding`` others.

    Absent classes are drawn from ``classes``, as in ``absent_classes``; grounding questions as in ``sample_by_kind``.
    """
    present = list(dict.fromkeys(o.class_name for o in scene.objects))
    queried = [*present, *absent_classes(scene, rng, classes, num_absent)]
    return (
        *(detection_question(scene, name) for name in queried),
        *sample_by_kind(rng, grounding_questions(scene), num_grounding),
    )


def absent_classes(scene: Scene, rng: np.random.Generator, classes: Sequence[str], count: int) -> list[str]:
    """Sample ``count`` different classes of ``classes`` that the scene does not show, or all if there are fewer.

    With probability 0.5, one is drawn from the look-alikes and group members of the shown classes.
    """
    rows = scene_classes()
    present = {o.class_name for o in scene.objects}
    groups = {o.group for o in scene.objects}
    sets = {rows[name].lookalikes for name in present} - {""}
    left = [name for name in classes if name not in present]
    chosen: list[str] = []
    while left and len(chosen) < count:
        alike = [name for name in left if rows[name].lookalikes in sets or rows[name].group in groups]
        pool = alike if alike and rng.random() < 0.5 else left
        chosen.append(pool[int(rng.integers(len(pool)))])
        left.remove(chosen[-1])
    return chosen


def sample_by_kind(rng: np.random.Generator, questions: Sequence[SceneQuestion], count: int) -> list[SceneQuestion]:
    """Sample ``count`` different questions, or all if there are fewer: a random kind, then one of that kind.

    So rare kinds are as frequent as common ones.
    """
    left = list(questions)
    chosen: list[SceneQuestion] = []
    while left and len(chosen) < count:
        kinds = list(dict.fromkeys(question.kind for question in left))
        kind = kinds[int(rng.integers(len(kinds)))]
        pool = [question for question in left if question.kind == kind]
        chosen.append(pool[int(rng.integers(len(pool)))])
        left.remove(chosen[-1])
    return chosen


class _Noun(NamedTuple):
    """Word for an object in an expression."""

    text: str
    """Class name or group."""
    is_class: bool
    """True for a class name."""

    def __str__(self) -> str:
        return self.text


def _nouns(scene: Scene) -> Iterable[tuple[_Noun, list[SceneObject]]]:
    """Return each class name, then each group name, with the objects that it fits."""
    by_class: dict[_Noun, list[SceneObject]] = {}
    by_group: dict[_Noun, list[SceneObject]] = {}
    for o in scene.objects:
        by_class.setdefault(_Noun(o.class_name, True), []).append(o)
        by_group.setdefault(_Noun(o.group, False), []).append(o)
    return [*by_class.items(), *by_group.items()]


def _question(expression: str, target: SceneObject, noun: _Noun, kind: str) -> SceneQuestion:
    return SceneQuestion(
        task="grounding",
        query=expression,
        target=target.box,
        class_name=noun.text if noun.is_class else None,
        kind=kind,
    )


def _unique(noun: _Noun, members: list[SceneObject], num_objects: int) -> list[SceneQuestion]:
    """Return "the cat" for a class, "the only animal" for a group that one of several objects belongs to."""
    if len(members) != 1:
        return []
    if noun.is_class:
        return [_question(f"the {noun}", members[0], noun, "name")]
    return [_question(f"the only {noun}", members[0], noun, "only")] if num_objects > 1 else []


def _by_size(noun: _Noun, members: list[SceneObject]) -> list[SceneQuestion]:
    if len(members) < 2:
        return []
    ranked = sorted(members, key=lambda o: o.box.area)
    found = []
    if ranked[-1].box.area >= MIN_AREA_RATIO * ranked[-2].box.area:
        found.append(_question(f"the largest {noun}", ranked[-1], noun, "size"))
    if ranked[1].box.area >= MIN_AREA_RATIO * ranked[0].box.area:
        found.append(_question(f"the smallest {noun}", ranked[0], noun, "size"))
    return found


def _centre_x(o: SceneObject) -> float:
    return (o.box.x1 + o.box.x2) / 2


def _centre_y(o: SceneObject) -> float:
    return (o.box.y1 + o.box.y2) / 2


def _by_place(noun: _Noun, members: list[SceneObject], gap: float) -> list[SceneQuestion]:
    """Return the first and last object by centre ("leftmost"); of three or more, also "second from the left" .."""
    found: list[SceneQuestion] = []
    axes = ((_centre_x, "leftmost", "rightmost", "left"), (_centre_y, "topmost", "bottommost", "top"))
    for centre, first, last, end in axes if len(members) > 1 else ():
        ranked = sorted(members, key=centre)
        clear = [centre(b) - centre(a) >= gap for a, b in pairwise(ranked)]
        if clear[0]:
            found.append(_question(f"the {first} {noun}", ranked[0], noun, "extreme"))
        if clear[-1]:
            found.append(_question(f"the {last} {noun}", ranked[-1], noun, "extreme"))
        for index in range(1, len(ranked) - 1):
            if clear[index - 1] and clear[index]:
                expression = f"the {_ORDINALS[index - 1]} {noun} from the {end}"
                found.append(_question(expression, ranked[index], noun, "order"))
    return found


_RELATIONS: tuple[tuple[str, Callable[[SceneObject, SceneObject], float]], ...] = (
    ("left of", lambda o, anchor: _centre_x(anchor) - _centre_x(o)),
    ("right of", lambda o, anchor: _centre_x(o) - _centre_x(anchor)),
    ("above", lambda o, anchor: _centre_y(anchor) - _centre_y(o)),
    ("below", lambda o, anchor: _centre_y(o) - _centre_y(anchor)),
)


def _by_relation(
    noun: _Noun, members: list[SceneObject], objects: Sequence[SceneObject], gap: float
) -> list[SceneQuestion]:
    """Return "the animal left of the clock": exactly one of at least two is left of it, by the margin."""
    found = []
    for anchor in objects:
        others = [o for o in members if o is not anchor]
        is_unique = sum(o.class_name == anchor.class_name for o in objects) == 1
        if not is_unique or len(others) < 2:
            continue
        for words, distance in _RELATIONS:
            fitting = [o for o in others if distance(o, anchor) >= gap]
            if len(fitting) == 1 and all(distance(o, anchor) <= -gap for o in others if o is not fitting[0]):
                expression = f"the {noun} {words} the {anchor.class_name}"
                found.append(_question(expression, fitting[0], noun, "relation"))
    return found
