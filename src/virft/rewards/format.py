"""Reward functions for the format of a completion, independent of its answer."""

from __future__ import annotations

import re

from virft.types import Reading, RewardContext, Target

_BETWEEN_BLOCKS = re.compile(r"</think>\s*<answer>")


def format_reward(reading: Reading, target: Target, context: RewardContext) -> float:
    """Return 1 if the completion is exactly the requested blocks, each one non-empty, else 0.

    >>> from virft.types import Label
    >>> reading = Reading(text="<answer>pug</answer>", well_formed=True, answer=Label(text="pug"))
    >>> format_reward(reading, Label(text="cat"), RewardContext())
    1.0
    """
    return float(reading.well_formed)


def paper_format_reward(reading: Reading, target: Target, context: RewardContext) -> float:
    r"""Return 1 if the text matches ``<think>.*?</think>\s*<answer>.*?</answer>``, or is well formed, else 0.

    Reproduces the fault that empty blocks, and more blocks in between, pass. Source: Visual-RFT code. "Or is well
    formed" lets the preset run without thinking, which the published pattern cannot.

    >>> from virft.types import Unreadable
    >>> reading = Reading(text="<think></think><answer></answer>", well_formed=False, answer=Unreadable(reason=""))
    >>> paper_format_reward(reading, Unreadable(reason=""), RewardContext())
    1.0
    """
    text = reading.text
    # Not by the pattern itself: it takes quadratic time on a text that repeats its middle.
    matches = text.startswith("<think>") and text.endswith("</answer>")
    between = _BETWEEN_BLOCKS.search(text) if matches else None
    return float(reading.well_formed or between is not None)
