"""EasyR1's call of a whole batch gives a total and the parts of each reward."""

from __future__ import annotations

import pytest

from row_factories import FOX_ANSWER, fox_row, label_row
from virft.errors import DataError
from virft.integrations.rows import ground_truth_of
from virft.rewards import easyr1


def reward_input(text: str, truth: str) -> dict[str, object]:
    return {"response": text, "response_length": 7, "ground_truth": truth}


def test_each_response_gets_a_total_and_its_parts() -> None:
    fox, label = ground_truth_of(fox_row()), ground_truth_of(label_row())
    found = easyr1.compute_score(
        [reward_input(FOX_ANSWER, fox), reward_input("<answer>Fox</answer>", label), reward_input("fox", fox)],
        box_space="relative_1000",
        thinking=False,
        weights={"confidence": 0.5},
    )
    assert found[0] == pytest.approx({"overall": 2.5, "iou": 1.0, "confidence": 1.0, "format": 1.0})
    assert found[1] == {"overall": 2.0, "label": 1.0, "format": 1.0}
    assert found[2] == {"overall": 0.0, "iou": 0.0, "confidence": 0.0, "format": 0.0}


def test_an_empty_batch_is_an_empty_list() -> None:
    assert easyr1.compute_score([], box_space="relative_1000", thinking=False) == []


def test_the_prompting_has_no_default() -> None:
    with pytest.raises(TypeError, match="'box_space' and 'thinking'"):
        easyr1.compute_score([])


def test_a_plain_answer_as_ground_truth_is_refused() -> None:
    with pytest.raises(DataError, match="ground_truth is 'fox'; expected the text of"):
        easyr1.compute_score([reward_input("fox", "fox")], box_space="relative_1000", thinking=False)


def test_it_says_that_it_takes_batches() -> None:
    assert easyr1.REWARD_TYPE == "batch"
