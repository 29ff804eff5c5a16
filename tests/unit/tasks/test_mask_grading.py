"""The reward of a mask: one call of the segmenter for a group, equal rewards for equal boxes, 0 without a box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from factories import box, detections, sample
from group_factories import completion
from mask_questions import SEGMENTERS, SIZE, masked, sails, segment_inside
from virft.errors import ConfigError
from virft.geometry.boxes import BoxSpace
from virft.geometry.masks import rle_to_mask
from virft.tasks.explain import explain_reward
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule
from virft.types import Box, BoxPair, RewardContext, RewardReport, Sample, SegmentedBox

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
    (mask,) = report.masks
    assert rle_to_mask(mask, SIZE).sum() == pytest.approx(40 * 40 / 2, abs=40)


def test_a_part_of_the_mask_is_rewarded_by_its_iou() -> None:
    report = grade(LEFT)
    # columns 20 to 39 of the triangle: a quarter of its area
    assert report.parts["mask"] == pytest.approx(0.25, abs=0.02)


def test_the_mask_of_a_wrong_box_is_not_rewarded_except_by_the_published_formula() -> None:
    robust, paper = (grade(FAR, preset=preset) for preset in ("robust", "paper"))
    assert robust.parts["mask"] == 0.0
    assert robust.masks, "it is logged all the same"
    assert paper.parts["mask"] == 1.0


def test_a_weight_scales_the_part() -> None:
    assert grade(EXACT, weights={"mask": 0.5}).total == 2.5


@pytest.mark.parametrize("text", ["<answer>no</answer>", "", "<answer>(9,9),(9,9)</answer>"])
def test_an_unreadable_answer_has_no_mask(text: str) -> None:
    report = grade(text)
    assert (report.parts["mask"], report.masks) == (0.0, ())


def test_several_boxes_have_no_mask() -> None:
    text = "<answer>(200,200),(600,600) (0,0),(1000,1000)</answer>"
    assert grade(text, segment=SEGMENTERS["salient"]).parts["mask"] == 0.0


def test_targets_without_a_mask_have_no_such_part() -> None:
    plain = replace(SAIL, polygons=())
    assert "mask" not in grade(EXACT, plain).parts
    assert "mask" not in grade("<answer>No Objects</answer>", sample(detections())).parts


def test_a_group_is_segmented_in_one_call_with_each_box_once() -> None:
    calls: list[list[Box]] = []

    def segment(sample: Sample, pairs: Sequence[BoxPair]) -> Sequence[SegmentedBox]:
        calls.append([one.box for one in pairs])
        return segment_inside(sample, pairs)

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
        (EXACT, "masks of [20.0, 20.0, 60.0, 60.0] and of target 1: IoU 1.000"),
        (
            FAR,
            "masks of [20.0, 20.0, 100.0, 100.0] and of target 1: IoU 1.000, not rewarded: the IoU of the boxes is "
            "below 0.5",
        ),
    ):
        reading = one.read(text, SAIL, resized=SIZE)
        (segmented,) = one.segment_answers(SAIL, [reading], [RewardContext()])
        text = explain_reward(one.rule, "grounding", reading, SAIL.target, RewardContext(segmented=segmented))
        assert text.splitlines()[-1] == line


# --- detection ---

TWO = [(10, 10, 30, 30), (50, 50, 90, 90)]
FIRST, SECOND = "[100, 100, 300, 300]", "[500, 500, 900, 900]"
TASKS_WITH_LABELS = {"detection": ("", ""), "multiclass_detection": (", 'Label': 'sail'", ", 'Label': 'boat'")}


def boxes(*corners: str, task: str = "detection", labels: Sequence[str] | None = None) -> str:
    """An answer with these boxes; of several classes with the labels of the targets, or those given."""
    written = TASKS_WITH_LABELS[task] if labels is None else [f", 'Label': '{one}'" for one in labels]
    items = [f"{{'Position': {one}{written[place % 2]}, 'Confidence': 1.0}}" for place, one in enumerate(corners)]
    return f"<answer>[{', '.join(items)}]</answer>"


@pytest.mark.parametrize("task", TASKS_WITH_LABELS)
def test_each_matched_box_has_the_mask_iou_of_its_own_object(task: str) -> None:
    report = grade(boxes(FIRST, SECOND, task=task), sails(*TWO, task=task))
    assert report.parts["mask"] == 1.0
    assert len(report.masks) == 2
    # the left half of the first box: its IoU with the box is 0.5, and it holds a quarter of the triangle
    report = grade(boxes("[100, 100, 200, 300]", SECOND, task=task), sails(*TWO, task=task))
    assert report.parts["mask"] == pytest.approx((0.25 + 1) / 2, abs=0.03)


@pytest.mark.parametrize("task", TASKS_WITH_LABELS)
@pytest.mark.parametrize("preset", ["robust", "paper"])
def test_missing_and_additional_boxes_count_0(task: str, preset: str) -> None:
    one = sails(*TWO, task=task)
    assert grade(boxes(FIRST, task=task), one, preset=preset).parts["mask"] == 0.5
    extra = boxes(FIRST, SECOND, "[0, 900, 50, 950]", "[0, 800, 50, 850]", task=task)
    assert grade(extra, one, preset=preset).parts["mask"] == 0.5
    for text in ("<answer>No Objects</answer>", "nothing", "", boxes("[0, 900, 50, 950]", task=task)):
        report = grade(text, one, preset=preset)
        assert (report.parts["mask"], report.masks) == (0.0, ())


def test_a_box_with_the_label_of_another_class_has_no_mask() -> None:
    one = sails(*TWO, task="multiclass_detection")
    text = boxes(FIRST, SECOND, task="multiclass_detection", labels=("boat", "boat"))
    assert grade(text, one).parts["mask"] == 0.5


def test_labels_of_other_classes_are_checked_as_for_the_boxes() -> None:
    text = f"<answer>[{{'Position': {FIRST}, 'Label': 'whale'}}, {{'Position': {SECOND}}}]</answer>"
    assert grade(text, sails(*TWO)).parts["mask"] == 1.0
    assert grade(text, sails(*TWO), check_labels=True).parts["mask"] == 0.5


def test_an_invalid_element_counts_as_a_box_and_is_0_under_the_published_formula() -> None:
    text = f"<answer>[{{'Position': {FIRST}}}, {{'Position': {SECOND}}}, {{'Position': [1, 2]}}]</answer>"
    assert grade(text, sails(*TWO)).parts["mask"] == pytest.approx(2 / 3)
    assert grade(text, sails(*TWO), preset="paper").parts["mask"] == 0.0


def test_a_low_threshold_of_the_boxes_does_not_reward_their_masks() -> None:
    whole = boxes("[0, 0, 1000, 1000]")
    one = sails((10, 10, 60, 60))  # box IoU 0.25
    robust, paper = (
        grade(whole, one, preset=preset, segment=SEGMENTERS["salient"], iou_threshold=0.1)
        for preset in ("robust", "paper")
    )
    assert (robust.parts["iou"], robust.parts["mask"]) == (0.25, 0.0)
    assert paper.parts["mask"] == 1.0


def test_objects_without_a_mask_and_absent_classes_have_no_such_part() -> None:
    one = sails(*TWO)
    assert "mask" not in grade(boxes(FIRST), replace(one, outlines=(one.outlines[0], ()))).parts
    assert "mask" not in grade(boxes(FIRST), sails()).parts


def test_only_boxes_with_a_target_are_segmented() -> None:
    calls: list[list[BoxPair]] = []

    def segment(sample: Sample, pairs: Sequence[BoxPair]) -> Sequence[SegmentedBox]:
        calls.append(list(pairs))
        return segment_inside(sample, pairs)

    crowded = boxes(*(f"[{x}, 0, {x + 40}, 40]" for x in range(0, 900, 10)), SECOND)
    texts = [crowded, boxes(FIRST, SECOND), boxes(SECOND)]
    grader(segment=segment).grade_group(texts, sails(*TWO), resized=SIZE, contexts=[RewardContext()] * 3)
    assert calls == [[BoxPair(box(50, 50, 90, 90), 1, iou=1.0), BoxPair(box(10, 10, 30, 30), 0, iou=1.0)]]
