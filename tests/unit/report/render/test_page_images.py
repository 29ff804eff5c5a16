"""Each picture of a page is kept once."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from factories import save_image
from virft.report.render.page_images import PagePictures, data_uri
from virft.types import Augmentation, ImageSize


def opened(uri: str) -> Image.Image:
    assert uri.startswith("data:image/webp;base64,")
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_the_same_picture_is_kept_once_and_another_look_at_it_apart(tmp_path: Path) -> None:
    pictures, path = PagePictures(), str(save_image(tmp_path / "a.png"))
    first = pictures.add(path, ImageSize(64, 48))
    assert pictures.add(path, ImageSize(64, 48)) is first
    other = pictures.add(path, ImageSize(64, 48), Augmentation(crop=(0.0, 0.0, 32.0, 24.0)))
    assert other.id != first.id
    assert other.uri != first.uri
    assert pictures.found == [first, other]


def test_large_pictures_are_shrunk_and_small_ones_left(tmp_path: Path) -> None:
    pictures = PagePictures()
    large = pictures.add(str(save_image(tmp_path / "a.png", (960, 600))), ImageSize(960, 600))
    small = pictures.add(str(save_image(tmp_path / "b.png", (64, 48))), ImageSize(64, 48))
    assert opened(large.uri).size == (480, 300)
    assert opened(small.uri).size == (64, 48)
    assert large.size == (960, 600)


def test_a_picture_that_is_missing_or_broken_says_so(tmp_path: Path) -> None:
    pictures = PagePictures()
    (tmp_path / "broken.png").write_text("no picture")
    missing, broken = (pictures.add(str(tmp_path / name), ImageSize(4, 3)) for name in ("none.png", "broken.png"))
    assert (missing.uri, missing.problem) == ("", f"{tmp_path}/none.png: no such image")
    assert "broken.png: cannot be read as an image" in broken.problem
    assert pictures.found == []


def test_a_uri_holds_the_picture_in_colour() -> None:
    again = opened(data_uri(Image.new("L", (4, 3), 200))).convert("RGB")
    assert again.size == (4, 3)
    assert all(abs(value - 200) < 4 for value in again.getpixel((0, 0)))  # type: ignore[union-attr]
