"""Samples of a labelled set with boxes: one question per (image, class), few-shot, with absent classes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from virft.data.annotations import AnnotatedImage, AnnotatedSet, Skipped
from virft.data.sampling import Pair, SplitPlan, choose_absent, choose_shots, is_trained_on, shares
from virft.data.store_writer import StoreWriter, check_parts_free
from virft.data.upright import UprightImages
from virft.errors import ConfigError
from virft.geometry.boxes import XYXY, box_of, clip_xyxy
from virft.tasks import TASKS
from virft.tasks.task import ClassAnnotation, ParsedTarget
from virft.types import Box, Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionPlan:
    """Which questions to ask. ``shots`` None asks every class on every image that shows it.

    ``negatives_frac``: share of questions about a class that is not there. ``split``: shares of images; the parts
    for validation and test always hold every question of their images.

    Protocols of evaluation, without shots: ``every_class`` asks for every class on every image; ``asked_map`` (image ->
    classes) asks for these alone, and a class that is there but not among them is missed.

    ``task``: one whose targets follow from the boxes of a class (``Task.from_annotation``).
    """

    task: str = "detection"
    shots: int | None = None
    negatives_frac: float = 0.0
    every_class: bool = False
    asked_map: Mapping[str, frozenset[str]] | None = None
    split: SplitPlan = field(default_factory=SplitPlan)

    def __post_init__(self) -> None:
        if self.task not in (known := [task.name for task in TASKS.values() if task.from_annotation is not None]):
            raise ConfigError(f"--task {self.task}: cannot be built from boxes; expected {' or '.join(known)}")
        given = [self.shots is not None, self.negatives_frac > 0, self.every_class, self.asked_map is not None]
        if (self.every_class or self.asked_map is not None) and sum(given) > 1:
            raise ConfigError("--ask stands alone; expected no --shots, --negatives-frac or second --ask beside it")

    @property
    def protocol(self) -> str | None:
        """The name of a protocol that asks otherwise than by chance."""
        return "all" if self.every_class else "map" if self.asked_map is not None else None

    def is_asked(self, name: str, label: str) -> bool:
        """Whether the protocol puts the question."""
        return self.asked_map is None or label in self.asked_map.get(name, ())


def write_detection_stores(
    annotated: AnnotatedSet,
    out: Path,
    *,
    plan: QuestionPlan,
    source: dict[str, Any],
    skipped: Skipped,
    overwrite: bool = False,
    link: bool = False,
) -> dict[str, dict[str, Any]]:
    """Write ``out`` (or ``out/train`` and the other parts) and return the card of each data set by folder.

    All folders are checked before anything is written.
    """
    parts = plan.split.parts(annotated.images)
    check_parts_free(out, parts, overwrite=overwrite)
    looked = UprightImages(annotated.images, skipped)
    unknown = _undetermined(annotated, plan.task)
    chosen = {
        part: choose_questions(annotated, names, looked, part=part, plan=plan, undetermined=unknown)
        for part, names in parts.items()
    }
    same = looked.same_pictures({part: dict.fromkeys(name for name, _ in pairs) for part, pairs in chosen.items()})
    cards = {}
    for part, pairs in chosen.items():
        with StoreWriter(out / part, overwrite=overwrite, link=link) as writer:
            for name, label in pairs:
                path = writer.add_image_file(name, annotated.images[name].file)
                sample = _sample(path, annotated.images[name], label, looked, plan.task)
                writer.add(replace(sample, asked=plan.is_asked(name, label)))
            cards[str(out / part)] = writer.finish(
                source=source
                | _told(annotated, looked, plan, part)
                | same
                | ({"num_undetermined": len(unknown)} if unknown else {}),
                seed=plan.split.seed,
                skipped=skipped.records,
            )
    return cards


def choose_questions(
    annotated: AnnotatedSet,
    names: Sequence[str],
    looked: UprightImages,
    *,
    part: str,
    plan: QuestionPlan,
    undetermined: Collection[Pair] = (),
) -> list[Pair]:
    """The (image, class) pairs to ask about in a part, sorted.

    With shots, absent classes are asked on the drawn images only: no other image is used. Incomplete classes are asked
    where nothing is trained on. ``undetermined``: pairs without a target.
    """
    images = annotated.images
    classes = annotated.classes
    for_test = plan.protocol is not None or not is_trained_on(part)
    shots = None if for_test else plan.shots

    def is_present(name: str, label: str) -> bool:
        may_ask = (for_test or label not in images[name].incomplete) and (name, label) not in undetermined
        return bool(images[name].boxes.get(label)) and may_ask

    if shots is None:
        usable = [name for name in names if looked.is_usable(name)]
        present = [(name, label) for name in usable for label in classes if is_present(name, label)]
    else:
        images_of = {label: [name for name in names if is_present(name, label)] for label in classes}
        present = choose_shots(images_of, shots=shots, seed=plan.split.seed, is_usable=looked.is_usable)
        usable = sorted({name for name, _ in present})
    candidates = [(name, label) for name in usable for label in classes if images[name].is_absent(label)]
    if plan.protocol is not None:
        return sorted(present + [pair for pair in candidates if plan.is_asked(*pair)])
    absent = choose_absent(
        candidates, num_present=len(present), negatives_frac=plan.negatives_frac, seed=plan.split.seed
    )
    return sorted(present + absent)


def _undetermined(annotated: AnnotatedSet, task: str) -> set[Pair]:
    """Pairs of an image and a class whose boxes do not determine a target, such as a count where some are a crowd."""
    return {
        (name, label)
        for name, image in annotated.images.items()
        for label in image.boxes.keys() & set(annotated.classes)
        if image.boxes[label] and _target(task, image, label, box_of) is None
    }


def _target(task: str, image: AnnotatedImage, label: str, place: Callable[[XYXY], Box]) -> ParsedTarget | None:
    """The target for a class on an image; ``place``: from a box as it was annotated to one of the upright picture."""
    make = TASKS[task].from_annotation
    assert make is not None  # see ``QuestionPlan``
    return make(
        ClassAnnotation(
            boxes=tuple(map(place, image.boxes.get(label, ()))),
            areas=image.areas.get(label, ()),
            crowd=tuple(map(place, image.crowd.get(label, ()))),
            is_exhaustive=label not in image.incomplete,
            is_doubtful=label in image.doubtful,
        )
    )


def _sample(path: str, image: AnnotatedImage, label: str, looked: UprightImages, task: str) -> Sample:
    size = looked.size(image.name)

    def place(box: XYXY) -> Box:
        a, b, c, d = clip_xyxy(looked.upright(image.name, box), size.width, size.height)
        return box_of((round(a, 3), round(b, 3), round(c, 3), round(d, 3)))

    parsed = _target(task, image, label, place)
    assert parsed is not None, f"{image.name}: {label} is undetermined"
    return Sample(
        id=f"{image.name}:{label}",
        task=task,
        images=(path,),
        image_sizes=(size,),
        query=label,
        target=parsed.target,
        **parsed.fields,
    )


def _told(annotated: AnnotatedSet, looked: UprightImages, plan: QuestionPlan, part: str) -> dict[str, Any]:
    """What was asked for and what was seen, for the card."""
    return {
        "split": part or "all",
        "classes": list(annotated.classes),
        "shots": plan.shots if is_trained_on(part) else None,
        "negatives_frac_asked": plan.negatives_frac,
        **({"protocol": plan.protocol} if plan.protocol else {}),
        **shares(plan.split),
        "num_crowd_boxes_left_out": annotated.num_crowd,
        "num_incomplete": annotated.num_incomplete,
        "num_images_annotated_unrotated": looked.num_unrotated,
        **({"frequency": dict(annotated.frequency)} if annotated.frequency else {}),
    }
