"""COCO JSON: images with boxes of named categories; and LVIS, which is COCO with a federated vocabulary.

Formats: https://cocodataset.org/#format-data, https://www.lvisdataset.org/dataset
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from virft.data.annotations import AnnotatedImage, AnnotatedSet, Skipped
from virft.data.images import is_file
from virft.data.json_files import read_json
from virft.data.sources.detection_files import suggest_class
from virft.data.upright import ExifReading, settle_exif
from virft.errors import ConfigError, DataError, describe_type
from virft.geometry.boxes import XYXY, rotated_bounds, xywh_to_xyxy
from virft.text.records import are_fractions, box_fault, is_image_side, is_inside, is_json_number, polygons_of
from virft.types import ImageSize, Polygon

_Value = TypeVar("_Value")
_Key = int | str
"""Id of an image or a category: an integer, or a text that is no whole number."""
_LONGEST_END = 8
"""Number of components of the longest end of a path that is searched: a path may have any number."""
_LEAST_CORNERS = 5
"""Least number of boxes that decide whether a file holds corners."""
LABEL_STUDIO = "Label Studio"
"""Contributor of files that state the size of the stored pixels, with boxes in pixels of the upright image; outlines
are fractions of the upright image times the stored sides. Source: ``convert_to_coco`` of label-studio-sdk."""


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
    contributor: str = ""
    """The contributor that the file's ``info`` names: its tool or author."""


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
    info = tree.get("info")
    contributor = info.get("contributor") if isinstance(info, dict) else None
    return CocoFile(path.name, **lists, contributor=contributor if isinstance(contributor, str) else "")


def read_coco(
    file: CocoFile,
    images: Path | None,
    *,
    classes: Sequence[str] = (),
    federated: bool = False,
    exif: ExifReading = "auto",
    outlines: bool = False,
    skipped: Skipped,
) -> AnnotatedSet:
    """Return the images with all their boxes, and the chosen ``classes`` (all by default).

    ``images``: folder of the image files; None for a build without images. Added to ``skipped``: records without the
    fields of the format, boxes without area, and boxes that lie outside the declared size. Their class is doubtful on
    their image; if the class is unknown, the image is; if the image is unknown, the class is absent nowhere. Ids are
    only keys: whole numbers and texts, and those of annotations have no meaning. Several records of one file are
    merged. Crowd boxes are no targets; they are counted.
    Raises ``ConfigError`` if a chosen class is not in the file, and ``DataError`` if all its boxes are fractions or
    corners.

    ``federated`` (LVIS): only classes in ``neg_category_ids`` of an image are absent on it, and those in
    ``not_exhaustive_category_ids`` are incomplete. Underscores in names become spaces. Source: LVIS (arXiv 1908.03195).
    ``exif``: which pixels the boxes of images with an EXIF orientation are in, see ``settle_exif``. ``outlines``: also
    read the polygons of objects; masks as run lengths are not outlines.
    """
    names = _category_names(file, skipped)
    placeholders = {} if classes else _placeholders(file, names)
    notes = [
        f"class {names.pop(key)!r} is excluded: it has no box and is the super-category of {', '.join(children)}"
        for key, children in placeholders.items()
    ]
    if federated:
        names = {key: name.replace("_", " ") for key, name in names.items()}
        classes = [name.replace("_", " ") for name in classes]
    chosen = tuple(sorted(_known(classes, names.values(), file.name) if classes else set(names.values())))
    records, alias = _image_records(file, images, skipped)
    if num_merged := len(alias) - len(records):
        notes.append(f"image records of a file that another record has too, merged with it: {num_merged}")
    _require_pixels(file)
    if num_strays := _count_strays(file):
        notes.append(f"annotations skipped, as {file.name} does not list their image: {num_strays}")
    records, scales, exif_notes = _settled(file, records, alias, exif)
    notes += exif_notes
    _require_xywh(file, records, alias)
    sorted_out = _BoxesByImage(file.name, records, alias, names, scales, skipped, with_outlines=outlines)
    for annotation in file.annotations:
        sorted_out.add(annotation)
    if sorted_out.num_named:
        notes.append(f"annotations with the name of a class in place of its category_id: {sorted_out.num_named}")
    federation = _federated(file, names, alias, skipped) if federated else {}
    annotated = {}
    num_incomplete = 0
    for key, record in records.items():
        absent, incomplete = federation.get(key, (None, frozenset()))
        if sorted_out.unplaced:
            absent = (frozenset(names.values()) if absent is None else absent) - sorted_out.unplaced
        num_incomplete += len(incomplete.intersection(sorted_out.boxes[key]).intersection(chosen))
        annotated[record.name] = AnnotatedImage(
            name=record.name,
            file=record.file,
            declared=record.size,
            incomplete=incomplete,
            absent=absent,
            is_raw=exif == "raw",
            **sorted_out.fields(key),
        )
    frequency = _frequency(file, names) if federated else {}
    return AnnotatedSet(
        images=annotated,
        classes=chosen,
        num_crowd=sorted_out.num_crowd,
        num_incomplete=num_incomplete,
        notes=tuple(notes),
        frequency={label: frequency[label] for label in chosen if label in frequency},
    )


def _settled(
    file: CocoFile, records: dict[_Key, _ImageRecord], alias: dict[_Key, _Key], exif: ExifReading
) -> tuple[dict[_Key, _ImageRecord], dict[_Key, tuple[float, float]], list[str]]:
    """Return the records with the size that their boxes refer to, factors for the boxes of outlines, and notes."""
    reading = settle_exif(
        {record.name: (record.file, record.size) for record in records.values()},
        _corners_by_name(file, records, alias),
        exif="upright" if exif == "auto" and file.contributor == LABEL_STUDIO else exif,
    )
    settled = {key: record._replace(size=reading.sizes[record.name]) for key, record in records.items()}
    scales = {
        key: (record.size.width / records[key].size.width, record.size.height / records[key].size.height)
        for key, record in settled.items()
        if file.contributor == LABEL_STUDIO and record.size != records[key].size
    }
    return settled, scales, reading.notes


def _frequency(file: CocoFile, names: dict[_Key, str]) -> dict[str, str]:
    """Return LVIS's frequency group of each class."""
    return {
        label: category["frequency"]
        for category in file.categories
        if isinstance(category, dict) and "frequency" in category
        if (label := _of_id(names, category.get("id"))) is not None
    }


def _federated(
    file: CocoFile, names: dict[_Key, str], alias: dict[_Key, _Key], skipped: Skipped
) -> dict[_Key, tuple[frozenset[str], frozenset[str]]]:
    """Return, by image id, the classes that are certainly absent, and those with objects that are not annotated."""
    federation: dict[_Key, tuple[frozenset[str], frozenset[str]]] = {}
    for image in file.images:
        key = _of_id(alias, image.get("id")) if isinstance(image, dict) else None
        if key is None:
            continue  # _image_records adds it to skipped
        sets = []
        for field in ("neg_category_ids", "not_exhaustive_category_ids"):
            ids = image.get(field)
            labels = [_of_id(names, one) for one in ids] if isinstance(ids, list) else [None]
            if None in labels:
                where = f"{file.name}: image {_id_of(image)}"
                skipped.note(where, f"{field} is {ids!r:.60}; expected a list of category ids, as LVIS has")
                labels = []
            sets.append(frozenset(label for label in labels if label is not None))
        absent, incomplete = federation.get(key, (frozenset(), frozenset()))
        federation[key] = (absent | sets[0], incomplete | sets[1])
    return federation


class _ImageRecord(NamedTuple):
    name: str
    file: Path | None
    size: ImageSize


class _BoxesByImage:
    """Boxes and areas of the annotations, grouped by image id and class."""

    def __init__(
        self,
        file: str,
        records: dict[_Key, _ImageRecord],
        alias: dict[_Key, _Key],
        names: dict[_Key, str],
        scales: dict[_Key, tuple[float, float]],
        skipped: Skipped,
        *,
        with_outlines: bool,
    ) -> None:
        """``scales``: factors of x and y of outlines and their boxes, by image id."""
        self._file, self._records, self._alias, self._names = file, records, alias, names
        self._scales = scales
        self._skipped = skipped
        self._with_outlines = with_outlines
        self.outlines: dict[_Key, dict[str, list[tuple[Polygon, ...]]]] = {key: {} for key in records}
        self.boxes: dict[_Key, dict[str, list[XYXY]]] = {key: {} for key in records}
        self.crowd: dict[_Key, dict[str, list[XYXY]]] = {key: {} for key in records}
        self._areas: dict[_Key, dict[str, list[float | None]]] = {key: {} for key in records}
        self.doubtful: dict[_Key, set[str]] = {key: set() for key in records}
        self._labels = set(names.values())
        self.unknown: set[_Key] = set()
        self.unplaced: set[str] = set()
        """Classes with an annotation of an unknown image: they may be present on any image."""
        self.num_crowd = 0
        self.num_named = 0

    def add(self, annotation: Any) -> None:
        """Add one annotation, or a note about its fault to ``skipped``; the class of a fault is then doubtful."""
        where = f"{self._file}: annotation {_id_of(annotation)}"
        if not isinstance(annotation, dict):
            self._skipped.note(where, f"{annotation!r:.60} is not an object")
            return
        if _key(annotation.get("image_id")) is None:
            self._skipped.note(where, f"image_id is {annotation.get('image_id')!r:.60}; expected an integer")
            label = _of_id(self._names, annotation.get("category_id"))
            self.unplaced |= set(self._names.values()) if label is None else {label}
            return
        if (key := _of_id(self._alias, annotation["image_id"])) is None:
            return  # Its image is not in the file, or its record is invalid and noted already.
        category = annotation.get("category_id")
        if (label := self._label_of(category)) is None:
            self.unknown.add(key)
            name = self._records[key].name
            self._skipped.note(f"{where} ({name})", f"category_id {category!r:.60} is not among the categories")
            return
        is_crowd = annotation.get("iscrowd") not in (None, False, 0, "0", "")
        self.num_crowd += is_crowd
        box = _corners(annotation)
        fault: str | None
        if box is None:
            fault = f"bbox is {annotation.get('bbox')!r:.60}; expected [x, y, width, height]"
        else:
            if annotation.get("segmentation") and key in self._scales:
                across, down = self._scales[key]
                box = _rounded((box[0] * across, box[1] * down, box[2] * across, box[3] * down))
            fault = box_fault(box, self._records[key].size)
        if fault or box is None:
            self.doubtful[key].add(label)
            if not is_crowd:
                self._skipped.note(f"{where} ({self._records[key].name})", fault or "")
        elif is_crowd:
            self.crowd[key].setdefault(label, []).append(box)
        else:
            self.boxes[key].setdefault(label, []).append(box)
            if self._with_outlines:
                polygons = _polygons(annotation.get("segmentation"), self._scales.get(key, (1.0, 1.0)))
                self.outlines[key].setdefault(label, []).append(polygons)
            area: Any = annotation.get("area")
            usable = is_json_number(area) and math.isfinite(area) and area >= 0
            self._areas[key].setdefault(label, []).append(area if usable else None)

    def _label_of(self, category: Any) -> str | None:
        """Return the class of a category id, or of a class name in place of the id; None if both fit and differ."""
        label = _of_id(self._names, category)
        name = category.strip() if isinstance(category, str) else None
        if name not in self._labels:
            return label
        self.num_named += label is None
        return name if label in (None, name) else None

    def fields(self, key: _Key) -> dict[str, Any]:
        """Return the fields of an ``AnnotatedImage`` that follow from its annotations."""
        return {
            "boxes": {label: tuple(found) for label, found in self.boxes[key].items()},
            "doubtful": frozenset(self.doubtful[key]),
            "is_doubtful": key in self.unknown,
            "areas": self._areas_by_class(key),
            "outlines": {label: tuple(found) for label, found in self.outlines[key].items() if any(found)},
            "crowd": {label: tuple(found) for label, found in self.crowd[key].items()},
        }

    def _areas_by_class(self, key: _Key) -> dict[str, tuple[float, ...]]:
        """Return the areas of an image's boxes, without the classes that have a box of unknown area."""
        found = {}
        for label, areas in self._areas[key].items():
            known = tuple(area for area in areas if area is not None)
            if len(known) == len(areas):
                found[label] = known
        return found


def _key(value: Any) -> _Key | None:
    """Return an id as a key, equal for 7, 7.0 and "7"; None for a value that is no id.

    >>> _key(7.0), _key("7"), _key("07"), _key(True), _key(1.5)
    (7, 7, '07', None, None)
    """
    if isinstance(value, str):
        text = value.strip()
        is_whole = len(text) < 20 and text.isascii() and text.isdecimal() and str(int(text)) == text
        return int(text) if is_whole else text or None
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _of_id(by_id: Mapping[_Key, _Value], value: Any) -> _Value | None:
    """Return the entry of an id as it is in the file; None if there is none."""
    key = _key(value)
    return None if key is None else by_id.get(key)


def _corners(annotation: dict[str, Any]) -> XYXY | None:
    """Return the corners of an annotation's box, around it if it is rotated; None if it is not four numbers."""
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_json_number, box)):
        return None
    # x + width of decimal numbers has rounding errors: 39.9 + 217.1 = 257.00000000000006.
    corners = xywh_to_xyxy(tuple(map(float, box)))  # type: ignore[arg-type]
    attributes = annotation.get("attributes")
    degrees: Any = attributes.get("rotation") if isinstance(attributes, dict) else None  # CVAT's rotated rectangles
    if is_json_number(degrees) and math.isfinite(degrees) and all(map(math.isfinite, corners)):
        corners = rotated_bounds(corners, degrees)
    return _rounded(corners)


def _polygons(segmentation: Any, scale: tuple[float, float]) -> tuple[Polygon, ...]:
    """Return the polygons of an annotation, with x and y multiplied by ``scale``; none if it has something else."""
    try:
        found = polygons_of(segmentation, where="")
    except DataError:
        return ()
    return tuple(tuple(value * scale[place % 2] for place, value in enumerate(polygon)) for polygon in found)


def _rounded(box: XYXY) -> XYXY:
    """Return the box with three decimals."""
    x1, y1, x2, y2 = box
    return (round(x1, 3), round(y1, 3), round(x2, 3), round(y2, 3))


def _corners_by_name(
    file: CocoFile, records: dict[_Key, _ImageRecord], alias: dict[_Key, _Key]
) -> dict[str, list[XYXY]]:
    """Return all boxes of four numbers by the name of their image."""
    found: dict[str, list[XYXY]] = {}
    for annotation in file.annotations:
        key = _of_id(alias, annotation.get("image_id")) if isinstance(annotation, dict) else None
        if key is not None and (box := _corners(annotation)) is not None:
            found.setdefault(records[key].name, []).append(box)
    return found


def _require_pixels(file: CocoFile) -> None:
    """Raise ``DataError`` if all boxes of the file have only numbers from 0 to 1."""
    boxes = [one["bbox"] for one in file.annotations if isinstance(one, dict) and _corners(one) is not None]
    boxes = [box for box in boxes if any(box)]
    if boxes and all(map(are_fractions, boxes)):
        raise DataError(
            f"{file.name}: all numbers of its boxes are from 0 to 1, such as {boxes[0]!r:.60}, so they are fractions "
            "of width and height; expected [x, y, width, height] in pixels"
        )


def _require_xywh(file: CocoFile, records: dict[_Key, _ImageRecord], alias: dict[_Key, _Key]) -> None:
    """Raise ``DataError`` if boxes do not fit their images as [x, y, width, height], and all fit as corners.

    Fewer boxes than ``_LEAST_CORNERS`` decide nothing: a box near the top left fits as both.
    """
    num_boxes = num_unfit = 0
    for annotation in file.annotations:
        key = _of_id(alias, annotation.get("image_id")) if isinstance(annotation, dict) else None
        if key is None or (corners := _corners(annotation)) is None:
            continue
        x1, y1, x2, y2 = annotation["bbox"]
        if x2 <= x1 or y2 <= y1 or not is_inside((x1, y1, x2, y2), records[key].size):
            return
        num_boxes += 1
        num_unfit += box_fault(corners, records[key].size) is not None
    if num_unfit and num_boxes >= _LEAST_CORNERS:
        raise DataError(
            f"{file.name}: {num_unfit} of {num_boxes} boxes do not fit their images as [x, y, width, height], and all "
            "fit as [x1, y1, x2, y2]; expected COCO's [x, y, width, height] in pixels"
        )


def _count_strays(file: CocoFile) -> int:
    """Return the number of annotations of images that are not in the file; ``DataError`` if all are."""
    listed = [key for one in file.images if isinstance(one, dict) and (key := _key(one.get("id"))) is not None]
    named = [
        key for one in file.annotations if isinstance(one, dict) and (key := _key(one.get("image_id"))) is not None
    ]
    known = set(listed)
    num_strays = sum(key not in known for key in named)
    if listed and named and num_strays == len(named):
        raise DataError(
            f"{file.name}: no annotation is of one of its images, such as image_id {named[0]!r:.60}; "
            f"expected ids of its images, such as {listed[0]!r:.60}"
        )
    return num_strays


def _category_names(file: CocoFile, skipped: Skipped) -> dict[_Key, str]:
    names: dict[_Key, str] = {}
    twice: set[_Key] = set()
    for category in file.categories:
        name = category.get("name") if isinstance(category, dict) else None
        key = _key(category.get("id")) if isinstance(category, dict) else None
        where = f"{file.name}: category {_id_of(category)}"
        if not isinstance(name, str) or not name.strip() or key is None:
            skipped.note(where, "expected an integer id and a name")
        elif names.setdefault(key, name.strip()) != name.strip():
            skipped.note(where, f"the id is that of {names[key]!r} and of {name.strip()!r}; neither is used")
            twice.add(key)
    return {key: name for key, name in names.items() if key not in twice}


def _placeholders(file: CocoFile, names: dict[_Key, str]) -> dict[_Key, list[str]]:
    """Return the ids of categories without any annotation that are the super-category of others, with their names.

    Roboflow writes such a category, named as the project, into each file.
    """
    categories = [one.get("category_id") for one in file.annotations if isinstance(one, dict)]
    used = set(map(_key, categories))
    shown = {name for key, name in names.items() if key in used}
    shown |= {category.strip() for category in categories if isinstance(category, str)}
    children: dict[str, list[str]] = {}
    for category in file.categories:
        parent = category.get("supercategory") if isinstance(category, dict) else None
        if isinstance(parent, str) and (key := _key(category.get("id"))) in names and names[key] != parent.strip():
            children.setdefault(parent.strip(), []).append(names[key])
    return {
        key: children[name] for key, name in names.items() if name in children and key not in used and name not in shown
    }


def _known(classes: Sequence[str], known: Iterable[str], file: str) -> set[str]:
    """Return the chosen classes; ``ConfigError`` about the first that is not in the file."""
    names = sorted(set(known))
    for name in classes:
        if name not in names:
            raise ConfigError(f"class {name!r} is not in {file}; {suggest_class(name, names)}")
    return set(classes)


def _image_records(
    file: CocoFile, folder: Path | None, skipped: Skipped
) -> tuple[dict[_Key, _ImageRecord], dict[_Key, _Key]]:
    """Return the valid image records by id; and for each id, the id of the first record of the same file.

    The names of the records are relative to the deepest common folder.
    """
    good: dict[_Key, tuple[str, ImageSize]] = {}
    alias: dict[_Key, _Key] = {}
    first_of: dict[str, _Key] = {}
    unclear: set[str] = set()
    for image in map(_with_file_name, file.images):
        where = f"{file.name}: image {_id_of(image)}"
        if fault := _image_fault(image):
            skipped.note(where, fault)
            continue
        key, name = _key(image["id"]), _inside(image["file_name"])
        assert key is not None  # checked by _image_fault
        size = ImageSize(*(_key(image[side]) for side in ("width", "height")))  # type: ignore[arg-type]
        first = first_of.get(name, key)
        if key in alias and (other := good[alias[key]][0]) != name:
            skipped.note(where, f"its id is that of {other} and of {name}; neither is used, as their boxes are unclear")
            unclear |= {other, name}
        elif first in good and good[first][1] != size:
            stated = "x".join(map(str, good[first][1]))
            skipped.note(where, f"{name} is stated as {stated} and as {size.width}x{size.height}; it is not used")
            unclear.add(name)
        else:
            first_of[name] = alias[key] = first
            good.setdefault(first, (name, size))
    good = {key: one for key, one in good.items() if one[0] not in unclear}
    alias = {key: first for key, first in alias.items() if first in good}
    parents = [str(PurePosixPath(name).parent) for name, _ in good.values()]
    common = os.path.commonpath(parents) if parents else ""
    files = _find_files(folder, [name for name, _ in good.values()]) if folder else {}
    records = {
        key: _ImageRecord(str(PurePosixPath(name).relative_to(common)), files.get(name), size)
        for key, (name, size) in good.items()
    }
    return records, alias


def _with_file_name(image: Any) -> Any:
    """Add the file name of an LVIS 1.0 image record, which is only in its URL: .../val2017/000000397133.jpg."""
    if isinstance(image, dict) and "file_name" not in image and isinstance(image.get("coco_url"), str):
        return image | {"file_name": "/".join(image["coco_url"].split("/")[-2:])}
    return image


def _image_fault(image: Any) -> str | None:
    if not isinstance(image, dict):
        return f"{image!r:.60} is not an object"
    for field in ("id", "width", "height"):
        key = _key(image.get(field))
        if key is None or (field != "id" and not isinstance(key, int)):
            return f"{field} is {image.get(field)!r:.60}; expected an integer"
    if not all(is_image_side(_key(image[side])) for side in ("width", "height")):
        return f"its size is {image['width']!r:.60}x{image['height']!r:.60}; expected at least 1x1"
    if not isinstance(image.get("file_name"), str) or not PurePosixPath(image["file_name"]).name:
        return f"file_name is {image.get('file_name')!r}; expected the name of a file"
    return None


def _inside(file_name: str) -> str:
    """Return the name as a path inside the image folder: without ".." and the root.

    The other folders stay, as they distinguish images of the same name. Backslashes become slashes, and letters with
    accents one character (NFC), as a file may have both spellings.
    """
    path = PurePosixPath(unicodedata.normalize("NFC", file_name).replace("\\", "/"))
    return "/".join(part for part in path.parts if part not in ("/", "//", ".."))


def _find_files(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Return the path of each file below the folder, which may not exist.

    If a path does not exist, its ends are tried: "b/x.jpg" and "x.jpg" for "a/b/x.jpg". An end that fits several names
    is the file of none of them, as it is not known whose.
    """
    found = {name: _find(folder, name) for name in names}
    times = Counter(found.values())
    return {name: path if times[path] == 1 else folder / name for name, path in found.items()}


def _find(folder: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    for length in (len(parts), *range(min(len(parts) - 1, _LONGEST_END), 0, -1)):
        end = "/".join(parts[-length:])
        for spelling in dict.fromkeys((end, unicodedata.normalize("NFD", end))):
            if is_file(folder / spelling):
                return folder / spelling
    return folder / name


def _id_of(record: Any) -> str:
    return f"{record.get('id', 'without id')!s:.60}" if isinstance(record, dict) else "without id"
