"""Hugging Face datasets of boxes (column ``objects``) or of labels (column ``label``). Needs the extra ``hf``.

Formats: https://huggingface.co/docs/datasets/object_detection, https://huggingface.co/docs/datasets/image_classification
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from virft.data.annotations import AnnotatedImage, AnnotatedSet, LabelledSet, Skipped
from virft.data.images import stored_size
from virft.data.sources.detection_files import detection_set
from virft.data.sources.hf_images import image_bytes, image_ending
from virft.data.sources.image_boxes import ImageBoxes
from virft.data.sources.labels import choose_labels
from virft.data.sources.split_folders import split_named, whole_splits
from virft.errors import DataError
from virft.geometry.boxes import XYXY, xywh_to_xyxy
from virft.text.records import is_inside, is_json_number
from virft.types import ImageSize

_BoxFormat = Literal["xywh", "xyxy"]
_CLASS_KEYS = ("category", "categories", "label", "labels", "category_id", "class", "class_name", "name")
_BOX_KEYS = ("bbox", "bboxes", "boxes", "box")


def has_objects(splits: Mapping[str, Any], where: str) -> bool:
    """Return True if the rows have boxes, False if they have labels; ``DataError`` for others.

    ``splits``: ``datasets.Dataset`` by name. ``where``: name of the source.
    """
    kinds = {name: _kind_of(rows.column_names) for name, rows in splits.items()}
    for name, rows in splits.items():
        if kinds[name] is None:
            of_split = f"split {name} " if name else ""
            others = [other for other, kind in kinds.items() if kind]
            way_out = f"; --hf-split {others[0]} reads another one" if others else ""
            raise DataError(
                f"{where}: {of_split}has the columns {', '.join(rows.column_names)}; expected images (a column such as "
                f"image or img), and objects (boxes) or label (a class){way_out}"
            )
    if len(set(kinds.values())) > 1:
        raise DataError(f"{where}: has splits with objects and with label; expected --hf-split {' or '.join(splits)}")
    return "objects" in kinds.values()


def _kind_of(columns: Sequence[str]) -> str | None:
    return next((kind for kind in ("objects", "label") if kind in columns and "image" in columns), None)


def read_hf_objects(
    splits: Mapping[str, Any],
    folder: Path,
    *,
    classes: Iterable[str] = (),
    box_format: _BoxFormat | None = None,
    where: str,
    skipped: Skipped,
) -> AnnotatedSet:
    """Read rows with ``objects``: ``bbox`` in pixels and ``category``, a name or the number of one in the features.

    ``folder``: an empty folder, for the images. ``box_format``: None decides for the whole dataset: xywh, as the
    documentation of datasets says, unless fewer boxes reach outside their images as xyxy. Added to ``skipped``: rows
    without an image, and objects without a class or box. Raises ``DataError`` if classes are numbers without names.
    """
    read = [_objects_of(row) for row in _rows(splits, folder, skipped)]
    chosen = box_format or _box_format(read)
    names = _class_names(splits, where)
    images: dict[str, AnnotatedImage] = {}
    for row, objects in read:
        boxes = ImageBoxes(skipped)
        if objects is None:
            boxes.drop(row.where, f"objects is {row.record['objects']!r:.60}; expected lists of bbox and category")
        for number, (box, label) in enumerate(objects or ()):
            place = f"{row.where}: object {number}"
            name = names.get(label, label) if type(label) is int else label
            if not isinstance(name, str) or not name.strip():
                boxes.drop(place, f"class is {label!r:.60}; expected a name, or the number of one")
            elif box is None:
                boxes.drop(place, "bbox is not four numbers", label=name.strip())
            else:
                boxes.add(name.strip(), xywh_to_xyxy(box) if chosen == "xywh" else box, where=place)
        images[row.name] = AnnotatedImage(name=row.name, file=row.file, declared=None, **boxes.fields(row.size))
    found = detection_set(images, classes, where=where, known=names.values())
    formats = {"xywh": "[x, y, width, height]", "xyxy": "[x1, y1, x2, y2]"}
    note = f"boxes are read as {formats[chosen]}" + ("" if box_format else "; --box-format overrides")
    return replace(found, published=_published(images), notes=(note,))


def read_hf_labels(
    splits: Mapping[str, Any], folder: Path, *, classes: Iterable[str] = (), where: str, skipped: Skipped
) -> LabelledSet:
    """Read rows with ``label``: a name, or the number of one in the features.

    ``folder``: an empty folder, for the images. ``classes``: only these labels; all if empty. Added to ``skipped``:
    rows without an image or label. Raises ``DataError`` if labels are numbers without names, or no row is left, and
    ``ConfigError`` if one of ``classes`` is unknown.
    """
    images: dict[str, AnnotatedImage] = {}
    label_of: dict[str, str] = {}
    feature = next(iter(splits.values())).features["label"]
    names = dict(enumerate(getattr(feature, "names", ())))
    if not names and getattr(feature, "dtype", "").startswith("int"):
        raise DataError(f"{where}: labels are numbers without names in its features; expected names")
    for row in _rows(splits, folder, skipped):
        label = row.record["label"]
        name = names.get(label) if type(label) is int else label
        if not isinstance(name, str) or not name.strip():
            skipped.note(row.where, f"label is {label!r:.60}; expected a name, or the number of one")
            continue
        images[row.name] = AnnotatedImage(name=row.name, file=row.file, declared=None, boxes={})
        label_of[row.name] = name.strip().replace("_", " ")
    if not images:
        raise DataError(f"{where}: no image with a label came out of it{skipped.format_first()}")
    labelled = choose_labels(images, label_of, tuple(classes), {}, where)
    return replace(labelled, published=_published(labelled.images))


class _Row(NamedTuple):
    where: str
    name: str
    file: Path
    size: ImageSize
    record: dict[str, Any]


def _rows(splits: Mapping[str, Any], folder: Path, skipped: Skipped) -> Iterator[_Row]:
    """Write the images, one by one, and yield their rows."""
    for split, rows in splits.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for number, record in enumerate(rows):
            where = f"{split} row {number}".strip()
            try:
                data = image_bytes(record["image"])
                file = folder / split / f"{number:06d}{image_ending(data)}"
                file.write_bytes(data)
                size = stored_size(file).upright
            except DataError as error:
                skipped.note(where, str(error).removeprefix(f"{folder / split}/"))
                continue
            yield _Row(where, (PurePosixPath(split) / file.name).as_posix(), file, size, record)


_Objects = list[tuple[XYXY | None, Any]]
"""Box and class of each object; None for a box that is not four numbers."""


def _objects_of(row: _Row) -> tuple[_Row, _Objects | None]:
    """Return the objects of a row: a list of records, or a record of lists; None if it has neither."""
    objects = row.record["objects"]
    if isinstance(objects, dict) and any(isinstance(value, list) for value in objects.values()):
        length = max((len(value) for value in objects.values() if isinstance(value, list)), default=0)
        objects = [
            {key: value[n] if isinstance(value, list) and n < len(value) else None for key, value in objects.items()}
            for n in range(length)
        ]
    if not isinstance(objects, list):
        return row, None
    found: _Objects = []
    for one in objects:
        record = one if isinstance(one, dict) else {}
        value = next((record[key] for key in _BOX_KEYS if key in record), None)
        numbers = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
        is_box = len(numbers) == 4 and all(map(is_json_number, numbers))
        box = (float(numbers[0]), float(numbers[1]), float(numbers[2]), float(numbers[3])) if is_box else None
        label = next((record[key] for key in _CLASS_KEYS if record.get(key) is not None), None)
        found.append((box, label))
    return row, found


def _box_format(read: list[tuple[_Row, _Objects | None]]) -> _BoxFormat:
    """Return the format in which fewer boxes are empty or reach outside their image; xywh if both are equal."""
    boxes = [(row.size, box) for row, objects in read for box, _ in objects or () if box is not None]
    as_xywh = sum(not is_inside(xywh_to_xyxy(box), size) for size, box in boxes)
    as_xyxy = sum(not is_inside(box, size) or box[2] <= box[0] or box[3] <= box[1] for size, box in boxes)
    return "xyxy" if as_xyxy < as_xywh else "xywh"


def _class_names(splits: Mapping[str, Any], where: str) -> dict[int, str]:
    """Return the class names of the features by number; empty if classes are names themselves."""
    feature = next(iter(splits.values())).features["objects"]
    inside = feature if isinstance(feature, dict) else getattr(feature, "feature", {})
    inside = inside[0] if isinstance(inside, list) else inside
    for key in _CLASS_KEYS:
        if isinstance(inside, Mapping) and key in inside:
            one = inside[key]
            one = one[0] if isinstance(one, list) else getattr(one, "feature", one)
            if names := getattr(one, "names", None):
                return dict(enumerate(names))
            if getattr(one, "dtype", "").startswith("int"):
                raise DataError(f"{where}: classes are numbers without names in its features; expected names")
    return {}


def _published(images: Mapping[str, AnnotatedImage]) -> dict[str, str]:
    return whole_splits({name: split_named(name.partition("/")[0]) for name in images})
