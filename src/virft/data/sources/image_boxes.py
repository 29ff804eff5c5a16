"""Boxes of one image, collected record by record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from virft.data.annotations import AnnotatedImage, Skipped
from virft.data.images import upright_size
from virft.geometry.boxes import XYXY
from virft.text.records import box_fault
from virft.types import ImageSize


class ImageBoxes:
    """Boxes of one image by class, and the classes with a record that was dropped."""

    def __init__(self, skipped: Skipped) -> None:
        self._skipped = skipped
        self._boxes: dict[str, list[XYXY]] = {}
        self._doubtful: set[str] = set()
        self._is_doubtful = False

    def add(self, label: str, box: XYXY, size: ImageSize | None, *, where: str) -> None:
        """Add a box in pixels of an image of this size, or note why it is none.

        ``size``: None for an unreadable image, which no question uses; nothing is then checked.
        """
        x1, y1, x2, y2 = box
        rounded = (round(x1, 3), round(y1, 3), round(x2, 3), round(y2, 3))
        if size is not None and (fault := box_fault(rounded, size)):
            self.drop(where, fault, label=label)
        else:
            self._boxes.setdefault(label, []).append(rounded)

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
        return frozenset(self._boxes) | self.doubtful

    @property
    def doubtful(self) -> frozenset[str]:
        """Classes with a dropped record."""
        return frozenset(self._doubtful)

    def fields(self) -> dict[str, Any]:
        """Return the fields of ``AnnotatedImage`` that follow from the records."""
        return {
            "boxes": {label: tuple(found) for label, found in self._boxes.items()},
            "doubtful": self.doubtful,
            "is_doubtful": self._is_doubtful,
        }


class ImageBoxesByName:
    """Boxes of the images of a source, collected file by file. Several files of one image are merged."""

    def __init__(self, skipped: Skipped) -> None:
        self._skipped = skipped
        self._boxes: dict[str, ImageBoxes] = {}
        self._files: dict[str, Path] = {}
        self._declared: dict[str, ImageSize | None] = {}
        self._num_merged = 0

    def open(
        self, name: str, file: Path, declared: ImageSize | None, *, where: str
    ) -> tuple[ImageBoxes, ImageSize | None]:
        """Return the boxes of an image, and the size in pixels that they are checked against, as ``ImageBoxes.add``.

        ``where``: the annotation file. ``declared``: the size that it states. If another file states another size, the
        pixels of the boxes are unknown, and every class becomes doubtful.
        """
        if name not in self._boxes:
            self._boxes[name], self._files[name] = ImageBoxes(self._skipped), file
            self._declared[name] = declared
        else:
            self._num_merged += 1
            first, other = (size or upright_size(file) for size in (self._declared[name], declared))
            if first is not None and other is not None and first != other:
                stated = f"{first.width}x{first.height} and as {other.width}x{other.height}"
                self._boxes[name].drop(where, f"image {name} is stated as {stated}; expected one size")
        return self._boxes[name], declared or upright_size(file)

    def images(self) -> dict[str, AnnotatedImage]:
        """Return the images by name."""
        return {
            name: AnnotatedImage(name=name, file=self._files[name], declared=self._declared[name], **boxes.fields())
            for name, boxes in self._boxes.items()
        }

    def notes(self) -> tuple[str, ...]:
        """Return a sentence about merged files; empty without any."""
        if not self._num_merged:
            return ()
        return (f"annotation files of an image that another file annotates too, merged with it: {self._num_merged}",)
