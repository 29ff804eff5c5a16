"""Image files as upright RGB pictures.

Upright means that the EXIF orientation has been applied. Sizes and boxes in virft are always those of
the upright picture.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from virft.data.views import look
from virft.errors import DataError
from virft.geometry.boxes import XYXY
from virft.geometry.masks import Mask
from virft.types import ImageSize, View

_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")

# What Pillow raises for a file that is there but is no complete, sane picture.
_BROKEN = (
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
    """A picture's size as its pixels lie in the file, with the EXIF orientation (1 to 8) to show it."""

    raw: ImageSize
    orientation: int

    @property
    def upright(self) -> ImageSize:
        """The size once the orientation is applied.

        >>> StoredSize(ImageSize(40, 30), 6).upright
        ImageSize(width=30, height=40)
        """
        return ImageSize(self.raw.height, self.raw.width) if self.orientation in _SIDEWAYS else self.raw


def is_file(path: Path | str) -> bool:
    """Whether there is such a file; a name that no file can have, such as one of thousands of letters, is none."""
    try:
        return Path(path).is_file()
    except OSError:
        return False


def load_image(path: Path | str, view: View | None = None, *, sample_id: str = "") -> Image.Image:
    """The picture, upright, as RGB with 8 bits a channel; with a ``view``, as that shows it.

    16-bit grey is scaled by its type's range (Pillow's own conversion turns it white); what is
    transparent becomes white. ``sample_id`` is named in the message if the file cannot be used.
    """
    try:
        with Image.open(path) as image:
            image.load()
            upright = upright_rgb(image)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image{_of(sample_id)}") from error
    except _BROKEN as error:
        raise DataError(f"{path}: cannot be read as an image{_of(sample_id)}: {_reason(error)}") from error
    return upright if view is None else look(upright, view)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an open image as ``load_image`` does: EXIF orientation applied, RGB with 8 bits a channel."""
    return _as_rgb(ImageOps.exif_transpose(image))


def stored_size(path: Path | str) -> StoredSize:
    """Size and orientation from the file's head; the pixels are not read."""
    try:
        with Image.open(path) as image:
            return StoredSize(ImageSize(*image.size), _orientation(image))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image") from error
    except _BROKEN as error:
        raise DataError(f"{path}: cannot be read as an image: {_reason(error)}") from error


def raw_to_upright(box: XYXY, raw: ImageSize, orientation: int) -> XYXY:
    """A box of the picture as it lies in the file, in pixels of the upright picture.

    >>> raw_to_upright((0, 0, 10, 5), ImageSize(40, 30), 6)  # turned right: the top left goes top right
    (25, 0, 30, 10)
    """
    x1, y1, x2, y2 = box
    if orientation in (2, 3, 7, 8):
        x1, x2 = raw.width - x2, raw.width - x1
    if orientation in (3, 4, 6, 7):
        y1, y2 = raw.height - y2, raw.height - y1
    return (y1, x1, y2, x2) if orientation in _SIDEWAYS else (x1, y1, x2, y2)


def raw_to_upright_mask(mask: Mask, orientation: int) -> Mask:
    """The same for a mask."""
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
        picture = image.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(paper, picture).convert("RGB")
    return image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as grey of 8 bits.

    32-bit grey has no range of its own: floats up to 1, else values up to 255, else 16 bits.
    """
    values: Any = np.asarray(image, dtype=np.float64)
    largest = float(values.max(initial=0.0))
    limits = {"F": (1.0, 255.0), "I": (255.0,)}.get(image.mode, ())
    full = next((limit for limit in limits if largest <= limit), 65535.0)
    return Image.fromarray((values.clip(0.0, full) * (255.0 / full)).round().astype(np.uint8))


def _reason(error: Exception) -> str:
    """Pillow's reason without the path, which the message has already."""
    if isinstance(error, UnidentifiedImageError):
        return "of no format that Pillow knows"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _of(sample_id: str) -> str:
    return f" (sample {sample_id})" if sample_id else ""
