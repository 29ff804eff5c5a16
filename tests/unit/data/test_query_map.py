"""A JSON file of the classes that are queried on each image."""

from __future__ import annotations

from pathlib import Path

import pytest

from virft.data.query_map import read_query_map
from virft.errors import DataError


def test_classes_by_image(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"a.jpg": ["cat", "dog"], "b.jpg": []}')
    assert read_query_map(tmp_path / "m.json") == {"a.jpg": {"cat", "dog"}, "b.jpg": frozenset()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"m\.json: cannot be read \(No such file .*; expected \{\"image\": "),
        ("{", r"m\.json: not valid JSON .*; expected \{\"image\": "),
        ("[]", r"m\.json: holds a list; expected"),
        ('{"a.jpg": "cat"}', r"m\.json: a\.jpg has 'cat'; expected"),
        ('{"a.jpg": [" "]}', r"m\.json: a\.jpg has \[' '\]; expected"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "m.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_query_map(tmp_path / "m.json")
