"""Boxes in a CSV file: one row per box, with named columns for image, class and corners in pixels.

Format: that of TensorFlow's object detection tutorials and Roboflow's CSV exports, filename, class, xmin, ymin, ..
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from virft.data.annotations import AnnotatedImage, AnnotatedSet, Skipped
from virft.data.images import upright_size
from virft.data.sources.csv_files import csv_columns, csv_rows
from virft.data.sources.detection_files import detection_set
from virft.data.sources.image_boxes import ImageBoxes
from virft.data.sources.image_paths import find_images
from virft.errors import ConfigError, DataError
from virft.types import ImageSize

_COLUMNS = {
    "image": ("image", "filename", "file_name", "image_path", "path", "file", "image_id", "img_path"),
    "class": ("class", "label", "class_name", "category", "name"),
    "xmin": ("xmin", "x1", "x_min", "left"),
    "ymin": ("ymin", "y1", "y_min", "top"),
    "xmax": ("xmax", "x2", "x_max", "right"),
    "ymax": ("ymax", "y2", "y_max", "bottom"),
}
"""Names in a head that are recognized for each value, without letter case."""
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_detection_csv(
    path: Path,
    folder: Path,
    *,
    columns: Mapping[str, str] | None = None,
    classes: Iterable[str] = (),
    skipped: Skipped,
) -> AnnotatedSet:
    """Read a CSV file of boxes; a row with an image alone names an image without objects.

    ``folder``: folder of the image files. ``columns``: column of image, class, xmin, ymin, xmax and ymax, for those
    that are not recognized by their usual names. Added to ``skipped``: rows without an image in the folder, without a
    class, or without a box. Raises ``DataError`` if the file is invalid or names no image, ``ConfigError`` if a column
    or one of ``classes`` is unknown.
    """
    required = _chosen_columns(path, columns or {})
    rows = list(csv_rows(path, required=required | _size_columns(path)))
    place = find_images(folder, (row["image"] for _, row in rows if row["image"]))
    found: dict[str, ImageBoxes] = {}
    sizes: dict[str, ImageSize | None] = {}
    upright: dict[str, ImageSize | None] = {}
    unplaced: set[str] = set()
    for number, row in rows:
        where = f"{path.name}:{number}"
        if row["image"] not in place:
            shown = row["image"][:200] or "empty"
            skipped.note(where, f"image is {shown}; expected a path inside the folder of the images")
            unplaced.add(row["class"])
            continue
        name = place[row["image"]]
        boxes = found.setdefault(name, ImageBoxes(skipped))
        sizes.setdefault(name, _size_of(row))
        if row["class"] or any(row[corner] for corner in _CORNERS):
            if name not in upright:
                upright[name] = sizes[name] or upright_size(folder / name)
            _add(row, boxes, upright[name], where)
    if not found:
        raise DataError(f"{path}: names no image; expected a row for each box{skipped.format_first()}")
    # A class of a row without an image may be present on any image.
    absent = None if not unplaced else frozenset() if "" in unplaced else _classes_of(found.values()) - unplaced
    images = {
        name: AnnotatedImage(name=name, file=folder / name, declared=sizes[name], absent=absent, **boxes.fields())
        for name, boxes in found.items()
    }
    return detection_set(images, classes, where=path.name)


def _classes_of(found: Iterable[ImageBoxes]) -> frozenset[str]:
    return frozenset().union(*(boxes.labels for boxes in found))


def _add(row: Mapping[str, str], boxes: ImageBoxes, size: ImageSize | None, where: str) -> None:
    label = row["class"] or None
    try:
        x1, y1, x2, y2 = (float(row[corner]) for corner in _CORNERS)
    except ValueError:
        shown = ", ".join(row[corner] or "empty" for corner in _CORNERS)
        boxes.drop(where, f"box is {shown:.60}; expected four numbers", label=label)
        return
    if label is None:
        boxes.drop(where, "class is empty; expected a class name")
    else:
        boxes.add(label, (x1, y1, x2, y2), size, where=where)


def _chosen_columns(path: Path, columns: Mapping[str, str]) -> dict[str, str]:
    """Return the column of each value."""
    if unknown := sorted(columns.keys() - _COLUMNS.keys()):
        raise ConfigError(f"--columns {unknown[0]}: not a value of a box; expected {', '.join(_COLUMNS)}")
    head = csv_columns(path)
    by_name = {name.lower(): name for name in reversed(head)}
    chosen = dict(columns)
    for key, usual in _COLUMNS.items():
        match = next((by_name[name] for name in usual if name in by_name), None)
        if key not in chosen and match is None:
            found = ", ".join(head) or "nothing"
            raise DataError(
                f"{path}:1: the head names {found}; expected columns {', '.join(_COLUMNS)}, or --columns {key}=NAME"
            )
        chosen.setdefault(key, match or "")
    return chosen


def _size_columns(path: Path) -> dict[str, str]:
    """Return the columns of the image's size, if the file has both."""
    head = {name.lower(): name for name in csv_columns(path)}
    return {side: head[side] for side in ("width", "height")} if {"width", "height"} <= head.keys() else {}


def _size_of(row: Mapping[str, Any]) -> ImageSize | None:
    sides = [row.get(side, "") for side in ("width", "height")]
    if not all(side.isdecimal() and 0 < int(side) < 2**31 for side in sides):
        return None
    return ImageSize(int(sides[0]), int(sides[1]))
