"""Rows of JSON: an image, a query or a question, and the target. The format for users' own datasets.

A row has ``query``, ``question``, or TRL's conversational ``prompt``; ``docs/data.md`` and ``row_schema`` describe it.
Rows of other training tools, with the answer as a text, are read too: see ``conversations``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from virft.data.annotations import Skipped
from virft.data.json_files import read_json
from virft.data.samples import parse_notes, sample_from_record, task_of_target
from virft.data.sampling import SplitPlan, split_fractions
from virft.data.sources.conversations import IMAGE_KEYS, row_images, turn_of
from virft.data.sources.image_paths import find_images
from virft.data.sources.text_answers import sample_of_texts
from virft.data.sources.text_files import marked_encoding
from virft.data.store_writer import StoreWriter, check_parts_free
from virft.data.upright import ImageFolder
from virft.errors import DataError, describe_type
from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.tasks.box_answers import BOX_SCHEMA
from virft.text.prompts import BUILT_IN, add_notes, fill_template
from virft.text.question_texts import without_placeholders
from virft.types import Detections, ImageSize, LabelledDetections, Points, Sample

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
        "notes": {
            "type": "object",
            "additionalProperties": _TEXT,
            "minProperties": 1,
            "description": "class instructions {class name: text}, which the prompt holds before the question",
        },
        "rationale": {**_TEXT, "description": "reasoning before the answer, for supervised fine-tuning"},
        "region": {
            **BOX_SCHEMA,
            "description": "box of what the answer depends on, in pixels: the region of a supervised zoom call",
        },
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
        encoding = marked_encoding(path)
        with path.open("rb") if encoding is None else path.open(encoding=encoding, errors="replace") as file:
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
    task: str | None = None,
    space: BoxSpace | None = None,
    source: dict[str, Any],
    skipped: Skipped,
    overwrite: bool = False,
    link: bool = False,
) -> dict[str, dict[str, Any]]:
    """Write the dataset ``out``, or one in ``out/train`` and each other part; return the cards by folder.

    ``folder``: folder of the image files. ``split``: split of the images, by the first image of a row. ``task`` and
    ``space``: of answers as texts, see ``sample_of_texts``. ``source`` is recorded in the cards; ``link`` links to the
    image files. The file is read twice, so that only image names, ids and digests are in memory. Added to ``skipped``:
    invalid rows, and rows with the same question about an image and different targets, unless these are one box. Raises
    ``DataError`` if the file cannot be read, a folder is occupied or no sample is left.
    """
    named: list[list[str]] = []
    targets: dict[str, set[str]] = {}
    for _, row in read_rows(path, Skipped(strict=skipped.strict)):
        if row_names := _named_images(row):
            named.append(row_names)
        # An expression may fit several objects, each the target of a row of its own, as in RefCOCO.
        if "target" in row and not (isinstance(row["target"], Mapping) and "box" in row["target"]):
            targets.setdefault(_question_digest(row), set()).add(_digest(row["target"]))
    unclear = {key for key, found in targets.items() if len(found) > 1}
    place = find_images(folder, (name for row_names in named for name in row_names))
    names = {place[row_names[0]] for row_names in named if row_names[0] in place}
    parts = split.parts(names)
    check_parts_free(out, parts, overwrite=overwrite)
    part_of = {name: part for part, inside in parts.items() for name in inside}
    ids: set[str] = set()
    num_repeated = 0
    used: dict[str, dict[str, None]] = {part: {} for part in parts}
    files = ImageFolder(folder)
    with ExitStack() as stack:
        writers = {part: stack.enter_context(StoreWriter(out / part, overwrite=overwrite, link=link)) for part in parts}
        for where, row in read_rows(path, skipped):
            try:
                images = _images_in(place, row)
                sizes = [files.size(name) for name in images]
                sample = row_to_sample(row, images, sizes, where=where, task=task, space=space)
                if sample.id in ids:
                    raise DataError(f"id {sample.id!r} was used before; expected every id once")
                if "target" in row and _question_digest(row) in unclear:
                    raise DataError(
                        "another row has the same question about the image and another target; expected one row"
                    )
            except DataError as error:
                skipped.note(where, str(error).removeprefix(f"{where}: "))
                continue
            ids.add(sample.id)
            writer = writers[part_of[images[0]]]
            used[part_of[images[0]]].update(dict.fromkeys(images))
            paths = tuple(writer.add_image_file(name, folder / name) for name in images)
            sample, repeated = _without_repeats(sample)
            num_repeated += repeated
            writer.add(replace(sample, images=paths))
        facts = source | split_fractions(split) | files.find_duplicates(used)
        facts |= {"num_repeated_boxes": num_repeated} if num_repeated else {}
        return {
            str(out / part): writer.finish(
                source=facts | {"split": part or "all"}, seed=split.seed, skipped=skipped.records
            )
            for part, writer in writers.items()
        }


def _question_digest(row: dict[str, Any]) -> str:
    """Return a digest of image, question and task of a row, equal for rows with the same question about an image."""
    keys = (*IMAGE_KEYS, "target_image", "query", "question", "prompt", "notes")
    target = row["target"] if isinstance(row["target"], dict) else {}
    kind = [task.name for task in TASKS.values() if task.target_format.required <= target.keys()]
    return _digest([kind, {key: row[key] for key in keys if key in row}])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _without_repeats(sample: Sample) -> tuple[Sample, int]:
    """Return the sample with each box of a class of its target once, and the number of removed boxes."""
    if isinstance(sample.target, Points):
        return _without_repeated_objects(sample, sample.target)
    if not isinstance(sample.target, Detections | LabelledDetections):
        return sample, 0
    items = sample.target.items
    first = {(item.box, item.label): place for place, item in reversed(list(enumerate(items)))}
    places = sorted(first.values())
    areas = tuple(sample.areas[place] for place in places) if sample.areas else sample.areas
    outlines = tuple(sample.outlines[place] for place in places if sample.outlines)
    target = replace(sample.target, items=tuple(items[place] for place in places))
    return replace(sample, target=target, areas=areas, outlines=outlines), len(items) - len(places)


def _without_repeated_objects(sample: Sample, target: Points) -> tuple[Sample, int]:
    """Return a sample of pointing with each box once: two equal ones would need two points on the same place."""
    first = {box: place for place, box in reversed(list(enumerate(target.objects)))}
    places = sorted(first.values())
    kept = replace(
        target,
        items=tuple(target.items[place] for place in places),
        objects=tuple(target.objects[place] for place in places),
        outlines=tuple(target.outlines[place] for place in places if target.outlines),
    )
    return replace(sample, target=kept), len(target.objects) - len(places)


def row_to_sample(
    row: dict[str, Any],
    images: Sequence[str],
    sizes: Sequence[ImageSize],
    *,
    where: str,
    task: str | None = None,
    space: BoxSpace | None = None,
) -> Sample:
    """Convert a row to a sample; ``sizes``: upright sizes of its images in pixels.

    ``task`` and ``space``: of answers as texts, see ``sample_of_texts``. Raises ``DataError`` if the row is invalid;
    only some messages begin with ``where``.
    """
    name = row.get("id", f"{images[0]}:{where.rpartition(':')[2].removeprefix(' row ')}")
    if (turn := turn_of(row)) is not None:
        return sample_of_texts(
            turn.question,
            turn.answer,
            name=str(name),
            images=images,
            sizes=sizes,
            task=task,
            space=space,
            column=turn.column,
        )
    row = _without_trl(row)
    if unknown := sorted(row.keys() - _KEYS):
        raise DataError(f"{unknown[0]} is not a key of a row; expected {', '.join(sorted(_KEYS))}")
    if "question" in row and "prompt" in row:
        raise DataError("question and prompt are both given; expected one of them")
    question = row["question"] if "question" in row else _text_of_prompt(row["prompt"]) if "prompt" in row else None
    question = without_placeholders(question) if isinstance(question, str) else question
    query = row.get("query", question)
    query = without_placeholders(query) if isinstance(query, str) else query
    if query is None:
        raise DataError("query is missing; expected query, question or prompt")
    record = {
        "id": name,
        "task": task_of_target(row.get("target"), where=where),
        "images": [
            {"path": name, "width": size.width, "height": size.height} for name, size in zip(images, sizes, strict=True)
        ],
        "query": query,
        "target": row["target"],
        "target_image": row.get("target_image", 0),
    }
    optional = {"question": question, **{key: row.get(key) for key in ("notes", "rationale", "region")}}
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


def _without_trl(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row of ``virft export --format trl`` without the keys that describe its prompt; others unchanged.

    A prompt that a built-in template makes from the query is no question of its own.
    """
    if not {"task", "image_size", "box_space", "thinking"} <= row.keys():
        return row
    kept = {key: value for key, value in row.items() if key in _KEYS}
    texts = TASKS[row["task"]].prompts if row["task"] in TASKS else None
    if texts is None or "prompt" not in row or row["box_space"] not in tuple(BoxSpace):
        return kept
    notes = parse_notes(row["notes"], where="row") if row.get("notes") else ()
    text = _text_of_prompt(row["prompt"]).removeprefix(add_notes("", notes))
    space, thinking = BoxSpace(row["box_space"]), bool(row["thinking"])
    made = (
        fill_template(texts, str(row.get("query")), template=template, thinking=thinking, space=space)
        for template in BUILT_IN
    )
    # A prompt that is the query itself has no format of its own, so it may be a question of the dataset.
    is_made = text != row.get("query") and text in made
    return {key: value for key, value in kept.items() if key != "prompt"} if is_made else kept | {"prompt": text}


def _named_images(row: dict[str, Any]) -> list[str]:
    """Return the images that a row names; none if it is invalid, which the second pass reports."""
    try:
        return row_images(row)
    except DataError:
        return []


def _images_in(place: dict[str, str], row: dict[str, Any]) -> tuple[str, ...]:
    """Return the paths of the images of a row inside the folder."""
    names = row_images(row)
    for name in names:
        if name not in place:
            raise DataError(f"image {name:.200} is not in the folder of the images; expected a path inside it")
    return tuple(place[name] for name in names)
