"""Layout of a YOLO folder: class names, image files, label files and published splits.

Formats: https://docs.ultralytics.com/datasets/detect/, darknet (``obj.names``), Roboflow (``train/images``), labelImg.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image

from virft.data.annotations import Skipped
from virft.data.images import is_file
from virft.data.sources.folder_walk import files_below, same_spelling
from virft.data.sources.split_folders import split_named, splits_of_names, whole_splits
from virft.data.sources.text_files import read_text
from virft.errors import DataError

_NAME_FILES = ("classes.txt", "obj.names")
_SPLIT_KEYS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_NOT_DATA = ("runs",)
"""Folders that are no part of a dataset: results of Ultralytics, with boxes drawn into images."""


class YoloFolder(NamedTuple):
    """A YOLO folder. Its files are not read yet."""

    folder: Path
    """The folder that the user names."""
    base: Path
    """Folder with the class names, as an absolute path: the same folder, or one above it."""
    names: dict[int, str]
    """Class names by number."""
    num_pose: int | None
    """Number of values of a line with keypoints, without the class; None if the YAML file names no keypoints."""
    images: list[Path]
    """Image files, sorted."""
    splits: dict[str, str]
    """Published split of each image, by its path inside ``folder``; empty if there are none."""
    texts: dict[str, Path]
    """Text files below ``base`` by their path in it, without letter case and form of accents."""

    def label_file(self, image: Path) -> Path | None:
        """Return labels/a/b.txt for images/a/b.jpg (the last ``images`` in the path), else b.txt next to the image.

        The path is absolute; None if there is no such file.
        """
        image = image.absolute()
        parts = list(image.relative_to(self.base).parts)
        if "images" in parts[:-1]:
            at = len(parts) - 2 - parts[:-1][::-1].index("images")
            other = self.base.joinpath(*parts[:at], "labels", *parts[at + 1 :]).with_suffix(".txt")
            if (found := self._existing(other, image)) is not None:
                return found
        return self._existing(image.with_suffix(".txt"), image)

    def _existing(self, path: Path, image: Path) -> Path | None:
        """Return the file itself, or the one whose name differs in letter case or form of accents alone."""
        if path.is_file():
            return path
        found = self.texts.get(same_spelling(path.relative_to(self.base).as_posix()))
        if found is None or found.parent != path.parent:
            return None
        # a.txt is the file of a.jpg, not of A.jpg.
        is_of_other = any(other.stem == found.stem and other != found for other in image.parent.iterdir())
        return None if is_of_other else found

    def label_files_without_image(self) -> list[Path]:
        """Return the text files next to the label files, as absolute paths, that no image has."""
        used = {file for image in self.images if (file := self.label_file(image)) is not None}
        folders = {file.parent for file in used}
        return sorted(file for file in self.texts.values() if file.parent in folders and file not in used)


def open_yolo(folder: Path, *, skipped: Skipped) -> YoloFolder:
    """Find the class names and the images of a YOLO folder.

    Images are those of the splits in the YAML file; without splits, those in folders named ``images``; without such
    folders, all. Hidden folders and ``runs`` are ignored. Added to ``skipped``: splits without labels. Raises
    ``DataError`` if there are no class names or no label files.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a YOLO folder with images and labels")
    file, tree = _names_of(folder)
    names, base = _checked(tree["names"], file), _base(file, folder)
    texts = {same_spelling(path.relative_to(base).as_posix()): path for path in _texts_below(base, folder)}
    found = YoloFolder(folder, base, names, _num_pose(tree, file), [], {}, texts)
    split_of = _yaml_splits(tree, file, folder, skipped) if base == folder.absolute() else {}
    if not any(map(found.label_file, split_of)):
        everything = list(_image_files(folder))
        in_images = [image for image in everything if "images" in image.absolute().relative_to(base).parts[:-1]]
        chosen = in_images if any(map(found.label_file, in_images)) else everything
        splits = splits_of_names(_name(image, folder) for image in chosen)
        split_of = {image: splits.get(_name(image, folder)) for image in chosen}
    images = sorted(_with_labels(found, split_of, skipped))
    if not images:
        raise DataError(f"{folder}: no image has a label file; expected labels/NAME.txt for images/NAME.jpg")
    splits = whole_splits({_name(image, folder): split_of[image] for image in images})
    return found._replace(images=images, splits=splits)


def _with_labels(found: YoloFolder, split_of: dict[Path, str | None], skipped: Skipped) -> Iterator[Path]:
    """Yield the images of each split that has label files; a test set without any is not annotated."""
    for split in sorted(set(split_of.values()), key=str):
        inside = [image for image, other in split_of.items() if other == split]
        if any(map(found.label_file, inside)):
            yield from inside
        elif split is not None:
            number = len(inside)
            none = (
                "its only image has no label file" if number == 1 else f"none of its {number} images has a label file"
            )
            skipped.note(f"split {split}", none)


def _name(image: Path, folder: Path) -> str:
    return image.relative_to(folder).as_posix()


def _image_files(folder: Path) -> Iterator[Path]:
    endings = set(Image.registered_extensions())
    for path in files_below(folder):
        is_data = not any(part in _NOT_DATA for part in path.relative_to(folder).parts)
        if is_data and path.suffix.lower() in endings:
            yield path


def _texts_below(base: Path, folder: Path) -> Iterator[Path]:
    """Yield the text files that can be labels of images in ``folder``: those of its split alone, if it is one."""
    inside = folder.absolute().relative_to(base).parts
    place = base / inside[0] if inside and inside[0] not in ("images", "labels") else base
    yield from (path for path in files_below(place) if path.suffix == ".txt")


def _names_of(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the file with the class names, and its content: the YAML file, or {"names": ..} of a text file.

    Of a folder of one split, such as EXPORT/train or EXPORT/images/train, the file may be above it.
    """
    places = [folder]
    while split_named(places[-1].absolute().name) or places[-1].absolute().name == "images":
        places.append(places[-1].absolute().parent)
    for place in places:
        for file in (*sorted(place.glob("*.yaml")), *sorted(place.glob("*.yml"))):
            tree = _read_yaml(file)
            if isinstance(tree, dict) and tree.get("names") is not None:
                return file, tree
        if found := _text_names(place):
            return found
    raise DataError(f"{folder}: has no class names; expected a YAML file with names, or {_NAME_FILES[0]}")


def _base(file: Path, folder: Path) -> Path:
    """Return the folder that label paths begin at: the given one, or that above it with the class names."""
    inside = folder.absolute() in file.absolute().parents
    return folder.absolute() if inside else file.absolute().parent


def _text_names(place: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return ``classes.txt`` or ``obj.names`` of the folder, else the only ``classes.txt`` below it (labelImg)."""
    files = [place / name for name in _NAME_FILES if (place / name).is_file()]
    files = files or sorted(file for file in place.glob("*.names") if not file.name.startswith("."))
    files = files or [file for file in files_below(place) if file.name == _NAME_FILES[0]]
    lists = [_name_lines(file) for file in files]
    for file, names in zip(files, lists, strict=True):
        if names != lists[0]:
            raise DataError(f"{file}: differs from {files[0]}; expected the same class names")
    return (files[0], {"names": dict(enumerate(lists[0]))}) if files else None


def _name_lines(file: Path) -> list[str]:
    """Return the lines without blank ones at the end. A blank line between names counts, as in labelImg and darknet."""
    lines = read_text(file, expected="one class name per line").splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _read_yaml(file: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(read_text(file, expected="a YAML file"))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{file}: cannot be read as YAML ({error})") from error


def _checked(names: Any, file: Path) -> dict[int, str]:
    by_number = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(by_number, dict) or not by_number:
        raise DataError(f"{file}: names is {reprlib.repr(by_number):.60}; expected a list of class names")
    checked: dict[int, str] = {}
    for number, name in by_number.items():
        if type(name) not in (str, int) or not str(number).isdecimal():
            raise DataError(f"{file}: names is {reprlib.repr(by_number):.60}; expected a list of class names")
        if str(name).strip():
            checked[int(number)] = str(name).strip()
    return checked


def _num_pose(tree: dict[str, Any], file: Path) -> int | None:
    shape = tree.get("kpt_shape")
    if shape is None:
        return None
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and n > 0 for n in shape):
        raise DataError(f"{file}: kpt_shape is {shape!r:.60}; expected [number of keypoints, 2 or 3]")
    return 4 + int(shape[0] * shape[1])


def _yaml_splits(tree: dict[str, Any], file: Path, folder: Path, skipped: Skipped) -> dict[Path, str | None]:
    """Return the split of each image that the YAML file lists; an image in two splits belongs to the first."""
    split_of: dict[Path, str | None] = {}
    for key, split in _SPLIT_KEYS.items():
        values = tree.get(key)
        for value in values if isinstance(values, list) else [values]:
            if value is None or value == "":
                continue
            place = _below(folder, str(value)) if isinstance(value, str) else None
            if place is None and key == "test":
                continue  # Roboflow names it without having one
            if place is None:
                skipped.note(f"{file.name}: {key}", f"{value!r:.60} is not in the folder")
                continue
            for image in _listed(place, folder) if place.is_file() else sorted(_image_files(place)):
                split_of.setdefault(image, split)
    return split_of


def _listed(file: Path, folder: Path) -> Iterable[Path]:
    """Yield the images of a text file of paths."""
    for line in read_text(file, expected="one image path per line").splitlines():
        if line.strip() and (image := _below(folder, line.strip())) is not None:
            yield image


def _below(folder: Path, text: str) -> Path | None:
    """Return the longest end of a path that exists below the folder.

    Paths in exports begin at another folder: ``../train/images`` in Roboflow's, ``data/images/train`` in CVAT's.
    """
    parts = [part for part in PurePosixPath(text.replace("\\", "/")).parts if part not in ("..", ".", "/")]
    for start in range(len(parts)):
        # Paths of thousands of letters are no files.
        if is_file(path := folder.joinpath(*parts[start:])) or path.is_dir():
            return path
    return folder if text.strip() in (".", "./") else None
