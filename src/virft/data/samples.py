"""Conversion of ``Sample`` to a line of ``samples.jsonl`` and back, strict in both directions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from virft.errors import DataError
from virft.geometry.boxes import XYXY, box_of, clip_xyxy
from virft.geometry.masks import mask_to_rle, rle_to_mask
from virft.types import Box, Detection, Detections, ImageSize, Label, Polygon, Sample, Target, TaskName

_REQUIRED = {"id", "task", "images", "query", "target"}
_OPTIONAL = {"target_image", "question", "rationale", "queried"}
_IMAGE_KEYS = {"path", "width", "height"}
_TARGET_KEYS = {
    TaskName.DETECTION: ({"boxes"}, {"areas", "crowd", "exhaustive"}),
    TaskName.CLASSIFICATION: ({"label"}, {"aliases"}),
    TaskName.GROUNDING: ({"box"}, {"polygons", "rle", "ignored"}),
}

_HUGE = 2**1023
BORDER_PX = 1.0
"""Number of pixels that a box may reach outside its image: it is then clipped. Beyond this limit it is invalid."""


def sample_to_line(sample: Sample) -> str:
    """Format a sample as one line of JSON without its line break. Key order is fixed: equal samples give equal bytes.

    Raises ``ValueError`` if the sample is augmented.
    """
    record = sample_to_record(sample)
    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    # Python represents a file name that is not valid UTF-8 with lone surrogates, which JSON stores only as escapes.
    return line if line.isprintable() else json.dumps(record, allow_nan=False)


def sample_to_record(sample: Sample) -> dict[str, Any]:
    """Convert a sample to the JSON object of its line.

    Raises ``ValueError`` if the sample is augmented: augmentations are not part of a dataset.
    """
    if sample.augmentation is not None:
        raise ValueError(f"sample {sample.id} is augmented; expected an unchanged one")
    record: dict[str, Any] = {
        "id": sample.id,
        "task": sample.task.value,
        "images": [
            {"path": path, "width": size.width, "height": size.height}
            for path, size in zip(sample.images, sample.image_sizes, strict=True)
        ],
        "query": sample.query,
        "target": _target_to_record(sample.target),
    }
    if sample.polygons:
        record["target"]["polygons"] = [list(polygon) for polygon in sample.polygons]
    if sample.rle is not None:
        record["target"]["rle"] = {"size": list(sample.target_size[::-1]), "counts": sample.rle}
    if sample.ignored:
        record["target"]["ignored"] = [list(polygon) for polygon in sample.ignored]
    if sample.areas:
        record["target"]["areas"] = list(sample.areas)
    if sample.crowd:
        record["target"]["crowd"] = [list(box.xyxy) for box in sample.crowd]
    if not sample.exhaustive:
        record["target"]["exhaustive"] = False
    if sample.target_image != 0:
        record["target_image"] = sample.target_image
    if sample.question is not None:
        record["question"] = sample.question
    if sample.rationale is not None:
        record["rationale"] = sample.rationale
    if not sample.queried:
        record["queried"] = False
    return record


def sample_from_line(line: str, *, where: str, folder: str | None = None) -> Sample:
    """Parse a line of ``samples.jsonl``. Raises ``DataError``, with ``where`` (file:line) in front, if it is invalid.

    ``folder`` is prepended to the image paths.
    """
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not a JSON object ({error.msg}, column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, or brackets nested too deeply
        raise DataError(f"{where}: not a JSON object ({error})") from error
    try:
        return sample_from_record(record, where=where, folder=folder)
    except RecursionError as error:  # nested little enough for the parser, too deeply for the message's repr
        raise DataError(f"{where}: lists or objects are nested too deeply") from error


def sample_from_record(record: Any, *, where: str, folder: str | None = None) -> Sample:
    """Convert the JSON object of a line to a sample. Raises ``DataError``, with ``where`` in front, if it is invalid.

    ``folder`` is prepended to the image paths.
    """
    _check_keys(record, _REQUIRED, _OPTIONAL, where=where)
    task = _task(record["task"], where=where)
    paths, sizes = _images(record["images"], where=where)
    if folder is not None:
        paths = tuple(_below(folder, path, where=where) for path in paths)
    target_image = record.get("target_image", 0)
    if type(target_image) is not int or not 0 <= target_image < len(paths):
        raise DataError(f"{where}: target_image is {target_image!r}; expected an integer from 0 to {len(paths) - 1}")
    target = record["target"]
    size = sizes[target_image]
    # Fast path: most samples have no optional key, and scoring reads datasets of 400,000 samples.
    optional = _optional_fields(record, where=where) if len(record) > len(_REQUIRED) else {}
    return Sample(
        id=_text(record["id"], "id", where=where),
        task=task,
        images=paths,
        image_sizes=sizes,
        query=_text(record["query"], "query", where=where),
        target=_target(target, task, size, where=where),
        target_image=target_image,
        **optional,
        **(_optional_target_fields(target, size, where=where) if len(target) > 1 else {}),
    )


def _below(folder: str, path: str, *, where: str) -> str:
    """Return the path with the folder prepended; ``DataError`` if it leads out of the folder."""
    if path.startswith("/") or (".." in path and ".." in path.split("/")):
        raise DataError(
            f"{where}: image path {path!r:.200} leads out of the dataset; expected a path inside its folder "
            "(a file there may be a link: virft build --link)"
        )
    return f"{folder}/{path}"


def _optional_fields(record: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Parse the optional keys of a sample."""
    question, rationale = record.get("question"), record.get("rationale")
    return {
        "question": None if question is None else _text(question, "question", where=where),
        "rationale": None if rationale is None else _text(rationale, "rationale", where=where),
        "queried": _bool(record.get("queried", True), "queried", where=where),
    }


def _optional_target_fields(target: dict[str, Any], size: ImageSize, *, where: str) -> dict[str, Any]:
    """Parse the optional keys of a target."""
    return {
        "polygons": _polygons(target.get("polygons", []), size, where=where),
        "ignored": _polygons(target.get("ignored", []), size, where=where),
        "rle": None if (rle := target.get("rle")) is None else rle_of(rle, size, where=where),
        "areas": _areas(target, where=where),
        "exhaustive": _bool(target.get("exhaustive", True), "target.exhaustive", where=where),
        "crowd": tuple(_box(box, size, where=where) for box in _list(target.get("crowd", []), "crowd", where=where)),
    }


def task_of_target(target: Any, *, where: str) -> TaskName:
    """Return the task whose target has these keys. Raises ``DataError``, with ``where``, if they fit no task."""
    for task, (required, _) in _TARGET_KEYS.items():
        if isinstance(target, dict) and required <= target.keys():
            return task
    raise DataError(f"{where}: target is {target!r:.80}; expected an object with boxes, label or box")


def box_fault(xyxy: XYXY, size: ImageSize) -> str | None:
    """Return the reason why corners in pixels are not a valid box of an image of this size; None if they are.

    >>> box_fault((40, 10, 30, 50), ImageSize(64, 64))
    'box [40, 10, 30, 50] has x2 <= x1; expected x1 < x2 in pixels of the original image'
    """
    x1, y1, x2, y2 = xyxy
    shown = f"box [{', '.join(f'{v:g}' for v in xyxy)}]"
    if not all(map(math.isfinite, xyxy)):
        return f"{shown} has a number that is not finite; expected pixels of the original image"
    for low, high, axis in ((x1, x2, "x"), (y1, y2, "y")):
        if high <= low:
            return f"{shown} has {axis}2 <= {axis}1; expected {axis}1 < {axis}2 in pixels of the original image"
    if min(x1, y1) < -BORDER_PX or x2 > size.width + BORDER_PX or y2 > size.height + BORDER_PX:
        return f"{shown} reaches outside its image; expected it inside [0, 0, {size.width}, {size.height}]"
    if min(x2, y2) <= 0 or x1 >= size.width or y1 >= size.height:
        return f"{shown} lies outside its image of [0, 0, {size.width}, {size.height}]"
    return None


def polygons_fault(polygons: Sequence[Polygon], size: ImageSize) -> str | None:
    """Return the reason why corners in pixels are not valid outlines on an image of this size; None if they are.

    An outline may reach outside the image by the length of one side.

    >>> polygons_fault([(1, 2, 3)], ImageSize(64, 64))
    'polygon [1, 2, 3] is not [x1, y1, x2, y2, ..] of at least three points'
    """
    for points in polygons:
        shown = f"polygon [{', '.join(f'{value:g}' for value in points):.60}]"
        if len(points) < 6 or len(points) % 2:
            return f"{shown} is not [x1, y1, x2, y2, ..] of at least three points"
        if not all(map(math.isfinite, points)):
            return f"{shown} has a number that is not finite; expected pixels of the original image"
        for values, side in ((points[::2], size.width), (points[1::2], size.height)):
            # The time to rasterise an outline grows with its length.
            if min(values) < -side or max(values) > 2 * side:
                return f"{shown} reaches far outside its image of [0, 0, {size.width}, {size.height}]"
    return None


def polygons_of(value: Any, *, where: str) -> tuple[Polygon, ...]:
    """Convert lists of numbers to outlines. Raises ``DataError``, with ``where``, if ``value`` is anything else."""
    for polygon in _list(value, "polygons", where=where):
        if not isinstance(polygon, list) or not all(map(is_json_number, polygon)):
            raise DataError(f"{where}: polygon {polygon!r:.60} is not [x1, y1, x2, y2, ..] of at least three points")
    return tuple(tuple(map(float, polygon)) for polygon in value)


def rle_of(value: Any, size: ImageSize, *, where: str) -> str:
    """Return the compressed run lengths of a COCO RLE ``{"size": [height, width], "counts": text or list}``.

    Raises ``DataError``, with ``where``, unless they are a mask of an image of this size.
    """
    if not isinstance(value, Mapping) or value.keys() != {"size", "counts"}:
        raise DataError(f"{where}: rle {value!r:.60} is not an object of size and counts")
    if value["size"] != [size.height, size.width]:
        raise DataError(
            f"{where}: rle has the size {value['size']!r:.60}; expected [{size.height}, {size.width}], "
            "height and width of its image"
        )
    counts = value["counts"]
    if not isinstance(counts, str | list):
        raise DataError(f"{where}: rle has the counts {counts!r:.60}; expected a text or a list of numbers")
    try:
        mask = rle_to_mask(counts, size)
    except ValueError as error:
        raise DataError(f"{where}: rle: {error}") from error
    return counts if isinstance(counts, str) else mask_to_rle(mask)


def _target_to_record(target: Target) -> dict[str, Any]:
    match target:
        case Detections():
            return {"boxes": [list(item.box.xyxy) for item in target.items]}
        case Label(aliases=()):
            return {"label": target.text}
        case Label():
            return {"label": target.text, "aliases": list(target.aliases)}
        case Box():
            return {"box": list(target.xyxy)}


def _target(record: Any, task: TaskName, size: ImageSize, *, where: str) -> Target:
    required, optional = _TARGET_KEYS[task]
    _check_keys(record, required, optional, where=where, part="target")
    match task:
        case TaskName.DETECTION:
            boxes = _list(record["boxes"], "target.boxes", where=where)
            return Detections(items=tuple(Detection(box=_box(item, size, where=where)) for item in boxes))
        case TaskName.CLASSIFICATION:
            aliases = _list(record.get("aliases", []), "target.aliases", where=where)
            return Label(
                text=_text(record["label"], "target.label", where=where),
                aliases=tuple(_text(alias, "an alias", where=where) for alias in aliases),
            )
        case TaskName.GROUNDING:
            return _box(record["box"], size, where=where)


def _images(records: Any, *, where: str) -> tuple[tuple[str, ...], tuple[ImageSize, ...]]:
    if not _list(records, "images", where=where):
        raise DataError(f"{where}: images is empty; expected at least one")
    for record in records:
        _check_keys(record, _IMAGE_KEYS, set(), where=where, part="images")
        for side in ("width", "height"):
            if not is_image_side(record[side]):
                raise DataError(f"{where}: image {side} is {record[side]!r:.60}; expected a number of pixels")
    paths = tuple(_text(record["path"], "image path", where=where) for record in records)
    return paths, tuple(ImageSize(record["width"], record["height"]) for record in records)


def _box(value: Any, size: ImageSize, *, where: str) -> Box:
    if not isinstance(value, list) or len(value) != 4 or not all(map(is_json_number, value)):
        raise DataError(f"{where}: box {value!r} is not four numbers; expected [x1, y1, x2, y2]")
    x1, y1, x2, y2 = map(float, value)
    if fault := box_fault((x1, y1, x2, y2), size):
        raise DataError(f"{where}: {fault}")
    return box_of(clip_xyxy((x1, y1, x2, y2), size.width, size.height))


def _polygons(value: Any, size: ImageSize, *, where: str) -> tuple[Polygon, ...]:
    polygons = polygons_of(value, where=where)
    if fault := polygons_fault(polygons, size):
        raise DataError(f"{where}: {fault}")
    return polygons


def _areas(target: dict[str, Any], *, where: str) -> tuple[float, ...]:
    areas = _list(target.get("areas", []), "target.areas", where=where)
    if areas and len(areas) != len(target["boxes"]):
        raise DataError(f"{where}: {len(areas)} areas of {len(target['boxes'])} boxes; expected one for each, or none")
    for area in areas:
        if not is_json_number(area) or not 0 <= area < math.inf:
            raise DataError(f"{where}: area {area!r:.60} is not a number of pixels")
    return tuple(map(float, areas))


def is_image_side(value: Any) -> bool:
    """Return True for a valid width or height of an image: a positive integer in the range of image formats."""
    return type(value) is int and 0 < value < 2**31


def is_json_number(value: Any) -> bool:
    """Return True for a number that a float can hold: JSON integers have any number of digits. False for ``true``."""
    return type(value) is float or (type(value) is int and abs(value) < _HUGE)


def _task(value: Any, *, where: str) -> TaskName:
    try:
        return TaskName(value)
    except ValueError:
        raise DataError(f"{where}: task is {value!r}; expected one of {', '.join(TaskName)}") from None


def _text(value: Any, name: str, *, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name} is {value!r}; expected text that is not empty")
    return value


def _bool(value: Any, name: str, *, where: str) -> bool:
    if not isinstance(value, bool):
        raise DataError(f"{where}: {name} is {value!r}; expected true or false")
    return value


def _list(value: Any, name: str, *, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{where}: {name} is {value!r}; expected a list")
    return value


def _check_keys(record: Any, required: set[str], optional: set[str], *, where: str, part: str = "") -> None:
    if isinstance(record, dict) and record.keys() == required:
        return
    where = f"{where}: {part}" if part else where
    if not isinstance(record, dict):
        raise DataError(f"{where}: {record!r:.80} is not an object; expected the keys {', '.join(sorted(required))}")
    if missing := sorted(required - record.keys()):
        raise DataError(f"{where}: {missing[0]} is missing; expected the keys {', '.join(sorted(required))}")
    if unknown := sorted(record.keys() - required - optional):
        raise DataError(f"{where}: {unknown[0]} is not a known key; expected {', '.join(sorted(required | optional))}")
