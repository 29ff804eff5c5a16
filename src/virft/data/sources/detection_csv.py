"""Boxes in a CSV file: one row per box, with named columns for image, class and corners.

Formats: that of TensorFlow's object detection tutorials and Roboflow's CSV exports, filename, class, xmin, ymin, ..;
and that of Open Images, https://storage.googleapis.com/openimages/web/download_v7.html
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from virft.data.annotations import AnnotatedSet, Skipped
from virft.data.images import stored_size
from virft.data.sources.csv_files import csv_columns, csv_rows
from virft.data.sources.detection_files import detection_set
from virft.data.sources.image_boxes import ImageBoxes, ReadImage, settled_images
from virft.data.sources.image_index import ImageIndex
from virft.data.sources.image_paths import find_images
from virft.data.sources.text_files import read_text
from virft.data.upright import ExifReading
from virft.errors import ConfigError, DataError
from virft.geometry.boxes import XYXY
from virft.text.records import FRACTIONS, are_fractions
from virft.types import ImageSize

_COLUMNS = {
    "image": ("image", "filename", "file_name", "image_path", "path", "file", "image_id", "imageid", "img_path"),
    "class": ("class", "label", "class_name", "category", "name", "labelname"),
    "xmin": ("xmin", "x1", "x_min", "left"),
    "ymin": ("ymin", "y1", "y_min", "top"),
    "xmax": ("xmax", "x2", "x_max", "right"),
    "ymax": ("ymax", "y2", "y_max", "bottom"),
}
"""Names in a head that are recognized for each value, without letter case."""
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_OPEN_IMAGES = {"image": "ImageID", "xmin": "XMin", "ymin": "YMin", "xmax": "XMax", "ymax": "YMax"}
"""Columns of Open Images, whose corners are fractions of width and height. An ``ImageID`` is a file name's stem."""
_GROUP = "IsGroupOf"
_LABEL_ID = re.compile(r"/[mgt]/\w+")
"""A class of Open Images: an id of Freebase's, such as /m/01yrx."""
_Rows = Sequence[tuple[int, Mapping[str, str]]]


def read_detection_csv(
    path: Path,
    folder: Path,
    *,
    columns: Mapping[str, str] | None = None,
    class_names: Path | None = None,
    classes: Iterable[str] = (),
    exif: ExifReading = "auto",
    skipped: Skipped,
) -> AnnotatedSet:
    """Read a CSV file of boxes; a row with an image alone names an image without objects.

    ``folder``: folder of the image files. ``columns``: column of image, class, xmin, ymin, xmax and ymax, for those
    that are not recognized by their usual names. ``class_names``: CSV file with the id and the name of each class.
    ``exif``: the pixels that boxes of images with an EXIF orientation are in, see ``settle_exif``. Added to
    ``skipped``: rows without an image in the folder, without a class, or without a box. Corners are pixels; those of
    Open Images' own columns are fractions, groups of objects (``IsGroupOf``) are crowd regions, and no class is absent,
    as only some are annotated on each image. Raises ``DataError`` if the file is invalid or names no image, or if all
    its boxes are fractions, and ``ConfigError`` if a column or one of ``classes`` is unknown.
    """
    required = _chosen_columns(path, columns or {})
    is_open_images = _OPEN_IMAGES.items() <= required.items() and "LabelName" in csv_columns(path)
    more = _size_columns(path) | ({"group": _GROUP} if is_open_images and _GROUP in csv_columns(path) else {})
    rows = list(csv_rows(path, required=required | more))
    if class_names is not None:
        names = _class_names(class_names)
        rows = [(number, row | {"class": names.get(row["class"], row["class"])}) for number, row in rows]
    if is_open_images:
        return _read_open_images(path, folder, rows, classes=classes, exif=exif, skipped=skipped)
    _require_pixels(path, rows)
    place = find_images(folder, (row["image"] for _, row in rows if row["image"]))
    found: dict[str, ImageBoxes] = {}
    sizes: dict[str, ImageSize | None] = {}
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
            _add(row, boxes, where)
    if not found:
        raise DataError(f"{path}: names no image; expected a row for each box{skipped.format_first()}")
    read = [ReadImage(name, folder / name, sizes[name], boxes) for name, boxes in found.items()]
    images, notes = settled_images(read, exif=exif)
    if unplaced:
        # A class of a row without an image may be present on any image.
        absent = frozenset() if "" in unplaced else _classes_of(found.values()) - unplaced
        images = {name: replace(image, absent=absent) for name, image in images.items()}
    return replace(detection_set(images, classes, where=path.name), notes=notes)


def _classes_of(found: Iterable[ImageBoxes]) -> frozenset[str]:
    return frozenset().union(*(boxes.labels for boxes in found))


def _add(row: Mapping[str, str], boxes: ImageBoxes, where: str, *, unit: tuple[int, int] = (1, 1)) -> None:
    """Add the box of a row. ``unit``: width and height of an image in pixels, if its numbers are fractions of them."""
    label = row["class"] or None
    corners = _corners_of(row)
    if corners is None:
        shown = ", ".join(row[corner] or "empty" for corner in _CORNERS)
        boxes.drop(where, f"box is {shown:.60}; expected four numbers", label=label)
    elif label is None:
        boxes.drop(where, "class is empty; expected a class name")
    else:
        (x1, y1, x2, y2), (across, down) = corners, unit
        is_group = row.get("group", "") == "1"
        boxes.add(label, (x1 * across, y1 * down, x2 * across, y2 * down), where=where, is_crowd=is_group)


def _corners_of(row: Mapping[str, str]) -> XYXY | None:
    """Return the corners of a row as they are written; None if they are not four numbers."""
    try:
        x1, y1, x2, y2 = (float(row[corner]) for corner in _CORNERS)
    except ValueError:
        return None
    return x1, y1, x2, y2


def _require_pixels(path: Path, rows: _Rows) -> None:
    """Raise ``DataError`` if all boxes have only numbers from 0 to 1."""
    boxes = [box for _, row in rows if (box := _corners_of(row)) is not None and any(box)]
    if boxes and all(map(are_fractions, boxes)):
        shown = ", ".join(f"{number:g}" for number in boxes[0])
        raise DataError(
            f"{path}: all numbers of its boxes are from 0 to 1, such as {shown}, {FRACTIONS}; expected pixels, or the "
            f"columns of Open Images: {', '.join(_OPEN_IMAGES.values())}, LabelName"
        )


class _ImageOfId(NamedTuple):
    name: str
    size: ImageSize
    boxes: ImageBoxes


def _read_open_images(
    path: Path, folder: Path, rows: _Rows, *, classes: Iterable[str], exif: ExifReading, skipped: Skipped
) -> AnnotatedSet:
    known = [box for _, row in rows if (box := _corners_of(row)) is not None]
    is_in_pixels = 2 * sum(map(are_fractions, known)) < len(known)
    index, base = ImageIndex([folder]), os.path.normpath(folder.absolute())
    found: dict[str, _ImageOfId] = {}
    unusable: set[str] = set()
    num_strays = num_groups = 0
    for number, row in rows:
        if row["image"] in unusable:
            continue
        try:
            file = index.find(row["image"], beside=Path())
            if file is None:
                num_strays += 1
                continue
            name = file.relative_to(base).as_posix()
            if name not in found:
                size = stored_size(file)
                found[name] = _ImageOfId(name, size.raw if exif == "raw" else size.upright, ImageBoxes(skipped))
        except DataError as error:
            # A card has no absolute path.
            skipped.note(f"image {row['image']}", str(error).removeprefix(f"{base}/"))
            unusable.add(row["image"])
            continue
        one = found[name]
        _add(row, one.boxes, f"{path.name}:{number}", unit=(1, 1) if is_in_pixels else one.size)
        num_groups += row.get("group", "") == "1"
    if not found:
        shown = rows[0][1]["image"][:60] if rows else "nothing"
        raise DataError(
            f"{path}: names no image of {folder}; expected files such as {shown}.jpg for its ImageID"
            f"{skipped.format_first()}"
        )
    read = [ReadImage(one.name, folder / one.name, None, one.boxes) for one in found.values()]
    images, _ = settled_images(read, exif=exif)
    # Open Images annotates the classes that were verified on an image, and no other.
    images = {name: replace(image, absent=frozenset()) for name, image in images.items()}
    annotated = detection_set(images, classes, where=path.name)
    notes = ["Open Images annotates only some classes of each image, so no class is queried as absent"]
    if not is_in_pixels:
        notes.append("boxes are read as fractions of width and height, as Open Images has them")
    if num_strays:
        notes.append(f"rows skipped, as {folder.name} does not hold their image: {num_strays}")
    if label := next((label for label in annotated.classes if _LABEL_ID.fullmatch(label)), None):
        notes.append(f"classes are ids such as {label}, which a model does not know: name them with --class-names")
    return replace(annotated, num_crowd=num_groups, notes=tuple(notes))


def _class_names(path: Path) -> dict[str, str]:
    """Read a CSV file without a head, with the id and the name of each class, as Open Images' class descriptions."""
    rows = csv.reader(io.StringIO(read_text(path, expected="a CSV file of class ids and names"), newline=""))
    try:
        names = {row[0].strip(): row[1].strip() for row in rows if len(row) >= 2 and row[0].strip() and row[1].strip()}
    except csv.Error as error:
        raise DataError(f"{path}:{rows.line_num}: not valid CSV ({error})") from error
    if not names:
        raise DataError(f"{path}: names no class; expected rows of an id and a name, such as /m/01yrx,Cat")
    return names


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
