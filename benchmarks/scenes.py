"""Throughput of rendering scenes on one core.

    python benchmarks/scenes.py [--seconds 5] [--size 112]

Prints the rates of scenes (1 to 6 objects on a background crop) and of training samples (scene and questions).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from virft.scenes.assets import class_names
from virft.scenes.plans import mixed_plan
from virft.scenes.render import render_scene
from virft.scenes.sets import training_sample


def rate_per_s(make: Callable[[int], object], seconds: float) -> float:
    """Return the calls of ``make(index)`` per second of processor time, after 300 calls that fill the caches."""
    for index in range(300):
        make(index)
    start, done = time.process_time(), 0
    while time.process_time() - start < seconds:
        make(done)
        done += 1
    return done / (time.process_time() - start)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--size", type=int, default=112)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    base = class_names("base")
    scenes = rate_per_s(lambda _: render_scene(rng, mixed_plan(rng, base), size=arguments.size), arguments.seconds)
    samples = rate_per_s(lambda index: training_sample(0, index, size=arguments.size), arguments.seconds)
    print(f"{arguments.size} px  {scenes:.0f} scenes/s  {samples:.0f} training samples/s  (one core)")
