"""Images of unusual formats are loaded upright, as RGB, and as other programs display them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from factories import save_image
from virft.data.images import is_file, load_image, raw_to_upright, stored_size
from virft.errors import DataError
from virft.types import ImageSize

RAW = ImageSize(40, 30)
RED = (3, 5, 12, 9)


def save_with_orientation(path: Path, orientation: int) -> Path:
    """40 x 30 as stored, black, with a red box at RED."""
    image = Image.new("RGB", RAW, "black")
    image.paste((255, 0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_rotates_image_size_and_box_alike(tmp_path: Path, orientation: int) -> None:
    path = save_with_orientation(tmp_path / "a.png", orientation)
    upright = load_image(path)
    assert stored_size(path) == (RAW, orientation)
    assert upright.size == tuple(stored_size(path).upright)
    ys, xs = np.nonzero(np.asarray(upright)[..., 0])
    seen = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    assert raw_to_upright(RED, RAW, orientation) == seen


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_invalid_orientation_is_ignored(tmp_path: Path, orientation: int) -> None:
    path = save_with_orientation(tmp_path / "a.png", orientation)
    assert load_image(path).size == tuple(stored_size(path).upright) == (40, 30)


def test_16_bit_grey_is_scaled_not_saturated(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257, 30000, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    pixels = np.asarray(load_image(tmp_path / "a.png"))
    # 30000 * 255 / 65535 = 116.7
    assert pixels[0, :, 0].tolist() == [0, 1, 117, 255]


@pytest.mark.parametrize(("value", "seen"), [(0.5, 128), (100.0, 100), (30000.0, 117)])
def test_float_grey_is_scaled_by_the_range_it_uses(tmp_path: Path, value: float, seen: int) -> None:
    Image.fromarray(np.array([[0.0, value]], dtype=np.float32)).save(tmp_path / "a.tif")
    assert np.asarray(load_image(tmp_path / "a.tif"))[0, :, 0].tolist() == [0, seen]


def test_cmyk_colours_do_not_change(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (200, 40, 40)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    pixel = load_image(tmp_path / "a.jpg").getpixel((8, 8))
    assert np.abs(np.array(pixel) - (200, 40, 40)).max() < 8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.convert(mode).save(tmp_path / "a.png", **({"transparency": 0} if mode == "P" else {}))
    assert load_image(tmp_path / "a.png").getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (4, 4), "white").convert(mode).save(tmp_path / "a.tif")
    assert load_image(tmp_path / "a.tif").mode == "RGB"


def test_a_truncated_jpeg_is_reported_with_its_sample(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.jpg", (200, 200))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"a\.jpg: cannot be read as an image \(sample s1\): image file is truncated"):
        load_image(path, sample_id="s1")


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n\x00\x00", b"GIF89a", b"II*\x00\x08\x00"])
def test_a_file_that_is_not_an_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: cannot be read as an image"):
        load_image(path)
    with pytest.raises(DataError, match=r"a\.png: cannot be read as an image"):
        stored_size(path)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png: no such image \(sample s1\)"):
        load_image(tmp_path / "none.png", sample_id="s1")
    with pytest.raises(DataError, match=r"none\.png: no such image"):
        stored_size(tmp_path / "none.png")


def test_a_folder_is_not_an_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read as an image: Is a directory"):
        load_image(tmp_path)


def test_an_image_of_billions_of_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)  # 60,000 x 60,000 in RGB are 10.8 GB
    body = zlib.compress(bytes(10_000))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    for read in (load_image, stored_size):
        with pytest.raises(DataError, match=r"bomb\.png: cannot be read as an image: Image size \(3600000000 pixels\)"):
            read(path)


def test_an_invalid_file_name_is_not_a_file(tmp_path: Path) -> None:
    assert not is_file(tmp_path / ("a" * 5000))
    assert not is_file(tmp_path / "a\x00b")
    assert is_file(save_image(tmp_path / "a.png"))
