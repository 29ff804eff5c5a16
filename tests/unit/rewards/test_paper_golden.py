"""The preset ``paper`` against ``tests/data/paper_rewards.json``, which was computed manually."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from answer_factories import FRAME, box, detections
from virft.tasks.reward import RewardRule, compute_reward
from virft.text.answers import read_classification, read_detection, read_grounding
from virft.types import Label, RewardContext

GOLDEN = Path(__file__).parents[2] / "data" / "paper_rewards.json"
CASES = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]


def reading_and_target(task, text, thinking, target):
    if task == "detection":
        return read_detection(text, thinking=thinking, **FRAME), detections(*target)
    if task == "grounding":
        return read_grounding(text, thinking=thinking, **FRAME), box(*target)
    return read_classification(text, thinking=thinking), Label(text=target)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['task']}: {case['name']}")
def test_paper_gives_the_rewards_of_the_published_formulas(case):
    task = case["task"]
    reading, target = reading_and_target(task, case["text"], case["thinking"], case["target"])
    rule = RewardRule(preset="paper", iou_threshold_end=case.get("iou_threshold_end"))
    report = compute_reward(rule, task, reading, target, RewardContext(step_frac=case.get("step_frac", 0.0)))
    assert report.parts == pytest.approx(case["parts"], abs=1e-6), case["why"]
    assert report.total == pytest.approx(case["total"], abs=2e-6)
