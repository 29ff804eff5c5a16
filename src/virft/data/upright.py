"""The image files of a labelled set, as upright pictures with their boxes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from virft.data.annotations import AnnotatedImage, Skipped
from virft.data.duplicates import picture_hash, same_pictures, told
from virft.data.images import StoredSize, load_image, raw_to_upright, raw_to_upright_mask, stored_size
from virft.errors import DataError
from virft.geometry.boxes import XYXY
from virft.geometry.masks import mask_to_rle, rle_to_mask
from virft.text.records import rle_of
from virft.types import ImageSize, Polygon


class UprightImages:
    """Looks at image files when they are first needed; one that cannot be used is noted once."""

    def __init__(self, images: Mapping[str, AnnotatedImage], skipped: Skipped) -> None:
        self._images = images
        self._skipped = skipped
        self._usable: dict[str, bool] = {}
        self._sizes: dict[str, ImageSize] = {}
        self._turned: dict[str, StoredSize] = {}
        self._hashes: dict[str, int] = {}
        self.num_unrotated = 0

    def is_usable(self, name: str) -> bool:
        """Whether the file is a whole picture of the size its annotation declares. Without a file, that is believed."""
        if name not in self._usable:
            try:
                self._look(self._images[name])
                self._usable[name] = True
            except DataError as error:
                self._usable[name] = False
                # A card names no folder of this machine.
                self._skipped.note(f"image {name}", str(error).removeprefix(f"{self._images[name].file}: "))
        return self._usable[name]

    def size(self, name: str) -> ImageSize:
        """Size of a usable image, upright."""
        return self._sizes[name]

    def same_pictures(self, parts: Mapping[str, Iterable[str]]) -> dict[str, Any]:
        """For a card: usable images of different parts of a build that look the same."""
        hashes = self._hashes
        seen = {part: {name: hashes[name] for name in names if name in hashes} for part, names in parts.items()}
        return told(same_pictures(seen))

    def upright(self, name: str, box: XYXY) -> XYXY:
        """A box as it was annotated on a usable image, in upright pixels."""
        stored = self._turned.get(name)
        return box if stored is None else raw_to_upright(box, stored.raw, stored.orientation)

    def upright_points(self, name: str, points: Polygon) -> Polygon:
        """The same for an outline (x1, y1, x2, y2, ..)."""
        pairs = zip(points[::2], points[1::2], strict=True)
        return tuple(value for x, y in pairs for value in self.upright(name, (x, y, x, y))[:2])

    def upright_rle(self, name: str, rle: Mapping[str, Any], *, where: str) -> str:
        """The same for COCO's run lengths, compressed; ``DataError`` unless they are a mask of the image."""
        if (stored := self._turned.get(name)) is None:
            return rle_of(rle, self.size(name), where=where)
        mask = rle_to_mask(rle_of(rle, stored.raw, where=where), stored.raw)
        return mask_to_rle(raw_to_upright_mask(mask, stored.orientation))

    def _look(self, image: AnnotatedImage) -> None:
        if image.file is None:
            assert image.declared is not None, f"{image.name}: neither a file nor a size"
            self._sizes[image.name] = image.declared
            return
        stored = stored_size(image.file)
        self._hashes[image.name] = picture_hash(load_image(image.file))
        self._sizes[image.name] = stored.upright
        if image.declared in (None, stored.upright):
            return
        if image.declared == stored.raw:
            # Whoever drew these boxes saw the picture as it lies in the file, not as it is shown.
            self.num_unrotated += 1
            self._turned[image.name] = stored
            return
        raise DataError(
            f"the file is {stored.raw.width}x{stored.raw.height}, the annotation says "
            f"{image.declared.width}x{image.declared.height}; expected the same size"
        )


class PictureFolder:
    """The image files of a folder whose annotations declare no sizes; each is looked at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._images: dict[str, AnnotatedImage] = {}
        self._skipped = Skipped()
        self._looked = UprightImages(self._images, self._skipped)

    def size(self, name: str) -> ImageSize:
        """Upright size of a whole picture; ``DataError`` if it is none."""
        if name not in self._images:
            self._images[name] = AnnotatedImage(name=name, file=self._folder / name, declared=None, boxes={})
        if not self._looked.is_usable(name):
            raise DataError(next(f"{what}: {why}" for what, why in self._skipped.records if what == f"image {name}"))
        return self._looked.size(name)

    def same_pictures(self, parts: Mapping[str, Iterable[str]]) -> dict[str, Any]:
        """As ``UprightImages.same_pictures``."""
        return self._looked.same_pictures(parts)
