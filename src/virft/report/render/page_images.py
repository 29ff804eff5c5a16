"""The pictures of a page: each is kept once, small, and drawn on by whoever shows it."""

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
class PagePicture:
    """A picture in the page: ``uri`` holds it, empty if it could not be read, which ``problem`` tells.

    ``size`` is the original's: what is drawn on it is in its pixels.
    """

    id: str
    size: ImageSize
    uri: str = ""
    problem: str = ""


class PagePictures:
    """Collects the pictures of a page. The same picture, seen in the same way, is read and kept once."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Augmentation | None], PagePicture] = {}

    def add(self, path: str, size: ImageSize, augmentation: Augmentation | None = None) -> PagePicture:
        """The picture of a file, or what stands in its place if there is none."""
        key = (path, augmentation)
        if key not in self._kept:
            name = f"picture-{len(self._kept)}"
            try:
                uri = data_uri(shrunk(load_image(path, augmentation), SIDE))
                self._kept[key] = PagePicture(id=name, size=size, uri=uri)
            except DataError as error:
                self._kept[key] = PagePicture(id=name, size=size, problem=str(error))
        return self._kept[key]

    @property
    def found(self) -> list[PagePicture]:
        """Those that could be read."""
        return [one for one in self._kept.values() if one.uri]


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """A copy whose longer side is at most ``side``."""
    picture = image.copy()
    picture.thumbnail((side, side))
    return picture


def data_uri(picture: Image.Image) -> str:
    """The picture inside a URI, as WebP: half of what JPEG takes."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
