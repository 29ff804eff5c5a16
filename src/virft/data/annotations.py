"""What a labelled set says about its images, before any question is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virft.errors import DataError
from virft.geometry.boxes import XYXY
from virft.types import ImageSize, Polygon


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatedImage:
    """One image: where it lies, the size its annotation declares, its boxes by class in that size's pixels.

    ``file`` is None where no pictures are at hand. ``declared`` is None where the annotation says no size; boxes then
    are in pixels of the upright picture. One of both is known.

    ``doubtful`` are classes that are neither surely there nor surely absent (marked only as a crowd,
    or by a broken box): no question is asked about them unless good boxes are there too.

    ``incomplete`` are classes of which some are not marked. A test may ask about those with boxes: a further box is
    then neither right nor wrong. Training does not.

    ``absent`` are the classes that the annotation says are not there; None: all that have no boxes.

    ``areas`` of the objects in ``boxes``, where they are known; ``crowd``: boxes around many of a class.
    """

    name: str
    file: Path | None
    declared: ImageSize | None
    boxes: Mapping[str, tuple[XYXY, ...]]
    doubtful: frozenset[str] = frozenset()
    incomplete: frozenset[str] = frozenset()
    absent: frozenset[str] | None = None
    areas: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    crowd: Mapping[str, tuple[XYXY, ...]] = field(default_factory=dict)

    def is_absent(self, label: str) -> bool:
        """Whether the class is surely not there, so that it may be asked for as an absent one."""
        if self.boxes.get(label) or label in self.doubtful or label in self.incomplete:
            return False
        return self.absent is None or label in self.absent


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatedSet:
    """Images by name, the classes that may be asked for, and what was left out.

    ``num_crowd`` boxes of crowds (VOC: difficult ones); ``num_incomplete``: pairs of an image and a class of which
    not all are marked. ``frequency``: class -> r, c or f (rare, common, frequent), as LVIS says.
    """

    images: Mapping[str, AnnotatedImage]
    classes: tuple[str, ...]
    num_crowd: int = 0
    num_incomplete: int = 0
    frequency: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledSet:
    """Images by name with one label each, and further names that an answer may use for a label."""

    images: Mapping[str, AnnotatedImage]
    label_of: Mapping[str, str]
    aliases: Mapping[str, tuple[str, ...]]

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label, sorted."""
        return tuple(sorted(set(self.label_of.values())))


@dataclass(frozen=True, kw_only=True, slots=True)
class Expression:
    """An expression and what it means: a box, and its mask if it is known: polygons, or COCO's ``rle`` as it stands.

    ``ignored``: polygons that belong neither to it nor to what is around it. All in pixels of the declared size of the
    image. ``name`` is unique in its set.
    """

    name: str
    image: str
    text: str
    box: XYXY
    polygons: tuple[Polygon, ...] = ()
    rle: Mapping[str, Any] | None = None
    ignored: tuple[Polygon, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferringSet:
    """Images by name with the expressions about them, and how many shapes are to be ignored in all."""

    images: Mapping[str, AnnotatedImage]
    expressions: tuple[Expression, ...]
    num_ignored: int = 0


class Skipped:
    """Records that were left out, as (where, reason); with ``strict`` the first one stops the build."""

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.records: list[tuple[str, str]] = []

    def note(self, where: str, reason: str) -> None:
        """Remember a record, or raise ``DataError`` about it."""
        if self.strict:
            raise DataError(f"{where}: {reason} (--strict; without it, such a record is skipped and named)")
        self.records.append((where, reason))

    def first(self) -> str:
        """How a message that nothing is left ends: the first record, if there is one."""
        return f" (first of {len(self.records)} skipped: {': '.join(self.records[0])})" if self.records else ""
