"""ReasonSeg, the set of LISA: a JSON file beside each image, with instructions and the polygons they mean.

The files are LabelMe's with a list ``text`` of instructions. All polygons labelled ``target`` together are one target;
those labelled ``ignore`` are left out. Source: LISA (arXiv 2308.00692).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from virft.boxes import XYXY
from virft.data.annotations import AnnotatedImage, Expression, ReferringSet, Skipped
from virft.errors import DataError
from virft.types import ImageSize, Polygon

TARGET, IGNORE = "target", "ignore"


def read_lisa(folder: Path, *, skipped: Skipped) -> ReferringSet:
    """Every ``*.json`` of the folder with the image of the same name beside it.

    Left out and noted: files that cannot be read or have no image, no instruction or no target polygon; empty
    instructions; shapes that are no polygon of at least three points. Counted in ``num_ignored``: ignore-shapes.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a folder of LabelMe JSON files beside their images")
    files = sorted(path for path in folder.rglob("*.json") if not path.name.startswith("."))
    if not files:
        raise DataError(f"{folder}: holds no JSON file; expected one beside each image")
    images: dict[str, AnnotatedImage] = {}
    expressions: list[Expression] = []
    num_ignored = 0
    for file in files:
        where = file.relative_to(folder).as_posix()
        try:
            tree = read_tree(file)
            image = image_beside(file)
            texts, empty = _instructions(tree)
            polygons, ignored, broken = _polygons(tree)
        except DataError as error:
            skipped.note(where, str(error))
            continue
        for inside, reason in (*empty, *broken):
            skipped.note(f"{where}: {inside}", reason)
        num_ignored += ignored
        name = image.relative_to(folder).as_posix()
        images[name] = AnnotatedImage(name=name, file=image, declared=declared_size(tree), boxes={})
        expressions += [
            Expression(name=f"{name}:{number}", image=name, text=text, box=hull(polygons), polygons=polygons)
            for number, text in enumerate(texts)
        ]
    return ReferringSet(images=images, expressions=tuple(expressions), num_ignored=num_ignored)


def read_tree(file: Path) -> dict[str, Any]:
    """The object in a LabelMe file; ``DataError`` without the file's name, which the caller notes."""
    try:
        tree = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"not valid JSON ({error})") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("shapes"), list):
        raise DataError("holds no list of shapes; expected a LabelMe file")
    return tree


def image_beside(file: Path) -> Path:
    """The image of the same name in the same folder."""
    for ending in (".jpg", ".jpeg", ".png", *sorted(Image.registered_extensions())):
        for spelling in (ending, ending.upper()):
            if (image := file.with_suffix(spelling)).is_file():
                return image
    raise DataError(f"no image {file.stem}.jpg (or of another format) beside it")


def declared_size(tree: dict[str, Any]) -> ImageSize | None:
    """The size that the file declares, if it does."""
    sides = (tree.get("imageWidth"), tree.get("imageHeight"))
    return ImageSize(*sides) if all(type(side) is int and side > 0 for side in sides) else None  # type: ignore[arg-type]


def points_of(shape: Any) -> Polygon | None:
    """x1, y1, x2, y2 .. of a shape's points; None if they are not numbers."""
    points = shape.get("points") if isinstance(shape, dict) else None
    if not isinstance(points, list):
        return None
    flat: list[float] = []
    for point in points:
        if not isinstance(point, list) or len(point) != 2 or any(type(value) not in (int, float) for value in point):
            return None
        flat += map(float, point)
    return tuple(flat)


def hull(polygons: Iterable[Polygon]) -> XYXY:
    """The smallest box around all polygons.

    >>> hull([(0, 0, 4, 0, 4, 3), (6, 6, 8, 6, 7, 9)])
    (0, 0, 8, 9)
    """
    corners = [(xs, ys) for polygon in polygons for xs, ys in [(polygon[::2], polygon[1::2])]]
    return (
        min(min(xs) for xs, _ in corners),
        min(min(ys) for _, ys in corners),
        max(max(xs) for xs, _ in corners),
        max(max(ys) for _, ys in corners),
    )


_Faults = list[tuple[str, str]]
"""(where inside a file, why) of each part that is left out."""


def _instructions(tree: dict[str, Any]) -> tuple[list[str], _Faults]:
    texts = tree.get("text")
    if not isinstance(texts, list):
        raise DataError(f"text is {texts!r:.60}; expected a list of instructions")
    good = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
    if not good:
        raise DataError("has no instruction; expected at least one in text")
    faults = [
        (f"text {number}", f"{text!r:.60} is no instruction")
        for number, text in enumerate(texts)
        if not isinstance(text, str) or not text.strip()
    ]
    return good, faults


def _polygons(tree: dict[str, Any]) -> tuple[tuple[Polygon, ...], int, _Faults]:
    """The target's polygons, and how many ignore-shapes there are."""
    polygons: list[Polygon] = []
    faults: _Faults = []
    ignored = 0
    for number, shape in enumerate(tree["shapes"]):
        label = shape.get("label") if isinstance(shape, dict) else None
        if label == IGNORE:
            ignored += 1
            continue
        points = points_of(shape)
        if label != TARGET or points is None or len(points) < 6:
            found = f"label {label!r}" if label != TARGET else "too few points" if points is not None else "no points"
            faults.append((f"shape {number}", f"{found}; expected a polygon labelled {TARGET} or {IGNORE}"))
            continue
        polygons.append(points)
    if not polygons:
        raise DataError("has no target polygon")
    return tuple(polygons), ignored, faults
