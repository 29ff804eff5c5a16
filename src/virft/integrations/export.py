"""Export a dataset in other formats: COCO, YOLO, TRL, ms-swift, EasyR1, LLaMA-Factory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from virft.data.samples import sample_to_record
from virft.data.store import Store
from virft.errors import ConfigError, DataError
from virft.geometry.boxes import BoxSpace
from virft.integrations.rows import ground_truth_of
from virft.tasks import TASKS
from virft.text.prompts import read_template
from virft.types import Box, Detection, Detections, ImageSize, LabelledDetections, Sample

COCO_FILE, YOLO_FILE, TRL_FILE, LLAMA_FACTORY_FILE = "annotations.json", "data.yaml", "rows.jsonl", "virft.json"

_IMAGE_TAG = "<image>"
"""Place of an image in a text, for LLaMA-Factory, ms-swift and EasyR1."""


def export_coco(store: Store, out: Path) -> Path:
    """Write ``annotations.json``: images by their path in the dataset, boxes [x, y, width, height] in pixels.

    Areas are those of the source (the area of its outline), of the box if it has none; crowd regions have ``iscrowd``
    1. COCO cannot represent samples that query an absent class. Raises ``ConfigError`` for a dataset with other tasks.
    """
    images: dict[str, dict[str, Any]] = {}
    categories: dict[str, int] = {}
    annotations: list[dict[str, Any]] = []
    for sample in store:
        boxes = _boxes_of(store, sample, "COCO")
        name, size = _image_name(store, sample), sample.target_size
        image = images.setdefault(
            name, {"id": len(images) + 1, "file_name": name, "width": size.width, "height": size.height}
        )
        for label in _classes_of(sample):
            categories.setdefault(label, len(categories) + 1)
        areas = sample.areas or [round(item.box.area, 3) for item in boxes]
        regions = [(item, area, 0) for item, area in zip(boxes, areas, strict=True)]
        regions += [(item, round(item.box.area, 3), 1) for item in _crowd_of(sample)]
        annotations += [
            {
                "id": number,
                "image_id": image["id"],
                "category_id": categories[item.label or sample.query],
                "bbox": _xywh(item.box),
                "area": area,
                "iscrowd": is_crowd,
            }
            for number, (item, area, is_crowd) in enumerate(regions, start=len(annotations) + 1)
        ]
    tree = {
        "images": list(images.values()),
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
    }
    return write_pieces(new_folder(out) / COCO_FILE, [json.dumps(tree)])


def export_yolo(store: Store, out: Path) -> Path:
    """Write ``data.yaml``, ``labels`` and copies of the images in ``images``: a folder that Ultralytics YOLO reads.

    An image without a box has an empty label file. YOLO cannot represent crowd regions, nor which absent classes are
    queried. Raises ``ConfigError`` for a dataset with other tasks, ``DataError`` for images whose label file is the
    same (``a.jpg`` and ``a.png``).
    """
    lines: dict[str, list[str]] = {}
    sources: dict[str, Path] = {}
    queried = {label for sample in store for label in _classes_of(sample)}
    classes = {label: number for number, label in enumerate(sorted(queried))}
    for sample in store:
        boxes = _boxes_of(store, sample, "YOLO")
        name, size = _image_name(store, sample), sample.target_size
        sources[name] = Path(sample.images[sample.target_image])
        lines.setdefault(name, []).extend(
            f"{classes[item.label or sample.query]} {_centre_and_size(item.box, size)}\n" for item in boxes
        )
    labels = {name: PurePosixPath("labels", *PurePosixPath(name).parts[1:]).with_suffix(".txt") for name in lines}
    used: dict[PurePosixPath, str] = {}
    for name, label in labels.items():
        if (other := used.setdefault(label, name)) != name:
            raise DataError(f"{store.folder}: {other} and {name} have the same label file {label}; rename one of them")
    folder = new_folder(out)
    for name, label in labels.items():
        for path in (folder / name, folder / label):
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sources[name], folder / name)
        write_pieces(folder / label, lines[name])
    # A JSON text is a valid YAML scalar, whatever the class name holds.
    names = [f"  {number}: {json.dumps(label, ensure_ascii=False)}\n" for label, number in classes.items()]
    return write_pieces(folder / YOLO_FILE, ["train: images\n", "val: images\n", "names:\n", *names])


def _xywh(box: Box) -> list[float]:
    return [box.x1, box.y1, round(box.x2 - box.x1, 3), round(box.y2 - box.y1, 3)]


def _centre_and_size(box: Box, size: ImageSize) -> str:
    """Return YOLO's four numbers of a box: its centre, width and height as fractions of the image."""
    width, height = size
    x, y = (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2
    return f"{x / width:.9f} {y / height:.9f} {(box.x2 - box.x1) / width:.9f} {(box.y2 - box.y1) / height:.9f}"


def _boxes_of(store: Store, sample: Sample, format: str) -> tuple[Detection, ...]:
    """Return the boxes of a detection sample; ``ConfigError`` for a sample of another task."""
    if not isinstance(sample.target, Detections | LabelledDetections):
        raise ConfigError(
            f"{store.folder}: sample {sample.id} is of {sample.task}; {format} holds detection and "
            "multiclass_detection only"
        )
    return sample.target.items


def _classes_of(sample: Sample) -> tuple[str, ...]:
    """Return the classes that a detection sample queries."""
    return sample.target.classes if isinstance(sample.target, LabelledDetections) else (sample.query,)


def _crowd_of(sample: Sample) -> tuple[Detection, ...]:
    """Return the crowd regions of a sample; those of several classes have labels."""
    if isinstance(sample.target, LabelledDetections):
        return sample.target.crowd
    return tuple(Detection(box=box) for box in sample.crowd)


def _image_name(store: Store, sample: Sample) -> str:
    """Return the path of a sample's image inside the dataset: ``images/a.jpg``."""
    return Path(sample.images[sample.target_image]).relative_to(store.folder).as_posix()


def export_trl(store: Store, out: Path, *, template: str, thinking: bool, space: BoxSpace) -> Path:
    """Write ``rows.jsonl`` in TRL's conversational format: ``prompt``, ``images`` (absolute paths), and reward columns.

    Those are ``target`` with boxes in pixels of the original image, its ``image_size``, and how the prompt was made,
    ``box_space`` and ``thinking``. ``notes`` are the class instructions that the prompt holds, if there are any.
    """
    rows = (json.dumps(row) + "\n" for row in _trl_rows(store, template=template, thinking=thinking, space=space))
    return write_pieces(new_folder(out) / TRL_FILE, rows)


def trl_dataset(data: Store | Path | str, *, template: str = "paper", thinking: bool, space: BoxSpace | str) -> Any:
    """Return a ``datasets.Dataset`` for TRL and ``virft.integrations.trl``; images are opened when they are read.

    The columns are those of ``export_trl``. A prompt's content is the text alone, and TRL puts the images before it: in
    a table all parts of a message would have the same keys, with None as values. Needs the package datasets (extra
    ``hf``).
    """
    from datasets import Dataset, Image, List

    store = data if isinstance(data, Store) else Store(data)
    store.check()
    rows = _trl_rows(store, template=read_template(template), thinking=thinking, space=BoxSpace(space))
    # The prompt holds the notes; as a column they would have every class of the dataset as a key.
    plain = [
        {key: value for key, value in row.items() if key != "notes"}
        | {"prompt": [{"role": "user", "content": row["prompt"][0]["content"][-1]["text"]}]}
        for row in rows
    ]
    return Dataset.from_list(plain).cast_column("images", List(Image()))


def _trl_rows(store: Store, *, template: str, thinking: bool, space: BoxSpace) -> Iterator[dict[str, Any]]:
    for sample in store:
        record = sample_to_record(sample)
        text = TASKS[sample.task].format_question(sample, template=template, thinking=thinking, space=space)
        images = [{"type": "image"} for _ in sample.images]
        yield {
            "id": sample.id,
            "task": record["task"],
            "images": [str(Path(path).resolve()) for path in sample.images],
            "prompt": [{"role": "user", "content": [*images, {"type": "text", "text": text}]}],
            "query": sample.query,
            **({"notes": record["notes"]} if sample.notes else {}),
            "target": record["target"],
            "target_image": sample.target_image,
            "image_size": list(sample.target_size),
            "box_space": str(space),
            "thinking": thinking,
        }


def export_ms_swift(store: Store, out: Path, *, template: str, thinking: bool, space: BoxSpace) -> Path:
    """Write ``rows.jsonl`` in the standard format of ms-swift: ``messages``, ``images`` and ``ground_truth``.

    ``ground_truth`` is the text that ``virft.integrations.ms_swift`` grades with.
    """
    rows = (
        {"messages": [{"role": "user", "content": text}], "images": images, "ground_truth": truth}
        for text, images, truth in _tagged_rows(store, template=template, thinking=thinking, space=space)
    )
    return write_pieces(new_folder(out) / TRL_FILE, (json.dumps(row) + "\n" for row in rows))


def export_easyr1(store: Store, out: Path, *, template: str, thinking: bool, space: BoxSpace) -> Path:
    """Write ``rows.jsonl`` with the keys that EasyR1 reads by default: ``prompt``, ``images`` and ``answer``.

    ``answer`` is the text that ``virft.integrations.easyr1`` grades with.
    """
    rows = (
        {"prompt": text, "images": images, "answer": truth}
        for text, images, truth in _tagged_rows(store, template=template, thinking=thinking, space=space)
    )
    return write_pieces(new_folder(out) / TRL_FILE, (json.dumps(row) + "\n" for row in rows))


def _tagged_rows(
    store: Store, *, template: str, thinking: bool, space: BoxSpace
) -> Iterator[tuple[str, list[str], str]]:
    """Yield question with one ``<image>`` for each image, absolute image paths, and ground-truth text."""
    for row in _trl_rows(store, template=template, thinking=thinking, space=space):
        yield (
            _IMAGE_TAG * len(row["images"]) + row["prompt"][0]["content"][-1]["text"],
            row["images"],
            ground_truth_of(row),
        )


def export_llama_factory(store: Store, out: Path, *, template: str, space: BoxSpace) -> Path:
    """Write ``virft.json`` (prompt and target as a conversation, absolute image paths) and ``dataset_info.json``.

    Targets have no think block: a dataset holds no reasoning. Raises ``ConfigError`` for pixels of the resized image.
    """

    require_known_space(space)

    def conversation(sample: Sample) -> dict[str, Any]:
        task = TASKS[sample.task]
        text = task.format_question(sample, template=template, thinking=False, space=space)
        answer = task.render_for(sample, space=space, resized=sample.target_size)
        return {
            "messages": [
                {"role": "user", "content": _IMAGE_TAG * len(sample.images) + text},
                {"role": "assistant", "content": answer},
            ],
            "images": [str(Path(path).resolve()) for path in sample.images],
        }

    def pieces() -> Iterator[str]:
        for number, sample in enumerate(store):
            yield ("[\n" if number == 0 else ",\n") + json.dumps(conversation(sample))
        yield "\n]\n"

    folder = new_folder(out)
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    info = {
        "virft": {
            "file_name": LLAMA_FACTORY_FILE,
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "images": "images"},
            "tags": tags,
        }
    }
    write_pieces(folder / "dataset_info.json", [json.dumps(info, indent=2) + "\n"])
    return write_pieces(folder / LLAMA_FACTORY_FILE, pieces())


def require_known_space(space: BoxSpace) -> None:
    """Raise ``ConfigError`` for a box space that depends on a model's image processor."""
    if space is BoxSpace.RESIZED_PIXELS:
        raise ConfigError(
            f"--space {space}: pixels of the resized image depend on the model; "
            f"expected {BoxSpace.RELATIVE_1000} or {BoxSpace.ORIGINAL_PIXELS}"
        )


def new_folder(out: Path) -> Path:
    """Make an output folder; ``DataError`` if it exists and is not empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: exists and is not empty; expected a new or empty folder")
    out.mkdir(parents=True, exist_ok=True)
    return out


def write_pieces(path: Path, pieces: Iterable[str]) -> Path:
    """Write texts one after the other into a file; return its path."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(pieces)
    return path
