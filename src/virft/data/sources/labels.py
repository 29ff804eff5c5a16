"""Classification labels: a folder of images for each class, or a CSV file of paths and labels."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from virft.data.annotations import AnnotatedImage, LabelledSet, Skipped
from virft.data.json_files import read_name_lists
from virft.errors import ConfigError, DataError, did_you_mean
from virft.text.labels import normalize_label

Aliases = Mapping[str, tuple[str, ...]]
"""Label -> additional names that count as correct."""


def read_label_folders(root: Path, *, classes: Sequence[str] = (), aliases: Aliases | None = None) -> LabelledSet:
    """Read a folder of class folders; the label is the name of the class folder, with spaces for underscores.

    Images may be in subfolders; hidden files and files without the suffix of an image format of Pillow are ignored.
    Raises ``DataError`` if there is no image, ``ConfigError`` if one of ``classes`` or ``aliases`` is not a label.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected a folder with a folder of images for each class")
    endings = set(Image.registered_extensions())
    images: dict[str, AnnotatedImage] = {}
    label_of: dict[str, str] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        for file in sorted(folder.rglob("*")):
            inside = file.relative_to(root)
            if file.suffix.lower() in endings and not any(part.startswith(".") for part in inside.parts):
                images[inside.as_posix()] = AnnotatedImage(name=inside.as_posix(), file=file, declared=None, boxes={})
                label_of[inside.as_posix()] = folder.name.replace("_", " ")
    if not images:
        raise DataError(f"{root}: holds no images inside folders; expected a folder of images for each class")
    return _chosen(images, label_of, classes, aliases or {}, root.name)


def read_label_csv(
    path: Path, folder: Path, *, classes: Sequence[str] = (), aliases: Aliases | None = None, skipped: Skipped
) -> LabelledSet:
    """Read a CSV file with the columns ``path`` (relative to ``folder``) and ``label``; other columns are ignored.

    Added to ``skipped``: rows without path or label, paths out of the folder, and images that an earlier row names.
    Raises ``DataError`` if the file is invalid, ``ConfigError`` if one of ``classes`` or ``aliases`` is not a label.
    """
    images: dict[str, AnnotatedImage] = {}
    label_of: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if not {"path", "label"} <= set(rows.fieldnames or ()):
                found = ", ".join(rows.fieldnames or ()) or "nothing"
                raise DataError(f"{path}:1: the head names {found}; expected columns path and label")
            for row in rows:
                where = f"{path.name}:{rows.line_num}"
                name, label = (row["path"] or "").strip(), (row["label"] or "").strip()
                if not name or not label:
                    skipped.note(where, f"{'path' if not name else 'label'} is empty")
                    continue
                name = PurePosixPath(name.replace("\\", "/")).as_posix()
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                    skipped.note(where, f"path {name} leads out of the folder of the images")
                elif name in images:
                    skipped.note(where, f"image {name} was named before, as {label_of[name]!r}")
                else:
                    images[name] = AnnotatedImage(name=name, file=folder / name, declared=None, boxes={})
                    label_of[name] = label
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 CSV ({error})") from error
    if not images:
        raise DataError(f"{path}: names no image; expected a row for each")
    return _chosen(images, label_of, classes, aliases or {}, path.name)


def read_aliases(path: Path) -> dict[str, tuple[str, ...]]:
    """Read ``{"label": ["another name", ...], ...}``: names that count as correct for a label.

    Raises ``DataError`` if the file is not such a JSON object.
    """
    return read_name_lists(path, expected='{"label": ["another name", ..], ..}')


def _chosen(
    images: Mapping[str, AnnotatedImage],
    label_of: Mapping[str, str],
    classes: Sequence[str],
    aliases: Aliases,
    where: str,
) -> LabelledSet:
    """Return the images of the chosen classes (all by default); an unknown or ambiguous name is an error."""
    known = sorted(set(label_of.values()))
    for label in (*classes, *aliases):
        if label not in known:
            hint = did_you_mean(label, known, otherwise=f"expected one of {', '.join(known)}")
            raise ConfigError(f"{where}: no image has the label {label!r}; {hint}")
    chosen = {name: label for name, label in label_of.items() if not classes or label in classes}
    label_by_name: dict[str, str] = {}
    for label in sorted(set(chosen.values())):
        for name in (label, *aliases.get(label, ())):
            if (other := label_by_name.setdefault(normalize_label(name), label)) != label:
                raise DataError(
                    f"{where}: {name!r} would be correct for {other!r} and for {label!r}; expected one of them"
                )
    return LabelledSet(
        images={name: images[name] for name in chosen},
        label_of=chosen,
        aliases={label: names for label, names in aliases.items() if label in chosen.values()},
    )
