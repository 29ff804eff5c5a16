"""YOLO: one text file per image, one line per object, coordinates as fractions of the image's width and height.

Format: https://docs.ultralytics.com/datasets/detect/
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from virft.data.annotations import AnnotatedImage, AnnotatedSet, Skipped
from virft.data.images import stored_size
from virft.data.sources.detection_files import detection_set
from virft.data.sources.image_boxes import ImageBoxes
from virft.data.sources.text_files import read_text
from virft.data.sources.yolo_folder import YoloFolder, open_yolo
from virft.errors import DataError
from virft.geometry.boxes import XYXY
from virft.types import ImageSize


def read_yolo(folder: Path, *, classes: Iterable[str] = (), skipped: Skipped) -> AnnotatedSet:
    """Read the images of a YOLO folder and their label files, see ``open_yolo``.

    An image without a label file has no objects, as the format defines; if there are label files without an image, it
    is not used. A line is ``class cx cy width height``; the
    same with keypoints; or ``class x1 y1 x2 y2 ..`` of an outline, with its bounding box. Added to
    ``skipped``: lines with other numbers, or of a class without a name, and label files without an image. Raises
    ``DataError`` if the folder has no label file or no class names, ``ConfigError`` if one of ``classes`` is unknown.
    """
    yolo = open_yolo(folder, skipped=skipped)
    read: list[tuple[Path, ImageSize, str, list[_Line]]] = []
    for image in yolo.images:
        labels = yolo.label_file(image)
        try:
            size = stored_size(image).upright
            lines = [] if labels is None else _lines(labels)
        except DataError as error:
            where = image.relative_to(folder).as_posix()
            # A card has no absolute path.
            reason = str(error).removeprefix(f"{image}: ")
            skipped.note(f"image {where}", reason if labels is None else reason.replace(str(labels), labels.name))
            continue
        read.append((image, size, "" if labels is None else labels.relative_to(yolo.base).as_posix(), lines))
    strays = _note_strays(yolo, skipped)
    num_pose = yolo.num_pose or _num_pose([line.values for *_, lines in read for line in lines if line.values])
    images: dict[str, AnnotatedImage] = {}
    for image, size, labels_name, lines in read:
        boxes = ImageBoxes(skipped)
        if not labels_name and strays:
            boxes.doubt(None)  # one of the files without an image can be its
        for line in lines:
            _add(line, boxes, yolo.names, num_pose, size, where=f"{labels_name}:{line.number}")
        name = image.relative_to(folder).as_posix()
        images[name] = AnnotatedImage(name=name, file=image, declared=None, **boxes.fields(size))
    found = detection_set(images, classes, where=folder.name, known=yolo.names.values())
    num_unlabelled = sum(not labels_name for *_, labels_name, _ in read)
    return replace(
        found,
        published={name: split for name, split in yolo.splits.items() if name in images},
        notes=_notes(num_unlabelled, num_strays=len(strays)),
    )


def _note_strays(yolo: YoloFolder, skipped: Skipped) -> list[Path]:
    """Return the label files without an image, and add them to ``skipped``. Other text files are ignored."""
    strays = []
    for file in yolo.label_files_without_image():
        try:
            lines = _lines(file)
        except DataError:
            continue
        if any(line.class_number is not None and line.values and len(line.values) >= 4 for line in lines):
            strays.append(file)
    if strays:
        shown = strays[0].relative_to(yolo.base).as_posix()
        skipped.note("label files", f"{len(strays)} have no image of their name, such as {shown}")
    return strays


def _notes(num_unlabelled: int, *, num_strays: int) -> tuple[str, ...]:
    if not num_unlabelled:
        return ()
    if num_strays:
        return (f"images without a label file, not used, as a file without an image can be theirs: {num_unlabelled}",)
    return (f"images without a label file, read as images without objects: {num_unlabelled}",)


def _lines(file: Path) -> list[_Line]:
    """Return the lines of a label file that are not blank."""
    text = read_text(file, expected="a YOLO label file")
    return [_parsed(line, number) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


class _Line(NamedTuple):
    number: int
    text: str
    class_number: int | None
    values: list[float] | None
    """The numbers after the class; None if one is not a finite number."""


def _parsed(text: str, number: int) -> _Line:
    columns = text.split()
    if len(columns) > 1 and all(re.fullmatch(r"-?\d+,\d+", column) for column in columns[1:]):
        columns = [column.replace(",", ".") for column in columns]  # decimal commas
    else:
        columns = text.replace(",", " ").replace(";", " ").split()
    head, *numbers = map(_finite, columns or [""])
    known = [value for value in numbers if value is not None]
    return _Line(
        number=number,
        text=text,
        class_number=int(head) if head is not None and head.is_integer() else None,
        values=known if len(known) == len(numbers) else None,
    )


def _finite(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _add(
    line: _Line, boxes: ImageBoxes, names: dict[int, str], num_pose: int | None, size: ImageSize, *, where: str
) -> None:
    """Add the box of a line, or a note about its fault."""
    label = names.get(-1 if line.class_number is None else line.class_number)
    if label is None:
        known = f"one of {min(names)} to {max(names)}" if names else "a class with a name"
        boxes.drop(where, f"class {line.text.split()[0]:.40} has no name; expected {known}")
        return
    fractions = None if line.values is None else _fractions(line.values, num_pose)
    if fractions is None:
        more = f"or {num_pose} with keypoints" if num_pose else "or an even number of at least 6"
        boxes.drop(where, f"{line.text!r:.60} does not have 4 numbers, {more}, after the class", label=label)
        return
    x1, y1, x2, y2 = fractions
    box = (x1 * size.width, y1 * size.height, x2 * size.width, y2 * size.height)
    is_outline = len(line.values or ()) not in (4, num_pose)
    sides = (size.width, size.height)
    outline = tuple(value * sides[place % 2] for place, value in enumerate(line.values or ()))
    boxes.add(label, box, where=where, outlines=(outline,) if is_outline else ())


def _fractions(values: list[float], num_pose: int | None) -> XYXY | None:
    """Return x1, y1, x2, y2 as fractions of the image's sides; None if the line is not a box or an outline."""
    if len(values) in (4, num_pose):
        x, y, width, height = values[:4]
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if num_pose is None and len(values) >= 6 and len(values) % 2 == 0:
        return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    return None


def _num_pose(lines: list[list[float]]) -> int | None:
    """Return the length of lines with keypoints, if all long lines are such: x, y and a visibility of 0, 1 or 2.

    Without ``kpt_shape``, keypoints are recognized by their visibility. Those of x and y alone cannot be distinguished
    from an outline.
    """
    longer = [line for line in lines if len(line) != 4]
    lengths = {len(line) for line in longer}
    return lengths.pop() if len(lengths) == 1 and all(map(_has_visibilities, longer)) else None


def _has_visibilities(values: list[float]) -> bool:
    if len(values) < 7 or (len(values) - 4) % 3:
        return False
    x, y, width, height = values[:4]
    is_box = min(x - width / 2, y - height / 2) > -0.01 and max(x + width / 2, y + height / 2) < 1.01
    return is_box and all(value in (0.0, 1.0, 2.0) for value in values[6::3])
