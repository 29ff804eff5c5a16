"""Reward functions of classification: equality of class names."""

from __future__ import annotations

from virft.text.labels import is_same_label, is_substring_match
from virft.types import Label, Reading, RewardContext


def label_reward(reading: Reading, target: Label, context: RewardContext) -> float:
    """Return 1 if the answer equals the target or one of its aliases after normalisation, else 0; unreadable: 0.

    >>> reading = Reading(text="", well_formed=True, answer=Label(text="siamese_Cat"))
    >>> label_reward(reading, Label(text="Siamese cat"), RewardContext())
    1.0
    """
    return float(isinstance(reading.answer, Label) and is_same_label(reading.answer.text, target))


def paper_label_reward(reading: Reading, target: Label, context: RewardContext) -> float:
    """Return 1 if answer or target contains the other, else 0. Reproduces the fault that "A or B or C" gets 1.

    An unreadable answer, so an empty one, gets 0; the published code falls back on the whole text. Source: Visual-RFT
    code.

    >>> reading = Reading(text="", well_formed=True, answer=Label(text="cat"))
    >>> paper_label_reward(reading, Label(text="caterpillar"), RewardContext())
    1.0
    """
    return float(isinstance(reading.answer, Label) and is_substring_match(reading.answer.text, target))
