"""Pascal VOC: one XML file per image.

Format: http://host.robots.ox.ac.uk/pascal/VOC/ (VOC2012 development kit)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from virft.data.annotations import AnnotatedImage, AnnotatedSet, Skipped
from virft.data.images import is_file
from virft.data.sources.detection_files import detection_set, folder_files
from virft.errors import DataError
from virft.geometry.boxes import XYXY
from virft.text.records import box_fault
from virft.types import ImageSize

_IMAGE_FOLDERS = ("../JPEGImages", "../images", ".")


def read_voc(folder: Path, *, classes: Iterable[str] = (), skipped: Skipped) -> AnnotatedSet:
    """Read every ``*.xml`` of the folder. Images are in ../JPEGImages or ../images, or next to their XML file.

    VOC counts pixels from 1 and includes the last: (xmin, ymin, xmax, ymax) covers xmin - 1 to xmax. Added to
    ``skipped``: files that cannot be read or have no image, objects without name or box. The class of an object marked
    ``difficult`` is doubtful on its image, since VOC's evaluation ignores such objects. Raises ``DataError`` if the
    folder has no XML file, ``ConfigError`` if one of ``classes`` is unknown.
    """
    images: dict[str, AnnotatedImage] = {}
    num_difficult = 0
    for file in folder_files(folder, ".xml", "Pascal VOC XML files"):
        where = file.relative_to(folder).as_posix()
        try:
            tree = _read(file)
            image = _image_of(file, tree)
            size = _size_of(tree)
        except DataError as error:
            skipped.note(where, str(error))
            continue
        boxes: dict[str, list[XYXY]] = {}
        doubtful: set[str] = set()
        for number, row in enumerate(tree.iter("object")):
            label = (row.findtext("name") or "").strip()
            if not label:
                skipped.note(f"{where}: object {number}", "has no name")
                continue
            box = _box_of(row)
            fault = "bndbox does not have four numbers" if box is None else box_fault(box, size) if size else None
            if box is None or fault:
                skipped.note(f"{where}: object {number}", str(fault))
                doubtful.add(label)
            elif (row.findtext("difficult") or "0").strip() == "1":
                num_difficult += 1
                doubtful.add(label)
            else:
                boxes.setdefault(label, []).append(box)
        name = _name_of(image, folder)
        if name in images:
            skipped.note(where, f"image {name} is annotated by an earlier file")
            continue
        images[name] = AnnotatedImage(
            name=name,
            file=image,
            declared=size,
            boxes={label: tuple(found) for label, found in boxes.items() if label not in doubtful},
            doubtful=frozenset(doubtful),
        )
    return replace(detection_set(images, classes, where=folder.name), num_crowd=num_difficult)


def _read(file: Path) -> ElementTree.Element:
    try:
        tree = ElementTree.fromstring(file.read_bytes())
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error
    except ElementTree.ParseError as error:
        raise DataError(f"not valid XML ({error})") from error
    if tree.tag != "annotation":
        raise DataError(f"holds <{tree.tag}>; expected <annotation>")
    return tree


def _image_of(file: Path, tree: ElementTree.Element) -> Path:
    name = (tree.findtext("filename") or "").strip()
    if not name:
        raise DataError("names no image; expected <filename>")
    last = PurePosixPath(name.replace("\\", "/")).name
    for folder in _IMAGE_FOLDERS:
        if is_file(image := (file.parent / folder / last)):
            return image.resolve()
    raise DataError(f"no image {last}; expected it in ../JPEGImages, in ../images, or next to the XML file")


def _name_of(image: Path, folder: Path) -> str:
    """Return the path of the image inside the folder or its parent."""
    for base in (folder.resolve(), folder.resolve().parent):
        if image.is_relative_to(base):
            return image.relative_to(base).as_posix()
    return image.name


def _size_of(tree: ElementTree.Element) -> ImageSize | None:
    sides = [tree.findtext(f"size/{side}") or "" for side in ("width", "height")]
    if not all(side.strip().isdecimal() and len(side) < 10 and int(side) > 0 for side in sides):
        return None
    return ImageSize(int(sides[0]), int(sides[1]))


def _box_of(row: ElementTree.Element) -> XYXY | None:
    try:
        x1, y1, x2, y2 = (float(row.findtext(f"bndbox/{name}") or "") for name in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        return None
    return x1 - 1.0, y1 - 1.0, x2, y2
