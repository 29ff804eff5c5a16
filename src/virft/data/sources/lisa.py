"""ReasonSeg, the dataset of LISA: a JSON file next to each image, with instructions and the polygons they refer to.

The files are LabelMe files with an additional list ``text`` of instructions. All polygons labelled ``target`` are one
target; pixels of those labelled ``ignore`` belong neither to it nor to the background. Source: LISA (arXiv 2308.00692).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from virft.data.annotations import AnnotatedImage, Expression, ReferringSet, Skipped
from virft.data.sources.detection_files import folder_files
from virft.data.sources.labelme import bounding_box, declared_size, find_image, points_of, read_tree
from virft.errors import DataError
from virft.types import Polygon

TARGET, IGNORE = "target", "ignore"


def read_lisa(folder: Path, *, skipped: Skipped) -> ReferringSet:
    """Read every ``*.json`` of the folder with the image of the same name.

    Added to ``skipped``: files that cannot be read or have no image, no instruction or no target polygon; empty
    instructions; shapes that are not a polygon of at least three points. Raises ``DataError`` if the folder has no JSON
    file.
    """
    images: dict[str, AnnotatedImage] = {}
    expressions: list[Expression] = []
    num_ignored = 0
    for file in folder_files(folder, ".json", "LabelMe JSON files next to their images"):
        where = file.relative_to(folder).as_posix()
        try:
            tree = read_tree(file)
            image = find_image(file)
            texts, empty = _instructions(tree)
            polygons, ignored, invalid = _polygons(tree)
        except DataError as error:
            skipped.note(where, str(error))
            continue
        for inside, reason in (*empty, *invalid):
            skipped.note(f"{where}: {inside}", reason)
        num_ignored += len(ignored)
        name = image.relative_to(folder).as_posix()
        images[name] = AnnotatedImage(name=name, file=image, declared=declared_size(tree), boxes={})
        expressions += [
            Expression(
                name=f"{name}:{number}",
                image=name,
                text=text,
                box=bounding_box(polygons),
                polygons=polygons,
                ignored=ignored,
            )
            for number, text in enumerate(texts)
        ]
    return ReferringSet(images=images, expressions=tuple(expressions), num_ignored=num_ignored)


_Faults = list[tuple[str, str]]
"""(place in the file, reason) of each skipped part."""


def _instructions(tree: dict[str, Any]) -> tuple[list[str], _Faults]:
    texts = tree.get("text")
    if not isinstance(texts, list):
        raise DataError(f"text is {texts!r:.60}; expected a list of instructions")
    good = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
    if not good:
        raise DataError("has no instruction; expected at least one in text")
    faults = [
        (f"text {number}", f"{text!r:.60} is not an instruction")
        for number, text in enumerate(texts)
        if not isinstance(text, str) or not text.strip()
    ]
    return good, faults


def _polygons(tree: dict[str, Any]) -> tuple[tuple[Polygon, ...], tuple[Polygon, ...], _Faults]:
    """Return the polygons of the target, the ignored ones, and the faults of invalid shapes."""
    polygons: dict[str, list[Polygon]] = {TARGET: [], IGNORE: []}
    faults: _Faults = []
    for number, shape in enumerate(tree["shapes"]):
        label = shape.get("label") if isinstance(shape, dict) else None
        points = points_of(shape)
        if label not in (TARGET, IGNORE) or points is None or len(points) < 6:
            known = label in (TARGET, IGNORE)
            found = f"label {label!r}" if not known else "too few points" if points is not None else "no points"
            faults.append((f"shape {number}", f"{found}; expected a polygon labelled {TARGET} or {IGNORE}"))
            continue
        polygons[label].append(points)
    if not polygons[TARGET]:
        raise DataError("has no target polygon")
    return tuple(polygons[TARGET]), tuple(polygons[IGNORE]), faults
