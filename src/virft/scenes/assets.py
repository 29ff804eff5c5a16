"""The assets of the embedded world: classes, cut-outs in several styles, background photographs.

Everything is decoded once per process and then shared: do not write into what these functions return.
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
    """Who drew a cut-out."""

    FLUENT = "fluent"
    TWEMOJI = "twemoji"
    NOTO = "noto"
    FLAT = "flat"
    EMOJIONE = "emojione"


class Split(StrEnum):
    """Which photographs a background may come from."""

    TRAIN = "train"
    TEST = "test"


TRAIN_STYLES = (Style.FLUENT, Style.TWEMOJI)
TEST_STYLES = (Style.NOTO,)
BASE_STYLES = (*TRAIN_STYLES, Style.FLAT, Style.EMOJIONE)
"""What the built-in model is trained with; the last two hold base classes and things only, and not all of them."""
THING = "thing"


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneClass:
    """One class of the embedded world.

    ``lookalikes`` names its set of look-alikes ("" for none). ``split``: "base" (supervised training), "novel"
    (learnt later, by RL) or "heldout" (never trained on).
    """

    name: str
    plural: str
    group: str
    lookalikes: str
    split: str
    code_point: str


@cache
def scene_classes() -> dict[str, SceneClass]:
    """All 80 classes by name, in the order of ``classes.json``."""
    rows = json.loads((_ASSETS / "classes.json").read_text(encoding="utf-8"))
    return {row["name"]: SceneClass(**row) for row in rows}


@cache
def class_names(split: str | None = None) -> tuple[str, ...]:
    """Names of the classes of one split ("base", "novel", "heldout"), or of all.

    >>> len(class_names("base")), len(class_names("novel")), len(class_names("heldout"))
    (64, 8, 8)
    """
    return tuple(name for name, row in scene_classes().items() if split in (None, row.split))


@cache
def group_names() -> tuple[str, ...]:
    """The groups in order: animal, fruit, snack, vehicle, ball, instrument, garment, plant."""
    return tuple(dict.fromkeys(row.group for row in scene_classes().values()))


@cache
def thing_names() -> tuple[str, ...]:
    """Things that no question names. The built-in model's training shows them beside the base classes."""
    return tuple(name.removesuffix(".webp") for name in _things(TRAIN_STYLES[0]).namelist())


def group_of(name: str) -> str:
    """The group of a class; "thing" for a nameless thing."""
    row = scene_classes().get(name)
    return row.group if row is not None else THING


@cache
def lookalike_sets() -> dict[str, tuple[str, ...]]:
    """Class names by the name of their look-alike set; classes of all splits."""
    rows = [row for row in scene_classes().values() if row.lookalikes]
    return {
        key: tuple(r.name for r in rows if r.lookalikes == key) for key in dict.fromkeys(r.lookalikes for r in rows)
    }


@cache
def _things(style: Style) -> ZipFile:
    return ZipFile(BytesIO((_ASSETS / "things" / f"{style}.zip").read_bytes()))


@cache
def styles_of(name: str, styles: tuple[Style, ...]) -> tuple[Style, ...]:
    """Those of the styles in which there is a cut-out of the class or thing."""
    return tuple(style for style in styles if _is_file(name, style) or _is_in_zip(name, style))


@cache
def sprite(class_name: str, style: Style) -> Image.Image:
    """The cut-out, RGBA with straight alpha, cropped to alpha > 16; its longer side is at most 96 pixels.

    ``KeyError`` if there is none in this style, see ``styles_of``.
    """
    if not _is_file(class_name, style):
        return Image.open(BytesIO(_things(style).read(f"{_file_of(class_name)}"))).convert("RGBA")
    path = _ASSETS / "sprites" / str(style) / _file_of(class_name)
    return Image.open(BytesIO(path.read_bytes())).convert("RGBA")


def _file_of(name: str) -> str:
    return f"{name.replace(' ', '_')}.webp"


def _is_file(name: str, style: Style) -> bool:
    """Whether it is a class in a style that has all of them."""
    return name in scene_classes() and style in (*TRAIN_STYLES, *TEST_STYLES)


def _is_in_zip(name: str, style: Style) -> bool:
    return style in BASE_STYLES and _file_of(name) in _things(style).namelist()


@cache
def background_files(split: Split) -> tuple[str, ...]:
    """File names of the photographs of one split."""
    rows = json.loads((_ASSETS / "backgrounds.json").read_text(encoding="utf-8"))
    return tuple(row["file"] for row in rows if row["split"] == split)


@cache
def background(file: str) -> Image.Image:
    """One photograph, RGB, longer side at most 512 pixels."""
    return Image.open(BytesIO((_ASSETS / "backgrounds" / file).read_bytes())).convert("RGB")
