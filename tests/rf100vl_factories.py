"""A folder in the layout of RF100-VL: splits in COCO JSON, and a README with instructions for annotators."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from factories import save_image

README = """\
# boars-prova-fsod-abcd > 2025-04-03 8:32pm
https://universe.roboflow.com/rf100-vl-fsod/boars-prova-fsod-abcd

Provided by a Roboflow user
License: MIT

# Overview
- [Introduction](#introduction)
- [Object Classes](#object-classes)
  - [Adult](#adult)
  - [Young One](#young_one)

# Introduction
The classes:
- **Adult**: a grown boar.

# Object Classes

## Adult

### Description
Grown boars, large in the image.

### Instructions
- Box the whole animal.
- Do not include shadows.

## Young One
### Description
Small boars with stripes.
### Instructions
Box the whole animal, as of adults.

[Top](#overview)
"""

Boxes = Sequence[tuple[str, Sequence[float]]]


def write_split(
    folder: Path, images: Mapping[str, Boxes], *, classes: Sequence[str], parent: str | None = None
) -> None:
    """One split: ``images`` by name, with boxes (class, [x, y, width, height]).

    ``parent``: the category 0 of an export of Roboflow, the super-category of all others.
    """
    folder.mkdir(parents=True)
    first = 0 if parent is None else 1
    categories = [
        {"id": first + place, "name": name, "supercategory": parent or "boars"} for place, name in enumerate(classes)
    ]
    if parent is not None:
        categories.insert(0, {"id": 0, "name": parent, "supercategory": "none"})
    annotations = [
        {"image_id": place, "category_id": first + classes.index(label), "bbox": list(box), "iscrowd": 0}
        for place, boxes in enumerate(images.values())
        for label, box in boxes
    ]
    tree = {
        "info": {"year": "2025"},
        "licenses": [{"id": 1, "name": "MIT"}],
        "categories": categories,
        "images": [
            {"id": place, "license": 1, "file_name": name, "width": 64, "height": 48}
            for place, name in enumerate(images)
        ],
        "annotations": [{"id": number, **one} for number, one in enumerate(annotations)],
    }
    (folder / "_annotations.coco.json").write_text(json.dumps(tree))
    for place, name in enumerate(images):
        save_image(folder / name, (64, 48), seed=sum(map(ord, str(folder.name))) + place)


def write_rf100vl(folder: Path, *, readme: str = README, parent: str | None = None) -> Path:
    """A dataset of two classes: a train split of two images, and one image each to validate and to test on."""
    classes = ("Adult", "young_one")
    adult, young = ("Adult", [4, 4, 30, 30]), ("young_one", [40, 20, 10, 12])
    splits: dict[str, dict[str, Boxes]] = {
        "train": {"a_jpg.rf.1.jpg": [adult], "b_jpg.rf.2.jpg": [young]},
        "valid": {"c_jpg.rf.3.jpg": [adult, young]},
        "test": {"d_jpg.rf.4.jpg": [young]},
    }
    for split, images in splits.items():
        write_split(folder / split, images, classes=classes, parent=parent)
    (folder / "README.dataset.txt").write_text(readme)
    (folder / "README.roboflow.txt").write_text("boars-prova - v1\nThis dataset was exported via roboflow.com.\n")
    return folder
