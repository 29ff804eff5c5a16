"""Datasets that the alignment of virft-photo is evaluated on while it runs: composites with unseen backgrounds.

    python scripts/photo_sets.py ASSETS OUT [--scenes 100]

Writes ``OUT/known`` (names of training, unseen backgrounds), ``OUT/heldout_category`` (categories of cut-outs that no
training scene shows) and ``OUT/heldout_name`` (their names), each with ``test`` and ``train``; the latter is for the
blind baselines only. A third of the questions are about something absent.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from photo_questions import SceneFits
from photo_scenes import Assets, load_assets, random_plan, render
from PIL import Image

from virft.data.store_writer import StoreWriter
from virft.scenes.render import Scene
from virft.types import Detection, Detections, ImageSize, Sample

ABSENT_EVERY = 2
"""One question about something absent after this number of questions about something present."""


def queries(scene: Scene, fits: SceneFits, by_category: bool, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Return what is shown, and what is not: names, or categories."""
    assets = fits.assets
    names = list(dict.fromkeys(o.class_name for o in scene.objects))
    if not by_category:
        shown = {c for name in names for c in assets.categories[name]} | set(names)
        return names, [name for name in assets.photographic if name not in shown]
    shown = list(dict.fromkeys(assets.categories[name][0] for name in names))
    known = {c for name in names for c in assets.categories[name]}
    return shown, [c for c in assets.kin if c not in known]


def write(folder: Path, assets: Assets, scenes: int, *, by_category: bool, seed: int) -> None:
    """Write one dataset of photographic cut-outs."""
    fits = SceneFits(assets)
    pool = [name for name in assets.photographic if assets.categories[name]]
    count = 0
    with StoreWriter(folder, overwrite=True) as writer:
        for number in range(scenes):
            rng = np.random.default_rng([seed, number])
            main = pool[int(rng.permutation(len(pool))[0])]
            plan = [name for name in random_plan(rng, assets, main) if name in pool]
            scene = render(rng, assets, plan)
            path = writer.add_image(f"{number:04d}.png", Image.fromarray(scene.image))
            shown, absent = queries(scene, fits, by_category, rng)
            chosen = [str(rng.choice(shown))] if shown else []
            if number % ABSENT_EVERY == 0:
                chosen.append(str(rng.choice(absent)))
            for query in chosen:
                boxes = fits.boxes(scene, query)
                writer.add(
                    Sample(
                        id=f"{count:05d}",
                        task="detection",
                        images=(path,),
                        image_sizes=(ImageSize(*scene.image.shape[1::-1]),),
                        query=query,
                        target=Detections(items=tuple(Detection(box=box) for box in boxes)),
                    )
                )
                count += 1
        writer.finish(source={"kind": "photo composites"}, seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("assets", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scenes", type=int, default=100)
    args = parser.parse_args()
    for name, names, by_category in (
        ("known", "base", False),
        ("heldout_category", "heldout", True),
        ("heldout_name", "heldout", False),
    ):
        for part, backgrounds, seed in (("train", "train", 1), ("test", "test", 2)):
            assets = load_assets(args.assets, names=names, backgrounds=backgrounds).without_drawings()
            scenes = args.scenes if part == "test" else 40
            write(args.out / name / part, assets, scenes, by_category=by_category, seed=seed)
            print(args.out / name / part)


if __name__ == "__main__":
    main()
