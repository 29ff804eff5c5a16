"""COCO JSON: images with boxes of named categories; and LVIS, which is COCO with a federated vocabulary.

Formats: https://cocodataset.org/#format-data, https://www.lvisdataset.org/dataset
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from virft.data.annotations import AnnotatedImage, AnnotatedSet, Skipped
from virft.data.images import is_file
from virft.data.json_files import read_json
from virft.data.sources.detection_files import suggest_class
from virft.errors import ConfigError, DataError, describe_type
from virft.geometry.boxes import XYXY, xywh_to_xyxy
from virft.text.records import box_fault, is_image_side, is_json_number
from virft.types import ImageSize


class CocoFile(NamedTuple):
    """A parsed COCO file. The records of the lists are not validated yet."""

    name: str
    """Name of the file, for messages."""
    images: list[Any]
    """Image records."""
    annotations: list[Any]
    """Annotation records."""
    categories: list[Any]
    """Category records."""


def open_coco(path: Path) -> CocoFile:
    """Parse a COCO JSON file. Raises ``DataError`` if it is not a COCO detection file."""
    tree = read_json(path, expected="a COCO JSON file")
    lists = {}
    for key in ("images", "annotations", "categories"):
        value = tree.get(key) if isinstance(tree, dict) else None
        if not isinstance(value, list) or not value:
            found = "missing" if value is None else "empty" if value == [] else describe_type(value)
            raise DataError(f"{path}: {key} is {found}; expected a COCO file with images, annotations and categories")
        lists[key] = value
    return CocoFile(path.name, **lists)


def read_coco(
    file: CocoFile, images: Path | None, *, classes: Sequence[str] = (), federated: bool = False, skipped: Skipped
) -> AnnotatedSet:
    """Return the images and boxes of the chosen ``classes`` (all by default).

    ``images``: folder of the image files; None for a build without images. Added to ``skipped``: records without the
    fields of the format, boxes without area, and boxes that reach more than a pixel outside the declared size. Crowd
    boxes are no targets; they are counted. Raises ``ConfigError`` if a chosen class is not in the file.

    ``federated`` (LVIS): only classes in ``neg_category_ids`` of an image are absent on it, and those in
    ``not_exhaustive_category_ids`` are incomplete. Underscores in names become spaces. Source: LVIS (arXiv 1908.03195).
    """
    names = _category_names(file, skipped)
    if federated:
        names = {key: name.replace("_", " ") for key, name in names.items()}
        classes = [name.replace("_", " ") for name in classes]
    chosen = tuple(sorted(_known(classes, names.values(), file.name) if classes else set(names.values())))
    records = _image_records(file, images, skipped)
    sorted_out = _BoxesByImage(file.name, records, names, skipped)
    for annotation in file.annotations:
        sorted_out.add(annotation)
    federation = _federated(file, names, skipped) if federated else {}
    annotated = {}
    num_incomplete = 0
    for key, record in records.items():
        absent, incomplete = federation.get(key, (None, frozenset()))
        boxes = {label: tuple(boxes) for label, boxes in sorted_out.boxes[key].items() if label in chosen}
        num_incomplete += len(incomplete.intersection(boxes))
        annotated[record.name] = AnnotatedImage(
            name=record.name,
            file=record.file,
            declared=record.size,
            boxes=boxes,
            doubtful=frozenset(sorted_out.doubtful[key]),
            incomplete=incomplete,
            absent=absent,
            areas=sorted_out.areas_by_class(key),
            crowd={label: tuple(found) for label, found in sorted_out.crowd[key].items()},
        )
    frequency = {
        names[category["id"]]: category["frequency"]
        for category in file.categories
        if federated and isinstance(category, dict) and category.get("id") in names and "frequency" in category
    }
    return AnnotatedSet(
        images=annotated,
        classes=chosen,
        num_crowd=sorted_out.num_crowd,
        num_incomplete=num_incomplete,
        frequency={label: frequency[label] for label in chosen if label in frequency},
    )


def _federated(
    file: CocoFile, names: dict[int, str], skipped: Skipped
) -> dict[int, tuple[frozenset[str], frozenset[str]]]:
    """Return, by image id, the classes that are certainly absent, and those with objects that are not annotated."""
    federation = {}
    for image in file.images:
        if not isinstance(image, dict) or type(image.get("id")) is not int:
            continue  # _image_records adds it to skipped
        sets = []
        for field in ("neg_category_ids", "not_exhaustive_category_ids"):
            ids = image.get(field)
            if not isinstance(ids, list) or not all(type(one) is int and one in names for one in ids):
                where = f"{file.name}: image {_id_of(image)}"
                skipped.note(where, f"{field} is {ids!r:.60}; expected a list of category ids, as LVIS has")
                ids = []
            sets.append(frozenset(names[one] for one in ids))
        federation[image["id"]] = (sets[0], sets[1])
    return federation


class _ImageRecord(NamedTuple):
    name: str
    file: Path | None
    size: ImageSize


class _BoxesByImage:
    """Boxes and areas of the annotations, grouped by image id and class."""

    def __init__(self, file: str, records: dict[int, _ImageRecord], names: dict[int, str], skipped: Skipped) -> None:
        self._file, self._records, self._names, self._skipped = file, records, names, skipped
        self._ids: set[Any] = set()
        self.boxes: dict[int, dict[str, list[XYXY]]] = {key: {} for key in records}
        self.crowd: dict[int, dict[str, list[XYXY]]] = {key: {} for key in records}
        self._areas: dict[int, dict[str, list[float | None]]] = {key: {} for key in records}
        self.doubtful: dict[int, set[str]] = {key: set() for key in records}
        self.num_crowd = 0

    def add(self, annotation: Any) -> None:
        """Add one annotation, or a note about its fault to ``skipped``."""
        where = f"{self._file}: annotation {_id_of(annotation)}"
        if fault := self._fault(annotation):
            self._skipped.note(where, fault)
            return
        self._ids.add(annotation["id"])
        key, label = annotation["image_id"], self._names[annotation["category_id"]]
        if key not in self._records:
            # The record of its image is invalid and noted already.
            return
        x1, y1, x2, y2 = xywh_to_xyxy(tuple(map(float, annotation["bbox"])))  # type: ignore[arg-type]
        # x + width of decimal numbers has rounding errors: 39.9 + 217.1 = 257.00000000000006.
        box = (round(x1, 3), round(y1, 3), round(x2, 3), round(y2, 3))
        if annotation.get("iscrowd", 0):
            self.num_crowd += 1
            self.doubtful[key].add(label)
            if not box_fault(box, self._records[key].size):
                self.crowd[key].setdefault(label, []).append(box)
            return
        if fault := box_fault(box, self._records[key].size):
            self._skipped.note(f"{where} ({self._records[key].name})", fault)
            self.doubtful[key].add(label)
            return
        self.boxes[key].setdefault(label, []).append(box)
        area = annotation.get("area")
        usable = is_json_number(area) and math.isfinite(area) and area >= 0
        self._areas[key].setdefault(label, []).append(area if usable else None)

    def areas_by_class(self, key: int) -> dict[str, tuple[float, ...]]:
        """Return the areas of an image's boxes, without the classes that have a box of unknown area."""
        found = {}
        for label, areas in self._areas[key].items():
            known = tuple(area for area in areas if area is not None)
            if len(known) == len(areas):
                found[label] = known
        return found

    def _fault(self, annotation: Any) -> str | None:
        if not isinstance(annotation, dict):
            return f"{annotation!r:.60} is not an object"
        for field in ("id", "image_id", "category_id"):
            if type(annotation.get(field)) is not int:
                return f"{field} is {annotation.get(field)!r}; expected an integer"
        if annotation["id"] in self._ids:
            return "the id was used before; expected every id once"
        if annotation["category_id"] not in self._names:
            return f"category_id {annotation['category_id']} is not among the categories"
        box = annotation.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_json_number, box)):
            return f"bbox is {box!r}; expected [x, y, width, height]"
        return None


def _category_names(file: CocoFile, skipped: Skipped) -> dict[int, str]:
    names: dict[int, str] = {}
    for category in file.categories:
        name = category.get("name") if isinstance(category, dict) else None
        if not isinstance(name, str) or not name.strip() or type(category.get("id")) is not int:
            skipped.note(f"{file.name}: category {_id_of(category)}", "expected an integer id and a name")
        else:
            names[category["id"]] = name.strip()
    return names


def _known(classes: Sequence[str], known: Iterable[str], file: str) -> set[str]:
    """Return the chosen classes; ``ConfigError`` about the first that is not in the file."""
    names = sorted(set(known))
    for name in classes:
        if name not in names:
            raise ConfigError(f"class {name!r} is not in {file}; {suggest_class(name, names)}")
    return set(classes)


def _image_records(file: CocoFile, folder: Path | None, skipped: Skipped) -> dict[int, _ImageRecord]:
    """Return the valid image records by id. Their names are relative to the deepest common folder."""
    good: dict[int, tuple[str, ImageSize]] = {}
    taken: dict[str, int] = {}
    for image in map(_with_file_name, file.images):
        where = f"{file.name}: image {_id_of(image)}"
        if fault := _image_fault(image, good, taken):
            skipped.note(where, fault)
            continue
        name = _inside(image["file_name"])
        taken[name] = image["id"]
        good[image["id"]] = (name, ImageSize(image["width"], image["height"]))
    parents = [str(PurePosixPath(name).parent) for name, _ in good.values()]
    common = os.path.commonpath(parents) if parents else ""
    return {
        key: _ImageRecord(str(PurePosixPath(name).relative_to(common)), folder and _find(folder, name), size)
        for key, (name, size) in good.items()
    }


def _with_file_name(image: Any) -> Any:
    """Add the file name of an LVIS 1.0 image record, which is only in its URL: .../val2017/000000397133.jpg."""
    if isinstance(image, dict) and "file_name" not in image and isinstance(image.get("coco_url"), str):
        return image | {"file_name": "/".join(image["coco_url"].split("/")[-2:])}
    return image


def _image_fault(image: Any, good: dict[int, Any], taken: dict[str, int]) -> str | None:
    if not isinstance(image, dict):
        return f"{image!r:.60} is not an object"
    for field in ("id", "width", "height"):
        if type(image.get(field)) is not int:
            return f"{field} is {image.get(field)!r}; expected an integer"
    if not (is_image_side(image["width"]) and is_image_side(image["height"])):
        return f"its size is {image['width']!r:.60}x{image['height']!r:.60}; expected at least 1x1"
    if not isinstance(image.get("file_name"), str) or not PurePosixPath(image["file_name"]).name:
        return f"file_name is {image.get('file_name')!r}; expected the name of a file"
    if image["id"] in good:
        return "the id was used before; expected every id once"
    if (other := taken.get(_inside(image["file_name"]))) is not None:
        return f"file {image['file_name']} was used by image {other}; expected every file once"
    return None


def _inside(file_name: str) -> str:
    """Return the name as a path inside the image folder; only its last part if it leads out of the folder."""
    path = PurePosixPath(file_name.replace("\\", "/"))
    return path.name if path.is_absolute() or ".." in path.parts else str(path)


def _find(folder: Path, name: str) -> Path:
    """Return the path of a file below the folder, or directly in it if it is only there. It may not exist."""
    flat = folder / PurePosixPath(name).name
    return flat if is_file(flat) and not is_file(folder / name) else folder / name


def _id_of(record: Any) -> str:
    return str(record.get("id", "without id")) if isinstance(record, dict) else "without id"
