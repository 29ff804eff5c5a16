"""Tests of ``virft.rewards.label``."""

from __future__ import annotations

from answer_factories import classification
from virft.rewards.label import label_reward, paper_label_reward
from virft.types import Label, Reading, RewardContext, Unreadable

CONTEXT = RewardContext()


def test_aliases_of_the_target_are_rewarded():
    reading = classification("F-16 Fighting Falcon")
    assert label_reward(reading, Label(text="F-16A/B"), CONTEXT) == 0.0
    assert label_reward(reading, Label(text="F-16A/B", aliases=("f16 fighting falcon",)), CONTEXT) == 1.0


def test_an_unreadable_answer_names_nothing_in_both_presets():
    reading = Reading(text="cat", well_formed=False, answer=Unreadable(reason="no answer block"))
    assert label_reward(reading, Label(text="cat"), CONTEXT) == 0.0
    assert paper_label_reward(reading, Label(text="cat"), CONTEXT) == 0.0
