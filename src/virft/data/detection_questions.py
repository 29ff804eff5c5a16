"""Samples of a labelled dataset with boxes: one question per (image, class) or image, few-shot, with absent classes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from virft.data.annotations import AnnotatedImage, AnnotatedSet, Skipped
from virft.data.class_notes import check_noted_classes, facts_of_notes, notes_of
from virft.data.class_variants import doubt_variants
from virft.data.sampling import (
    Pair,
    SplitPlan,
    choose_absent,
    choose_shots,
    is_trained_on,
    shuffled,
    split_fractions,
)
from virft.data.store_writer import StoreWriter, check_parts_free
from virft.data.upright import UprightImages
from virft.errors import ConfigError, DataError
from virft.geometry.boxes import XYXY, box_of, clip_xyxy
from virft.tasks import TASKS
from virft.tasks.multiclass_detection import is_label, join_classes
from virft.tasks.task import ClassAnnotation, ParsedTarget
from virft.text.labels import normalize_name
from virft.text.records import is_inside, polygons_fault
from virft.types import Box, Polygon, Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionPlan:
    """Selection of questions. ``every_class`` and ``query_map`` are evaluation protocols, used alone."""

    task: str = "detection"
    """Task of the samples; its targets must follow from the boxes of a class (``Task.from_annotation``), or of several
    (``Task.from_annotations``): then a question is about several classes of an image."""
    shots: int | None = None
    """Number of images per class in the training set; None: all images that show the class."""
    negatives_frac: float = 0.0
    """Fraction of questions about a class that the image does not show."""
    every_class: bool = False
    """Protocol "all": query every class on every image."""
    every_class_in_tests: bool = False
    """Protocol "all" for validation and test sets, as a benchmark demands it. Training sets are as without it."""
    query_map: Mapping[str, frozenset[str]] | None = None
    """Protocol "map": the classes that are queried on each image; a present class outside the map counts as missed."""
    split: SplitPlan = field(default_factory=SplitPlan)
    """Split of the images; validation and test sets have every question about their images."""
    max_classes: int | None = None
    """Largest number of classes of a question about several; None: all classes are in one question."""
    with_outlines: bool = False
    """Store the outlines of objects with targets of a task that can have them; tasks that need them always have."""

    def __post_init__(self) -> None:
        if self.task not in (known := [task.name for task in TASKS.values() if task.is_from_boxes]):
            raise ConfigError(f"--task {self.task}: cannot be built from boxes; expected {' or '.join(known)}")
        self._check_classes()
        if self.with_outlines and not TASKS[self.task].can_have_outlines:
            raise ConfigError(f"--outlines has no effect: targets of {self.task} have no outlines; remove it")
        if self.shots is not None and self.shots < 1:
            raise ConfigError(f"shots is {self.shots}; expected an integer of at least 1")
        if not 0.0 <= self.negatives_frac < 1.0:
            raise ConfigError(f"negatives_frac is {self.negatives_frac}; expected a number of at least 0 and below 1")
        given = [self.shots is not None, self.negatives_frac > 0, self.every_class, self.query_map is not None]
        if (self.every_class or self.query_map is not None) and sum(given) > 1:
            raise ConfigError(
                "--protocol cannot be combined with --shots or --negatives-frac; expected only one of them"
            )

    def _check_classes(self) -> None:
        """Raise ``ConfigError`` for settings that questions about one class, or several, do not have."""
        if not self.per_image:
            if self.max_classes is not None:
                raise ConfigError("--max-classes-per-question has no effect without --per-image; remove it")
            return
        if self.max_classes is not None and self.max_classes < 1:
            raise ConfigError(f"max_classes is {self.max_classes}; expected an integer of at least 1")
        if self.negatives_frac or self.query_map is not None:
            name = "--negatives-frac" if self.negatives_frac else "--protocol map"
            raise ConfigError(
                f"{name} cannot be combined with --per-image, whose questions list absent classes too; remove it, or "
                "limit the list with --max-classes-per-question"
            )

    @property
    def uses_outlines(self) -> bool:
        """True if the outlines of objects are part of the samples."""
        return self.with_outlines or TASKS[self.task].uses_outlines

    @property
    def per_image(self) -> bool:
        """True if a question is about several classes of an image."""
        return TASKS[self.task].from_annotations is not None

    def protocol(self, part: str) -> str | None:
        """Return the name of the evaluation protocol of one part of a split; None if its questions are sampled."""
        if self.every_class or (self.every_class_in_tests and not is_trained_on(part)):
            return "all"
        return "map" if self.query_map is not None else None

    def is_queried(self, name: str, label: str) -> bool:
        """Return True if the protocol queries the class ``label`` on the image ``name``."""
        return self.query_map is None or label in self.query_map.get(name, ())


def write_detection_stores(
    annotated: AnnotatedSet,
    out: Path,
    *,
    plan: QuestionPlan,
    source: dict[str, Any],
    skipped: Skipped,
    overwrite: bool = False,
    link: bool = False,
    class_notes: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Write the dataset ``out``, or one in ``out/train`` and each other part; return the cards by folder.

    ``source`` is recorded in the cards; ``link`` makes symbolic links to the image files. ``class_notes``: class
    instructions for the questions, in place of those of the source for the same classes. All folders are checked
    before anything is written. Raises ``DataError`` if a folder is occupied or no sample is left, and ``ConfigError``
    for instructions of an unknown class.
    """
    notes = {**annotated.class_notes, **(class_notes or {})}
    shown = (label for image in annotated.images.values() for label in image.boxes)
    check_noted_classes(class_notes or {}, (*annotated.classes, *shown))
    parts = plan.split.parts(annotated.images)
    check_parts_free(out, parts, overwrite=overwrite)
    annotated, num_repeated = _without_repeats(doubt_variants(annotated))
    files = UprightImages(annotated.images, skipped)
    unknown = _undetermined(annotated, plan.task)
    choose: Callable[..., list[ImageQuestion]] = list_classes if plan.per_image else _single_classes
    chosen = {
        part: choose(annotated, names, files, part=part, plan=plan, undetermined=unknown)
        for part, names in parts.items()
    }
    duplicates = files.find_duplicates(
        {part: dict.fromkeys(question.image for question in questions) for part, questions in chosen.items()}
    )
    cards = {}
    for part, questions in chosen.items():
        pairs = [(question.image, label) for question in questions for label in question.classes]
        longest = max((sum(len(notes.get(label, "")) for label in one.classes) for one in questions), default=0)
        with StoreWriter(out / part, overwrite=overwrite, link=link) as writer:
            for question in questions:
                path = writer.add_image_file(question.image, annotated.images[question.image].file)
                sample = _sample(path, annotated.images[question.image], question, files, plan)
                writer.add(replace(sample, notes=notes_of(question.classes, notes)))
            cards[str(out / part)] = writer.finish(
                source=source
                | _card_facts(annotated, files, plan, part)
                | facts_of_notes(notes, annotated.classes, longest)
                | ({"num_class_questions": len(pairs)} if plan.per_image else {})
                | duplicates
                | ({"num_undetermined": len(unknown)} if unknown else {})
                | ({"num_repeated_boxes": num_repeated} if num_repeated else {})
                | _clipped(annotated, pairs, files),
                seed=plan.split.seed,
                skipped=skipped.records,
            )
    return cards


class ImageQuestion(NamedTuple):
    """A question about one or several classes of an image."""

    image: str
    """Name of the image."""
    classes: tuple[str, ...]
    """The classes, in the order of the question."""
    name: str
    """Id of the question, unique in the dataset."""


def _single_classes(
    annotated: AnnotatedSet, names: Sequence[str], files: UprightImages, **plan: Any
) -> list[ImageQuestion]:
    """Return the questions of ``sample_questions``."""
    pairs = sample_questions(annotated, names, files, **plan)
    return [ImageQuestion(name, (label,), f"{name}:{label}") for name, label in pairs]


def list_classes(
    annotated: AnnotatedSet,
    names: Sequence[str],
    files: UprightImages,
    *,
    part: str,
    plan: QuestionPlan,
    undetermined: Collection[Pair] = (),
) -> list[ImageQuestion]:
    """Return the questions of one part of a split: one about each image, sorted, with classes in the order of the set.

    A question lists the classes that the image shows and those that it certainly does not show. With ``max_classes`` it
    lists at most this number: present ones first, then drawn absent ones. Protocol "all" then has several questions
    about an image, which list every class once. With shots, the images are those of ``sample_questions``. A class is
    omitted if it may be present, or has a target that is unknown; an image without any other class has no question. Of
    absent classes that differ in spelling alone, one is listed. Raises ``DataError`` for a class name that is no label.
    """
    for label in annotated.classes:
        if not is_label(label):
            where = f"class name {label!r:.60} cannot be a label of --per-image"
            raise DataError(f"{where}; expected letters or digits on one line")
    found = _present_pairs(annotated, names, files, part, plan, undetermined)
    questions = []
    for name in found.usable:
        shown = [label for label in annotated.classes if found.is_present(name, label)]
        absent = [label for label in annotated.classes if annotated.images[name].is_absent(label)]
        lists = _class_lists(name, shown, absent, part, plan)
        for number, labels in enumerate(lists, start=1):
            ordered = tuple(label for label in annotated.classes if label in labels)
            questions.append(ImageQuestion(name, ordered, name if len(lists) == 1 else f"{name}:{number}"))
    return questions


def _class_lists(
    name: str, shown: Sequence[str], absent: Sequence[str], part: str, plan: QuestionPlan
) -> list[set[str]]:
    """Return the classes of each question about an image that shows some classes and lacks others."""
    most, seed = plan.max_classes or max(1, len(shown) + len(absent)), plan.split.seed
    order = [
        *shuffled(shown, seed=seed, purpose=f"present {name}"),
        *shuffled(absent, seed=seed, purpose=f"absent {name}"),
    ]
    order = list({normalize_name(label): label for label in reversed(order)}.values())[::-1]
    if plan.protocol(part) == "all":
        order = shuffled(order, seed=seed, purpose=f"lists {name}")
        return [set(order[start : start + most]) for start in range(0, len(order), most)]
    return [set(order[:most])] if order else []


def sample_questions(
    annotated: AnnotatedSet,
    names: Sequence[str],
    files: UprightImages,
    *,
    part: str,
    plan: QuestionPlan,
    undetermined: Collection[Pair] = (),
) -> list[Pair]:
    """Return the sorted (image, class) pairs of the questions of one part of a split.

    With shots, absent classes are queried on the sampled images only: no other image is used. Incomplete classes are
    queried in validation and test sets only. ``undetermined``: pairs without a target.
    """
    _, present, usable = _present_pairs(annotated, names, files, part, plan, undetermined)
    images, classes = annotated.images, annotated.classes
    candidates = [(name, label) for name in usable for label in classes if images[name].is_absent(label)]
    if plan.protocol(part) is not None:
        return sorted(present + [pair for pair in candidates if plan.is_queried(*pair)])
    absent = choose_absent(
        candidates, num_present=len(present), negatives_frac=plan.negatives_frac, seed=plan.split.seed
    )
    return sorted(present + absent)


class _Present(NamedTuple):
    """Pairs of an image and a class that it shows."""

    is_present: Callable[[str, str], bool]
    """Whether a pair has a target with boxes."""
    pairs: list[Pair]
    """The pairs of a part, or with shots the drawn ones."""
    usable: list[str]
    """The images that questions may be about, with shots those of the drawn pairs."""


def _present_pairs(
    annotated: AnnotatedSet,
    names: Sequence[str],
    files: UprightImages,
    part: str,
    plan: QuestionPlan,
    undetermined: Collection[Pair],
) -> _Present:
    images, classes = annotated.images, annotated.classes
    for_test = plan.protocol(part) is not None or not is_trained_on(part)

    def is_present(name: str, label: str) -> bool:
        has_target = (for_test or label not in images[name].incomplete) and (name, label) not in undetermined
        return bool(images[name].boxes.get(label)) and has_target

    if for_test or plan.shots is None:
        usable = [name for name in names if files.is_usable(name)]
        return _Present(
            is_present, [(name, label) for name in usable for label in classes if is_present(name, label)], usable
        )
    images_of = {label: [name for name in names if is_present(name, label)] for label in classes}
    drawn = choose_shots(images_of, shots=plan.shots, seed=plan.split.seed, is_usable=files.is_usable)
    return _Present(is_present, drawn, sorted({name for name, _ in drawn}))


def _without_repeats(annotated: AnnotatedSet) -> tuple[AnnotatedSet, int]:
    """Return the set with each box of a class on an image once, and the number of removed boxes."""
    images = {}
    num_repeated = 0
    for name, image in annotated.images.items():
        boxes, areas, outlines = dict(image.boxes), dict(image.areas), dict(image.outlines)
        for label in image.boxes.keys() & set(annotated.classes):
            found = image.boxes[label]
            first = {box: place for place, box in reversed(list(enumerate(found)))}
            if len(first) < len(found):
                num_repeated += len(found) - len(first)
                places = sorted(first.values())
                boxes[label] = tuple(found[place] for place in places)
                if label in areas:
                    areas[label] = tuple(areas[label][place] for place in places)
                if label in outlines:
                    outlines[label] = tuple(outlines[label][place] for place in places)
        images[name] = replace(image, boxes=boxes, areas=areas, outlines=outlines)
    return (replace(annotated, images=images) if num_repeated else annotated), num_repeated


def _clipped(annotated: AnnotatedSet, pairs: Sequence[Pair], files: UprightImages) -> dict[str, int]:
    """Return the card's number of boxes that were clipped by more than a pixel; empty without any."""
    number = sum(
        not is_inside(files.upright(name, box), files.size(name))
        for name, label in pairs
        for box in annotated.images[name].boxes.get(label, ())
    )
    return {"num_clipped_boxes": number} if number else {}


def _undetermined(annotated: AnnotatedSet, task: str) -> set[Pair]:
    """Return the (image, class) pairs with boxes that do not determine a target.

    For every task these are pairs with a dropped record; for counting also those with crowd regions.
    """
    classes = set(annotated.classes)
    return {
        (name, label)
        for name, image in annotated.images.items()
        for label in image.boxes.keys() & classes
        if image.boxes[label]
        and (
            image.is_doubtful
            or label in image.doubtful
            or _make_target(task, {label: _annotation(image, label, box_of)}) is None
        )
    }


def _make_target(task: str, found: Mapping[str, ClassAnnotation]) -> ParsedTarget | None:
    """Return the target of a question about these classes of an image; one class, unless the task has several."""
    row = TASKS[task]
    if row.from_annotations is not None:
        return row.from_annotations(found)
    assert row.from_annotation is not None  # checked by ``QuestionPlan``
    (one,) = found.values()
    return row.from_annotation(one)


def _annotation(
    image: AnnotatedImage,
    label: str,
    place: Callable[[XYXY], Box],
    outline: Callable[[Sequence[Polygon]], tuple[Polygon, ...]] | None = None,
) -> ClassAnnotation:
    """Return the labels of a class.

    ``place``: from an annotated box to one of the upright image. ``outline``: the same of an object's outlines; None
    omits them.
    """
    return ClassAnnotation(
        boxes=tuple(map(place, image.boxes.get(label, ()))),
        areas=image.areas.get(label, ()),
        outlines=() if outline is None else tuple(map(outline, image.outlines.get(label, ()))),
        crowd=tuple(map(place, image.crowd.get(label, ()))),
        is_exhaustive=label not in image.incomplete,
        is_doubtful=image.is_doubtful or label in image.doubtful,
    )


def _sample(
    path: str, image: AnnotatedImage, question: ImageQuestion, files: UprightImages, plan: QuestionPlan
) -> Sample:
    size = files.size(image.name)

    def place(box: XYXY) -> Box:
        a, b, c, d = clip_xyxy(files.upright(image.name, box), size.width, size.height)
        return box_of((round(a, 3), round(b, 3), round(c, 3), round(d, 3)))

    def place_outlines(polygons: Sequence[Polygon]) -> tuple[Polygon, ...]:
        placed = [tuple(round(x, 3) for x in files.upright_points(image.name, points)) for points in polygons]
        return () if polygons_fault(placed, size) else tuple(placed)

    outline = place_outlines if plan.uses_outlines else None
    parsed = _make_target(plan.task, {label: _annotation(image, label, place, outline) for label in question.classes})
    assert parsed is not None, f"{question.name} is undetermined"
    return Sample(
        id=question.name,
        task=plan.task,
        images=(path,),
        image_sizes=(size,),
        query=join_classes(question.classes),
        target=parsed.target,
        queried=all(plan.is_queried(image.name, label) for label in question.classes),
        **parsed.fields,
    )


def _card_facts(annotated: AnnotatedSet, files: UprightImages, plan: QuestionPlan, part: str) -> dict[str, Any]:
    """Return the plan and the statistics that the card records."""
    return {
        "split": part or "all",
        "classes": list(annotated.classes),
        "shots": plan.shots if is_trained_on(part) else None,
        "negatives_frac_requested": plan.negatives_frac,
        **({"max_classes_per_question": plan.max_classes} if plan.max_classes else {}),
        **({"protocol": protocol} if (protocol := plan.protocol(part)) else {}),
        **split_fractions(plan.split),
        "num_crowd_boxes_skipped": annotated.num_crowd,
        "num_incomplete": annotated.num_incomplete,
        "num_images_annotated_unrotated": files.num_unrotated,
        **({"notes": list(annotated.notes)} if annotated.notes else {}),
        **({"frequency": dict(annotated.frequency)} if annotated.frequency else {}),
    }
