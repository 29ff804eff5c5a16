"""Export a dataset in other formats: COCO, TRL, LLaMA-Factory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from virft.data.samples import sample_to_record
from virft.data.store import Store
from virft.errors import ConfigError, DataError
from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.text.prompts import read_template
from virft.types import Detections, Sample

COCO_FILE, TRL_FILE, LLAMA_FACTORY_FILE = "annotations.json", "rows.jsonl", "virft.json"


def export_coco(store: Store, out: Path) -> Path:
    """Write ``annotations.json``: images by their path in the dataset, boxes [x, y, width, height] in pixels.

    COCO cannot represent samples that query an absent class. Raises ``ConfigError`` for a dataset with other tasks.
    """
    images: dict[str, dict[str, Any]] = {}
    categories: dict[str, int] = {}
    annotations: list[dict[str, Any]] = []
    for sample in store:
        if not isinstance(sample.target, Detections):
            raise ConfigError(f"{store.folder}: sample {sample.id} is of {sample.task}; COCO holds detection only")
        path, size = sample.images[sample.target_image], sample.target_size
        name = Path(path).relative_to(store.folder).as_posix()
        image = images.setdefault(
            name, {"id": len(images) + 1, "file_name": name, "width": size.width, "height": size.height}
        )
        category = categories.setdefault(sample.query, len(categories) + 1)
        for item in sample.target.items:
            box = item.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": [box.x1, box.y1, round(box.x2 - box.x1, 3), round(box.y2 - box.y1, 3)],
                    "area": round(box.area, 3),
                    "iscrowd": 0,
                }
            )
    tree = {
        "images": list(images.values()),
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
    }
    return _write(_new_folder(out) / COCO_FILE, [json.dumps(tree)])


def export_trl(store: Store, out: Path, *, template: str, thinking: bool, space: BoxSpace) -> Path:
    """Write ``rows.jsonl`` in TRL's conversational format: ``prompt``, ``images`` (absolute paths), and reward columns.

    Those are ``target`` with boxes in pixels of the original image, its ``image_size``, and how the prompt was made,
    ``box_space`` and ``thinking``.
    """
    rows = (json.dumps(row) + "\n" for row in _trl_rows(store, template=template, thinking=thinking, space=space))
    return _write(_new_folder(out) / TRL_FILE, rows)


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
    plain = [row | {"prompt": [{"role": "user", "content": row["prompt"][0]["content"][-1]["text"]}]} for row in rows]
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
            "target": record["target"],
            "target_image": sample.target_image,
            "image_size": list(sample.target_size),
            "box_space": str(space),
            "thinking": thinking,
        }


def export_llama_factory(store: Store, out: Path, *, template: str, space: BoxSpace) -> Path:
    """Write ``virft.json`` (prompt and target as a conversation, absolute image paths) and ``dataset_info.json``.

    Targets have no think block: a dataset holds no reasoning. Raises ``ConfigError`` for pixels of the resized image.
    """

    _require_known(space)

    def conversation(sample: Sample) -> dict[str, Any]:
        task = TASKS[sample.task]
        text = task.format_question(sample, template=template, thinking=False, space=space)
        answer = task.render_for(sample, space=space, resized=sample.target_size)
        return {
            "messages": [
                {"role": "user", "content": "<image>" * len(sample.images) + text},
                {"role": "assistant", "content": answer},
            ],
            "images": [str(Path(path).resolve()) for path in sample.images],
        }

    def pieces() -> Iterator[str]:
        for number, sample in enumerate(store):
            yield ("[\n" if number == 0 else ",\n") + json.dumps(conversation(sample))
        yield "\n]\n"

    folder = _new_folder(out)
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    info = {
        "virft": {
            "file_name": LLAMA_FACTORY_FILE,
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "images": "images"},
            "tags": tags,
        }
    }
    _write(folder / "dataset_info.json", [json.dumps(info, indent=2) + "\n"])
    return _write(folder / LLAMA_FACTORY_FILE, pieces())


def _require_known(space: BoxSpace) -> None:
    """Raise ``ConfigError`` for a box space that depends on a model's image processor."""
    if space is BoxSpace.RESIZED_PIXELS:
        raise ConfigError(
            f"--space {space}: pixels of the resized image depend on the model; "
            f"expected {BoxSpace.RELATIVE_1000} or {BoxSpace.ORIGINAL_PIXELS}"
        )


def _new_folder(out: Path) -> Path:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: exists and is not empty; expected a new or empty folder")
    out.mkdir(parents=True, exist_ok=True)
    return out


def _write(path: Path, pieces: Any) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(pieces)
    return path
