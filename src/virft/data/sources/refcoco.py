"""Referring expressions as JSON: an image, an expression, and the box that it refers to.

Three formats: a list of records with ``image`` (or ``file_name``), ``expression`` (or a list ``sentences``) and
``bbox``; a list of records with ``sentences`` and the ``ann_id`` of a box in a COCO file, ``instances.json``, as
RefCOCO itself is published; or a COCO file whose images have a ``caption``, the expression of their one annotation, as
MDETR publishes RefCOCO. All can have COCO's ``segmentation`` as the mask. Sources: RefCOCO (arXiv 1608.00272), MDETR
(arXiv 2104.12763).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from virft.data.annotations import AnnotatedImage, Expression, ReferringSet, Skipped
from virft.data.json_files import read_json
from virft.data.sources.image_paths import as_on_disk
from virft.errors import ConfigError, DataError
from virft.geometry.boxes import XYXY, xywh_to_xyxy
from virft.text.question_texts import without_placeholders
from virft.text.records import is_image_side, is_json_number, polygons_of
from virft.types import ImageSize, Polygon

BoxFormat = Literal["xywh", "xyxy"]


def read_refcoco(
    path: Path,
    folder: Path,
    *,
    box_format: BoxFormat = "xywh",
    instances: Path | None = None,
    split: str | None = None,
    skipped: Skipped,
) -> ReferringSet:
    """Read expressions with their boxes in pixels; ``bbox`` is [x, y, width, height], or corners with "xyxy".

    ``folder``: folder of the image files. ``instances``: COCO file with the boxes of records that have an ``ann_id``
    only. ``split``: use only the records with this ``split``, such as val; None: all. Added to ``skipped``: records
    without an image, an expression or four numbers; and, though they are used without it, records with an invalid
    ``segmentation``. Raises ``DataError`` if the file is invalid or has no expression, ``ConfigError`` if no record is
    of the split.
    """
    _refuse_pickle(path)
    tree = read_json(path, expected="a JSON file of referring expressions")
    annotations = {} if instances is None else _instances(instances, box_format)
    images: dict[str, AnnotatedImage] = {}
    expressions: list[Expression] = []
    splits: set[str] = set()
    for number, plain in enumerate(_records(tree, path)):
        where = f"{path.name}: record {number}"
        if split is not None and isinstance(plain, dict):
            splits.add(str(plain.get("split")))
            if plain.get("split") != split:
                continue
        try:
            record = _with_instance(plain, annotations, instances)
            name, texts, box, size = _parsed(record, box_format)
        except DataError as error:
            skipped.note(where, str(error))
            continue
        name = as_on_disk(folder, name)
        images.setdefault(name, AnnotatedImage(name=name, file=folder / name, declared=size, boxes={}))
        segmentation = record.get("segmentation")
        rle = segmentation if isinstance(segmentation, dict) else None
        polygons = () if rle else _polygons(segmentation or [], where, skipped)
        expressions += [
            Expression(name=f"{name}:{number}.{place}", image=name, text=text, box=box, polygons=polygons, rle=rle)
            for place, text in enumerate(texts)
        ]
    if split is not None and split not in splits:
        raise ConfigError(f"{path}: no record is of split {split}; it has {', '.join(sorted(splits))}")
    if not expressions:
        raise DataError(f"{path}: no expression came out of it{skipped.format_first()}")
    return ReferringSet(images=images, expressions=tuple(expressions))


def _refuse_pickle(path: Path) -> None:
    """Raise ``DataError`` for a pickle, as RefCOCO's ``refs(unc).p``: reading one can run any code."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:
        return  # reported by the reader
    if start[:1] == b"\x80" or start[:3] in (b"(lp", b"(dp"):
        convert = (
            f"import json, pickle; json.dump(pickle.load(open('{path.name}', 'rb'), encoding='latin1'), "
            "open('refs.json', 'w'))"
        )
        raise DataError(
            f"{path}: a pickle, which can run code when it is read. If you trust it, convert it once: python -c "
            f'"{convert}"; then: virft build refcoco refs.json IMAGES OUT --instances instances.json'
        )


def _instances(path: Path, box_format: BoxFormat) -> dict[Any, dict[str, Any]]:
    """Return, by the id of the annotation, its box in ``box_format``, mask, and the name and size of its image."""
    tree = read_json(path, expected="COCO's instances.json")
    images, annotations = (tree.get(key) if isinstance(tree, dict) else None for key in ("images", "annotations"))
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise DataError(f"{path}: has no images and annotations; expected COCO's instances.json")
    by_id = {image.get("id"): image for image in images if isinstance(image, dict)}
    found = {}
    for annotation in annotations:
        image = by_id.get(annotation.get("image_id")) if isinstance(annotation, dict) else None
        if image is None:
            continue
        box = annotation.get("bbox")
        if box_format == "xyxy" and isinstance(box, list) and len(box) == 4 and all(map(is_json_number, box)):
            box = list(xywh_to_xyxy((box[0], box[1], box[2], box[3])))
        of_image = {key: image[key] for key in ("file_name", "width", "height") if key in image}
        found[annotation.get("id")] = of_image | {"bbox": box, "segmentation": annotation.get("segmentation")}
    return found


def _with_instance(record: Any, annotations: dict[Any, dict[str, Any]], instances: Path | None) -> Any:
    """Return a record with the box and image of its ``ann_id``; others unchanged."""
    if not isinstance(record, dict) or "ann_id" not in record or "bbox" in record:
        return record
    if instances is None:
        raise DataError("has an ann_id and no bbox; expected --instances instances.json, COCO's file with its box")
    found = annotations.get(record["ann_id"])
    if found is None:
        raise DataError(f"ann_id {record['ann_id']!r:.60} is not in {instances.name}")
    return {"sentences": record.get("sentences"), **found}


def _records(tree: Any, path: Path) -> Iterator[Any]:
    """Yield the records of a list; of a COCO file, one per annotation, with its image's name, size and caption."""
    if isinstance(tree, list):
        yield from tree
        return
    images, annotations = (tree.get(key) if isinstance(tree, dict) else None for key in ("images", "annotations"))
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise DataError(f"{path}: holds neither a list of records nor images and annotations")
    by_id = {image.get("id"): image for image in images if isinstance(image, dict)}
    for annotation in annotations:
        image = by_id.get(annotation.get("image_id"), {}) if isinstance(annotation, dict) else {}
        of_image = {key: image[key] for key in ("file_name", "width", "height") if key in image}
        of_annotation = {key: annotation.get(key) for key in ("bbox", "segmentation")} if image else {}
        yield {**of_image, "expression": image.get("caption"), **of_annotation} if image else annotation


def _parsed(record: Any, box_format: BoxFormat) -> tuple[str, list[str], XYXY, ImageSize | None]:
    """Return image name, expressions, corners in pixels, and the declared size, None without one."""
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
    texts = [without_placeholders(text).strip() for text in parts if isinstance(text, str) and text.strip()]
    if not texts or len(texts) < len(parts):
        raise DataError(f"expression is {found!r:.60}; expected a text, or a list of them")
    box = record.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_json_number, box)):
        raise DataError(f"bbox is {box!r:.60}; expected four numbers")
    corners: XYXY = tuple(map(float, box))  # type: ignore[assignment]
    sides = (record.get("width"), record.get("height"))
    size = ImageSize(*sides) if all(map(is_image_side, sides)) else None  # type: ignore[arg-type]
    xyxy = xywh_to_xyxy(corners) if box_format == "xywh" else corners
    return path.as_posix(), texts, xyxy, size


def _polygons(value: Any, where: str, skipped: Skipped) -> tuple[Polygon, ...]:
    try:
        return polygons_of(value, where=where)
    except DataError as error:
        skipped.note(where, f"{str(error).removeprefix(f'{where}: ')}; used without its mask")
        return ()


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
