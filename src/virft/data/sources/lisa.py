"""ReasonSeg, the set of LISA: a JSON file beside each image, with instructions and the polygons they mean.

The files are LabelMe's with a list ``text`` of instructions. All polygons labelled ``target`` together are one target;
those labelled ``ignore`` are neither in it nor around it. Source: LISA (arXiv 2308.00692).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from virft.data.annotations import AnnotatedImage, Expression, ReferringSet, Skipped
from virft.data.sources.detection_files import folder_files
from virft.data.sources.labelme import declared_size, hull, image_beside, points_of, read_tree
from virft.errors import DataError
from virft.types import Polygon

TARGET, IGNORE = "target", "ignore"


def read_lisa(folder: Path, *, skipped: Skipped) -> ReferringSet:
    """Every ``*.json`` of the folder with the image of the same name beside it.

    Left out and noted: files that cannot be read or have no image, no instruction or no target polygon; empty
    instructions; shapes that are no polygon of at least three points. Counted in ``num_ignored``: ignore-shapes.
    """
    images: dict[str, AnnotatedImage] = {}
    expressions: list[Expression] = []
    num_ignored = 0
    for file in folder_files(folder, ".json", "LabelMe JSON files beside their images"):
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
        num_ignored += len(ignored)
        name = image.relative_to(folder).as_posix()
        images[name] = AnnotatedImage(name=name, file=image, declared=declared_size(tree), boxes={})
        expressions += [
            Expression(
                name=f"{name}:{number}", image=name, text=text, box=hull(polygons), polygons=polygons, ignored=ignored
            )
            for number, text in enumerate(texts)
        ]
    return ReferringSet(images=images, expressions=tuple(expressions), num_ignored=num_ignored)


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


def _polygons(tree: dict[str, Any]) -> tuple[tuple[Polygon, ...], tuple[Polygon, ...], _Faults]:
    """The target's polygons, and those to be ignored."""
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
