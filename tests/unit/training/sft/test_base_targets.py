"""Supervised targets by the base model's completions: curated samples, and its own correct answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from factories import detections, sample
from virft.config.schema import SFTConfig
from virft.data.base_completions import BaseCompletion, BaseGroup, append_base_completions
from virft.errors import DataError
from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.training.sft.base_targets import (
    RejectionTargets,
    base_groups,
    rejection_targets,
    selected_ids,
)
from virft.types import Detections, ImageSize, Sample

SIZE = ImageSize(100, 100)


def answer(*boxes: str, thinking: str = "") -> str:
    listed = ",".join(f"{{'Position':[{box}],'Confidence':0.5}}" for box in boxes)
    return f"{thinking}<answer>[{listed}]</answer>"


def group(name: str, *completions: tuple[str, float]) -> BaseGroup:
    """A group of (text, score)."""
    return BaseGroup(
        sample_id=name,
        prompt_tokens=3,
        resized=SIZE,
        seconds=0.5,
        completions=tuple(
            BaseCompletion(text=text, num_tokens=2, score=score, reward=score, well_formed=True, truncated=False)
            for text, score in completions
        ),
    )


SAMPLES = [sample(detections((20, 25, 80, 75)), id=name, size=(100, 100)) for name in "abc"]
NEAR, NEARER, WRONG = answer("200,250,800,700"), answer("200,250,800,740"), answer("0,0,10,10")
GROUPS = {
    "a": group("a", (NEAR, 0.8), (NEARER, 1.0), (NEAR, 0.8), (WRONG, 0.0)),
    "b": group("b", (WRONG, 0.4), (WRONG, 0.0)),
    "c": group("c", (WRONG, 0.0), (WRONG, 0.0)),
}


def targets_of(sft: SFTConfig, *, thinking: bool = False, groups: dict[str, BaseGroup] = GROUPS) -> RejectionTargets:
    return rejection_targets(
        sft, SAMPLES, groups, space=BoxSpace.RELATIVE_1000, thinking_for=lambda sample: thinking, seed=0
    )


def boxes(one: Sample) -> list[tuple[float, ...]]:
    assert isinstance(one.target, Detections)
    return [item.box.xyxy for item in one.target.items]


def test_curation_keeps_the_samples_that_the_base_model_sometimes_solves() -> None:
    curated = SFTConfig(targets="curated", base_completions="x")
    assert selected_ids(curated, GROUPS) == {"a", "b"}
    # the mean of b is 0.2
    assert selected_ids(replace(curated, curated_above=0.2), GROUPS) == {"a"}
    assert selected_ids(SFTConfig(), GROUPS) == {"a", "b", "c"}


def test_rejection_sampling_keeps_the_samples_with_a_correct_completion() -> None:
    rejection = SFTConfig(targets="rejection", base_completions="x")
    assert selected_ids(rejection, GROUPS) == {"a"}
    assert selected_ids(replace(rejection, rejection_above=0.3), GROUPS) == {"a", "b"}


def test_the_best_completion_is_the_target() -> None:
    found = targets_of(SFTConfig(targets="rejection", base_completions="x"))
    assert list(found.by_id) == ["a"]
    (one,) = found.by_id["a"]
    assert boxes(one) == [(20, 25, 80, 74)]
    # written again, it is the base model's own completion
    assert TASKS["detection"].render_for(one, space=BoxSpace.RELATIVE_1000, resized=SIZE) == NEARER
    assert found.batch([SAMPLES[0]] * 2, number=3) == [one, one]


def test_distinct_completions_are_drawn_equally_often_and_reproducibly() -> None:
    found = targets_of(SFTConfig(targets="rejection", base_completions="x", rejection_keep="distinct"))
    assert [boxes(one) for one in found.by_id["a"]] == [[(20, 25, 80, 74)], [(20, 25, 80, 70)]]
    drawn = [found.batch([SAMPLES[0]] * 4, number) for number in range(100)]
    assert drawn == [found.batch([SAMPLES[0]] * 4, number) for number in range(100)]
    counts = Counter(str(boxes(one)) for batch in drawn for one in batch)
    assert all(140 < count < 260 for count in counts.values())
    assert sum(counts.values()) == 400


def test_a_completion_with_an_unreadable_element_is_no_target() -> None:
    broken = answer("200,250,800,740", "1,2")
    found = targets_of(
        SFTConfig(targets="rejection", base_completions="x"), groups={**GROUPS, "a": group("a", (broken, 0.9))}
    )
    assert found.by_id == {}


def test_with_thinking_the_reasoning_of_the_completion_becomes_the_rationale() -> None:
    text = answer("200,250,800,740", thinking="<think>red fur</think>")
    groups = {**GROUPS, "a": group("a", (answer("200,250,800,740"), 1.0), (text, 0.9))}
    found = targets_of(SFTConfig(targets="rejection", base_completions="x"), thinking=True, groups=groups)
    # the first one has no reasoning, so it is not in the requested format
    assert [one.rationale for one in found.by_id["a"]] == ["red fur"]


def test_a_sample_without_completions_is_an_error(tmp_path: Path) -> None:
    append_base_completions(tmp_path, [GROUPS["a"], GROUPS["b"]])
    sft = SFTConfig(targets="curated", base_completions=str(tmp_path))
    assert base_groups(sft, SAMPLES[:2]) == {"a": GROUPS["a"], "b": GROUPS["b"]}
    with pytest.raises(DataError, match=r"has no completions of 1 of 3 training samples, such as c; expected those of"):
        base_groups(sft, SAMPLES)
