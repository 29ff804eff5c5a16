"""verl's call gives the total reward."""

from __future__ import annotations

import inspect

import pytest

from row_factories import FOX_ANSWER, fox_row
from virft.errors import ConfigError
from virft.integrations.rows import ground_truth_of
from virft.integrations.verl import compute_score

TRUTH = ground_truth_of(fox_row())
HOW = {"box_space": "relative_1000", "thinking": False}


def test_the_signature_is_the_documented_one() -> None:
    assert list(inspect.signature(compute_score).parameters)[:4] == [
        "data_source",
        "solution_str",
        "ground_truth",
        "extra_info",
    ]


def test_the_prompting_has_no_default() -> None:
    with pytest.raises(TypeError, match="'box_space' and 'thinking'"):
        compute_score("foxes", FOX_ANSWER, TRUTH)


def test_other_keywords_of_verl_are_ignored() -> None:
    assert compute_score("foxes", FOX_ANSWER, TRUTH, reward_router_address=None, **HOW) == pytest.approx(3.0)


def test_each_completion_gets_its_total() -> None:
    scores = [
        compute_score(data_source="foxes", solution_str=text, ground_truth=TRUTH, extra_info={"index": 0}, **HOW)
        for text in (FOX_ANSWER, "<answer>No Objects</answer>", "fox")
    ]
    assert scores == pytest.approx([3.0, 1.0, 0.0])


def test_preset_and_weights_are_those_of_a_config() -> None:
    # paper: iou 1 + confidence 1 + format 1; format weighs half
    assert compute_score("foxes", FOX_ANSWER, TRUTH, preset="paper", weights={"format": 0.5}, **HOW) == 2.5
    # IoU 2 / 3 is no hit above 0.7: iou 0, confidence -1^2, format 1
    text = "<answer>[{'Position':[250,250,416.6667,500]}]</answer>"
    assert compute_score("foxes", text, TRUTH, iou_threshold=0.7, **HOW) == 0.0


def test_pixels_of_the_resized_image_need_resize() -> None:
    truth = ground_truth_of(fox_row(box_space="resized_pixels"))
    how = {"box_space": "resized_pixels", "thinking": False}
    text = "<answer>[{'Position':[8,6,16,12]}]</answer>"  # seen as 32 x 24
    resize = {"unit": 8, "min_pixels": 1, "max_pixels": 800}
    assert compute_score("foxes", text, truth, resize=resize, **how) == pytest.approx(3.0)
    with pytest.raises(ConfigError, match="box_space resized_pixels needs resize"):
        compute_score("foxes", text, truth, **how)
