"""LabelMe: a JSON file next to each image, with labelled rectangles and polygons.

Format: https://github.com/wkentaro/labelme
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from virft.data.annotations import AnnotatedImage, AnnotatedSet, Skipped
from virft.data.sources.detection_files import detection_set, folder_files
from virft.errors import DataError
from virft.geometry.boxes import XYXY
from virft.text.records import box_fault, is_image_side, is_json_number
from virft.types import ImageSize, Polygon

_SHAPES = ("rectangle", "polygon")


def read_labelme(folder: Path, *, classes: Iterable[str] = (), skipped: Skipped) -> AnnotatedSet:
    """Read every ``*.json`` of the folder; a rectangle is a box, and of a polygon its bounding box is used.

    Added to ``skipped``: files that cannot be read or have no image; shapes of other types (points, lines, circles),
    without a label or with invalid points. The label of such a shape is doubtful on its image. Raises ``DataError`` if
    the folder has no JSON file, ``ConfigError`` if one of ``classes`` is unknown.
    """
    images: dict[str, AnnotatedImage] = {}
    for file in folder_files(folder, ".json", "LabelMe JSON files next to their images"):
        where = file.relative_to(folder).as_posix()
        try:
            tree = read_tree(file)
            image = find_image(file)
        except DataError as error:
            skipped.note(where, str(error))
            continue
        size = declared_size(tree)
        boxes: dict[str, list[XYXY]] = {}
        doubtful: set[str] = set()
        for number, shape in enumerate(tree["shapes"]):
            label = shape.get("label") if isinstance(shape, dict) else None
            if not isinstance(label, str) or not label.strip():
                skipped.note(f"{where}: shape {number}", f"label is {label!r}; expected a class name")
                continue
            box, fault = _box_of(shape)
            if box is not None and size is not None:
                fault = box_fault(box, size) or ""
            if box is None or fault:
                skipped.note(f"{where}: shape {number}", fault)
                doubtful.add(label.strip())
            else:
                boxes.setdefault(label.strip(), []).append(box)
        name = image.relative_to(folder).as_posix()
        images[name] = AnnotatedImage(
            name=name,
            file=image,
            declared=size,
            boxes={label: tuple(found) for label, found in boxes.items()},
            doubtful=frozenset(doubtful),
        )
    return detection_set(images, classes, where=folder.name)


def _box_of(shape: dict[str, Any]) -> tuple[XYXY | None, str]:
    """Return the box of a shape, or None and the reason. The two corners of a rectangle can be in any order."""
    kind = shape.get("shape_type", "polygon")
    if kind not in _SHAPES:
        return None, f"shape_type is {kind!r}; expected one of {', '.join(_SHAPES)}"
    points = points_of(shape)
    least = 2 if kind == "rectangle" else 3
    if points is None or len(points) < 2 * least:
        return None, f"points are {shape.get('points')!r:.60}; expected at least {least} of [x, y]"
    return bounding_box([points]), ""


def read_tree(file: Path) -> dict[str, Any]:
    """Parse a LabelMe file. Raises ``DataError`` if it is invalid; the message has no file name, the caller adds it."""
    try:
        tree = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON ({error})") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("shapes"), list):
        raise DataError("holds no list of shapes; expected a LabelMe file")
    return tree


def find_image(file: Path) -> Path:
    """Return the image file of the same name in the same folder. Raises ``DataError`` if there is none."""
    for ending in (".jpg", ".jpeg", ".png", *sorted(Image.registered_extensions())):
        for spelling in (ending, ending.upper()):
            if (image := file.with_suffix(spelling)).is_file():
                return image
    raise DataError(f"no image {file.stem}.jpg (or of another format) next to it")


def declared_size(tree: dict[str, Any]) -> ImageSize | None:
    """Return the image size in pixels that a LabelMe file declares; None if it declares none."""
    sides = (tree.get("imageWidth"), tree.get("imageHeight"))
    return ImageSize(*sides) if all(map(is_image_side, sides)) else None  # type: ignore[arg-type]


def points_of(shape: Any) -> Polygon | None:
    """Return the points of a shape as x1, y1, x2, y2, .. in pixels; None if they are not numbers."""
    points = shape.get("points") if isinstance(shape, dict) else None
    if not isinstance(points, list):
        return None
    flat: list[float] = []
    for point in points:
        if not isinstance(point, list) or len(point) != 2 or not all(map(is_json_number, point)):
            return None
        flat += map(float, point)
    return tuple(flat)


def bounding_box(polygons: Iterable[Polygon]) -> XYXY:
    """Return the smallest box around all polygons, in their unit.

    >>> bounding_box([(0, 0, 4, 0, 4, 3), (6, 6, 8, 6, 7, 9)])
    (0, 0, 8, 9)
    """
    outlines = list(polygons)
    xs = [x for outline in outlines for x in outline[::2]]
    ys = [y for outline in outlines for y in outline[1::2]]
    return min(xs), min(ys), max(xs), max(ys)
