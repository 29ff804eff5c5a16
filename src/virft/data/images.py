"""Load image files as upright RGB images.

Upright: the EXIF orientation has been applied. Sizes and boxes in virft always refer to the upright image.
"""

from __future__ import annotations

import struct
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from virft.data.augmentation import augment_image
from virft.errors import DataError
from virft.geometry.boxes import XYXY
from virft.geometry.masks import Mask
from virft.types import Augmentation, ImageSize

_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")

# Exceptions of Pillow for an existing file that is not a complete, valid image.
_INVALID = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    struct.error,
)


class StoredSize(NamedTuple):
    """Size of an image as stored in its file, with the EXIF orientation for displaying it."""

    raw: ImageSize
    """Size of the stored pixel array, in pixels."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 is upright."""

    @property
    def upright(self) -> ImageSize:
        """Size after the orientation is applied.

        >>> StoredSize(ImageSize(40, 30), 6).upright
        ImageSize(width=30, height=40)
        """
        return ImageSize(self.raw.height, self.raw.width) if self.orientation in _SIDEWAYS else self.raw


def is_file(path: Path | str) -> bool:
    """Return True if the file exists; False also for a name that is invalid, such as one of thousands of letters."""
    try:
        return Path(path).is_file()
    except OSError:
        return False


def is_image_name(name: str) -> bool:
    """Return True if the ending of a file name is that of an image format."""
    return PurePath(name).suffix.lower() in Image.registered_extensions()


def load_image(path: Path | str, augmentation: Augmentation | None = None, *, sample_id: str = "") -> Image.Image:
    """Load an image file as an upright RGB image with 8 bits per channel, augmented if ``augmentation`` is given.

    16-bit grey is scaled by the range of its type (Pillow's own conversion clips it to white); transparent pixels
    become white. Raises ``DataError`` if the file is missing or not an image; the message names ``sample_id``.
    """
    try:
        with Image.open(path) as image:
            image.load()
            upright = upright_rgb(image)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image{_of(sample_id)}") from error
    except _INVALID as error:
        raise DataError(f"{path}: cannot be read as an image{_of(sample_id)}: {_reason(error)}") from error
    return upright if augmentation is None else augment_image(upright, augmentation)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an open image as ``load_image`` does: EXIF orientation applied, RGB with 8 bits a channel."""
    return _as_rgb(ImageOps.exif_transpose(image))


def stored_size(path: Path | str) -> StoredSize:
    """Read size and orientation from the header of an image file, without decoding the pixels.

    Raises ``DataError`` if the file is missing or not an image.
    """
    try:
        with Image.open(path) as image:
            return StoredSize(ImageSize(*image.size), _orientation(image))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image") from error
    except _INVALID as error:
        raise DataError(f"{path}: cannot be read as an image: {_reason(error)}") from error


def raw_to_upright(box: XYXY, raw: ImageSize, orientation: int) -> XYXY:
    """Convert a box from pixels of the stored image, of size ``raw``, to pixels of the upright image.

    >>> raw_to_upright((0, 0, 10, 5), ImageSize(40, 30), 6)  # rotated clockwise: the top left corner becomes top right
    (25, 0, 30, 10)
    """
    x1, y1, x2, y2 = box
    if orientation in (2, 3, 7, 8):
        x1, x2 = raw.width - x2, raw.width - x1
    if orientation in (3, 4, 6, 7):
        y1, y2 = raw.height - y2, raw.height - y1
    return (y1, x1, y2, x2) if orientation in _SIDEWAYS else (x1, y1, x2, y2)


def raw_to_upright_mask(mask: Mask, orientation: int) -> Mask:
    """Convert a mask from the stored image [H, W] to the upright image, [H, W] or transposed [W, H]."""
    columns, rows = (-1 if orientation in mirrored else 1 for mirrored in ((2, 3, 7, 8), (3, 4, 6, 7)))
    turned = mask[::rows, ::columns]
    return turned.T if orientation in _SIDEWAYS else turned


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(_ORIENTATION_TAG, 1)
    return value if value in range(1, 9) else 1


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        return _scaled_to_8_bits(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """Convert a grey image of more than 8 bits per pixel to 8 bits.

    32-bit modes have no fixed range. It is inferred from the largest value: 0 to 1 (float), 0 to 255, or 16 bits.
    """
    values: Any = np.asarray(image, dtype=np.float64)
    largest = float(values.max(initial=0.0))
    limits = {"F": (1.0, 255.0), "I": (255.0,)}.get(image.mode, ())
    full = next((limit for limit in limits if largest <= limit), 65535.0)
    return Image.fromarray((values.clip(0.0, full) * (255.0 / full)).round().astype(np.uint8))


def _reason(error: Exception) -> str:
    """Return Pillow's reason without the path, which the message already names."""
    if isinstance(error, UnidentifiedImageError):
        return "not in a format that Pillow can read"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _of(sample_id: str) -> str:
    return f" (sample {sample_id})" if sample_id else ""
