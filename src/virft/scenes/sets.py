"""Seeded sets of scenes with questions: endless training samples, few-shot training sets, test sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import partial
from hashlib import sha256
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
    multiclass_question,
    questions_for,
    sample_by_kind,
)
from virft.scenes.render import Scene, render_scene

ABSENT_FRAC = 0.3
"""Default fraction of detection questions about an absent class."""
_SCENE_KINDS = ("mixed", "grounding", "classification")
_SCENE_KIND_WEIGHTS = (0.6, 0.2, 0.2)
_GROUNDING_TRIES = 20
_DETECTION = ("detection", "multiclass_detection")
CLASSES_PER_QUESTION = 6
"""Number of classes that a question of multiclass detection lists, if the set has as many."""


class SceneKind(StrEnum):
    """Style and backgrounds of a set of scenes: two kinds for training, and two for test with unseen backgrounds."""

    TRAIN = "train"
    """Training, in the styles that the built-in model is trained on."""
    TRAIN_OTHER_STYLE = "train_other_style"
    """Training in the style of ``OTHER_STYLE``, which the built-in model has not seen."""
    SAME_SPRITES = "same_sprites"
    """Test in the training styles."""
    OTHER_STYLE = "other_style"
    """Test in another style."""

    @property
    def styles(self) -> tuple[Style, ...]:
        """Styles of the sprites."""
        return TEST_STYLES if self in (SceneKind.OTHER_STYLE, SceneKind.TRAIN_OTHER_STYLE) else TRAIN_STYLES

    @property
    def background_split(self) -> Split:
        """Split of the backgrounds."""
        return Split.TRAIN if self.is_training else Split.TEST

    @property
    def is_training(self) -> bool:
        """True for the two training kinds."""
        return self in (SceneKind.TRAIN, SceneKind.TRAIN_OTHER_STYLE)


class SceneSample(NamedTuple):
    """Scene with its questions."""

    name: str
    """Name that is unique in its set and valid as a file name."""
    scene: Scene
    """The rendered scene."""
    questions: tuple[SceneQuestion, ...]
    """Questions about the scene."""


def stream_generator(seed: int, *key: str | int) -> np.random.Generator:
    """Return a random generator for this seed and key; different keys give independent streams.

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
    """Return training scene ``index`` with questions about it.

    ``classes``: classes of the objects, by default the base classes. ``size``: width and height in pixels.
    ``num_absent`` and ``num_grounding``: numbers of questions about absent classes and of grounding questions. A pure
    function of its arguments, so that workers can shard the samples by taking every n-th index.
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
    questions = questions_for(scene, rng, classes=classes, num_absent=num_absent, num_grounding=num_grounding)
    if kind == "classification":
        questions = (classification_question(scene, main), *questions)
    return SceneSample(f"train_{index:08d}", scene, questions)


def few_shot_set(
    seed: int,
    task: str,
    classes: Sequence[str],
    shots: int,
    *,
    kind: SceneKind = SceneKind.TRAIN,
    absent_frac: float = ABSENT_FRAC,
    size: int = REFERENCE_SIZE,
    object_scale: float = 1.0,
) -> Iterator[SceneSample]:
    """Yield ``shots`` scenes for each class, each with one question whose answer is of that class.

    Detection: 1 to 3 objects of the class. Some scenes also have a question about an absent class of ``classes`` (of
    the base classes if the scene shows all of them), so that ``absent_frac`` of all questions are about an absent
    class. Distractors are base classes and others of ``classes``. ``size``: width and height in pixels.
    ``object_scale``: factor of the sizes of objects.
    """
    num_scenes = shots * len(classes)
    num_absent = _num_absent(task, num_scenes / (1 - absent_frac), absent_frac)
    key = "/".join(("few_shot", task, *classes))
    return _samples(seed, key, kind, task, classes, num_scenes, num_absent, size, object_scale)


def evaluation_set(
    seed: int,
    task: str,
    classes: Sequence[str],
    num_questions: int,
    kind: SceneKind,
    *,
    absent_frac: float = ABSENT_FRAC,
    size: int = REFERENCE_SIZE,
    object_scale: float = 1.0,
) -> Iterator[SceneSample]:
    """Yield scenes with ``num_questions`` questions in total, about the classes in turn.

    Detection: ``absent_frac`` of the questions are about a class of ``classes`` that the scene does not show. ``size``:
    width and height in pixels. ``object_scale``: factor of the sizes of objects.
    """
    num_absent = _num_absent(task, num_questions, absent_frac)
    key = "/".join(("test", kind, task, *classes))
    return _samples(seed, key, kind, task, classes, num_questions - num_absent, num_absent, size, object_scale)


def _num_absent(task: str, num_questions: float, absent_frac: float) -> int:
    return round(num_questions * absent_frac) if task in _DETECTION else 0


def _samples(
    seed: int,
    key: str,
    kind: SceneKind,
    task: str,
    classes: Sequence[str],
    num_scenes: int,
    num_absent: int,
    size: int,
    object_scale: float,
) -> Iterator[SceneSample]:
    """Yield scenes about ``classes`` in turn, with the questions about absent classes evenly spaced.

    Raises ``ValueError`` for a task without scenes.
    """
    if task not in SCENE_TASKS:
        raise ValueError(f"scenes have no questions of {task}; expected one of {', '.join(SCENE_TASKS)}")
    for index in range(num_scenes):
        rng = stream_generator(seed, key, index)
        queried = classes[index % len(classes)]
        absent = (index + 1) * num_absent // num_scenes - index * num_absent // num_scenes
        scene, question = _scene_about(rng, kind, task, queried, classes, size, object_scale)
        name = f"{kind}_{task}_{index:06d}_{queried.replace(' ', '_')}"
        if task == "multiclass_detection":
            lists = [_absent(scene, rng, classes, CLASSES_PER_QUESTION) for _ in range(absent)]
            others = [multiclass_question(scene, sorted(listed)) for listed in lists]
        else:
            others = [detection_question(scene, other) for other in _absent(scene, rng, classes, absent)]
        yield SceneSample(name, scene, (question, *others))


def _absent(scene: Scene, rng: np.random.Generator, classes: Sequence[str], number: int) -> list[str]:
    """Return ``number`` classes that the scene does not show, of ``classes``, then of the base classes."""
    missing = absent_classes(scene, rng, classes, number)
    if len(missing) < number:
        others = [other for other in class_names("base") if other not in classes]
        missing += absent_classes(scene, rng, others, number - len(missing))
    return missing


def _listed(scene: Scene, rng: np.random.Generator, classes: Sequence[str]) -> list[str]:
    """Return the classes of a question: those of ``classes`` that the scene shows, and absent ones, by name."""
    shown = [name for name in dict.fromkeys(o.class_name for o in scene.objects) if name in classes]
    return sorted(shown + absent_classes(scene, rng, classes, CLASSES_PER_QUESTION - len(shown)))


class _SceneAbout(NamedTuple):
    scene: Scene
    question: SceneQuestion


def _distractors(queried: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the base classes, and about as many entries for the other classes of ``classes``.

    Since related classes are preferred, a quarter of the distractors are of the latter. Without them, the only object
    outside the base classes would always be the answer, and a model could ignore the question.
    """
    base = class_names("base")
    others = tuple(name for name in classes if name not in base and name != queried)
    return base + others * (len(base) // len(others) if others else 0)


def _scene_about(
    rng: np.random.Generator,
    kind: SceneKind,
    task: str,
    queried: str,
    classes: Sequence[str],
    size: int,
    object_scale: float,
) -> _SceneAbout:
    """Return a scene and a question of a set about ``classes``, whose answer is (also) of the class ``queried``."""
    distractors = _distractors(queried, classes)
    render = partial(
        render_scene, styles=kind.styles, split=kind.background_split, size=size, object_scale=object_scale
    )
    if task in _DETECTION:
        plan = detection_plan(rng, queried, distractors, max_count=3 if kind.is_training else 4)
        scene = render(rng, plan)
        if task == "multiclass_detection":
            return _SceneAbout(scene, multiclass_question(scene, _listed(scene, rng, classes)))
        return _SceneAbout(scene, detection_question(scene, queried))
    if task == "classification":
        plan = classification_plan(rng, queried, distractors)
        scene = render(rng, plan)
        return _SceneAbout(scene, classification_question(scene, queried))
    for _ in range(_GROUNDING_TRIES):
        plan = grounding_plan(rng, queried, distractors)
        scene = render(rng, plan)
        boxes = [o.box for o in scene.objects if o.class_name == queried]
        fitting = [q for q in grounding_questions(scene) if q.target in boxes and q.kind != "name"]
        if fitting:
            return _SceneAbout(scene, sample_by_kind(rng, fitting, 1)[0])
    raise ValueError(f"no expression fits one {queried} in {_GROUNDING_TRIES} scenes")
