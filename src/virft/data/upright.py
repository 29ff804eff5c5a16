"""The image files of a labelled set, as upright pictures with their boxes."""

from __future__ import annotations

from collections.abc import Mapping

from virft.boxes import XYXY
from virft.data.annotations import AnnotatedImage, Skipped
from virft.data.images import load_image, raw_to_upright, stored_size
from virft.errors import DataError
from virft.types import ImageSize


class UprightImages:
    """Looks at image files when they are first needed; one that cannot be used is noted once."""

    def __init__(self, images: Mapping[str, AnnotatedImage], skipped: Skipped) -> None:
        self._images = images
        self._skipped = skipped
        self._boxes: dict[str, dict[str, tuple[XYXY, ...]] | None] = {}
        self._sizes: dict[str, ImageSize] = {}
        self.num_unrotated = 0

    def is_usable(self, name: str) -> bool:
        """Whether the file is a whole picture of the size its annotation declares."""
        if name not in self._boxes:
            try:
                self._boxes[name] = self._look(self._images[name])
            except DataError as error:
                self._boxes[name] = None
                # A card names no folder of this machine.
                self._skipped.note(f"image {name}", str(error).removeprefix(f"{self._images[name].file}: "))
        return self._boxes[name] is not None

    def size(self, name: str) -> ImageSize:
        """Size of a usable image, upright."""
        return self._sizes[name]

    def boxes(self, name: str, label: str) -> tuple[XYXY, ...]:
        """Boxes of a class on a usable image, in upright pixels; none where the class is absent."""
        return (self._boxes[name] or {}).get(label, ())

    def _look(self, image: AnnotatedImage) -> dict[str, tuple[XYXY, ...]]:
        stored = stored_size(image.file)
        load_image(image.file)
        self._sizes[image.name] = stored.upright
        if image.declared in (None, stored.upright):
            return dict(image.boxes)
        if image.declared == stored.raw:
            # Whoever drew these boxes saw the picture as it lies in the file, not as it is shown.
            self.num_unrotated += 1
            return {
                label: tuple(raw_to_upright(box, stored.raw, stored.orientation) for box in boxes)
                for label, boxes in image.boxes.items()
            }
        raise DataError(
            f"the file is {stored.raw.width}x{stored.raw.height}, the annotation says "
            f"{image.declared.width}x{image.declared.height}; expected the same size"
        )
