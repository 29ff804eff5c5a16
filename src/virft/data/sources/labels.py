"""Images with one label each: a folder for every class, or a CSV file of paths and labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from virft.data.annotations import AnnotatedImage, LabelledSet, Skipped
from virft.errors import ConfigError, DataError, did_you_mean
from virft.text.labels import normalize_label

Aliases = Mapping[str, tuple[str, ...]]


def read_label_folders(root: Path, *, classes: Sequence[str] = (), aliases: Aliases | None = None) -> LabelledSet:
    """Each folder of ``root`` is a class; its name with spaces for underscores is the label.

    Images may lie deeper; files of other endings than Pillow reads, and hidden ones, are no images.
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
    """A CSV file whose head names the columns ``path`` (relative to ``folder``) and ``label``; others are ignored.

    Left out and noted: rows without path or label, and images that were named before.
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
    """``{"label": ["another name", ...], ...}``: answers that count as right."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a JSON file of aliases") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(tree, dict):
        raise DataError(f"{path}: holds a {type(tree).__name__}; expected an object of lists of names by label")
    for label, names in tree.items():
        if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
            raise DataError(f"{path}: the aliases of {label!r} are {names!r:.60}; expected a list of names")
    return {label: tuple(names) for label, names in tree.items()}


def _chosen(
    images: Mapping[str, AnnotatedImage],
    label_of: Mapping[str, str],
    classes: Sequence[str],
    aliases: Aliases,
    where: str,
) -> LabelledSet:
    """The images of the chosen classes (all by default); names that are unknown or mean two labels are errors."""
    known = sorted(set(label_of.values()))
    for asked in (*classes, *aliases):
        if asked not in known:
            hint = did_you_mean(asked, known, otherwise=f"expected one of {', '.join(known)}")
            raise ConfigError(f"{where}: no image has the label {asked!r}; {hint}")
    kept = {name: label for name, label in label_of.items() if not classes or label in classes}
    meant: dict[str, str] = {}
    for label in sorted(set(kept.values())):
        for name in (label, *aliases.get(label, ())):
            if (other := meant.setdefault(normalize_label(name), label)) != label:
                raise DataError(
                    f"{where}: {name!r} would be right for {other!r} and for {label!r}; expected one of them"
                )
    return LabelledSet(
        images={name: images[name] for name in kept},
        label_of=kept,
        aliases={label: names for label, names in aliases.items() if label in kept.values()},
    )
