"""Image files of a source dataset: checked at the first use, with boxes converted to the upright image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from virft.data.annotations import AnnotatedImage, Skipped
from virft.data.duplicates import duplicates_for_card, find_duplicates, image_hash
from virft.data.images import StoredSize, load_image, raw_to_upright, raw_to_upright_mask, stored_size
from virft.errors import DataError
from virft.geometry.boxes import XYXY
from virft.geometry.masks import mask_to_rle, rle_to_mask
from virft.text.records import rle_of
from virft.types import ImageSize, Polygon


class UprightImages:
    """Image files by name. Each is read when it is first needed; an unusable one is added to ``skipped`` once.

    ``num_unrotated``: number of images that were annotated without their EXIF orientation.
    """

    def __init__(self, images: Mapping[str, AnnotatedImage], skipped: Skipped) -> None:
        self._images = images
        self._skipped = skipped
        self._usable: dict[str, bool] = {}
        self._sizes: dict[str, ImageSize] = {}
        self._turned: dict[str, StoredSize] = {}
        self._hashes: dict[str, int] = {}
        self.num_unrotated = 0

    def is_usable(self, name: str) -> bool:
        """Return True if the file is a complete image of the declared size, or if there is no file to check."""
        if name not in self._usable:
            try:
                self._read(self._images[name])
                self._usable[name] = True
            except DataError as error:
                self._usable[name] = False
                # A card has no absolute path.
                self._skipped.note(f"image {name}", str(error).removeprefix(f"{self._images[name].file}: "))
        return self._usable[name]

    def size(self, name: str) -> ImageSize:
        """Return the upright size of a usable image, in pixels."""
        return self._sizes[name]

    def find_duplicates(self, parts: Mapping[str, Iterable[str]]) -> dict[str, Any]:
        """Return the card's entries about near-duplicate images in different parts of a build."""
        hashes = self._hashes
        used = {part: {name: hashes[name] for name in names if name in hashes} for part, names in parts.items()}
        return duplicates_for_card(find_duplicates(used))

    def upright(self, name: str, box: XYXY) -> XYXY:
        """Convert a box from annotated pixels of a usable image to upright pixels."""
        stored = self._turned.get(name)
        return box if stored is None else raw_to_upright(box, stored.raw, stored.orientation)

    def upright_points(self, name: str, points: Polygon) -> Polygon:
        """Convert an outline (x1, y1, x2, y2, ..) from annotated to upright pixels."""
        pairs = zip(points[::2], points[1::2], strict=True)
        return tuple(value for x, y in pairs for value in self.upright(name, (x, y, x, y))[:2])

    def upright_rle(self, name: str, rle: Mapping[str, Any], *, where: str) -> str:
        """Convert a COCO RLE to compressed run lengths of the upright image.

        Raises ``DataError``, with ``where`` in front, unless it is a mask of the image.
        """
        if (stored := self._turned.get(name)) is None:
            return rle_of(rle, self.size(name), where=where)
        mask = rle_to_mask(rle_of(rle, stored.raw, where=where), stored.raw)
        return mask_to_rle(raw_to_upright_mask(mask, stored.orientation))

    def _read(self, image: AnnotatedImage) -> None:
        if image.file is None:
            assert image.declared is not None, f"{image.name}: neither a file nor a size"
            self._sizes[image.name] = image.declared
            return
        stored = stored_size(image.file)
        self._hashes[image.name] = image_hash(load_image(image.file))
        self._sizes[image.name] = stored.upright
        if image.declared in (None, stored.upright):
            return
        if image.declared == stored.raw:
            # These boxes were drawn on the image as stored, without the EXIF orientation.
            self.num_unrotated += 1
            self._turned[image.name] = stored
            return
        raise DataError(
            f"the file is {stored.raw.width}x{stored.raw.height}, the annotation says "
            f"{image.declared.width}x{image.declared.height}; expected the same size"
        )


class ImageFolder:
    """Image files of a folder whose annotations declare no sizes; each file is read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._images: dict[str, AnnotatedImage] = {}
        self._skipped = Skipped()
        self._files = UprightImages(self._images, self._skipped)

    def size(self, name: str) -> ImageSize:
        """Return the upright size of an image in pixels. Raises ``DataError`` if the file is not a complete image."""
        if name not in self._images:
            self._images[name] = AnnotatedImage(name=name, file=self._folder / name, declared=None, boxes={})
        if not self._files.is_usable(name):
            raise DataError(next(f"{what}: {why}" for what, why in self._skipped.records if what == f"image {name}"))
        return self._files.size(name)

    def find_duplicates(self, parts: Mapping[str, Iterable[str]]) -> dict[str, Any]:
        """Return the card's entries about near-duplicate images in different parts of a build."""
        return self._files.find_duplicates(parts)
