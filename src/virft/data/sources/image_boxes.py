"""Boxes of one image, collected record by record; and the images of a source that states their sizes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from virft.data.annotations import AnnotatedImage, Skipped
from virft.data.images import stored_size
from virft.data.upright import ExifReading, settle_exif
from virft.errors import DataError
from virft.geometry.boxes import XYXY
from virft.text.records import box_fault
from virft.types import ImageSize, Polygon


class _Record(NamedTuple):
    where: str
    label: str
    box: XYXY
    is_crowd: bool
    outlines: tuple[Polygon, ...]


class ImageBoxes:
    """Boxes of one image by class, and the classes with a record that was dropped."""

    def __init__(self, skipped: Skipped) -> None:
        self._skipped = skipped
        self._records: list[_Record] = []
        self._doubtful: set[str] = set()
        self._is_doubtful = False

    def add(
        self, label: str, box: XYXY, *, where: str, is_crowd: bool = False, outlines: tuple[Polygon, ...] = ()
    ) -> None:
        """Add a box in annotated pixels, of an object with its outlines or (``is_crowd``) of a group of objects."""
        x1, y1, x2, y2 = box
        rounded = (round(x1, 3), round(y1, 3), round(x2, 3), round(y2, 3))
        self._records.append(_Record(where, label, rounded, is_crowd, outlines))

    def drop(self, where: str, reason: str, *, label: str | None = None) -> None:
        """Note a record that is no box. Its class, or every class if that is unknown, becomes doubtful."""
        self._skipped.note(where, reason)
        self.doubt(label)

    def doubt(self, label: str | None) -> None:
        """Make a class doubtful, or every class for None."""
        if label is None:
            self._is_doubtful = True
        else:
            self._doubtful.add(label)

    @property
    def labels(self) -> frozenset[str]:
        """Classes with a box or a dropped record."""
        return frozenset(record.label for record in self._records) | self._doubtful

    @property
    def corners(self) -> list[XYXY]:
        """All boxes, in annotated pixels."""
        return [record.box for record in self._records]

    def fields(self, size: ImageSize | None) -> dict[str, Any]:
        """Return the fields of ``AnnotatedImage`` that follow from the records.

        ``size``: size in pixels of the image that the boxes are drawn on. A box that is none there is noted and
        dropped. None: the image cannot be read, and nothing is checked.
        """
        boxes: dict[str, list[XYXY]] = {}
        crowd: dict[str, list[XYXY]] = {}
        outlines: dict[str, list[tuple[Polygon, ...]]] = {}
        for where, label, box, is_crowd, own in self._records:
            if size is not None and (fault := box_fault(box, size)):
                self.drop(where, fault, label=label)
            elif is_crowd:
                crowd.setdefault(label, []).append(box)
            else:
                boxes.setdefault(label, []).append(box)
                outlines.setdefault(label, []).append(own)
        return {
            "boxes": {label: tuple(found) for label, found in boxes.items()},
            "outlines": {label: tuple(found) for label, found in outlines.items() if any(found)},
            "crowd": {label: tuple(found) for label, found in crowd.items()},
            "doubtful": frozenset(self._doubtful),
            "is_doubtful": self._is_doubtful,
        }


class ReadImage(NamedTuple):
    """An image of a source, before it is decided which pixels its boxes are in."""

    name: str
    file: Path
    declared: ImageSize | None
    """Size in pixels that the source states; None if it states none."""
    boxes: ImageBoxes


class ReadFiles:
    """Images of a source with an annotation file for each image. Several files of one image are merged."""

    def __init__(self, skipped: Skipped, *, exif: ExifReading) -> None:
        self._skipped = skipped
        self._exif = exif
        self._images: dict[str, ReadImage] = {}
        self._num_merged = 0

    def open(self, name: str, file: Path, declared: ImageSize | None, *, where: str) -> ImageBoxes:
        """Return the boxes of an image, to which those of one annotation file are to be added.

        ``where``: the annotation file. ``declared``: the size in pixels that it states. If another file states another
        size, the pixels of the boxes are unknown, and every class becomes doubtful.
        """
        earlier = self._images.get(name)
        if earlier is None:
            earlier = self._images[name] = ReadImage(name, file, declared, ImageBoxes(self._skipped))
            return earlier.boxes
        self._num_merged += 1
        first, other = (size or _read_size(file, exif=self._exif) for size in (earlier.declared, declared))
        if first is not None and other is not None and first != other:
            stated = f"{first.width}x{first.height} and as {other.width}x{other.height}"
            earlier.boxes.drop(where, f"image {name} is stated as {stated}; expected one size")
        return earlier.boxes

    def settled(self) -> tuple[dict[str, AnnotatedImage], tuple[str, ...]]:
        """Return the images by name and notes as ``settled_images`` does, with one about merged files."""
        images, notes = settled_images(self._images.values(), exif=self._exif)
        if self._num_merged:
            merged = "annotation files of an image that another file annotates too, merged with it"
            notes += (f"{merged}: {self._num_merged}",)
        return images, notes


def settled_images(
    found: Iterable[ReadImage], *, exif: ExifReading
) -> tuple[dict[str, AnnotatedImage], tuple[str, ...]]:
    """Return the images by name, their boxes checked, and notes about boxes of images with an EXIF orientation.

    ``exif``: the pixels that boxes of such images are in, see ``settle_exif``, which decides for the whole source.
    """
    by_name = {one.name: one for one in found}
    sizes = {name: (one.file, one.declared) for name, one in by_name.items() if one.declared is not None}
    reading = settle_exif(sizes, {name: by_name[name].boxes.corners for name in sizes}, exif=exif)
    images = {}
    for name, one in by_name.items():
        declared = reading.sizes.get(name)
        fields = one.boxes.fields(declared or _read_size(one.file, exif=exif))
        images[name] = AnnotatedImage(name=name, file=one.file, declared=declared, is_raw=exif == "raw", **fields)
    return images, tuple(reading.notes)


def _read_size(file: Path, *, exif: ExifReading) -> ImageSize | None:
    """Return the size in pixels of the image that boxes without a stated size are drawn on; None if it has none."""
    try:
        stored = stored_size(file)
    except DataError:
        return None  # reported when the image is used
    return stored.raw if exif == "raw" else stored.upright
