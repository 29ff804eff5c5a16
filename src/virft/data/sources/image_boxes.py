"""Boxes of one image, collected record by record."""

from __future__ import annotations

from typing import Any

from virft.data.annotations import Skipped
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
        """Add a box in pixels of an image of this size, or note why it is none. Without a size nothing is checked."""
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
