"""The reward of a mask: one call of the segmenter for a group, equal rewards for equal boxes, 0 without a box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from factories import box, detections, sample
from group_factories import completion
from mask_questions import SEGMENTERS, SIZE, masked, segment_inside
from virft.errors import ConfigError
from virft.geometry.boxes import BoxSpace
from virft.geometry.masks import rle_to_mask
from virft.tasks.explain import explain_reward
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule
from virft.types import Box, RewardContext, RewardReport, Sample, SegmentedBox

SAIL = masked(20, 20, 60, 60)
EXACT = "<answer>(200,200),(600,600)</answer>"
LEFT = "<answer>(200,200),(400,600)</answer>"  # box IoU 0.5: hit; half of the box, 3/4 of the triangle is right of it
FAR = "<answer>(200,200),(1000,1000)</answer>"  # box IoU 0.25


def grader(*, preset="robust", segment=segment_inside, **rule) -> Grader:
    return Grader(
        rule=RewardRule(preset=preset, uses_masks=True, **rule),
        thinking=False,
        box_space=BoxSpace.RELATIVE_1000,
        segment=segment,
    )


def grade(text: str, one: Sample = SAIL, **options) -> RewardReport:
    return grader(**options).grade(text, one, resized=one.target_size, context=RewardContext())


def test_the_exact_box_has_the_whole_mask() -> None:
    report = grade(EXACT)
    assert report.parts == {"giou": 1.0, "format": 1.0, "mask": 1.0}
    assert report.total == 3.0
    assert report.mask is not None
    assert rle_to_mask(report.mask, SIZE).sum() == pytest.approx(40 * 40 / 2, abs=40)


def test_a_part_of_the_mask_is_rewarded_by_its_iou() -> None:
    report = grade(LEFT)
    # columns 20 to 39 of the triangle: a quarter of its area
    assert report.parts["mask"] == pytest.approx(0.25, abs=0.02)


def test_the_mask_of_a_wrong_box_is_not_rewarded_except_by_the_published_formula() -> None:
    robust, paper = (grade(FAR, preset=preset) for preset in ("robust", "paper"))
    assert robust.parts["mask"] == 0.0
    assert robust.mask is not None, "it is logged all the same"
    assert paper.parts["mask"] == 1.0


def test_a_weight_scales_the_part() -> None:
    assert grade(EXACT, weights={"mask": 0.5}).total == 2.5


@pytest.mark.parametrize("text", ["<answer>no</answer>", "", "<answer>(9,9),(9,9)</answer>"])
def test_an_unreadable_answer_has_no_mask(text: str) -> None:
    report = grade(text)
    assert (report.parts["mask"], report.mask) == (0.0, None)


def test_several_boxes_have_no_mask() -> None:
    text = "<answer>(200,200),(600,600) (0,0),(1000,1000)</answer>"
    assert grade(text, segment=SEGMENTERS["salient"]).parts["mask"] == 0.0


def test_targets_without_a_mask_have_no_such_part() -> None:
    plain = replace(SAIL, polygons=())
    assert "mask" not in grade(EXACT, plain).parts
    assert "mask" not in grade("<answer>No Objects</answer>", sample(detections())).parts


def test_a_group_is_segmented_in_one_call_with_each_box_once() -> None:
    calls: list[list[Box]] = []

    def segment(sample: Sample, boxes: Sequence[Box]) -> Sequence[SegmentedBox]:
        calls.append(list(boxes))
        return segment_inside(sample, boxes)

    texts = [EXACT, LEFT, EXACT, "nothing"]
    contexts = [RewardContext(num_tokens=len(completion([1], text=one).token_ids)) for one in texts]
    reports = grader(segment=segment).grade_group(texts, SAIL, resized=SIZE, contexts=contexts)
    assert calls == [[box(20, 20, 60, 60), box(20, 20, 40, 60)]]
    assert reports == [grade(text) for text in texts]
    calls.clear()
    grader(segment=segment).grade_group(["nothing"] * 3, SAIL, resized=SIZE, contexts=contexts[:3])
    assert calls == []


def test_a_weight_without_a_segmenter_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^weights: mask needs reward\.segmenter, which is not set"):
        RewardRule(weights={"mask": 1.0})


def test_the_explanation_states_both_ious() -> None:
    one = grader()
    for text, line in (
        (EXACT, "mask of the box and of the target: IoU 1.000"),
        (FAR, "mask of the box and of the target: IoU 1.000, not rewarded: the IoU of the boxes is below 0.5"),
    ):
        reading = one.read(text, SAIL, resized=SIZE)
        (segmented,) = one.segment_answers(SAIL, [reading])
        text = explain_reward(one.rule, "grounding", reading, SAIL.target, RewardContext(segmented=segmented))
        assert text.splitlines()[-1] == line
