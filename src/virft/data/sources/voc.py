"""Pascal VOC: one XML file per image.

Format: http://host.robots.ox.ac.uk/pascal/VOC/ (VOC2012 development kit)
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple
from xml.etree import ElementTree

from virft.data.annotations import AnnotatedSet, Skipped
from virft.data.images import is_file
from virft.data.sources.detection_files import detection_set, folder_files
from virft.data.sources.image_boxes import ReadFiles
from virft.data.sources.image_index import ImageIndex
from virft.data.upright import ExifReading
from virft.errors import DataError
from virft.geometry.boxes import XYXY, rotated_bounds
from virft.types import ImageSize

_IMAGE_FOLDERS = ("JPEGImages", "images", "data")
"""Folders of images next to that of the XML files: Pascal VOC and CVAT; Label Studio; FiftyOne."""


class _Counting(NamedTuple):
    """Numbers that a writer adds to x1 and y1 (``low``), and to x2 and y2 (``high``), of a box in pixels from 0."""

    name: str
    low: int
    high: int


_FROM_ZERO = _Counting("from 0", 0, 0)  # labelImg, CVAT, Label Studio, FiftyOne
_PASCAL = _Counting("from 1, the last one included (Pascal VOC)", 1, 0)
_ROBOFLOW = _Counting("from 1 (Roboflow)", 1, 1)  # and the library supervision
_DATABASES = (
    (_PASCAL, re.compile(r"\bVOC[ _-]?20\d\d|Pascal VOC", re.IGNORECASE)),
    (_ROBOFLOW, re.compile(r"roboflow\.(ai|com)", re.IGNORECASE)),
)
"""Databases, as files name them in <source> or <folder>, with pixels counted from 1."""

FirstPixel = Literal[0, 1]
_FULL_TURN = 6.2832
"""Radians; a larger angle is in degrees."""


def read_voc(
    folder: Path,
    *,
    classes: Iterable[str] = (),
    first_pixel: FirstPixel | None = None,
    exif: ExifReading = "auto",
    skipped: Skipped,
) -> AnnotatedSet:
    """Read every ``*.xml`` of the folder, with the image that it names, or else the image of its own name.

    Images are in ``JPEGImages``, ``images`` or ``data`` next to the folder of the XML files, with the same subfolders,
    or anywhere in ``folder``. ``first_pixel``: number of the first pixel; 1: (xmin, ymin, xmax, ymax) covers xmin - 1
    to xmax, as in Pascal's files. None: by the database that each file names, 0 for unknown ones; files with a box at 0
    show that their database's name is only copied. ``exif``: the pixels that boxes of images with an EXIF orientation
    are in, see ``settle_exif``. A rotated box (roLabelImg's ``robndbox``, CVAT's attribute) is read as the box around
    it. Several files of one image are merged. Added to ``skipped``: files that cannot be read or have no image, objects
    without name or box. The class of an object marked ``difficult`` is doubtful on its image, since VOC's evaluation
    ignores such objects. Raises ``DataError`` if the folder has no XML file, ``ConfigError`` if one of ``classes`` is
    unknown.
    """
    files = list(_parsed(folder, folder_files(folder, ".xml", "Pascal VOC XML files"), skipped))
    given = (_FROM_ZERO, _PASCAL)[first_pixel] if first_pixel is not None else None
    countings = _countings(files) if given is None else [given] * len(files)
    read = ReadFiles(skipped, exif=exif)
    difficult: set[tuple[str, str]] = set()
    num_difficult = num_rotated = 0
    for (where, tree, image), counting in zip(files, countings, strict=True):
        name = _name_of(image, folder)
        boxes = read.open(name, image, _size_of(tree), where=where)
        for number, row in enumerate(tree.iter("object")):
            place = f"{where}: object {number}"
            label = (row.findtext("name") or "").strip()
            corners = _upright_corners(row)
            if not label:
                boxes.drop(place, "has no name")
            elif corners is None:
                boxes.drop(place, _box_reason(row), label=label)
            elif (row.findtext("difficult") or "0").strip().lower() in ("1", "true"):
                num_difficult += 1
                difficult.add((name, label))
                boxes.doubt(label)
            else:
                x1, y1, x2, y2 = corners
                low, high = counting.low, counting.high
                boxes.add(label, (x1 - low, y1 - low, x2 - high, y2 - high), where=place)
                num_rotated += corners != _corners_of(row)
    images, read_notes = read.settled()
    found = detection_set(images, classes, where=folder.name)
    notes = _notes(countings, len(difficult), num_rotated, is_given=given is not None)
    return replace(found, num_crowd=num_difficult, notes=notes + read_notes)


class _File(NamedTuple):
    where: str
    tree: ElementTree.Element
    image: Path


def _parsed(folder: Path, files: Iterable[Path], skipped: Skipped) -> Iterator[_File]:
    index = ImageIndex([folder, *(folder.parent / name for name in _IMAGE_FOLDERS)])
    for file in files:
        where = file.relative_to(folder).as_posix()
        try:
            tree = _read(file)
            yield _File(where, tree, _image_of(file, folder, tree, index))
        except DataError as error:
            skipped.note(where, str(error))


def _countings(files: list[_File]) -> list[_Counting]:
    """Return how the writer of each file counts pixels."""
    countings = []
    for file in files:
        texts = [file.tree.findtext(tag) or "" for tag in ("source/database", "folder")]
        found = (counting for counting, name in _DATABASES if any(map(name.search, texts)))
        countings.append(next(found, _FROM_ZERO))
    lowest: dict[_Counting, float] = {}
    for file, counting in zip(files, countings, strict=True):
        for row in file.tree.iter("object"):
            if (corners := _corners_of(row)) is not None:
                lowest[counting] = min(lowest.get(counting, 1.0), *corners[:2])
    return [counting if lowest.get(counting, 1.0) > 0.5 else _FROM_ZERO for counting in countings]


def _notes(countings: list[_Counting], num_pairs: int, num_rotated: int, *, is_given: bool) -> tuple[str, ...]:
    numbers = Counter(countings)
    ways = [f"{one.name} in {count} files" if len(numbers) > 1 else one.name for one, count in numbers.most_common()]
    notes = (
        [f"pixels are counted {', '.join(ways)}" + ("" if is_given else "; --first-pixel overrides")] if ways else []
    )
    if num_pairs:
        notes.append(f"{num_pairs} pairs of an image and a class are not queried: an object is marked difficult")
    if num_rotated:
        notes.append(f"rotated boxes read as the boxes around them, which are larger: {num_rotated}")
    return tuple(notes)


def _read(file: Path) -> ElementTree.Element:
    try:
        data = file.read_bytes()
        try:
            tree = ElementTree.fromstring(data)
        except (ValueError, LookupError):  # an encoding that the XML parser lacks, such as gb2312
            tree = ElementTree.fromstring(_decoded(data))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error
    except ElementTree.ParseError as error:
        raise DataError(f"not valid XML ({error})") from error
    if tree.tag != "annotation":
        raise DataError(f"holds <{tree.tag}>; expected <annotation>")
    return tree


def _decoded(data: bytes) -> str:
    """Return the text of an XML file without its declaration, decoded as that says."""
    declared = re.match(rb"\s*<\?xml[^>]*?encoding\s*=\s*[\"']([\w.-]+)[\"'][^>]*\?>", data)
    name = declared[1].decode("ascii") if declared else "none"
    try:
        return data[declared.end() if declared else 0 :].decode(name)
    except (LookupError, UnicodeDecodeError) as error:
        raise DataError(f"its encoding {name} cannot be read ({error}); save it as UTF-8") from error


def _image_of(file: Path, folder: Path, tree: ElementTree.Element, index: ImageIndex) -> Path:
    """Return the image that the file names, or the one of its own name with another ending."""
    named = PurePosixPath((tree.findtext("filename") or "").strip().replace("\\", "/"))
    last = named.name or file.with_suffix(".jpg").name
    inside = file.parent.relative_to(folder)
    for place in (*(file.parent.parent / name for name in _IMAGE_FOLDERS), file.parent):
        if is_file(image := place / last):
            return _absolute(image)
    for parent in (folder, folder.parent):
        below = inside.parts[1:] if parent == folder else inside.parts
        for name in _IMAGE_FOLDERS:
            if is_file(image := parent.joinpath(name, *below, last)):
                return _absolute(image)
    found = index.find(last, beside=inside) or index.find(file.with_suffix("").name, beside=inside)
    if found is None:
        raise DataError(
            f"no image {last}; expected it in ../JPEGImages, ../images or ../data, or in the folder of the XML files"
        )
    return _absolute(found)


def _absolute(path: Path) -> Path:
    """Return the path without "..". Links stay: an image is known by the name of its link."""
    return Path(os.path.normpath(path.absolute()))


def _name_of(image: Path, folder: Path) -> str:
    """Return the path of the image inside the folder or its parent."""
    for base in (_absolute(folder), _absolute(folder).parent):
        if image.is_relative_to(base):
            return image.relative_to(base).as_posix()
    return image.name


def _size_of(tree: ElementTree.Element) -> ImageSize | None:
    sides = []
    for side in ("width", "height"):
        text = (tree.findtext(f"size/{side}") or "").strip()
        if not re.fullmatch(r"0*[1-9]\d{0,8}(\.0*)?", text):
            return None
        sides.append(int(float(text)))
    return ImageSize(sides[0], sides[1])


def _upright_corners(row: ElementTree.Element) -> XYXY | None:
    """Return the corners of an object's box, or those of the smallest box around it if it is rotated."""
    if _has_robndbox(row):
        return _around(row)
    corners = _corners_of(row)
    for attribute in row.iter("attribute"):
        if corners is not None and (attribute.findtext("name") or "").strip() == "rotation":  # CVAT's, in degrees
            try:
                return rotated_bounds(corners, float(attribute.findtext("value") or "0"))
            except ValueError:
                return None
    return corners


def _corners_of(row: ElementTree.Element) -> XYXY | None:
    """Return xmin, ymin, xmax, ymax as they are written."""
    try:
        x1, y1, x2, y2 = (float(row.findtext(f"bndbox/{name}") or "") for name in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        return None
    return x1, y1, x2, y2


def _has_robndbox(row: ElementTree.Element) -> bool:
    """Return True if an object has a rotated box of roLabelImg, and no other."""
    return row.find("bndbox") is None and row.find("robndbox") is not None


def _around(row: ElementTree.Element) -> XYXY | None:
    """Return the smallest upright box around a rotated one: centre, sides and an angle in radians.

    Source: https://github.com/cgvict/roLabelImg
    """
    try:
        x, y, width, height, angle = (
            float(row.findtext(f"robndbox/{name}") or "") for name in ("cx", "cy", "w", "h", "angle")
        )
    except ValueError:
        return None
    if not all(map(math.isfinite, (x, y, width, height))) or min(width, height) < 0 or not abs(angle) <= _FULL_TURN:
        return None
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return rotated_bounds(box, math.degrees(angle))


def _box_reason(row: ElementTree.Element) -> str:
    """Return the reason why an object has no box."""
    if _has_robndbox(row):
        return "robndbox does not have cx, cy, w, h, and an angle in radians"
    return "bndbox does not have four numbers"
