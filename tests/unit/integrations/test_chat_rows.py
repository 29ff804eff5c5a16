"""Exported rows as messages of a chat API, with the images that virft itself would use."""

from __future__ import annotations

import base64
import importlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from factories import detections, sample, save_image
from virft.cli.main import main
from virft.data.images import load_image
from virft.data.store_writer import StoreWriter
from virft.errors import DataError
from virft.integrations.chat_rows import ChatContent, image_data_url, read_exported_rows

FOXES = (sample(id="1"), sample(detections(), id="2", query="hen", question="Any hens?"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Two exported rows about one image."""
    save_image(tmp_path / "a.png")
    with StoreWriter(tmp_path / "d") as writer:
        writer.add_image_file("a.png", tmp_path / "a.png")
        for one in FOXES:
            writer.add(one)
        writer.finish(source={}, seed=0)
    assert main(["export", str(tmp_path / "d"), str(tmp_path / "rows"), "--format", "trl"]) == 0
    return tmp_path / "rows" / "rows.jsonl"


def decoded(url: str) -> tuple[str, bytes]:
    """Media type and content of a data URL."""
    head, _, text = url.partition(";base64,")
    return head.removeprefix("data:"), base64.b64decode(text, validate=True)


def test_the_content_of_a_row_is_its_image_and_its_question(rows: Path) -> None:
    (where, first), (_, second) = read_exported_rows(rows)
    assert where == f"{rows}:1"
    content = ChatContent()
    image, text = content.of(first, where=where)
    assert text == {"type": "text", "text": first["prompt"][0]["content"][1]["text"]}
    assert decoded(image["image_url"]["url"]) == ("image/png", Path(first["images"][0]).read_bytes())
    again, text = content.of(second, where="row 2")
    assert text["text"] == "Any hens?"
    # the text of an image exists once in memory
    assert again["image_url"]["url"] is image["image_url"]["url"]


def test_all_images_of_a_row_are_sent_in_order(rows: Path, tmp_path: Path) -> None:
    (_, row), _ = read_exported_rows(rows)
    other = save_image(tmp_path / "b.jpg", (20, 10), seed=1)
    *images, _ = ChatContent().of(row | {"images": [str(other), *row["images"]], "target_image": 1}, where="row")
    assert [decoded(one["image_url"]["url"])[0] for one in images] == ["image/jpeg", "image/png"]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_upright_rgb_images_are_sent_as_they_are_stored(tmp_path: Path, name: str) -> None:
    path = save_image(tmp_path / name)
    kind, data = decoded(image_data_url(str(path)))
    assert data == path.read_bytes()
    assert kind == {"a.png": "image/png", "a.jpg": "image/jpeg", "a.webp": "image/webp"}[name]


def _rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(path, exif=exif)


def _transparent(path: Path) -> None:
    Image.new("RGBA", (8, 6), (255, 0, 0, 0)).save(path)


def _one_colour_transparent(path: Path) -> None:
    Image.new("RGB", (8, 6), (255, 0, 0)).save(path, transparency=(255, 0, 0))


def _sixteen_bit(path: Path) -> None:
    Image.fromarray(np.full((6, 8), 40_000, dtype=np.uint16)).save(path)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("rotated.jpg", _rotated),
        ("transparent.png", _transparent),
        ("colour.png", _one_colour_transparent),
        ("deep.png", _sixteen_bit),
        ("old.bmp", save_image),
    ],
)
def test_other_images_are_sent_as_the_pixels_that_virft_uses(tmp_path: Path, name: str, save: Any) -> None:
    save(tmp_path / name)
    kind, data = decoded(image_data_url(str(tmp_path / name)))
    with Image.open(io.BytesIO(data)) as sent:
        assert (kind, sent.format, sent.mode) == ("image/png", "PNG", "RGB")
        assert np.array_equal(np.asarray(sent), np.asarray(load_image(tmp_path / name)))


def test_an_image_of_another_size_is_refused(rows: Path) -> None:
    (_, row), _ = read_exported_rows(rows)
    save_image(Path(row["images"][0]), (48, 64))
    with pytest.raises(DataError, match=r"^row: .*a\.png has 48 x 64 pixels; expected image_size, \[64, 48\]"):
        ChatContent().of(row, where="row")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "images is None; expected a list of paths"),
        ({"images": []}, r"images is \[\]; expected a list of paths"),
        ({"images": [3]}, r"images is \[3\]; expected a list of paths"),
        ({"target_image": 1}, "target_image is 1; expected an index below 1"),
        ({"target_image": None}, "target_image is None; expected an index"),
        ({"prompt": "Any hens?"}, "prompt is 'Any hens.'; expected rows of .virft export --format trl."),
        ({"prompt": []}, r"prompt is \[\]; expected rows"),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image"}]}]},
            "prompt is .*: one message that ends with a text",
        ),
    ],
)
def test_a_row_of_another_form_is_refused(rows: Path, changes: dict[str, Any], message: str) -> None:
    (_, row), _ = read_exported_rows(rows)
    with pytest.raises(DataError, match=f"^row 1: {message}"):
        ChatContent().of(row | changes, where="row 1")


@pytest.mark.parametrize("content", [b"no image", None])
def test_a_missing_or_invalid_image_is_named(rows: Path, content: bytes | None) -> None:
    (_, row), _ = read_exported_rows(rows)
    path = Path(row["images"][0])
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: (no such image|cannot be read as an image)"):
        ChatContent().of(row, where="row 1")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("oops", r":3: not valid JSON \(.*\); expected rows of .virft export --format trl."),
        ("[" * 100_000, ":3: not valid JSON"),
        ("[1]", ":3: holds a list; expected rows"),
        ("{}", ":3: id is None; expected rows"),
        (json.dumps({"id": "1"}), ":3: id 1 is that of line 1, too; expected unique ids"),
    ],
)
def test_an_invalid_line_is_named(rows: Path, line: str, message: str) -> None:
    rows.write_text(rows.read_text() + line)
    with pytest.raises(DataError, match=f"rows.jsonl{message}"):
        list(read_exported_rows(rows))


def test_a_file_that_cannot_be_read_is_named(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read \(No such file or directory\); expected rows of"):
        list(read_exported_rows(tmp_path / "none.jsonl"))
    rows.write_bytes(rows.read_bytes() + b"\xff\xfe")
    with pytest.raises(DataError, match=r"rows\.jsonl: cannot be read \(not UTF-8 text\)"):
        list(read_exported_rows(rows))


def test_empty_lines_are_ignored(rows: Path) -> None:
    rows.write_text(f"\n{rows.read_text()}\n\n")
    assert [row["id"] for _, row in read_exported_rows(rows)] == ["1", "2"]


def test_without_verifiers_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in sys.modules if one.partition(".")[0] == "verifiers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "verifiers", None)
    monkeypatch.delitem(sys.modules, "virft.integrations.verifiers", raising=False)
    with pytest.raises(ImportError, match=r"virft\.integrations\.verifiers needs the package verifiers, 0\.4 or later"):
        importlib.import_module("virft.integrations.verifiers")
