"""Groups of completions and features, for the tests of advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from factories import reading, sample
from virft.data.base_completions import BaseCompletion, BaseGroup
from virft.recipes.advice.completions import SampledGroup
from virft.recipes.advice.features import FEATURES, Estimate, Features
from virft.types import ImageSize, Label, Sample, Unreadable

BASE_VALUES = {"readable": 1.0, "always_solved": 0.1, "nonzero_std": 0.8, "knowledge": 0.05, "truncated": 0.0}


def labelled(image: str, name: str) -> Sample:
    """A classification sample of its own image."""
    return sample(Label(text=name), id=image, task="classification", image=f"images/{image}.png", query="animal")


def group_of(
    one: Sample, scores: Sequence[float], *, rewards: Sequence[float] | None = None, num_unreadable: int = 0
) -> SampledGroup:
    """A group with these scores, of which the first ``num_unreadable`` are unreadable."""
    given = scores if rewards is None else rewards
    completions = tuple(
        BaseCompletion(text="", num_tokens=3, score=score, reward=reward, well_formed=True, truncated=False)
        for score, reward in zip(scores, given, strict=True)
    )
    answers = [Unreadable(reason="")] * num_unreadable + [one.target] * (len(scores) - num_unreadable)
    group = BaseGroup(
        sample_id=one.id, prompt_tokens=10, resized=ImageSize(64, 48), seconds=0.5, completions=completions
    )
    return SampledGroup(one, group, tuple(map(reading, answers)))


def features(
    *,
    task: str = "detection",
    images_per_class: float | None = 4.0,
    num_demonstrable: int = 46,
    resamples: Mapping[str, NDArray[np.float64]] | None = None,
    **values: float,
) -> Features:
    """Features of a model that does not know its eight classes, except for the given values."""
    found = dict.fromkeys(FEATURES, 0.5) | BASE_VALUES | values
    return Features(
        task=task,
        num_samples=46,
        num_images=32,
        num_evaluated=46,
        group_size=8,
        images_per_class=images_per_class,
        fewest_images=None if images_per_class is None else ("cactus", 4),
        num_classes=0 if images_per_class is None else 8,
        num_demonstrable=num_demonstrable,
        blind_name="mean box",
        estimates={name: Estimate(value, value, value) for name, value in found.items()},
        resamples={name: np.full(4, value) for name, value in found.items()} | dict(resamples or {}),
        classes=(),
        tokens=1000,
        seconds=2.0,
    )
