"""ReasonSeg, the dataset of LISA: a JSON file next to each image, with instructions and the polygons they refer to.

The files are LabelMe files with an additional list ``text`` of instructions. All polygons are one target, but for those
with ``ignore`` in their label, whose pixels belong neither to it nor to the background, and those labelled ``flag``,
which mean nothing. Files are UTF-8, or else cp1252. Source: LISA (arXiv 2308.00692) and its
``utils/data_processing.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from virft.data.annotations import AnnotatedImage, Expression, ReferringSet, Skipped
from virft.data.sources.detection_files import folder_files
from virft.data.sources.labelme import bounding_box, declared_size, find_image, points_of, read_tree
from virft.errors import DataError
from virft.text.question_texts import without_placeholders
from virft.types import Polygon

IGNORE, FLAG = "ignore", "flag"


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
            tree = read_tree(file, fallback="cp1252")
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
    good = [without_placeholders(text).strip() for text in texts if isinstance(text, str) and text.strip()]
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
    targets: list[Polygon] = []
    ignored: list[Polygon] = []
    faults: _Faults = []
    for number, shape in enumerate(tree["shapes"]):
        label = shape.get("label") if isinstance(shape, dict) else None
        points = points_of(shape)
        if not isinstance(label, str):
            faults.append((f"shape {number}", f"label is {label!r:.60}; expected a text"))
        elif label.lower() == FLAG:
            continue
        elif points is None or len(points) < 6:
            found = "no points" if points is None else "too few points"
            faults.append((f"shape {number}", f"{found}; expected a polygon"))
        else:
            (ignored if IGNORE in label.lower() else targets).append(points)
    if not targets:
        raise DataError("has no target polygon")
    return tuple(targets), tuple(ignored), faults
