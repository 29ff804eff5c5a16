"""Referring expressions as JSON: an image, an expression, the box it means.

Two spellings: a list of records with ``image`` (or ``file_name``), ``expression`` (or ``sentences``, several) and
``bbox``; or a COCO file whose images have a ``caption``, the expression of their one annotation, as MDETR publishes
RefCOCO. Both may have COCO's ``segmentation``, which is the mask. Sources: RefCOCO (arXiv 1608.00272), MDETR
(arXiv 2104.12763).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from virft.data.annotations import AnnotatedImage, Expression, ReferringSet, Skipped
from virft.errors import DataError
from virft.geometry.boxes import XYXY, xywh_to_xyxy
from virft.text.records import is_number, is_side, polygons_of
from virft.types import ImageSize, Polygon

BoxFormat = Literal["xywh", "xyxy"]


def read_refcoco(path: Path, folder: Path, *, box_format: BoxFormat = "xywh", skipped: Skipped) -> ReferringSet:
    """Every expression with its box, in pixels; ``bbox`` is [x, y, width, height], or corners with "xyxy".

    Left out and noted: records without an image, an expression or four numbers. A record whose ``segmentation`` is
    none stays, without it, and is noted too.
    """
    try:
        tree = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error
    images: dict[str, AnnotatedImage] = {}
    expressions: list[Expression] = []
    for number, record in enumerate(_records(tree, path)):
        where = f"{path.name}: record {number}"
        try:
            name, texts, box, size = _parsed(record, box_format)
        except DataError as error:
            skipped.note(where, str(error))
            continue
        images.setdefault(name, AnnotatedImage(name=name, file=folder / name, declared=size, boxes={}))
        marked = record.get("segmentation")
        rle = marked if isinstance(marked, dict) else None
        polygons = () if rle else _polygons(marked or [], where, skipped)
        expressions += [
            Expression(name=f"{name}:{number}.{place}", image=name, text=text, box=box, polygons=polygons, rle=rle)
            for place, text in enumerate(texts)
        ]
    if not expressions:
        raise DataError(f"{path}: no expression came out of it{skipped.first()}")
    return ReferringSet(images=images, expressions=tuple(expressions))


def _records(tree: Any, path: Path) -> Iterator[Any]:
    """Records of a list; of a COCO file one per annotation, with its image's name, size and caption."""
    if isinstance(tree, list):
        yield from tree
        return
    images, annotations = (tree.get(key) if isinstance(tree, dict) else None for key in ("images", "annotations"))
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise DataError(f"{path}: holds neither a list of records nor images and annotations")
    by_id = {image.get("id"): image for image in images if isinstance(image, dict)}
    for annotation in annotations:
        image = by_id.get(annotation.get("image_id"), {}) if isinstance(annotation, dict) else {}
        kept = {key: image[key] for key in ("file_name", "width", "height") if key in image}
        told = {key: annotation.get(key) for key in ("bbox", "segmentation")} if image else {}
        yield {**kept, "expression": image.get("caption"), **told} if image else annotation


def _parsed(record: Any, box_format: BoxFormat) -> tuple[str, list[str], XYXY, ImageSize | None]:
    """Image name, expressions, corners, and the declared size if there is one."""
    if not isinstance(record, dict):
        raise DataError(f"{record!r:.60} is not an object")
    name = record.get("image", record.get("file_name"))
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"image is {name!r}; expected a path inside the folder of the images")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"image {name} leads out of the folder of the images")
    found = record.get("sentences", record.get("expression"))
    parts = [text.get("sent") if isinstance(text, dict) else text for text in _as_list(found)]
    texts = [text.strip() for text in parts if isinstance(text, str) and text.strip()]
    if not texts or len(texts) < len(parts):
        raise DataError(f"expression is {found!r:.60}; expected a text, or a list of them")
    box = record.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise DataError(f"bbox is {box!r:.60}; expected four numbers")
    corners: XYXY = tuple(map(float, box))  # type: ignore[assignment]
    sides = (record.get("width"), record.get("height"))
    size = ImageSize(*sides) if all(map(is_side, sides)) else None  # type: ignore[arg-type]
    xyxy = xywh_to_xyxy(corners) if box_format == "xywh" else corners
    return path.as_posix(), texts, xyxy, size


def _polygons(value: Any, where: str, skipped: Skipped) -> tuple[Polygon, ...]:
    try:
        return polygons_of(value, where=where)
    except DataError as error:
        skipped.note(where, f"{str(error).removeprefix(f'{where}: ')}; kept without its mask")
        return ()


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
