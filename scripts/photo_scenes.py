"""Composites for the alignment of virft-photo: cut-outs with names and categories on photographs.

A scene is a pure function of assets, seed and number. The assets are those that ``photo_assets.py`` collects.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from virft.models.photo_config import PHOTO_VISION
from virft.scenes.assets import Style
from virft.scenes.patches import Patch, transform
from virft.scenes.render import Scene, SceneObject, background_crop, compose_scene
from virft.types import Box, ImageSize

SIZE: int = PHOTO_VISION["image_size"]
SIDE = 8
"""Image tokens per side."""
MAX_OBJECTS = 6
SINGLE_FRAC = 0.35
"""Fraction of scenes with one large object, as in most photographs of one animal."""
EMPTY_FRAC = 0.03
SPRITE_FRAC = 0.25
"""Fraction of the names that are drawn from those with drawn sprites, the others have a photograph."""
RELATED_FRAC = 0.4
"""Probability that another name is one of the same category."""
MIN_CELL_FRAC = 0.2
"""Smallest fraction of an image token that an object covers to be its object."""
_COUNT_WEIGHTS = (0.68, 0.19, 0.09, 0.04)  # of 1 to 4 objects of one name
_SINGLE_SIDES, _FEW_SIDES, _MANY_SIDES = (40.0, 118.0), (26.0, 80.0), (18.0, 52.0)  # at 112 pixels


@dataclass(frozen=True)
class Assets:
    """Cut-outs and backgrounds of one split of the names."""

    folder: Path
    photographs: dict[str, list[str]]
    """Name -> files of its photographic cut-outs."""
    drawings: dict[str, list[str]]
    """Name -> files of its drawn sprites."""
    categories: dict[str, tuple[str, ...]]
    """Name -> categories, the narrowest first; for every name, held out or not."""
    photographic: tuple[str, ...]
    """Names with a photographic cut-out."""
    sprites: tuple[str, ...]
    """Names with drawn sprites."""
    names: tuple[str, ...]
    """All names, in the order of the class numbers."""
    backgrounds: tuple[str, ...]
    kin: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Category -> names of ``photographic`` in it."""

    def files_of(self, rng: np.random.Generator, name: str) -> list[str]:
        """Return the photographs of a name, or, for a sixth of the names that have both, its drawings."""
        photographs, drawings = self.photographs.get(name, []), self.drawings.get(name, [])
        return drawings if not photographs or (drawings and rng.random() < 1 / 6) else photographs

    def without_drawings(self) -> Assets:
        """Return the assets with photographs only."""
        return replace(self, drawings={}, sprites=(), names=self.photographic)


def load_assets(folder: Path, *, names: str = "base", backgrounds: str = "train") -> Assets:
    """Return the assets of a split of the names ("base" or "heldout") and of the backgrounds ("train" or "test")."""
    listed = json.loads((folder / "assets.json").read_text(encoding="utf-8"))
    photographs: dict[str, list[str]] = {}
    drawings: dict[str, list[str]] = {}
    categories: dict[str, tuple[str, ...]] = {}
    for row in sorted(listed["cutouts"], key=lambda row: row["source"] != "stamps"):  # stamps' categories are finer
        categories[row["name"]] = categories.get(row["name"]) or tuple(row["categories"])
        if row["split"] == names and (names == "base" or row["source"] == "stamps"):
            files = photographs if row["source"] == "stamps" else drawings
            files.setdefault(row["name"], []).append(row["file"])
    photographic = tuple(sorted(photographs))
    kin: dict[str, list[str]] = {}
    for name in photographic:
        for category in categories[name]:
            kin.setdefault(category, []).append(name)
    return Assets(
        folder=folder,
        photographs=photographs,
        drawings=drawings,
        categories=categories,
        photographic=photographic,
        sprites=tuple(sorted(drawings)),
        names=tuple(sorted({*photographs, *drawings})),
        backgrounds=tuple(row["file"] for row in listed["backgrounds"] if row["split"] == backgrounds),
        kin={category: tuple(found) for category, found in kin.items()},
    )


@cache
def _cutout(path: Path, flipped: bool) -> Image.Image:
    image = Image.open(path).convert("RGBA")
    return (image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else image).convert("RGBa")


@cache
def _background(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def random_plan(rng: np.random.Generator, assets: Assets, main: str | None = None) -> list[str]:
    """Return the names of 0 to MAX_OBJECTS objects, in which ``main`` is the first; names repeat."""
    if main is None and rng.random() < EMPTY_FRAC:
        return []
    first = _random_name(rng, assets) if main is None else main
    if rng.random() < SINGLE_FRAC:
        return [first]
    kinds = [first]
    for _ in range(int(rng.integers(0, 4))):
        related = [other for category in assets.categories[first] for other in assets.kin.get(category, ())]
        name = _choice(rng, related) if related and rng.random() < RELATED_FRAC else _random_name(rng, assets)
        if name not in kinds:
            kinds.append(name)
    plan: list[str] = []
    for kind in kinds:
        plan += [kind] * (1 + int(rng.choice(4, p=_COUNT_WEIGHTS)))
    return plan[:MAX_OBJECTS]


def _choice(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]


def _random_name(rng: np.random.Generator, assets: Assets) -> str:
    pool = assets.sprites if assets.sprites and rng.random() < SPRITE_FRAC else assets.photographic
    return _choice(rng, pool)


def render(rng: np.random.Generator, assets: Assets, plan: Sequence[str]) -> Scene:
    """Render the planned objects on a random background; the last ones are dropped while there is no place."""
    photo = _background(assets.folder / "backgrounds" / _choice(rng, assets.backgrounds))
    single = len(plan) == 1
    low, high = _SINGLE_SIDES if single else _FEW_SIDES if len(plan) < 4 else _MANY_SIDES

    def make_patches(scale: float) -> list[Patch]:
        made = []
        for index in rng.permutation(len(plan)):
            name = plan[index]
            path = assets.folder / "cutouts" / _choice(rng, assets.files_of(rng, name))
            source = _cutout(path, bool(rng.random() < 0.5))
            made.append(transform(rng, source, rng.uniform(low, high) * scale, name, Style.FLUENT))
        return made

    scene = compose_scene(rng, background_crop(rng, photo, SIZE), make_patches, group_of=lambda name: "")
    if scene is None:
        return render(rng, assets, plan[:-1])
    return Scene(image=_camera(rng, scene.image), objects=scene.objects)


def _camera(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Return the image after random blur, grain, desaturation and gamma; half of the images are unchanged."""
    if rng.random() < 0.5:
        return image
    made = Image.fromarray(image)
    if rng.random() < 0.4:
        made = made.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.4)))
    pixels = np.asarray(made, np.float32)
    if rng.random() < 0.3:
        grey = pixels.mean(-1, keepdims=True)
        pixels = grey + (pixels - grey) * np.float32(rng.uniform(0.0, 0.8))
    if rng.random() < 0.5:
        pixels = 255 * (pixels / 255) ** np.float32(rng.uniform(0.7, 1.4))
    if rng.random() < 0.3:
        pixels = pixels + rng.normal(0, rng.uniform(2, 10), pixels.shape).astype(np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def records_of(scene: Scene, names: Sequence[str]) -> np.ndarray:
    """Return rows [kind, x1, y1, x2, y2, visible], float32 [MAX_OBJECTS, 6]; kind -1: no object."""
    number = {name: i for i, name in enumerate(names)}
    made = np.full((MAX_OBJECTS, 6), -1, np.float32)
    for row, one in enumerate(scene.objects):
        made[row] = [number[one.class_name], *one.box.xyxy, one.visible_frac]
    return made


def cells_of(scene: Scene) -> np.ndarray:
    """Return the index of the object that covers most of each image token, int8 [SIDE * SIDE]; -1: background."""
    step = SIZE // SIDE
    covered = np.zeros((len(scene.objects), SIDE * SIDE), np.float32)
    for index in range(len(scene.objects)):
        mask = scene.visible_mask(index).reshape(SIDE, step, SIDE, step)
        covered[index] = mask.mean((1, 3)).reshape(-1)
    if not len(covered):
        return np.full(SIDE * SIDE, -1, np.int8)
    return np.where(covered.max(0) >= MIN_CELL_FRAC, covered.argmax(0), -1).astype(np.int8)


def objects_of(records: np.ndarray, names: Sequence[str]) -> tuple[SceneObject, ...]:
    """Return the objects of ``records_of``, without masks."""
    return tuple(
        SceneObject(
            class_name=names[int(kind)],
            group="",
            style=Style.FLUENT,
            box=Box(x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2)),
            visible_frac=float(visible),
            image_size=ImageSize(SIZE, SIZE),
            patch_mask=np.zeros((1, 1), bool),
            patch_origin=(0, 0),
        )
        for kind, x1, y1, x2, y2, visible in records
        if kind >= 0
    )
