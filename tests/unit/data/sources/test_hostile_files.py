"""Malicious files: extreme nesting, entities that expand exponentially, huge numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from factories import save_image
from virft.data.annotations import Skipped
from virft.data.query_map import read_query_map
from virft.data.sources.coco import open_coco, read_coco
from virft.data.sources.labelme import read_labelme
from virft.data.sources.labels import read_aliases
from virft.data.sources.refcoco import read_refcoco
from virft.data.sources.rows import read_rows
from virft.data.sources.voc import read_voc
from virft.data.sources.yolo import read_yolo
from virft.data.store import read_card
from virft.errors import DataError

DEEP = "[" * 100_000
READERS: dict[str, Callable[[Path], Any]] = {
    "coco.json": open_coco,
    "refcoco.json": lambda path: read_refcoco(path, path.parent, skipped=Skipped()),
    "rows.json": lambda path: list(read_rows(path, Skipped(strict=True))),
    "names.json": read_aliases,
    "map.json": read_query_map,
    "card.json": lambda path: read_card(path.parent),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("text", [DEEP, "[" * 900 + "]" * 900, "9" * 5000], ids=["open", "closed", "digits"])
def test_extremely_nested_json_is_refused_by_name(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=name):
        READERS[name](tmp_path / name)


def test_extremely_nested_json_in_a_line_or_next_to_an_image_is_skipped_and_reported(tmp_path: Path) -> None:
    skipped = Skipped()
    (tmp_path / "rows.jsonl").write_text(DEEP + '\n{"image": "a.png"}\n')
    assert [where for where, _ in read_rows(tmp_path / "rows.jsonl", skipped)] == ["rows.jsonl:2"]
    (tmp_path / "a.json").write_text(DEEP)
    (tmp_path / "b.json").write_text(
        '{"shapes": [{"label": "a", "shape_type": "rectangle", "points": [[1, 2], [3, 1%s]]}]}' % ("0" * 400)
    )
    save_image(tmp_path / "a.png")
    save_image(tmp_path / "b.png")
    read_labelme(tmp_path, skipped=skipped)
    assert [where for where, _ in skipped.records] == ["rows.jsonl:1", "a.json", "b.json: shape 0"]


@pytest.mark.parametrize(
    "change",
    [
        '"width": 1%s' % ("0" * 400),
        '"width": 64, "file_name": "%s.png"' % ("a" * 5000),
    ],
    ids=["width", "name"],
)
def test_a_coco_record_with_huge_values_is_skipped(tmp_path: Path, change: str) -> None:
    image = f'{{"id": 1, "file_name": "a.png", "height": 48, {change}}}'
    box = f'{{"id": 5, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 1{"0" * 400}]}}'
    (tmp_path / "c.json").write_text(
        f'{{"images": [{image}], "categories": [{{"id": 3, "name": "fox"}}], "annotations": [{box}]}}'
    )
    skipped = Skipped()
    read_coco(open_coco(tmp_path / "c.json"), tmp_path, skipped=skipped)
    assert skipped.records


def test_expanding_xml_entities_are_not_expanded(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(12))
    (tmp_path / "a.xml").write_text(
        f'<!DOCTYPE a [<!ENTITY a0 "{"ha" * 1000}">{entities}]><annotation><filename>&a12;</filename></annotation>'
    )
    skipped = Skipped()
    read_voc(tmp_path, skipped=skipped)
    ((where, reason),) = skipped.records
    assert where == "a.xml"
    assert "not valid XML" in reason
    (tmp_path / "a.xml").write_text("<annotation>" + "<a>" * 100_000 + "</a>" * 100_000 + "</annotation>")
    read_voc(tmp_path, skipped=skipped)
    assert [reason[:14] for _, reason in skipped.records[1:]] == ["no image a.jpg"]


@pytest.mark.parametrize("kind", ["aliases", "depth"])
def test_expanding_yaml_is_refused_with_a_short_message(tmp_path: Path, kind: str) -> None:
    save_image(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    grown = "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(30))
    text = f"a0: &a0 [fox]\n{grown}names: *a30\n" if kind == "aliases" else "names: " + DEEP
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=r"data\.yaml: (names is \{0: \[\[|cannot be read as YAML)") as caught:
        read_yolo(tmp_path, skipped=Skipped())
    assert len(str(caught.value)) < 500
