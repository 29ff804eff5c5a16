"""Named sets of the paper's classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from virft.data.class_sets import CLASS_SETS, expand_class_sets
from virft.errors import ConfigError


def test_sizes_are_those_of_the_paper() -> None:
    sizes = {name: len(set(classes)) for name, classes in CLASS_SETS.items()}
    assert sizes == {"coco-8": 8, "coco-base-65": 65, "coco-novel-15": 15, "lvis-6": 6, "lvis-rare-13": 13}
    assert not set(CLASS_SETS["coco-base-65"]) & set(CLASS_SETS["coco-novel-15"])


def test_sets_and_names_can_be_mixed_without_duplicates() -> None:
    found = expand_class_sets(["cat", "@coco-8", "zebra"])
    assert found[0] == "cat"
    assert found[-1] == "zebra"
    assert len(found) == 9


def test_an_unknown_set_is_reported_with_the_closest_name() -> None:
    with pytest.raises(ConfigError, match=r"class set '@coco8' is not known; did you mean '@coco-8'\?"):
        expand_class_sets(["@coco8"])
    with pytest.raises(ConfigError, match=r"class set '@x' is not known; there are @coco-8, "):
        expand_class_sets(["@x"])


@pytest.mark.parametrize(
    ("file", "prefix"),
    [("coco_val100/instances_val2014_100.json", "coco"), ("lvis_val100/lvis_val_100.json", "lvis")],
)
def test_the_names_are_those_of_the_annotation_files(shared_data: Path, file: str, prefix: str) -> None:
    known = {row["name"].replace("_", " ") for row in json.loads((shared_data / file).read_text())["categories"]}
    for name, classes in CLASS_SETS.items():
        if name.startswith(prefix):
            assert not set(classes) - known, name
