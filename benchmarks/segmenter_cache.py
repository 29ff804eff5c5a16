"""Speedup of the mask reward by cached image embeddings, and by one call for all completions of a group.

    python benchmarks/segmenter_cache.py [--completions 8] [--repeats 3]

SAM with a ViT-B and SAM 2 with a Hiera-T, in the sizes of the published models, with random weights, on which times
do not depend. One question on an image of 640 x 480, with a different box in each completion. Reading the image and
comparing the masks with that of the target are part of the time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from record import markdown_table, write_results
from transformers import Sam2Config, Sam2Model, SamConfig, SamModel

from virft.models.segmenter import SamSegmenter, load_segmenter
from virft.models.vision import FeatureCache
from virft.recipes.mask_reward import MaskReward
from virft.types import Box, BoxPair, ImageSize, Sample

SIZE = ImageSize(640, 480)
MODELS = {"SAM, ViT-B": (SamModel, SamConfig), "SAM 2, Hiera-T": (Sam2Model, Sam2Config)}


def main() -> None:
    """Print and save one line per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--completions", type=int, default=8, help="different boxes of a group")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each kind, of which the median is used")
    given = parser.parse_args()
    rows = []
    with TemporaryDirectory() as temporary:
        image = Path(temporary) / "image.png"
        Image.effect_noise(SIZE, 64).convert("RGB").save(image)
        for name, (model, config) in MODELS.items():
            folder = Path(temporary) / name
            model(config()).save_pretrained(folder)
            segmenter = load_segmenter(str(folder), device=torch.device("cpu"))
            rows.append([name, *measure(segmenter, str(image), given.completions, given.repeats)])
    table = markdown_table(
        ["segmenter", "MiB per image", "not cached, s", "cached / not cached", "one call / a call per box"], rows
    )
    print(table)
    command = f"python benchmarks/segmenter_cache.py --completions {given.completions} --repeats {given.repeats}"
    print(write_results("segmenter_cache", command=command, tables=table, date=None))


def measure(segmenter: SamSegmenter, image: str, completions: int, repeats: int) -> list[str]:
    """Return the size of the embeddings, the seconds without a cache, and the two ratios of seconds."""
    target = Box(x1=100, y1=100, x2=300, y2=300)
    sample = Sample(
        id="q", task="grounding", images=(image,), image_sizes=(SIZE,), query="q", target=target,
        polygons=((100, 100, 300, 100, 300, 300),),
    )  # fmt: skip
    pairs = [BoxPair(Box(x1=100 + k, y1=100, x2=300 + k, y2=300), 0, iou=1.0) for k in range(completions)]

    def seconds(run: Callable[[], object]) -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    cached = MaskReward(segmenter=segmenter, cache=FeatureCache())
    cached(sample, pairs)
    times: dict[str, list[float]] = {"not cached": [], "cached": [], "a call per box": []}
    for _ in range(repeats):
        empty = MaskReward(segmenter=segmenter, cache=FeatureCache())
        times["not cached"].append(seconds(lambda: empty(sample, pairs)))  # noqa: B023
        times["cached"].append(seconds(lambda: cached(sample, pairs)))
        times["a call per box"].append(seconds(lambda: [cached(sample, [pair]) for pair in pairs]))
    plain, fast, single = (median(found) for found in times.values())
    (stored,) = cached.cache._entries.values()
    size = stored.num_bytes / 2**20
    return [f"{size:.0f}", f"{plain:.2f}", f"{fast / plain:.3f}", f"{fast / single:.2f}"]


if __name__ == "__main__":
    main()
