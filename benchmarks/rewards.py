"""Throughput of parsing and rewarding completions on one core.

    python benchmarks/rewards.py

Five boxes per completion, five targets, preset robust. Goal: 10,000 completions per second of the canonical text. The
first line is the usual case; the others are alternative formats of models.
"""

from __future__ import annotations

import random
import time
import timeit

from record import markdown_table, write_results

from virft.geometry.boxes import BoxSpace
from virft.tasks.reward import RewardRule, compute_reward
from virft.text.answers import read_detection, render_detection
from virft.types import Box, Detection, Detections, ImageSize

SIZE = ImageSize(640, 480)
NUM_TEXTS = 200
REPEATS = 200


def random_detections(rng: random.Random) -> Detections:
    """Return five random boxes."""
    items = []
    for _ in range(5):
        x1, y1 = rng.uniform(0, 480), rng.uniform(0, 360)
        box = Box(x1=x1, y1=y1, x2=x1 + rng.uniform(40, 160), y2=y1 + rng.uniform(40, 120))
        items.append(Detection(box=box, confidence=rng.randint(0, 100) / 100))
    return Detections(items=tuple(items))


def jittered(detections: Detections, rng: random.Random, pixels: float) -> Detections:
    """Return the boxes, each corner moved by at most ``pixels`` and clipped to the image."""
    items = []
    for item in detections.items:
        x1, y1, x2, y2 = (value + rng.uniform(-pixels, pixels) for value in item.box.xyxy)
        box = Box(x1=max(x1, 0.0), y1=max(y1, 0.0), x2=min(x2, 640.0), y2=min(y2, 480.0))
        items.append(Detection(box=box, confidence=item.confidence))
    return Detections(items=tuple(items))


def completions_per_second(texts: list[str], targets: list[Detections]) -> float:
    """Return the best rate of several rounds over all texts, in processor time, since the machine may be busy."""
    rule = RewardRule()

    def read_and_reward() -> None:
        for text, target in zip(texts, targets, strict=True):
            reading = read_detection(text, thinking=True, space=BoxSpace.RELATIVE_1000, original=SIZE, resized=SIZE)
            compute_reward(rule, "detection", reading, target)

    return len(texts) / min(timeit.repeat(read_and_reward, timer=time.process_time, number=1, repeat=REPEATS))


def main() -> None:
    """Print and save one line per kind of text."""
    rng = random.Random(0)
    targets = [random_detections(rng) for _ in range(NUM_TEXTS)]

    def render(detections: Detections) -> str:
        return render_detection(
            detections,
            space=BoxSpace.RELATIVE_1000,
            original=SIZE,
            resized=SIZE,
            thinking_text="There are five of them in the image, two behind the fence.",
        )

    canonical = [render(jittered(target, rng, 8.0)) for target in targets]
    crowded_targets = [Detections(items=target.items[:1] * 5) for target in targets]
    crowded = [render(jittered(target, rng, 8.0)) for target in crowded_targets]
    as_json = [text.replace("'Position'", '"bbox_2d"').replace("'Confidence'", '"score"') for text in canonical]
    invalid = [text.replace("}]", ", oops}]") for text in canonical]
    rows = []
    for name, texts, goals in (
        ("canonical text", canonical, targets),
        ("canonical text, all boxes compete (Hungarian)", crowded, crowded_targets),
        ("JSON with other keys (general parser)", as_json, targets),
        ("one invalid element (general parser)", invalid, targets),
    ):
        speed = completions_per_second(texts, goals)
        rows.append([name, f"{speed:,.0f}", f"{1e6 / speed:.0f}"])
    table = markdown_table(["text", "per second and core", "µs each"], rows)
    text = f"{NUM_TEXTS} texts of 5 boxes, 5 targets each. Best of {REPEATS} rounds, in processor time.\n\n{table}"
    print(text)
    print(write_results("rewards", command="python benchmarks/rewards.py", tables=text, date=None))


if __name__ == "__main__":
    main()
