"""Tests of ``virft.rewards.format``."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answer_factories import mutated_answers
from virft.rewards.format import format_reward, paper_format_reward
from virft.text.answers import read_classification
from virft.types import Label, RewardContext

CAT, CONTEXT = Label(text="cat"), RewardContext()


@pytest.mark.parametrize(
    ("text", "robust", "paper"),
    [
        ("<think>hm</think><answer>cat</answer>", 1.0, 1.0),
        ("<think>hm</think>\n<answer>cat</answer>", 1.0, 1.0),
        (" <think>hm</think><answer>cat</answer> ", 1.0, 1.0),
        ("<think></think><answer></answer>", 0.0, 1.0),
        ("<think>hm</think><answer>cat</answer><answer>dog</answer>", 0.0, 1.0),
        ("<think>hm</think><answer>cat", 0.0, 0.0),
        ("<answer>cat</answer>", 0.0, 0.0),
    ],
)
def test_format_of_known_texts(text, robust, paper):
    reading = read_classification(text, thinking=True)
    assert format_reward(reading, CAT, CONTEXT) == robust
    assert paper_format_reward(reading, CAT, CONTEXT) == paper


def test_without_thinking_paper_rewards_the_answer_block():
    assert paper_format_reward(read_classification("<answer>cat</answer>", thinking=False), CAT, CONTEXT) == 1.0


_PIECES = st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", " ", "\n", "x", "</think> <answer>"])


@given(st.one_of(mutated_answers(), st.lists(_PIECES, max_size=8).map("".join)))
def test_paper_gives_the_reward_whenever_the_published_pattern_matches(text):
    published = re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", text, re.DOTALL) is not None
    reading = read_classification(text, thinking=True)
    assert paper_format_reward(reading, CAT, CONTEXT) == float(published or reading.well_formed)
