"""Image files of a source dataset: checked at the first use, with boxes converted to the upright image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from virft.data.annotations import AnnotatedImage, Skipped
from virft.data.duplicates import duplicates_for_card, find_duplicates, image_hash
from virft.data.images import StoredSize, load_image, raw_to_upright, raw_to_upright_mask, stored_size
from virft.errors import DataError
from virft.geometry.boxes import XYXY
from virft.geometry.masks import mask_to_rle, rle_to_mask
from virft.text.records import is_inside, rle_of
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
        if image.declared in (None, stored.upright) and (stored.orientation == 1 or not image.is_raw):
            return
        if image.declared in (None, stored.raw):
            # These boxes were drawn on the image as stored, without the EXIF orientation.
            self.num_unrotated += 1
            self._turned[image.name] = stored
            return
        raise DataError(
            f"the file is {stored.raw.width}x{stored.raw.height}, the annotation says "
            f"{image.declared.width}x{image.declared.height}; expected the same size"
        )


ExifReading = Literal["auto", "raw", "upright"]
"""Which pixels the boxes of an image with an EXIF orientation are in: those of the stored image, of the upright image,
or ``auto``, as the declared size and the boxes say."""


class SettledExif(NamedTuple):
    """The reading of all images of an annotation file."""

    sizes: dict[str, ImageSize]
    """Size of the image that the boxes are drawn on, by image name, in pixels."""
    notes: list[str]
    """A sentence about images whose boxes are not in pixels of the declared size; empty without any."""


def settle_exif(
    images: Mapping[str, tuple[Path | None, ImageSize]],
    boxes: Mapping[str, Sequence[XYXY]],
    *,
    exif: ExifReading = "auto",
) -> SettledExif:
    """Decide for a whole annotation file whether declared sizes of stored pixels come with upright boxes.

    ``images``: file and declared size by name; ``boxes``: boxes in annotated pixels by name. An image that is declared
    by its stored size, and that the EXIF orientation turns sideways, was annotated unrotated, as the declared size
    says. But some tools (Label Studio's COCO export) write that size with boxes of the upright image. "auto": such
    boxes are upright if fewer of the file's boxes then reach outside their images. "upright": always.
    """
    sizes = {name: size for name, (_, size) in images.items()}
    if exif == "raw":
        return SettledExif(sizes, [])
    suspects = [
        name
        for name, found in boxes.items()
        if any(is_inside(box, _transposed(sizes[name])) and not is_inside(box, sizes[name]) for box in found)
    ]
    # Few files have such boxes on images that are turned: the headers of all others are not read.
    if exif == "auto" and not any(_turns_sideways(*images[name]) for name in suspects):
        return SettledExif(sizes, [])
    upright = {name: _transposed(size) for name, (file, size) in images.items() if _turns_sideways(file, size)}
    num_raw, num_upright = (
        sum(not is_inside(box, by_name[name]) for name in upright for box in boxes.get(name, ()))
        for by_name in (sizes, upright)
    )
    if not upright or (exif == "auto" and num_upright >= num_raw):
        return SettledExif(sizes, [])
    note = (
        f"images that state the size of their stored pixels, whose boxes were read as those of the upright image: "
        f"{len(upright)}; check one with virft preview (--exif raw reads them as those of the stored pixels)"
    )
    return SettledExif(sizes | upright, [note])


def _turns_sideways(file: Path | None, declared: ImageSize) -> bool:
    """Return True if the declared size is that of the stored pixels, and the upright image has another one."""
    if file is None:
        return False
    try:
        stored = stored_size(file)
    except DataError:
        return False  # reported when the image is used
    return stored.raw == declared != stored.upright


def _transposed(size: ImageSize) -> ImageSize:
    return ImageSize(size.height, size.width)


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
