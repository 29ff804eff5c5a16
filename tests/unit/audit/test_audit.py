"""Rewards of probes next to those of oracle answers."""

from __future__ import annotations

import pytest

from factories import box, detections, sample
from virft.audit.audit import audit_reward, rank_correlation
from virft.audit.groups import judge_groups
from virft.audit.oracle import oracle_texts
from virft.audit.text import audit_text, groups_text
from virft.geometry.boxes import BoxSpace, intersection_over_union
from virft.tasks.box_answers import shrink_box
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule
from virft.tasks.task import HALF_RIGHT
from virft.types import (
    Completion,
    Detections,
    FinishReason,
    ImageRef,
    ImageSize,
    Label,
    Prompt,
    Reading,
    RewardReport,
    RolloutGroup,
)


def grader(**rule) -> Grader:
    return Grader(rule=RewardRule(**rule), thinking=False, box_space=BoxSpace.RELATIVE_1000)


# of 1000 x 1000 pixels, so that pixels are what is written; two boxes, one box, nothing
SIZE = (1000, 1000)
SCENES = [
    sample(detections((100, 100, 300, 300), (600, 600, 700, 700)), id="two", size=SIZE),
    sample(detections((400, 100, 500, 200)), id="one", size=SIZE),
    sample(detections(), id="none", size=SIZE),
]


def test_oracle_boxes_have_the_iou_that_their_name_says() -> None:
    whole = box(10, 20, 110, 220)
    assert intersection_over_union(shrink_box(whole, 0.7).xyxy, whole.xyxy) == pytest.approx(0.7)


def test_half_right_skips_every_other_box_of_the_whole_dataset() -> None:
    written = [one[HALF_RIGHT] for one in oracle_texts(SCENES, thinking=False)]
    # boxes number 0 and 2 of three stay; sqrt(0.7) = 0.83666: 200 wide becomes 167.3, 16.3 less at each side
    assert written[0] == "<answer>[{'Position':[116,116,284,284],'Confidence':0.7}]</answer>"
    assert written[1] == "<answer>[{'Position':[408,108,492,192],'Confidence':0.7}]</answer>"
    assert written[2] == "<answer>No Objects</answer>"


def test_a_report_holds_means_over_all_questions() -> None:
    (report,) = audit_reward(SCENES, grader())
    found = {one.name: one for one in report.answers}
    assert (report.task, report.num_samples) == ("detection", 3)
    # right: iou 1 in each, confidence 1 where there are boxes, format 1
    assert found["correct"].reward == pytest.approx(1 + 2 / 3 + 1)
    assert found["correct"].metric == 1
    # "No Objects" is correct for one of three
    assert found["always No Objects"].parts == {"iou": pytest.approx(1 / 3), "confidence": 0, "format": 1}
    assert found["always No Objects"].metric == pytest.approx(1 / 3)
    # 5 % of the image is the largest overlap
    assert found["whole image, confidence 1"].reward < 1
    assert found["a megabyte"].reward == 0
    assert [one.reward for one in report.answers] == sorted((one.reward for one in report.answers), reverse=True)


NAMES = [sample(Label(text=n), task="classification", id=n) for n in ("cat", "dog", "fox", "owl")]
PLACES = [
    sample(box(*xyxy), task="grounding", id=str(xyxy), size=SIZE)
    for xyxy in ((0, 0, 300, 300), (500, 500, 900, 800), (100, 700, 300, 1000))
]


@pytest.mark.parametrize(
    ("samples", "weights"),
    [
        (SCENES, {}),
        (SCENES, {"confidence": 0.1}),
        (SCENES, {"iou": 0.5, "confidence": 2.0}),
        (NAMES, {}),
        (PLACES, {}),
    ],
)
def test_robust_rewards_no_probe_as_much_as_a_half_right_answer(samples, weights) -> None:
    (report,) = audit_reward(samples, grader(weights=weights))
    assert report.margin > 0.1, report.best_probe


def test_paper_rewards_junk_at_confidence_0_more_than_a_half_right_answer() -> None:
    (report,) = audit_reward(SCENES[:2], grader(preset="paper"))
    # confidence 1 and format 1 for a box that hits nothing; of half right, a box of two and one of one at IoU 0.7 get
    # 0.7 / 2 + 0.7 + 1 and 0.7 + 0.7 + 1
    assert report.best_probe.name == "whole image, confidence 0"
    assert report.best_probe.reward == pytest.approx(2)
    assert report.half_right.reward == pytest.approx((2.05 + 2.4) / 2, abs=0.02)
    singles = [sample(detections(xyxy), id=str(xyxy), size=SIZE) for xyxy in ((0, 0, 90, 90), (300, 0, 380, 70))]
    (report,) = audit_reward(singles, grader(preset="paper"))
    # 2 against (2.4 + 1) / 2: "No Objects" gets its format reward alone
    assert report.margin == pytest.approx(-0.3, abs=0.02)
    assert "THIS REWARD CAN BE HACKED" in audit_text(report)


def test_a_moving_threshold_is_audited_at_the_first_and_the_last_step() -> None:
    first, last = audit_reward(SCENES, grader(iou_threshold=0.0, iou_threshold_end=0.5))
    assert (first.step_frac, last.step_frac) == (0, 1)
    whole = [next(one for one in report.answers if one.name == "whole image, confidence 0") for report in (first, last)]
    # the larger of two boxes covers 4 % of the image, halved; the single one 1 %; the third question has none
    assert [one.parts["iou"] for one in whole] == [pytest.approx((0.02 + 0.01) / 3), 0]
    heads = [audit_text(one).splitlines()[0] for one in (first, last, *audit_reward(SCENES, grader()))]
    assert heads == [
        "detection, 3 questions, rewards of the first step of a run",
        "detection, 3 questions, rewards of the last step of a run",
        "detection, 3 questions",
    ]


def test_each_dataset_of_a_mixture_is_read_and_rewarded_by_its_own_rules() -> None:
    thinks = Grader(rule=RewardRule(preset="paper"), thinking=True, box_space=BoxSpace.RELATIVE_1000)
    mixed = Grader(rule=RewardRule(), thinking=False, box_space=BoxSpace.RELATIVE_1000, by_origin={"b": thinks})
    samples = [sample(detections((0, 0, 500, 500)), id=name, size=SIZE, origin=name) for name in ("a", "b")]
    (report,) = audit_reward(samples, mixed)
    found = {one.name: one for one in report.answers}
    assert found["correct"].parts["format"] == 1, "with a think block where one is requested"
    # junk at confidence 0 gets 1 by paper, 0 by robust
    assert found["10 x 10 grid, confidence 0"].parts["confidence"] == 0.5


def test_the_table_lists_the_best_probes_and_counts_the_others() -> None:
    (report,) = audit_reward(SCENES, grader())
    lines = audit_text(report).splitlines()
    assert lines[0] == "detection, 3 questions"
    assert sum(line.startswith("  probe ") for line in lines) == 8
    assert lines[-3] == f"          and {len(report.answers) - 3 - 8} probes with lower rewards"
    assert lines[-2].startswith("best-rewarded probe: always No Objects, 1.333; an answer that is half right: ")


def test_a_constant_has_no_rank_correlation() -> None:
    assert rank_correlation([0, 0, 0], [1, 2, 3]) is None
    # ranks 1 2 3 and 1 3 2: 1 - 6 * (0 + 1 + 1) / (3 * 8)
    assert rank_correlation([1, 2, 3], [0.1, 0.9, 0.5]) == pytest.approx(0.5)


def group(*rewarded: tuple[float, Detections]) -> RolloutGroup:
    one = SCENES[1]
    ref = ImageRef(path="a.png", original=ImageSize(*SIZE), resized=ImageSize(*SIZE))
    completion = Completion(token_ids=(), token_ends=(), sampler_logprobs=(), text="", finish_reason=FinishReason.STOP)
    return RolloutGroup(
        sample=one,
        prompt=Prompt(sample_id=one.id, text="", token_ids=(), images=(ref,)),
        completions=(completion,) * len(rewarded),
        reports=tuple(
            RewardReport(total=total, parts={}, reading=Reading(text="", well_formed=True, answer=answer))
            for total, answer in rewarded
        ),
        policy_step=0,
    )


def test_groups_report_equal_rewards_and_the_correlation_of_reward_and_metric() -> None:
    right, nothing = detections((400, 100, 500, 200)), detections()
    found = judge_groups([group((2.0, right), (1.0, nothing)), group((1.0, nothing), (1.0, nothing))])
    assert (found.num_groups, found.group_size) == (2, 2)
    assert (found.equal_frac, found.reward, found.metric, found.rank_correlation) == (0.5, 1.25, 0.25, 1.0)
    assert "50% with equal rewards" in groups_text(found)
    silent = judge_groups([group((1.0, nothing), (1.0, nothing))])
    assert silent.rank_correlation is None
    assert "undefined (constant)" in groups_text(silent)
