"""Conversion of ``Sample`` to a line of ``samples.jsonl`` and back, strict in both directions."""

from __future__ import annotations

import json
import sys
from typing import Any

from virft.errors import DataError
from virft.tasks import TASKS, Task
from virft.text.records import bool_of, check_keys, is_image_side, list_of, parse_box, text_of
from virft.types import ClassNote, ImageSize, Sample

_REQUIRED = {"id", "task", "images", "query", "target"}
_OPTIONAL = {"target_image", "question", "notes", "rationale", "region", "queried"}
_IMAGE_KEYS = {"path", "width", "height"}


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
        "task": sample.task,
        "images": [
            {"path": path, "width": size.width, "height": size.height}
            for path, size in zip(sample.images, sample.image_sizes, strict=True)
        ],
        "query": sample.query,
        "target": TASKS[sample.task].target_format.to_record(sample),
    }
    if sample.target_image != 0:
        record["target_image"] = sample.target_image
    if sample.question is not None:
        record["question"] = sample.question
    if sample.notes:
        record["notes"] = dict(sample.notes)
    if sample.rationale is not None:
        record["rationale"] = sample.rationale
    if sample.region is not None:
        record["region"] = list(sample.region.xyxy)
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
    check_keys(record, _REQUIRED, _OPTIONAL, where=where)
    task = _task(record["task"], where=where)
    paths, sizes = _images(record["images"], where=where)
    if folder is not None:
        paths = tuple(_below(folder, path, where=where) for path in paths)
    target_image = record.get("target_image", 0)
    if type(target_image) is not int or not 0 <= target_image < len(paths):
        raise DataError(f"{where}: target_image is {target_image!r}; expected an integer from 0 to {len(paths) - 1}")
    # Fast path: most samples have no optional key, and scoring reads datasets of 400,000 samples.
    optional = _optional_fields(record, sizes[target_image], where=where) if len(record) > len(_REQUIRED) else {}
    name = text_of(record["id"], "id", where=where)
    query = text_of(record["query"], "query", where=where)
    parsed = task.parse_target(record["target"], sizes[target_image], where=where)
    return Sample(
        id=name,
        task=task.name,
        images=paths,
        image_sizes=sizes,
        query=query,
        target=parsed.target,
        target_image=target_image,
        **optional,
        **parsed.fields,
    )


def _below(folder: str, path: str, *, where: str) -> str:
    """Return the path with the folder prepended; ``DataError`` if it leads out of the folder."""
    if path.startswith("/") or (".." in path and ".." in path.split("/")):
        raise DataError(
            f"{where}: image path {path!r:.200} leads out of the dataset; expected a path inside its folder "
            "(a file there may be a link: virft build --link)"
        )
    return f"{folder}/{path}"


def _optional_fields(record: dict[str, Any], size: ImageSize, *, where: str) -> dict[str, Any]:
    """Parse the optional keys of a sample; ``size`` is that of the target image in pixels."""
    question, rationale = record.get("question"), record.get("rationale")
    return {
        "question": None if question is None else text_of(question, "question", where=where),
        "notes": parse_notes(record["notes"], where=where) if "notes" in record else (),
        "rationale": None if rationale is None else text_of(rationale, "rationale", where=where),
        "region": parse_box(record["region"], size, where=f"{where}: region") if "region" in record else None,
        "queried": bool_of(record.get("queried", True), "queried", where=where),
    }


def parse_notes(value: Any, *, where: str) -> tuple[ClassNote, ...]:
    """Return the class instructions of an object {class name: text}; ``DataError`` for any other value."""
    if not isinstance(value, dict) or not value:
        raise DataError(f'{where}: notes is {value!r:.60}; expected an object {{"class name": "text", ..}}')
    # All samples of a class have the same text: interned, it is in memory once.
    return tuple(
        ClassNote(
            text_of(name, "a class name in notes", where=where),
            sys.intern(text_of(text, f"the note of {name}", where=where)),
        )
        for name, text in value.items()
    )


def task_of_target(target: Any, *, where: str) -> str:
    """Return the task whose targets have the keys of this record; ``DataError`` if there is none."""
    for task in TASKS.values():
        if isinstance(target, dict) and task.target_format.required <= target.keys():
            return task.name
    raise DataError(f"{where}: target is {target!r:.80}; expected {expected_targets()}")


def expected_targets() -> str:
    """Return the end of a message about a record that is no target: an object with the keys of one of the tasks."""
    *most, last = (" and ".join(sorted(task.target_format.required)) for task in TASKS.values())
    return f"an object with {', '.join(most)} or {last}"


def _images(records: Any, *, where: str) -> tuple[tuple[str, ...], tuple[ImageSize, ...]]:
    if not list_of(records, "images", where=where):
        raise DataError(f"{where}: images is empty; expected at least one")
    for record in records:
        check_keys(record, _IMAGE_KEYS, set(), where=where, part="images")
        for side in ("width", "height"):
            if not is_image_side(record[side]):
                raise DataError(f"{where}: image {side} is {record[side]!r:.60}; expected a number of pixels")
    paths = tuple(text_of(record["path"], "image path", where=where) for record in records)
    return paths, tuple(ImageSize(record["width"], record["height"]) for record in records)


def _task(value: Any, *, where: str) -> Task:
    try:
        return TASKS[value]
    except (KeyError, TypeError):  # a list cannot be a key
        raise DataError(f"{where}: task is {value!r}; expected one of {', '.join(TASKS)}") from None
