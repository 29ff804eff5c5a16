"""Lines of standard input are queries, or errors with their reason."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from virft.errors import DataError
from virft.inference.queries import ImageQuery, make_query, read_query_line


def read(line: str | bytes) -> ImageQuery:
    return read_query_line(line if isinstance(line, bytes) else line.encode(), task="detection")


@pytest.mark.parametrize(
    ("line", "query"),
    [
        ("a b.jpg\tred fox\n", ImageQuery(image=Path("a b.jpg"), query="red fox")),
        ("a.jpg\tthe fox\ton the left\r\n", ImageQuery(image=Path("a.jpg"), query="the fox\ton the left")),
        ('{"image": "a.jpg", "question": " fox "}', ImageQuery(image=Path("a.jpg"), query="fox")),
        (
            '{"image": "ä.jpg", "question": "animal", "task": "classification"}',
            ImageQuery(image=Path("ä.jpg"), query="animal", task="classification"),
        ),
        (
            json.dumps({"image": "a.jpg", "question": 'the "fox\'s" tail'}),
            ImageQuery(image=Path("a.jpg"), query='the "fox\'s" tail'),
        ),
    ],
)
def test_a_line_is_a_query(line: str, query: ImageQuery) -> None:
    assert read(line) == query


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a.jpg fox", 'no tab in it; expected {"image": "a.jpg", "question": "fox"}, or a.jpg, a tab, fox'),
        ("a.jpg\t \n", "no tab in it"),
        ('{"image": "a.jpg", "question": " "}', "the query is empty; expected a class name"),
        ('{"image": "", "question": "fox"}', "no image; expected the path of an image"),
        ('{"image": "a.jpg"}', "question is missing"),
        ('{"question": "fox"}', "image is missing"),
        ('{"image": "a.jpg", "question": 3}', "question is 3; expected a string"),
        ('{"image": ["a.jpg"], "question": "fox"}', r'image is \["a.jpg"\]; expected a string'),
        ('{"image": "a.jpg", "question": "fox", "task": "detect"}', "task is 'detect'; expected one of detection, "),
        ('{"image": "a.jpg", "qestion": "fox"}', "qestion is no key of a query; did you mean 'question'?"),
        ('{"image": "a.jpg", ', "not valid JSON"),
        ('{"a":' * 100_000, "not valid JSON"),
        (b"\xff\t\xfe", "not UTF-8 text"),
    ],
)
def test_an_invalid_line_is_an_error_with_its_reason(line: str | bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read(line)


@pytest.mark.parametrize("query", ["", "  "])
def test_an_empty_query_is_an_error(query: str) -> None:
    with pytest.raises(DataError, match="the query is empty; expected a class name"):
        make_query("a.jpg", query, "detection")
    with pytest.raises(DataError, match="the query is empty; expected a question such as"):
        make_query("a.jpg", query, "short_answer")


def test_an_array_is_an_image_in_memory() -> None:
    pixels = np.zeros((3, 5, 3), np.uint8)
    pixels[0, 4] = 7
    query = make_query(pixels, "fox", "detection")
    assert query.image_name == "image"
    opened = query.open_image()
    assert opened.size == (5, 3)
    assert opened.getpixel((4, 0)) == (7, 7, 7)


def test_an_image_in_memory_is_made_upright_rgb() -> None:
    lying = Image.new("L", (40, 30), 9)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter turn when it is displayed
    data = io.BytesIO()
    lying.save(data, format="PNG", exif=exif)
    opened = make_query(Image.open(data), "fox", "detection").open_image()
    assert (opened.size, opened.mode) == ((30, 40), "RGB")


def test_a_truncated_image_in_memory_is_an_error() -> None:
    data = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(data, format="PNG")
    cut = Image.open(io.BytesIO(data.getvalue()[:500]))
    with pytest.raises(DataError, match="image: cannot be read as an image"):
        make_query(cut, "fox", "detection").open_image()


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((3, 5), np.uint8), r"an array of uint8 of shape \[3, 5\]"),
        (np.zeros((3, 5, 4), np.uint8), r"an array of uint8 of shape \[3, 5, 4\]"),
        (np.zeros((0, 5, 3), np.uint8), r"an array of uint8 of shape \[0, 5, 3\]"),
        (np.zeros((3, 5, 3)), r"an array of float64 of shape \[3, 5, 3\]"),
        (b"bytes", "a bytes"),
    ],
)
def test_other_values_are_no_image(image: Any, found: str) -> None:
    with pytest.raises(DataError, match=f"image: {found}; expected a path, a PIL image, or an array of uint8"):
        make_query(image, "fox", "detection")
