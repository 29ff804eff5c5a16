"""Each image of a page is embedded once."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from factories import save_image
from virft.report.render.page_images import PageImages, data_uri
from virft.types import Augmentation, ImageSize


def opened(uri: str) -> Image.Image:
    assert uri.startswith("data:image/webp;base64,")
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_an_image_is_embedded_once_for_each_augmentation(tmp_path: Path) -> None:
    images, path = PageImages(), str(save_image(tmp_path / "a.png"))
    first = images.add(path, ImageSize(64, 48))
    assert images.add(path, ImageSize(64, 48)) is first
    other = images.add(path, ImageSize(64, 48), Augmentation(crop=(0.0, 0.0, 32.0, 24.0)))
    assert other.id != first.id
    assert other.uri != first.uri
    assert images.found == [first, other]


def test_large_images_are_shrunk_and_small_ones_are_not(tmp_path: Path) -> None:
    images = PageImages()
    large = images.add(str(save_image(tmp_path / "a.png", (960, 600))), ImageSize(960, 600))
    small = images.add(str(save_image(tmp_path / "b.png", (64, 48))), ImageSize(64, 48))
    assert opened(large.uri).size == (480, 300)
    assert opened(small.uri).size == (64, 48)
    assert large.size == (960, 600)


def test_a_missing_or_corrupt_image_has_a_problem(tmp_path: Path) -> None:
    images = PageImages()
    (tmp_path / "corrupt.png").write_text("not an image")
    missing, corrupt = (images.add(str(tmp_path / name), ImageSize(4, 3)) for name in ("none.png", "corrupt.png"))
    assert (missing.uri, missing.problem) == ("", f"{tmp_path}/none.png: no such image")
    assert "corrupt.png: cannot be read as an image" in corrupt.problem
    assert images.found == []


def test_a_uri_holds_the_image_in_colour() -> None:
    again = opened(data_uri(Image.new("L", (4, 3), 200))).convert("RGB")
    assert again.size == (4, 3)
    assert all(abs(value - 200) < 4 for value in again.getpixel((0, 0)))  # type: ignore[union-attr]
