"""Small builders of boxes, samples, images and files, with defaults for everything that a test does not state."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from virft.types import Box, Detection, Detections, ImageSize, LabelledDetections, Reading, Sample, Target


def box(x1: float, y1: float, x2: float, y2: float) -> Box:
    """The box with these corners."""
    return Box(x1=x1, y1=y1, x2=x2, y2=y2)


def detections(*corners: tuple[float, float, float, float], confidence: float = 1.0) -> Detections:
    """Boxes of equal confidence; none for "no objects"."""
    return Detections(items=tuple(Detection(box=box(*xyxy), confidence=confidence) for xyxy in corners))


def labelled(
    *boxes: tuple[str, tuple[float, float, float, float]], classes: Sequence[str] = (), confidence: float = 1.0
) -> LabelledDetections:
    """Boxes with labels; with ``classes`` a target of a question about these classes."""
    items = tuple(Detection(box=box(*xyxy), confidence=confidence, label=label) for label, xyxy in boxes)
    return LabelledDetections(items=items, classes=tuple(classes))


def reading(answer: Any, *, well_formed: bool = True) -> Reading:
    """A reading of no particular text."""
    return Reading(text="", well_formed=well_formed, answer=answer)


def sample(
    target: Target | None = None,
    *,
    id: str = "a.png:fox",
    task: str = "detection",
    image: str = "images/a.png",
    size: tuple[int, int] = (64, 48),
    query: str = "fox",
    **more: Any,
) -> Sample:
    """A question about a fox on one image of 64 x 48."""
    return Sample(
        id=id,
        task=task,
        images=(image,),
        image_sizes=(ImageSize(*size),),
        query=query,
        target=detections((10, 10, 30, 40)) if target is None else target,
        **more,
    )


def save_image(path: Path, size: tuple[int, int] = (64, 48), *, seed: int = 0, **options: Any) -> Path:
    """Save an image of random pixels, in the format of the name's suffix."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def save_coco(
    folder: Path,
    boxes: Mapping[str, Sequence[tuple[str, Sequence[float]]]],
    *,
    size: tuple[int, int] = (64, 48),
    categories: Sequence[str] = ("cat", "dog"),
) -> Path:
    """Save ``annotations.json`` and images: image name -> (category, [x, y, width, height]) of each box."""
    annotations = []
    images = []
    for number, (name, rows) in enumerate(boxes.items(), start=1):
        save_image(folder / "images" / name, size, seed=number)
        images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        for category, bbox in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": categories.index(category) + 1,
                    "bbox": list(bbox),
                    "iscrowd": 0,
                }
            )
    tree = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(categories, start=1)],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(tree))
    return path


def edit_json(path: Path, change: Any) -> None:
    """Read a JSON file, let ``change`` alter the tree in place, write it back."""
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))
