"""Assets of the built-in synthetic scenes: classes, sprites in several styles, background photographs.

A sprite is a cut-out image of one object. Everything is decoded once per process and cached: do not modify the returned
objects.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from io import BytesIO
from zipfile import ZipFile

from PIL import Image

_ASSETS = files("virft.scenes") / "assets"


class Style(StrEnum):
    """Artist or icon set of a sprite."""

    FLUENT = "fluent"
    TWEMOJI = "twemoji"
    NOTO = "noto"
    FLAT = "flat"
    EMOJIONE = "emojione"


class Split(StrEnum):
    """Set of photographs that a background is taken from."""

    TRAIN = "train"
    TEST = "test"


TRAIN_STYLES = (Style.FLUENT, Style.TWEMOJI)
"""Styles of training sets, and of test sets in the same style."""
TEST_STYLES = (Style.NOTO,)
"""Styles of test sets in another style."""
BASE_STYLES = (*TRAIN_STYLES, Style.FLAT, Style.EMOJIONE)
"""Styles that the built-in model is trained on; the last two have only base classes and things, and not all of them."""
THING = "thing"
"""Group of the things: objects that no question names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneClass:
    """One class of the synthetic scenes."""

    name: str
    """Name in questions and answers, such as "fox"."""
    plural: str
    """Plural of the name."""
    group: str
    """Group of the class, such as "animal": the domain of a classification question."""
    lookalikes: str
    """Name of the set of look-alike classes that it belongs to; "" if it belongs to none."""
    split: str
    """"base" (supervised pre-training of the built-in model), "novel" (for RL) or "heldout" (never trained on)."""
    code_point: str
    """Unicode code points of its emoji, hexadecimal, joined by "-"."""


@cache
def scene_classes() -> dict[str, SceneClass]:
    """Return all 80 classes by name, in the order of ``classes.json``."""
    rows = json.loads((_ASSETS / "classes.json").read_text(encoding="utf-8"))
    return {row["name"]: SceneClass(**row) for row in rows}


@cache
def class_names(split: str | None = None) -> tuple[str, ...]:
    """Return the names of the classes of one split ("base", "novel", "heldout"), or of all.

    >>> len(class_names("base")), len(class_names("novel")), len(class_names("heldout"))
    (64, 8, 8)
    """
    return tuple(name for name, row in scene_classes().items() if split in (None, row.split))


@cache
def group_names() -> tuple[str, ...]:
    """Return the groups in order: animal, fruit, snack, vehicle, ball, instrument, garment, plant."""
    return tuple(dict.fromkeys(row.group for row in scene_classes().values()))


@cache
def thing_names() -> tuple[str, ...]:
    """Return the names of the things: objects in the built-in model's training images that no question names."""
    return tuple(name.removesuffix(".webp") for name in _things(TRAIN_STYLES[0]).namelist())


def group_of(name: str) -> str:
    """Return the group of a class; "thing" for a thing."""
    row = scene_classes().get(name)
    return row.group if row is not None else THING


@cache
def _things(style: Style) -> ZipFile:
    return ZipFile(BytesIO((_ASSETS / "things" / f"{style}.zip").read_bytes()))


@cache
def styles_of(name: str, styles: tuple[Style, ...]) -> tuple[Style, ...]:
    """Return those of ``styles`` that have a sprite of the class or thing."""
    return tuple(style for style in styles if _is_file(name, style) or _is_in_zip(name, style))


@cache
def sprite(class_name: str, style: Style) -> Image.Image:
    """Return the sprite as RGBA with straight alpha, cropped to alpha > 16; its longer side is at most 96 pixels.

    Raises ``KeyError`` if this style has none, see ``styles_of``.
    """
    if not _is_file(class_name, style):
        return Image.open(BytesIO(_things(style).read(f"{_file_of(class_name)}"))).convert("RGBA")
    path = _ASSETS / "sprites" / str(style) / _file_of(class_name)
    return Image.open(BytesIO(path.read_bytes())).convert("RGBA")


def _file_of(name: str) -> str:
    return f"{name.replace(' ', '_')}.webp"


def _is_file(name: str, style: Style) -> bool:
    """Return True for a class in a style that has all classes."""
    return name in scene_classes() and style in (*TRAIN_STYLES, *TEST_STYLES)


def _is_in_zip(name: str, style: Style) -> bool:
    return style in BASE_STYLES and _file_of(name) in _things(style).namelist()


@cache
def background_files(split: Split) -> tuple[str, ...]:
    """Return the file names of the photographs of one split."""
    rows = json.loads((_ASSETS / "backgrounds.json").read_text(encoding="utf-8"))
    return tuple(row["file"] for row in rows if row["split"] == split)


@cache
def background(file: str) -> Image.Image:
    """Return a photograph as RGB; its longer side is at most 512 pixels."""
    return Image.open(BytesIO((_ASSETS / "backgrounds" / file).read_bytes())).convert("RGB")
