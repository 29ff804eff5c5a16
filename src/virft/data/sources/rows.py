"""Rows of JSON: an image, a query or a question, and the target. The format for users' own datasets.

A row has ``query``, ``question``, or TRL's conversational ``prompt``; ``docs/data.md`` and ``row_schema`` describe it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from virft.data.annotations import Skipped
from virft.data.json_files import read_json
from virft.data.samples import sample_from_record, task_of_target
from virft.data.sampling import SplitPlan, split_fractions
from virft.data.store_writer import StoreWriter, check_parts_free
from virft.data.upright import ImageFolder
from virft.errors import DataError, describe_type
from virft.tasks import TASKS
from virft.types import ImageSize, Sample

_TEXT = {"type": "string", "pattern": r"\S"}

_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A row for `virft build rows`",
    "type": "object",
    "properties": {
        "id": {**_TEXT, "description": "unique in the file; default: image and line number"},
        "image": {**_TEXT, "description": "path inside the folder of the images"},
        "images": {"type": "array", "items": _TEXT, "minItems": 1},
        "target_image": {
            "type": "integer",
            "minimum": 0,
            "description": "index of the image that the target refers to",
        },
        "query": {**_TEXT, "description": "a class name, the domain of a classification, or an expression"},
        "question": {**_TEXT, "description": "the text that prompts the model unchanged, in place of a template"},
        "rationale": {**_TEXT, "description": "reasoning before the answer, for supervised fine-tuning"},
        "prompt": {
            "description": "TRL's conversational form: one user message, whose text is the question",
            "anyOf": [
                _TEXT,
                {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 1,
                    "items": {
                        "type": "object",
                        "properties": {
                            "role": {"const": "user"},
                            "content": {
                                "anyOf": [
                                    _TEXT,
                                    {
                                        "type": "array",
                                        "items": {
                                            "type": "object",
                                            "properties": {"type": {"enum": ["image", "text"]}, "text": _TEXT},
                                            "required": ["type"],
                                        },
                                    },
                                ]
                            },
                        },
                        "required": ["role", "content"],
                    },
                },
            ],
        },
        "target": {"description": "boxes are [x1, y1, x2, y2] in pixels of the upright image"},
    },
    "required": ["target"],
    "allOf": [
        {"oneOf": [{"required": ["image"]}, {"required": ["images"]}]},
        {"anyOf": [{"required": ["query"]}, {"required": ["question"]}, {"required": ["prompt"]}]},
        {"not": {"required": ["question", "prompt"]}},
    ],
    "additionalProperties": False,
}
"""JSON Schema of a row but for the targets of the tasks."""

_KEYS = frozenset(_SCHEMA["properties"])


def row_schema() -> dict[str, Any]:
    """Return the JSON Schema of a row; ``docs/rows.schema.json`` is a copy."""
    targets = [
        {
            "type": "object",
            "properties": dict(task.target_format.properties),
            "required": sorted(task.target_format.required),
            "additionalProperties": False,
        }
        for task in TASKS.values()
    ]
    properties = _SCHEMA["properties"]
    return _SCHEMA | {"properties": properties | {"target": properties["target"] | {"oneOf": targets}}}


def read_rows(path: Path, skipped: Skipped) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) of a ``.json`` file with a list, or of any other file with one JSON object per line.

    Lines are read lazily; those that are not a JSON object are added to ``skipped``. Raises ``DataError`` if the file
    cannot be read.
    """
    if path.suffix.lower() == ".json":
        tree = read_json(path, expected="a list of rows")
        if not isinstance(tree, list):
            raise DataError(f"{path}: holds {describe_type(tree)}; expected a list of rows")
        yield from _objects(((f"{path.name}: row {n}", row) for n, row in enumerate(tree)), skipped)
        return
    try:
        with path.open("rb") as file:
            yield from _objects(_lines(path.name, file, skipped), skipped)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected rows of JSON") from error


def _lines(name: str, file: Any, skipped: Skipped) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                yield f"{name}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                skipped.note(f"{name}:{number}", f"not valid JSON ({error})")


def _objects(rows: Iterator[tuple[str, Any]], skipped: Skipped) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, row in rows:
        if isinstance(row, dict):
            yield where, row
        else:
            skipped.note(where, f"{row!r:.60} is not an object")


def write_row_stores(
    path: Path,
    folder: Path,
    out: Path,
    *,
    split: SplitPlan,
    source: dict[str, Any],
    skipped: Skipped,
    overwrite: bool = False,
    link: bool = False,
) -> dict[str, dict[str, Any]]:
    """Write the dataset ``out``, or one in ``out/train`` and each other part; return the cards by folder.

    ``folder``: folder of the image files. ``split``: split of the images, by the first image of a row. ``source`` is
    recorded in the cards; ``link`` makes symbolic links to the image files. The file is read twice, so that only image
    names and ids are in memory. Invalid rows are added to ``skipped``. Raises ``DataError`` if the file cannot be read,
    a folder is occupied or no sample is left.
    """
    first_pass = Skipped(strict=skipped.strict)
    names = {images[0] for _, row in read_rows(path, first_pass) if (images := _images_of(row)) is not None}
    parts = split.parts(names)
    check_parts_free(out, parts, overwrite=overwrite)
    part_of = {name: part for part, inside in parts.items() for name in inside}
    ids: set[str] = set()
    used: dict[str, dict[str, None]] = {part: {} for part in parts}
    files = ImageFolder(folder)
    with ExitStack() as stack:
        writers = {part: stack.enter_context(StoreWriter(out / part, overwrite=overwrite, link=link)) for part in parts}
        for where, row in read_rows(path, skipped):
            try:
                images = _images_of(row)
                if images is None:
                    raise DataError("image is missing or not a path inside the folder of the images")
                sample = row_to_sample(row, images, [files.size(name) for name in images], where=where)
                if sample.id in ids:
                    raise DataError(f"id {sample.id!r} was used before; expected every id once")
            except DataError as error:
                skipped.note(where, str(error).removeprefix(f"{where}: "))
                continue
            ids.add(sample.id)
            writer = writers[part_of[images[0]]]
            used[part_of[images[0]]].update(dict.fromkeys(images))
            paths = tuple(writer.add_image_file(name, folder / name) for name in images)
            writer.add(replace(sample, images=paths))
        facts = source | split_fractions(split) | files.find_duplicates(used)
        return {
            str(out / part): writer.finish(
                source=facts | {"split": part or "all"}, seed=split.seed, skipped=skipped.records
            )
            for part, writer in writers.items()
        }


def row_to_sample(row: dict[str, Any], images: Sequence[str], sizes: Sequence[ImageSize], *, where: str) -> Sample:
    """Convert a row to a sample; ``sizes``: upright sizes of its images in pixels.

    Raises ``DataError`` if the row is invalid; only some messages begin with ``where``.
    """
    if unknown := sorted(row.keys() - _KEYS):
        raise DataError(f"{unknown[0]} is not a key of a row; expected {', '.join(sorted(_KEYS))}")
    if "question" in row and "prompt" in row:
        raise DataError("question and prompt are both given; expected one of them")
    question = row["question"] if "question" in row else _text_of_prompt(row["prompt"]) if "prompt" in row else None
    query = row.get("query", question)
    if query is None:
        raise DataError("query is missing; expected query, question or prompt")
    record = {
        "id": row.get("id", f"{images[0]}:{where.rpartition(':')[2].removeprefix(' row ')}"),
        "task": task_of_target(row.get("target"), where=where),
        "images": [
            {"path": name, "width": size.width, "height": size.height} for name, size in zip(images, sizes, strict=True)
        ],
        "query": query,
        "target": row["target"],
        "target_image": row.get("target_image", 0),
    }
    optional = {"question": question, "rationale": row.get("rationale")}
    return sample_from_record(record | {k: v for k, v in optional.items() if v is not None}, where=where)


def _text_of_prompt(prompt: Any) -> str:
    """Return the text of a TRL prompt: a string, or one user message of a string or of image and text parts."""
    if isinstance(prompt, str):
        return prompt
    message = prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else None
    if not isinstance(message, dict) or message.get("role") != "user":
        raise DataError(f"prompt is {prompt!r:.60}; expected a text or a list of one user message")
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise DataError(f"content of the prompt is {content!r:.60}; expected a text or a list of parts")
    texts = [part.get("text") for part in content if part.get("type") == "text"]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DataError("the prompt holds no text")
    return "\n".join(map(str, texts))


def _images_of(row: dict[str, Any]) -> tuple[str, ...] | None:
    """Return the image paths of a row; None if it has no image or a path leads out of the folder."""
    found = [row["image"]] if "image" in row and "images" not in row else row.get("images")
    if not isinstance(found, list) or not found or ("image" in row and "images" in row):
        return None
    names = []
    for name in found:
        if not isinstance(name, str) or not name.strip():
            return None
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            return None
        names.append(path.as_posix())
    return tuple(names)
