"""Datasets of Roboflow 100-VL (RF100-VL) and its subset RF20-VL, full or few-shot (FSOD), as they are downloaded.

A dataset is a folder with ``train``, ``valid`` and ``test``, each with its images and ``_annotations.coco.json``; next
to them, ``README.dataset.txt`` has instructions for annotators. "The datasets will be downloaded in COCO JSON format to
a directory called `rf100-vl`. Every dataset will be in its own sub-folder." (README of github.com/roboflow/rf100-vl;
the names of files: ``rf100vl/dataset.py`` and ``combine.py`` there.) Paper: Robicheaux et al. 2025, arXiv 2505.20612.

``README.dataset.txt`` is Markdown: after a heading with the name of the project, lines with its address and licence, a
section ``# Introduction``, and ``# Object Classes`` with a heading for each class, below which ``### Description`` and
``### Instructions`` follow. The names in headings are written for readers: "No Pill Front" for ``nopill-front``.
``README.roboflow.txt`` describes the export, and has no instructions.

Exports of Roboflow have a category 0 that is the super-category of all others; the download removes it, other exports
do not. ``read_coco`` excludes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from virft.data.annotations import AnnotatedImage, AnnotatedSet, Skipped
from virft.data.sources.coco import open_coco, read_coco
from virft.data.sources.detection_files import detection_set
from virft.data.sources.split_folders import split_named, whole_splits
from virft.errors import DataError
from virft.text.question_texts import without_placeholders

ANNOTATIONS, README = "_annotations.coco.json", "README.dataset.txt"
_SPLITS = ("train", "valid", "test")
_EXPECTED = f"a dataset of RF100-VL, with {ANNOTATIONS} in {', '.join(_SPLITS)}, or a folder of such datasets"
_SPARSE = (
    "few-shot training images have boxes of some objects only: no class is queried as absent on them "
    "(--train-annotations complete reads them as complete)"
)
_MOST_NAMED = 10

TrainAnnotations = Literal["auto", "complete", "sparse"]
"""Whether the training images have a box for every object of every class: ``complete``; or only for some objects,
``sparse``; ``auto``: sparse if the project is a few-shot one."""


class Readme(NamedTuple):
    """Content of ``README.dataset.txt``."""

    project: str
    """Heading and address, with the name of the project."""
    licence: str | None
    """Licence of the images; None if it is not stated."""
    notes: dict[str, str]
    """Instructions by the heading of the class: the description, then the instructions."""


def find_rf100vl(folder: Path) -> dict[str, Path]:
    """Return the dataset folders by name: the folder itself, or all datasets in it, sorted.

    Raises ``DataError`` if there is none.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected {_EXPECTED}")
    if _split_folders(folder):
        return {folder.absolute().name: folder}
    found = {one.name: one for one in sorted(folder.iterdir()) if one.is_dir() and _split_folders(one)}
    if not found:
        raise DataError(f"{folder}: holds no dataset; expected {_EXPECTED}")
    return found


def _split_folders(folder: Path) -> list[Path]:
    return [folder / split for split in _SPLITS if (folder / split / ANNOTATIONS).is_file()]


def read_rf100vl(
    folder: Path,
    *,
    classes: Sequence[str] = (),
    train: TrainAnnotations = "auto",
    outlines: bool = False,
    skipped: Skipped,
) -> AnnotatedSet:
    """Read one dataset with its published splits and class instructions; ``classes``: all by default.

    Images are named by their split: ``train/a.jpg``. Few-shot training images have boxes of some objects only ("the
    data annotation on the training data of the Roboflow20-VL benchmark is sparse", README of
    github.com/IvanaGao/CVPR2025-FSOD), so no class is certainly absent on them, see ``TrainAnnotations``.
    ``outlines``: as for ``read_coco``. Raises ``DataError`` for files that are not COCO, ``ConfigError`` for an unknown
    class.
    """
    readme = read_readme(folder / README)
    names = f"{folder.absolute().parent.name} {folder.absolute().name} {readme.project}".lower()
    is_sparse = train == "sparse" or (train == "auto" and "fsod" in names)
    images: dict[str, AnnotatedImage] = {}
    known: dict[str, None] = {}
    notes: dict[str, None] = {}
    num_crowd = 0
    for split in _split_folders(folder):
        file = open_coco(split / ANNOTATIONS)
        file = file._replace(name=f"{split.name}/{ANNOTATIONS}")
        read = read_coco(file, split, outlines=outlines, skipped=skipped)
        absent = frozenset[str]() if is_sparse and split.name == "train" else None
        for image in read.images.values():
            name = f"{split.name}/{image.name}"
            images[name] = replace(image, name=name, absent=image.absent if absent is None else absent)
        known |= dict.fromkeys(read.classes)
        notes |= dict.fromkeys(read.notes)
        num_crowd += read.num_crowd
    found = detection_set(images, classes, where=folder.absolute().name, known=known)
    class_notes = match_notes(found.classes, readme.notes)
    if is_sparse:
        notes[_SPARSE] = None
    if missing := [label for label in found.classes if label not in class_notes]:
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        notes[f"classes without instructions in {README}: {', '.join(missing[:_MOST_NAMED])}{more}"] = None
    return replace(
        found,
        num_crowd=num_crowd,
        notes=tuple(notes),
        published=whole_splits({name: split_named(name.partition("/")[0]) for name in images}),
        class_notes=class_notes,
    )


def read_readme(path: Path) -> Readme:
    """Read ``README.dataset.txt``; without the file, the result is empty. ``DataError`` if it cannot be read."""
    if not path.is_file():
        return Readme("", None, {})
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); expected the instructions for annotators"
        ) from error
    lines = text.splitlines()
    licence = next((line.partition(":")[2].strip() for line in lines if line.startswith("License:")), "")
    return Readme(project="\n".join(lines[:2]), licence=licence or None, notes=_class_texts(lines))


def _class_texts(lines: Iterable[str]) -> dict[str, str]:
    """Return the text below each heading of a class, without the headings of its parts and blank lines."""
    texts: dict[str, list[str]] = {}
    label, is_inside = None, False
    for line in lines:
        heading = re.match(r"(#+)\s*(.+?)\s*#*$", line)
        if heading and len(heading[1]) == 1:
            is_inside, label = heading[2].lower() == "object classes", None
        elif heading and heading[2].lower() not in ("description", "instructions"):
            label = heading[2]
        elif not heading and is_inside and label and line.strip() and not line.startswith("[Top]("):
            texts.setdefault(label, []).append(without_placeholders(line).strip())
    return {name: "\n".join(found) for name, found in texts.items()}


def match_notes(classes: Sequence[str], notes: dict[str, str]) -> dict[str, str]:
    """Return the instructions of each class whose name is that of a heading, but for case, spaces and punctuation.

    A plural fits the singular. The instructions of the only heading are those of the only class.

    >>> match_notes(["nopill-front", "holes", "whd"], {"No Pill Front": "..", "Hole": "...", "Wheat Head": "...."})
    {'nopill-front': '..', 'holes': '...'}
    """
    if len(classes) == len(notes) == 1:
        return dict(zip(classes, notes.values(), strict=True))
    exact = {_letters(name): text for name, text in notes.items()}
    singular = {name.removesuffix("s"): text for name, text in exact.items()}
    found = {label: exact.get(_letters(label)) or singular.get(_letters(label).removesuffix("s")) for label in classes}
    return {label: text for label, text in found.items() if text}


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()
