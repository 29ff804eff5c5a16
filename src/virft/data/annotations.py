"""Annotations of a source dataset, before any question is made from them."""

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
    """Annotations of one image. At least one of ``file`` and ``declared`` is known."""

    name: str
    """Path inside the image folder of the source; unique in the dataset."""
    file: Path | None
    """Image file; None in a build without images."""
    declared: ImageSize | None
    """Size in pixels that the annotation states; None if it states none: boxes are then in pixels of the upright
    image."""
    boxes: Mapping[str, tuple[XYXY, ...]]
    """Boxes by class, in pixels of an image of the declared size."""
    doubtful: frozenset[str] = frozenset()
    """Classes with a record that was dropped, such as an invalid box. They are never queried: some of their boxes are
    missing."""
    is_doubtful: bool = False
    """Whether a record of this image was dropped whose class is unknown. No class is queried on the image: any may be
    present, and some of its boxes may be missing."""
    incomplete: frozenset[str] = frozenset()
    """Classes with objects that are not annotated. If they have boxes, test sets query them, and an unmatched
    prediction then counts neither as correct nor as wrong; training sets do not query them."""
    absent: frozenset[str] | None = None
    """Classes that are annotated as absent; None: every class without boxes is absent."""
    areas: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Area in square pixels of each object in ``boxes``, for the classes for which it is known."""
    outlines: Mapping[str, tuple[tuple[Polygon, ...], ...]] = field(default_factory=dict)
    """Outlines of each object in ``boxes``, in the same pixels, for the classes with an object that has some; empty for
    its other objects."""
    crowd: Mapping[str, tuple[XYXY, ...]] = field(default_factory=dict)
    """Boxes of crowd regions by class, in pixels of an image of the declared size."""
    is_raw: bool = False
    """Whether boxes are in pixels of the stored image, before its EXIF orientation is applied, also where the declared
    size fits the upright image too."""

    def is_absent(self, label: str) -> bool:
        """Return True if the class is certainly absent, so that a question about an absent class can use it."""
        if self.is_doubtful or label in self.doubtful or label in self.incomplete:
            return False
        if self.boxes.get(label) or label in self.crowd:
            return False
        return self.absent is None or label in self.absent


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatedSet:
    """Detection annotations of a source dataset."""

    images: Mapping[str, AnnotatedImage]
    """Images by name."""
    classes: tuple[str, ...]
    """Classes that can be queried, sorted."""
    num_crowd: int = 0
    """Number of skipped crowd boxes (VOC: boxes marked difficult)."""
    num_incomplete: int = 0
    """Number of pairs of an image and a class with objects that are not annotated."""
    notes: tuple[str, ...] = ()
    """Sentences for the summary of the build and its card: how records were read whose meaning is not certain."""
    frequency: Mapping[str, str] = field(default_factory=dict)
    """LVIS's frequency group of each class: r, c or f (rare, common, frequent); empty for other sources."""
    published: Mapping[str, str] = field(default_factory=dict)
    """Published split of each image: train, validation or test; empty if the source is not split."""
    class_notes: Mapping[str, str] = field(default_factory=dict)
    """Instructions of the classes for which the source has some."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledSet:
    """Classification labels of a source dataset."""

    images: Mapping[str, AnnotatedImage]
    """Images by name."""
    label_of: Mapping[str, str]
    """Label of each image, by image name."""
    aliases: Mapping[str, tuple[str, ...]]
    """Additional names that count as correct, by label."""
    published: Mapping[str, str] = field(default_factory=dict)
    """Published split of each image: train, validation or test; empty if the source is not split."""

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, sorted."""
        return tuple(sorted(set(self.label_of.values())))


@dataclass(frozen=True, kw_only=True, slots=True)
class Expression:
    """Referring expression with its ground truth, in pixels of an image of the declared size."""

    name: str
    """Id of the expression, unique in its dataset."""
    image: str
    """Name of the image."""
    text: str
    """The expression."""
    box: XYXY
    """Box of the object that it refers to."""
    polygons: tuple[Polygon, ...] = ()
    """Outlines of the object's mask, if the source has them."""
    rle: Mapping[str, Any] | None = None
    """The object's mask as COCO's run lengths {"size", "counts"}, unchanged; None if the source has none."""
    ignored: tuple[Polygon, ...] = ()
    """Outlines of pixels that belong neither to the object nor to the background."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferringSet:
    """Referring expressions of a source dataset."""

    images: Mapping[str, AnnotatedImage]
    """Images by name."""
    expressions: tuple[Expression, ...]
    """All expressions about the images."""
    num_ignored: int = 0
    """Number of shapes that masks ignore, of all expressions together."""


class Skipped:
    """List of skipped records, each as (where, reason); with ``strict`` the first one stops the build."""

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.records: list[tuple[str, str]] = []

    def note(self, where: str, reason: str) -> None:
        """Add a record; with ``strict``, raise ``DataError`` about it."""
        if self.strict:
            raise DataError(f"{where}: {reason} (--strict; without it, such a record is skipped and named)")
        self.records.append((where, reason))

    def format_first(self) -> str:
        """Return the end of a message about an empty result: the first skipped record, "" if no record was skipped."""
        return f" (first of {len(self.records)} skipped: {': '.join(self.records[0])})" if self.records else ""
