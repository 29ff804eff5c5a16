"""LabelMe: a JSON file next to each image, with labelled rectangles and polygons.

Format: https://github.com/wkentaro/labelme
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image

from virft.data.annotations import AnnotatedSet, Skipped
from virft.data.images import is_file
from virft.data.sources.detection_files import detection_set, folder_files
from virft.data.sources.image_boxes import ImageBoxes, ReadFiles
from virft.data.sources.image_index import ImageIndex
from virft.data.upright import ExifReading
from virft.errors import DataError
from virft.geometry.boxes import XYXY
from virft.text.records import is_image_side, is_json_number
from virft.types import ImageSize, Polygon

_LEAST_POINTS = {"rectangle": 2, "polygon": 3, "mask": 2, "circle": 2, "oriented_rectangle": 4, "rotation": 4}
"""Number of points of each type of shape with a box; the last one is X-AnyLabeling's. A mask's are those of its box."""


def read_labelme(
    folder: Path, *, classes: Iterable[str] = (), exif: ExifReading = "auto", skipped: Skipped
) -> AnnotatedSet:
    """Read every ``*.json`` of the folder: the bounding box of each shape, of a group's shapes together, and outlines.

    The image is ``imagePath`` if that is inside the folder, or else the one of the same name next to the file. Shapes
    of one label and ``group_id`` are parts of one object. Several files of one image are merged.

    ``exif``: the pixels that boxes of images with an EXIF orientation are in, see ``settle_exif``. Added to
    ``skipped``: files that cannot be read or have no image; shapes without a box (points, lines), without a label or
    with invalid points. The label of such a shape is doubtful on its image. Raises ``DataError`` if the folder has no
    JSON file, ``ConfigError`` if one of ``classes`` is unknown.
    """
    read = ReadFiles(skipped, exif=exif)
    index = ImageIndex([folder])
    for file in folder_files(folder, ".json", "LabelMe JSON files next to their images"):
        where = file.relative_to(folder).as_posix()
        try:
            tree = read_tree(file)
            image = _image_of(file, tree, folder, index)
        except DataError as error:
            skipped.note(where, str(error))
            continue
        name = image.relative_to(folder).as_posix()
        boxes = read.open(name, image, declared_size(tree), where=where)
        for one in _objects(tree["shapes"], where, boxes):
            boxes.add(one.label, one.box, where=one.where, outlines=one.outlines or ())
    images, notes = read.settled()
    return replace(detection_set(images, classes, where=folder.name), notes=notes)


class _Object(NamedTuple):
    where: str
    label: str
    box: XYXY
    outlines: tuple[Polygon, ...] | None
    """Outlines of all shapes; None if one has none, such as a circle."""


def _objects(shapes: list[Any], where: str, boxes: ImageBoxes) -> list[_Object]:
    """Return the objects; shapes without a box are dropped from ``boxes``."""
    objects: dict[tuple[str, Any], _Object] = {}
    for number, shape in enumerate(shapes):
        place = f"{where}: shape {number}"
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not label.strip():
            boxes.drop(place, f"label is {label!r:.60}; expected a class name")
            continue
        box, fault = _box_of(shape)
        if box is None:
            boxes.drop(place, fault, label=label.strip())
            continue
        group = shape.get("group_id")
        key = (label.strip(), f"group {group}" if group is not None else number)
        outline = _outline_of(shape, box)
        if (first := objects.get(key)) is None:
            objects[key] = _Object(place, label.strip(), box, None if outline is None else (outline,))
            continue
        (x1, y1, x2, y2), (a, b, c, d) = box, first.box
        both = None if first.outlines is None or outline is None else (*first.outlines, outline)
        objects[key] = first._replace(box=(min(a, x1), min(b, y1), max(c, x2), max(d, y2)), outlines=both)
    return list(objects.values())


def _outline_of(shape: dict[str, Any], box: XYXY) -> Polygon | None:
    """Return the outline of a shape with a box; None if it is no polygon."""
    kind = shape.get("shape_type") or "polygon"
    if kind == "rectangle":
        x1, y1, x2, y2 = box
        return (x1, y1, x2, y1, x2, y2, x1, y2)
    return points_of(shape) if kind in ("polygon", "oriented_rectangle", "rotation") else None


def _box_of(shape: dict[str, Any]) -> tuple[XYXY | None, str]:
    """Return the box of a shape, or None and the reason. The two corners of a rectangle can be in any order."""
    kind = shape.get("shape_type") or "polygon"
    if kind not in _LEAST_POINTS:
        return None, f"shape_type is {kind!r:.60}; expected one of {', '.join(_LEAST_POINTS)}"
    points = points_of(shape)
    least = _LEAST_POINTS[kind]
    if points is None or len(points) < 2 * least:
        return None, f"points are {shape.get('points')!r:.60}; expected at least {least} of [x, y]"
    if kind == "circle":  # its centre and a point on it
        x, y = points[:2]
        radius = math.hypot(points[2] - x, points[3] - y)
        return (x - radius, y - radius, x + radius, y + radius), ""
    return bounding_box([points]), ""


def _image_of(file: Path, tree: dict[str, Any], folder: Path, index: ImageIndex) -> Path:
    """Return the file of ``imagePath`` inside ``folder``, or else the image of the same name next to the JSON file."""
    named = tree.get("imagePath")
    if not isinstance(named, str) or not named.strip():
        return find_image(file)
    path = PurePosixPath(named.strip().replace("\\", "/"))
    image = Path(os.path.normpath(file.parent / path))
    if is_file(image) and image.is_relative_to(os.path.normpath(folder)):
        return folder / image.relative_to(os.path.normpath(folder))
    try:
        return find_image(file)
    except DataError as error:
        if (found := index.find(path.name, beside=file.parent.relative_to(folder))) is not None:
            return folder / found.relative_to(os.path.normpath(folder.absolute()))
        if is_file(image):
            raise DataError(f"imagePath {named} leads out of the folder; expected a folder that holds both") from error
        raise DataError(f"{error}, and no image of the name {path.name} in the folder") from error


def read_tree(file: Path, *, fallback: str | None = None) -> dict[str, Any]:
    """Parse a LabelMe file; ``fallback``: encoding of files that are not UTF-8.

    Raises ``DataError`` if the file is invalid; the message has no file name, the caller adds it.
    """
    try:
        data = file.read_bytes()
        try:
            tree = json.loads(data)
        except UnicodeDecodeError:
            if fallback is None:
                raise
            tree = json.loads(data.decode(fallback))
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
