"""Fuzz test of all parsers, rewards and metrics with completions of arbitrary bytes.

    python fuzz/answers.py 1000000 --seed 0      # number of mutated completions; guided.py generates its own

Checked: no exception; every reward part within its bounds and the total finite; no completion takes more than 50 ms.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mutations import arguments, counted, cut

from virft.data.segmented import compare_masks
from virft.geometry.boxes import BoxSpace
from virft.geometry.masks import box_to_mask, polygons_to_mask
from virft.geometry.points import point_target
from virft.tasks import TASKS
from virft.tasks.counting import Count
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule, compute_reward
from virft.types import (
    Box,
    BoxPair,
    Detection,
    Detections,
    ImageSize,
    Label,
    LabelledDetections,
    Reading,
    RewardContext,
    Sample,
    SegmentedBox,
    ShortAnswer,
    Target,
)

SLOW_S = 0.05
ORIGINAL, RESIZED = ImageSize(640, 480), ImageSize(644, 476)
RULES = tuple(RewardRule(preset=preset) for preset in ("robust", "paper"))
MASK_RULES = tuple(replace(rule, uses_masks=True) for rule in RULES)
_BOXES = Box(x1=0, y1=0, x2=320, y2=240), Box(x1=100.5, y1=20, x2=639, y2=480)
TARGETS: dict[str, tuple[Target, ...]] = {
    "detection": (Detections(), Detections(items=tuple(Detection(box=box) for box in _BOXES))),
    "classification": (Label(text="tabby cat", aliases=("tabby",)),),
    "grounding": (_BOXES[1],),
    "counting": (Count(0), Count(3)),
    "multiclass_detection": tuple(
        LabelledDetections(
            items=tuple(Detection(box=box, label=label) for box, label in zip(_BOXES, labels, strict=False)),
            classes=("tabby cat", "x", "C#"),
        )
        for labels in ((), ("x", "tabby cat"))
    ),
    "short_answer": (
        ShortAnswer(answers=("tabby cat", "tabby")),
        ShortAnswer(answers=("3", "four"), kind="number", relative_tolerance=0.05),
        ShortAnswer(answers=("B",), kind="choice", options=("tabby cat", "owl")),
        ShortAnswer(answers=("tabby", "cat"), kind="list"),
        ShortAnswer(answers=("There are three",), kind="ocr"),
        ShortAnswer(answers=("cat",) * 6 + ("tabby cat",) * 4, kind="vqa"),
    ),
    "pointing": (
        point_target([]),
        point_target(_BOXES, outlines=[[(0, 0, 320, 0, 320, 240)], []]),
        point_target(_BOXES[:1], crowd=_BOXES[1:]),
    ),
}
_SAILS = tuple((x1, y1, x2, y1, x2, y2) for x1, y1, x2, y2 in (box.xyxy for box in _BOXES))
_MASKS = tuple(polygons_to_mask([outline], ORIGINAL) for outline in _SAILS)


def _masked(task: str, target: Target, **outlines: Any) -> Sample:
    """A question whose objects have masks."""
    images: dict[str, Any] = {"images": ("a.png",), "image_sizes": (ORIGINAL,)}
    return Sample(id="masked", task=task, query="cat", target=target, **images, **outlines)


MASKED = {
    "grounding": _masked("grounding", _BOXES[0], polygons=_SAILS[:1]),
    **{
        task: _masked(task, TARGETS[task][1], outlines=tuple((outline,) for outline in _SAILS))
        for task in ("detection", "multiclass_detection")
    },
}
SEEDS = (
    "<answer>[{'Position': [1, 2, 300, 400], 'Confidence': 0.5}, {'Position': [5, 6, 7, 8]}]</answer>",
    "<answer>[[0, 0, 500, 500], [10, 10, 490, 490], [0, 0, 320, 240], [157, 42, 998, 999]]</answer>",
    "<think>so</think><answer>No Objects</answer>",
    "<answer>(1,2),(30,40)</answer>",
    '<answer>[{"point_2d": [250, 250], "label": "x"}, {"point_2d": [260, 20]}]</answer>',
    '<answer><points x1="10.5" y1="20.0" x2="30.0" y2="40.5" alt="x">x</points><point x="1" y="2"/></answer>',
    "<answer><box>[[1, 2, 3, 4]]</box></answer>",
    "<answer>tabby cat</answer>",
    "<answer>There are three, not 12-13 or 1000000.</answer>",
    '<answer>```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "x"}]\n```</answer>',
    "<answer>[{'Position':[0,0,500,500],'Label':'x','Confidence':0.9},{'Position':[1,2,3,4],'Label':'C#'}]</answer>",
)
PIECES = (
    "<think>", "</think>", "<answer>", "</answer>", "[", "]", "{", "}", "(", ")", ",", ":", "'", '"', "\\", " ", "\n",
    "NaN", "-5.5", "1e999", "Infinity", "١٢", "２５０", "No Objects", "```", "<box>", "</box>", "'Position'", "0.5",
    "point_2d", "<point ", ' x1="',
    "7" * 400, "[" * 2000, "{'a':" * 500, "\ud800", "\x00", "\u200b", "e" * 3000, "-", "+", "0x10", "1_000", "None",
    "'Label'", "tabby cat",
)  # fmt: skip


def try_text(text: str, slow_s: float = SLOW_S) -> float:
    """Run all parsers, rewards and metrics on one completion. Raises ``AssertionError`` if a check fails.

    Returns the seconds of the slowest task: parsing once, then all rewards and metrics for each target.
    """
    seconds = []
    for thinking in (False, True):
        for task in TARGETS:
            for space in BoxSpace if TASKS[task].boxes is not None else (BoxSpace.RELATIVE_1000,):
                seconds.append(try_task(task, text, thinking, space, slow_s))
    return max(seconds)


def try_task(task: str, text: str, thinking: bool, space: BoxSpace, slow_s: float) -> float:
    """Run one parser, then the rewards and the metric of its task; return the seconds."""
    began = time.perf_counter()
    _try(task, text, thinking, space)
    seconds = time.perf_counter() - began
    if seconds > slow_s / 10:  # measure again in processor time: another process may have interrupted this one
        began = time.process_time()
        _try(task, text, thinking, space)
        seconds = time.process_time() - began
        assert seconds <= slow_s, (task, f"{seconds:.3f} s", len(text), text[:200])
    return seconds


def _try(task: str, text: str, thinking: bool, space: BoxSpace) -> None:
    reading = _read(task, text, thinking, space)
    for target in TARGETS[task]:
        for rule in RULES:
            report = compute_reward(rule, task, reading, target)  # raises if a part is out of its bounds
            bounds = TASKS[task].reward_bounds(rule.preset).values()
            low, high = (sum(ends[i] for ends in bounds) for i in (0, 1))
            assert math.isfinite(report.total), (rule.preset, task, text)
            assert low <= report.total <= high, (rule.preset, task, report, text)
        assert 0.0 <= TASKS[task].score(reading, target) <= 1.0, (task, text)
        TASKS[task].measure([(reading, target)])
    if task in MASKED:
        _try_masks(MASKED[task], reading)


def _segment(sample: Sample, pairs: Sequence[BoxPair]) -> list[SegmentedBox]:
    """Simulated segmenter: return the part of the object's mask in each predicted box."""
    return compare_masks(sample, pairs, [_MASKS[pair.target] & box_to_mask(pair.box, ORIGINAL) for pair in pairs])


def _try_masks(sample: Sample, reading: Reading) -> None:
    """Reward the masks of the simulated segmenter."""
    for rule in MASK_RULES:
        grader = Grader(rule=rule, thinking=False, box_space=BoxSpace.RELATIVE_1000, segment=_segment)
        (segmented,) = grader.segment_answers(sample, [reading], [RewardContext()])
        report = grader.reward(reading, sample, RewardContext(segmented=segmented))
        assert 0.0 <= report.parts["mask"] <= 1.0, (rule.preset, report)
        assert math.isfinite(report.total), (rule.preset, report)


def _read(task: str, text: str, thinking: bool, space: BoxSpace) -> Reading:
    return TASKS[task].read(text, thinking=thinking, space=space, original=ORIGINAL, resized=RESIZED)


def mutated(rng: random.Random) -> str:
    """Return a completion with pieces removed, duplicated or inserted; sometimes very long, sometimes random bytes."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(200)).decode("utf-8", errors="surrogateescape")
    text = cut(rng, rng.choice(SEEDS), PIECES, times=6, longest=20)
    if rng.random() < 0.001:  # a megabyte
        text = text * (2**20 // max(1, len(text)))
    return text


def main() -> None:
    """Check mutated completions from a seed."""
    parser = arguments(__doc__)
    parser.add_argument("--slow-s", type=float, default=SLOW_S, help="most seconds for one text")
    given = parser.parse_args()
    rng = random.Random(given.seed)
    for text in SEEDS:  # some modules are imported at the first use
        try_text(text, slow_s=60)
    slowest_s = 0.0
    for _ in counted(given.number):
        slowest_s = max(slowest_s, try_text(mutated(rng), given.slow_s))
    print(f"slowest completion, with parsing, rewards and metrics: {slowest_s * 1000:.1f} ms")
    held = f"no exception, every reward within its bounds, none slower than {given.slow_s:g} s"
    print(f"{given.number:,} completions: {held}")


if __name__ == "__main__":
    main()
