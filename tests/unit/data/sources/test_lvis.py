"""LVIS files: a class is absent only if the annotation says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from factories import edit_json, save_coco
from virft.cli.build_boxes import build_coco_or_lvis
from virft.data.annotations import AnnotatedSet, Skipped
from virft.data.sources.coco import open_coco, read_coco
from virft.data.store import Store
from virft.errors import ConfigError, DataError

CATEGORIES = ("egg_roll", "die", "futon")
BOX = [10, 10, 20, 30]


def save_lvis(folder: Path, **changes: Any) -> Path:
    """a.png shows an egg roll and a die, and certainly no futon; b.png shows a die. ``changes``: of the first image."""
    path = save_coco(
        folder, {"a.png": [("egg_roll", BOX), ("die", BOX)], "b.png": [("die", BOX)]}, categories=CATEGORIES
    )

    def add(tree: Any) -> None:
        tree["images"][0].update({"neg_category_ids": [3], "not_exhaustive_category_ids": []} | changes)
        tree["images"][1].update(neg_category_ids=[], not_exhaustive_category_ids=[])

    edit_json(path, add)
    return path


def read(path: Path, classes: tuple[str, ...] = ()) -> tuple[AnnotatedSet, list[tuple[str, str]]]:
    skipped = Skipped()
    images = path.parent / "images"
    return read_coco(open_coco(path), images, classes=classes, federated=True, skipped=skipped), skipped.records


def test_only_classes_annotated_as_absent_are_absent(tmp_path: Path) -> None:
    annotated, skipped = read(save_lvis(tmp_path))
    absent = {(name, label) for name in annotated.images for label in annotated.classes}
    absent = {(name, label) for name, label in absent if annotated.images[name].is_absent(label)}
    assert absent == {("a.png", "futon")}
    assert skipped == []


def test_names_have_spaces_and_can_be_chosen_in_both_forms(tmp_path: Path) -> None:
    path = save_lvis(tmp_path)
    assert read(path)[0].classes == ("die", "egg roll", "futon")
    assert read(path, ("egg_roll",))[0].classes == read(path, ("egg roll",))[0].classes == ("egg roll",)
    with pytest.raises(ConfigError, match=r"class 'eg rol' is not in annotations\.json; did you mean 'egg roll'\?"):
        read(path, ("eg_rol",))


def test_an_incomplete_class_is_never_absent(tmp_path: Path) -> None:
    annotated, _ = read(save_lvis(tmp_path, not_exhaustive_category_ids=[2, 3], neg_category_ids=[3, 2]))
    first = annotated.images["a.png"]
    assert first.incomplete == {"die", "futon"}
    assert not first.is_absent("die")
    assert not first.is_absent("futon")
    assert annotated.num_incomplete == 1


def test_an_incomplete_class_is_queried_in_tests_only(tmp_path: Path) -> None:
    path = save_lvis(tmp_path, not_exhaustive_category_ids=[2], neg_category_ids=[3])

    def questions(out: str, **choices: Any) -> set[tuple[str, bool]]:
        build_coco_or_lvis(annotations=path, images=tmp_path / "images", out=tmp_path / out, federated=True, **choices)
        return {(one.id, one.exhaustive) for one in Store(tmp_path / out)}

    complete = {("a.png:egg roll", True), ("b.png:die", True)}
    assert questions("train") == complete
    assert questions("test", protocol="all") == complete | {("a.png:die", False), ("a.png:futon", True)}


@pytest.mark.parametrize("value", [None, 3, [99], ["a"], [[3]]])
def test_an_invalid_list_is_reported_and_makes_no_class_absent(tmp_path: Path, value: Any) -> None:
    annotated, skipped = read(save_lvis(tmp_path, neg_category_ids=value))
    assert not any(image.is_absent(label) for image in annotated.images.values() for label in annotated.classes)
    ((where, reason),) = skipped
    assert where == "annotations.json: image 1"
    assert reason == f"neg_category_ids is {value!r}; expected a list of category ids, as LVIS has"


def test_the_image_file_is_found_by_its_url_if_the_name_is_missing(tmp_path: Path) -> None:
    path = save_lvis(tmp_path)

    def change(tree: Any) -> None:
        for image in tree["images"]:
            image["coco_url"] = f"http://example.org/val2017/{image.pop('file_name')}"

    edit_json(path, change)
    annotated, _ = read(path)
    assert {name: image.file for name, image in annotated.images.items()} == {
        name: tmp_path / "images" / name for name in ("a.png", "b.png")
    }


def test_a_coco_file_is_refused_as_lvis(tmp_path: Path) -> None:
    path = save_coco(tmp_path, {"a.png": [("die", BOX)]}, categories=CATEGORIES)
    with pytest.raises(DataError, match=r"neg_category_ids is None; expected a list of category ids, as LVIS has"):
        read_coco(open_coco(path), tmp_path / "images", federated=True, skipped=Skipped(strict=True))
    assert "neg_category_ids" not in json.loads(path.read_text())["images"][0]
