"""YOLO: one text file per image, one line per object, coordinates as fractions of the image's width and height.

Format: https://docs.ultralytics.com/datasets/detect/
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from virft.data.annotations import AnnotatedImage, AnnotatedSet, Skipped
from virft.data.images import stored_size
from virft.data.sources.detection_files import detection_set
from virft.errors import DataError
from virft.geometry.boxes import XYXY
from virft.text.records import box_fault

_NAME_FILES = ("classes.txt", "obj.names")


def read_yolo(folder: Path, *, classes: Iterable[str] = (), skipped: Skipped) -> AnnotatedSet:
    """Read the images below ``folder`` and their label files: ``labels/a/b.txt`` of ``images/a/b.jpg``, or ``b.txt``.

    Class names are read from a YAML file with ``names`` in the folder, or from ``classes.txt``. An image without a
    label file has no objects, as the format defines. A line is ``class cx cy width height``, or ``class x1 y1 x2 y2
    ..`` of an outline, of which the bounding box is used. Added to ``skipped``: lines with other numbers, or of a class
    without a name. Raises ``DataError`` if the folder has no label file or no class names, ``ConfigError`` if one of
    ``classes`` is unknown.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a YOLO folder with images and labels")
    names = _class_names(folder)
    endings = set(Image.registered_extensions())
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings and path.is_file())
    if not any(_label_file(image, folder).is_file() for image in files):
        raise DataError(f"{folder}: no image has a label file; expected labels/NAME.txt for images/NAME.jpg")
    images: dict[str, AnnotatedImage] = {}
    for image in files:
        name = image.relative_to(folder).as_posix()
        try:
            size = stored_size(image).upright
            lines = _lines(_label_file(image, folder))
        except DataError as error:
            skipped.note(f"image {name}", str(error).removeprefix(f"{image}: "))
            continue
        boxes: dict[str, list[XYXY]] = {}
        doubtful: set[str] = set()
        for number, line in enumerate(lines, start=1):
            where = f"{_label_file(image, folder).relative_to(folder).as_posix()}:{number}"
            words = line.split()
            if not words:
                continue
            label = names.get(words[0])
            if label is None:
                skipped.note(where, f"class {words[0]} has no name; expected one of 0 to {len(names) - 1}")
                continue
            fractions = _fractions(words[1:])
            if fractions is None:
                skipped.note(
                    where, f"{line!r:.60} does not have 4 numbers, or an even number of at least 6, after the class"
                )
                doubtful.add(label)
                continue
            x1, y1, x2, y2 = fractions
            box = (x1 * size.width, y1 * size.height, x2 * size.width, y2 * size.height)
            rounded = tuple(round(value, 3) for value in box)
            if fault := box_fault(rounded, size):  # type: ignore[arg-type]
                skipped.note(where, fault)
                doubtful.add(label)
            else:
                boxes.setdefault(label, []).append(rounded)  # type: ignore[arg-type]
        images[name] = AnnotatedImage(
            name=name,
            file=image,
            declared=None,
            boxes={label: tuple(found) for label, found in boxes.items()},
            doubtful=frozenset(doubtful),
        )
    return detection_set(images, classes, where=folder.name, known=names.values())


def _fractions(words: list[str]) -> XYXY | None:
    """Return x1, y1, x2, y2 as fractions of the image's sides; None if the line is not a box or an outline."""
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return None
    if not all(map(math.isfinite, numbers)):
        return None
    if len(numbers) == 4:
        x, y, width, height = numbers
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])
    return None


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        return []
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"its label file cannot be read ({error})") from error


def _label_file(image: Path, folder: Path) -> Path:
    """Return labels/a/b.txt for images/a/b.jpg (the last ``images`` in the path), else b.txt next to the image."""
    parts = list(image.relative_to(folder).parts)
    if "images" in parts[:-1]:
        at = len(parts) - 2 - parts[:-1][::-1].index("images")
        other = folder.joinpath(*parts[:at], "labels", *parts[at + 1 :]).with_suffix(".txt")
        if other.is_file():
            return other
    return image.with_suffix(".txt")


def _class_names(folder: Path) -> dict[str, str]:
    """Return the names by class number, as text."""
    for file in (*sorted(folder.glob("*.yaml")), *sorted(folder.glob("*.yml"))):
        import yaml

        try:
            tree = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise DataError(f"{file}: cannot be read as YAML ({error})") from error
        found = tree.get("names") if isinstance(tree, dict) else None
        if found is not None:
            return _checked(dict(enumerate(found)) if isinstance(found, list) else found, file)
    for name in _NAME_FILES:
        if (file := folder / name).is_file():
            lines = file.read_text(encoding="utf-8").splitlines()
            return _checked(dict(enumerate(line for line in lines if line.strip())), file)
    raise DataError(f"{folder}: has no class names; expected a YAML file with names, or {_NAME_FILES[0]}")


def _checked(names: Any, file: Path) -> dict[str, str]:
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise DataError(f"{file}: names is {reprlib.repr(names):.60}; expected a list of class names")
    return {str(number): name.strip() for number, name in names.items()}
