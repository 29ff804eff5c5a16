"""Seeded sets of scenes with questions: an endless training stream, few-shot sets, test sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from hashlib import sha256
from itertools import count
from typing import NamedTuple

import numpy as np

from virft.scenes import SCENE_TASKS
from virft.scenes.assets import TEST_STYLES, TRAIN_STYLES, Split, Style, class_names
from virft.scenes.patches import REFERENCE_SIZE
from virft.scenes.plans import classification_plan, detection_plan, grounding_plan, mixed_plan
from virft.scenes.questions import (
    SceneQuestion,
    absent_classes,
    classification_question,
    detection_question,
    grounding_questions,
    questions_for,
    spread_over_kinds,
)
from virft.scenes.render import Scene, render_scene

ABSENT_SHARE = 0.3
_SCENE_KINDS = ("mixed", "grounding", "classification")
_SCENE_KIND_WEIGHTS = (0.6, 0.2, 0.2)
_GROUNDING_TRIES = 20


class SceneKind(StrEnum):
    """What a set of scenes is drawn from: two kinds of training and two of test. Backgrounds of the tests are new.

    Training in the other style is for tests in that style: there the few shots show what no one was taught.
    """

    TRAIN = "train"
    TRAIN_OTHER_STYLE = "train_other_style"
    SAME_SPRITES = "same_sprites"
    OTHER_STYLE = "other_style"

    @property
    def styles(self) -> tuple[Style, ...]:
        """The styles of the cut-outs."""
        return TEST_STYLES if self in (SceneKind.OTHER_STYLE, SceneKind.TRAIN_OTHER_STYLE) else TRAIN_STYLES

    @property
    def background_split(self) -> Split:
        """The split of the backgrounds."""
        return Split.TRAIN if self.is_training else Split.TEST

    @property
    def is_training(self) -> bool:
        """Whether models may be trained on it."""
        return self in (SceneKind.TRAIN, SceneKind.TRAIN_OTHER_STYLE)


class SceneSample(NamedTuple):
    """A scene with what is asked about it. ``name`` is unique within its set and fit for a file name."""

    name: str
    scene: Scene
    questions: tuple[SceneQuestion, ...]


def stream_generator(seed: int, *key: str | int) -> np.random.Generator:
    """A generator for this seed and key; two keys never share a stream.

    >>> [int(stream_generator(7, "train", index).integers(1000)) for index in (0, 1, 0)]
    [786, 771, 786]
    """
    digest = sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.default_rng(np.random.SeedSequence([seed, *np.frombuffer(digest, dtype="<u4").tolist()]))


def training_sample(
    seed: int,
    index: int,
    *,
    classes: Sequence[str] | None = None,
    size: int = REFERENCE_SIZE,
    num_absent: int = 1,
    num_grounding: int = 2,
) -> SceneSample:
    """Scene ``index`` of the training stream, with all questions that fit it; ``classes``: the base classes.

    A pure function of its arguments, so that workers can share the stream by taking every n-th index.
    """
    classes = class_names("base") if classes is None else classes
    rng = stream_generator(seed, "train", index)
    kind = _SCENE_KINDS[int(rng.choice(3, p=_SCENE_KIND_WEIGHTS))]
    main = classes[int(rng.integers(len(classes)))]
    if kind == "classification":
        plan = classification_plan(rng, main, classes)
    else:
        plan = mixed_plan(rng, classes) if kind == "mixed" else grounding_plan(rng, main, classes)
    scene = render_scene(rng, plan, size=size)
    asked = questions_for(scene, rng, classes=classes, num_absent=num_absent, num_grounding=num_grounding)
    if kind == "classification":
        asked = (classification_question(scene, main), *asked)
    return SceneSample(f"train_{index:08d}", scene, asked)


def training_stream(seed: int, *, start: int = 0, classes: Sequence[str] | None = None) -> Iterator[SceneSample]:
    """``training_sample`` from index ``start`` on, without end."""
    for index in count(start):
        yield training_sample(seed, index, classes=classes)


def few_shot_set(
    seed: int,
    task: str,
    classes: Sequence[str],
    shots: int,
    *,
    kind: SceneKind = SceneKind.TRAIN,
    absent_share: float = ABSENT_SHARE,
    size: int = REFERENCE_SIZE,
) -> Iterator[SceneSample]:
    """``shots`` scenes for each class, each with one question whose answer is of that class.

    Detection: 1 to 3 objects of the class, and on some scenes also a question about an absent class of
    ``classes`` (of the base classes where all are there), so that absent classes make up ``absent_share`` of all
    questions. Distractors are base classes and others of ``classes``.
    """
    num_scenes = shots * len(classes)
    num_absent = _num_absent(task, num_scenes / (1 - absent_share), absent_share)
    key = "/".join(("few_shot", task, *classes))
    return _samples(seed, key, kind, task, classes, num_scenes, num_absent, size)


def evaluation_set(
    seed: int,
    task: str,
    classes: Sequence[str],
    num_questions: int,
    kind: SceneKind,
    *,
    absent_share: float = ABSENT_SHARE,
    size: int = REFERENCE_SIZE,
) -> Iterator[SceneSample]:
    """Scenes with ``num_questions`` questions in all; the classes take turns.

    Detection: ``absent_share`` of the questions ask for a class of ``classes`` that is not there.
    """
    num_absent = _num_absent(task, num_questions, absent_share)
    key = "/".join(("test", kind, task, *classes))
    return _samples(seed, key, kind, task, classes, num_questions - num_absent, num_absent, size)


def _num_absent(task: str, num_questions: float, absent_share: float) -> int:
    return round(num_questions * absent_share) if task == "detection" else 0


def _samples(
    seed: int,
    key: str,
    kind: SceneKind,
    task: str,
    classes: Sequence[str],
    num_scenes: int,
    num_absent: int,
    size: int,
) -> Iterator[SceneSample]:
    """Scenes about ``classes`` in turn, the absent questions spread evenly over them."""
    if task not in SCENE_TASKS:
        raise ValueError(f"scenes have no questions of {task}; expected one of {', '.join(SCENE_TASKS)}")
    for index in range(num_scenes):
        rng = stream_generator(seed, key, index)
        asked = classes[index % len(classes)]
        absent = (index + 1) * num_absent // num_scenes - index * num_absent // num_scenes
        scene, question = _scene_about(rng, kind, task, asked, _distractors(asked, classes), size)
        missing = absent_classes(scene, rng, classes, absent)
        if len(missing) < absent:
            others = [other for other in class_names("base") if other not in classes]
            missing += absent_classes(scene, rng, others, absent - len(missing))
        name = f"{kind}_{task}_{index:06d}_{asked.replace(' ', '_')}"
        yield SceneSample(name, scene, (question, *(detection_question(scene, other) for other in missing)))


class _SceneAbout(NamedTuple):
    scene: Scene
    question: SceneQuestion


def _distractors(asked: str, classes: Sequence[str]) -> tuple[str, ...]:
    """The base classes, and about as many entries for the further ones of ``classes``.

    As relatives are preferred, a quarter of the distractors shown are of the latter. Without them, the one
    object of no base class would be the answer whatever the question names.
    """
    base = class_names("base")
    further = tuple(name for name in classes if name not in base and name != asked)
    return base + further * (len(base) // len(further) if further else 0)


def _scene_about(
    rng: np.random.Generator, kind: SceneKind, task: str, asked: str, distractors: Sequence[str], size: int
) -> _SceneAbout:
    """A scene in which the answer to the question is of the class ``asked``."""
    if task == "detection":
        plan = detection_plan(rng, asked, distractors, max_count=3 if kind.is_training else 4)
        scene = render_scene(rng, plan, styles=kind.styles, split=kind.background_split, size=size)
        return _SceneAbout(scene, detection_question(scene, asked))
    if task == "classification":
        plan = classification_plan(rng, asked, distractors)
        scene = render_scene(rng, plan, styles=kind.styles, split=kind.background_split, size=size)
        return _SceneAbout(scene, classification_question(scene, asked))
    for _ in range(_GROUNDING_TRIES):
        plan = grounding_plan(rng, asked, distractors)
        scene = render_scene(rng, plan, styles=kind.styles, split=kind.background_split, size=size)
        boxes = [o.box for o in scene.objects if o.class_name == asked]
        fitting = [q for q in grounding_questions(scene) if q.target in boxes and q.kind != "name"]
        if fitting:
            return _SceneAbout(scene, spread_over_kinds(rng, fitting, 1)[0])
    raise ValueError(f"no expression fits one {asked} in {_GROUNDING_TRIES} scenes")
