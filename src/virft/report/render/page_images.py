"""Images of a page: each is embedded once, as a small WebP, and referenced wherever it is shown."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from virft.data.images import load_image
from virft.errors import DataError
from virft.types import Augmentation, ImageSize

SIDE = 480
QUALITY = 72


@dataclass(frozen=True, kw_only=True, slots=True)
class PageImage:
    """An image embedded in the page. ``uri``: its data URI, empty if it could not be read (then ``problem`` says why).

    ``size``: width and height of the original; boxes drawn on the image are in pixels of the original.
    """

    id: str
    size: ImageSize
    uri: str = ""
    problem: str = ""


class PageImages:
    """The images of a page. An image with the same augmentation is read and embedded once."""

    def __init__(self) -> None:
        self._images: dict[tuple[str, Augmentation | None], PageImage] = {}

    def add(self, path: str, size: ImageSize, view: Augmentation | None = None) -> PageImage:
        """Return the embedded image of a file, or a placeholder with its ``problem`` if the file cannot be read."""
        key = (path, view)
        if key not in self._images:
            name = f"image-{len(self._images)}"
            try:
                uri = data_uri(shrink_image(load_image(path, view), SIDE))
                self._images[key] = PageImage(id=name, size=size, uri=uri)
            except DataError as error:
                self._images[key] = PageImage(id=name, size=size, problem=str(error))
        return self._images[key]

    @property
    def found(self) -> list[PageImage]:
        """Images that could be read."""
        return [one for one in self._images.values() if one.uri]


def shrink_image(image: Image.Image, side: int) -> Image.Image:
    """Return a copy whose longer side is at most ``side`` pixels."""
    copy = image.copy()
    copy.thumbnail((side, side))
    return copy


def data_uri(image: Image.Image) -> str:
    """Encode an image as a data URI. WebP: half the bytes of JPEG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
