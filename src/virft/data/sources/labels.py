"""Classification labels: a folder of images for each class, or a CSV file of paths and labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from PIL import Image

from virft.data.annotations import AnnotatedImage, LabelledSet, Skipped
from virft.data.json_files import read_name_lists
from virft.data.sources.csv_files import csv_rows, leads_out
from virft.data.sources.folder_walk import files_below
from virft.data.sources.image_paths import as_on_disk
from virft.data.sources.split_folders import split_named, whole_splits
from virft.errors import ConfigError, DataError, did_you_mean
from virft.text.labels import normalize_label

Aliases = Mapping[str, tuple[str, ...]]
"""Label -> additional names that count as correct."""


def read_label_folders(
    root: Path, *, classes: Sequence[str] = (), aliases: Aliases | None = None, skipped: Skipped
) -> LabelledSet:
    """Read a folder of class folders; the label is the name of the class folder, with spaces for underscores.

    If all folders are splits, such as train and val, the class folders are those inside each. Images may be in
    subfolders; hidden files and files without the suffix of an image format of Pillow are ignored. Added to
    ``skipped``: splits without class folders. Raises ``DataError`` if there is no image, ``ConfigError`` if one of
    ``classes`` or ``aliases`` is not a label.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected a folder with a folder of images for each class")
    images: dict[str, AnnotatedImage] = {}
    label_of: dict[str, str] = {}
    published: dict[str, str] = {}
    for split, folder in _class_folders(root, skipped):
        for file in _images_below(folder):
            name = file.relative_to(root).as_posix()
            images[name] = AnnotatedImage(name=name, file=file, declared=None, boxes={})
            label_of[name] = folder.name.replace("_", " ")
            published |= {name: split} if split else {}
    if not images:
        raise DataError(f"{root}: holds no images inside folders; expected a folder of images for each class")
    return replace(
        choose_labels(images, label_of, classes, aliases or {}, root.name),
        published=whole_splits({name: published.get(name) for name in images}),
    )


def _class_folders(root: Path, skipped: Skipped) -> list[tuple[str | None, Path]]:
    """Return the class folders, each with its split; None if the source is not split."""
    tops = _folders_in(root)
    inside = {top: _folders_in(top) for top in tops if split_named(top.name)}
    if len(inside) < len(tops) and sum(map(bool, inside.values())) > 1:
        splits = ", ".join(top.name for top in inside)
        other = next(top.name for top in tops if top not in inside)
        raise DataError(
            f"{root}: holds the splits {splits}, and {other} next to them; expected folders of splits alone, or the "
            f"folder of one split, such as {next(iter(inside))}"
        )
    if not tops or len(inside) < len(tops) or not any(inside.values()):
        return [(None, top) for top in tops]
    found = []
    for top, folders in inside.items():
        if not folders:
            skipped.note(top.name, "holds no folder of images for each class")
        found += [(split_named(top.name), folder) for folder in folders]
    return found


def _folders_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name != "__MACOSX" and any(_images_below(path))
    )


def _images_below(folder: Path) -> Iterator[Path]:
    endings = set(Image.registered_extensions())
    yield from (file for file in files_below(folder) if file.suffix.lower() in endings)


def read_label_csv(
    path: Path, folder: Path, *, classes: Sequence[str] = (), aliases: Aliases | None = None, skipped: Skipped
) -> LabelledSet:
    """Read a CSV file with the columns ``path`` (relative to ``folder``) and ``label``; other columns are ignored.

    Added to ``skipped``: rows without path or label, paths out of the folder, and images that an earlier row names.
    Images with several labels are not used.
    Raises ``DataError`` if the file is invalid, ``ConfigError`` if one of ``classes`` or ``aliases`` is not a label.
    """
    images: dict[str, AnnotatedImage] = {}
    label_of: dict[str, str] = {}
    unclear: dict[str, str] = {}
    for number, row in csv_rows(path, required={"path": "path", "label": "label"}):
        where = f"{path.name}:{number}"
        name, label = row["path"], row["label"]
        if not name or not label:
            skipped.note(where, f"{'path' if not name else 'label'} is empty")
            continue
        name = as_on_disk(folder, PurePosixPath(name.replace("\\", "/")).as_posix())
        if leads_out(name):
            skipped.note(where, f"path {name} leads out of the folder of the images")
        elif name in images:
            skipped.note(where, f"image {name} was named before, as {label_of[name]!r}")
            if label != label_of[name]:
                unclear[name] = f"{label_of[name]!r} and {label!r}"
        else:
            images[name] = AnnotatedImage(name=name, file=folder / name, declared=None, boxes={})
            label_of[name] = label
    for name, labels in unclear.items():
        skipped.note(f"image {name}", f"is labelled {labels}; expected one label, so it is not used")
        del images[name], label_of[name]
    if not images:
        raise DataError(f"{path}: names no image; expected a row for each{skipped.format_first()}")
    return choose_labels(images, label_of, classes, aliases or {}, path.name)


def read_aliases(path: Path) -> dict[str, tuple[str, ...]]:
    """Read ``{"label": ["another name", ...], ...}``: names that count as correct for a label.

    Raises ``DataError`` if the file is not such a JSON object.
    """
    return read_name_lists(path, expected='{"label": ["another name", ..], ..}')


def choose_labels(
    images: Mapping[str, AnnotatedImage],
    label_of: Mapping[str, str],
    classes: Sequence[str],
    aliases: Aliases,
    where: str,
) -> LabelledSet:
    """Return the images of the chosen classes, all by default.

    Raises ``ConfigError`` for an unknown name, ``DataError`` for one that is correct for two labels.
    """
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
