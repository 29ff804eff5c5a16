"""Sentences about a comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from virft.evaluation.blind import BlindBaseline, BlindScores, CommonAnswer
from virft.evaluation.comparison import Comparison, ScoreDifference, SystemValue
from virft.metrics.bootstrap import Resampled
from virft.recipes.compare.runs import BlindComparison, Compared
from virft.recipes.compare.text import compared_text, plan_sentences, sentences
from virft.recipes.compare.training import TrainedSystem


def difference(value: float, interval: tuple[float, float] | None, num_seeds: int = 3) -> ScoreDifference:
    first = SystemValue(mean=0.25, low=0.25, high=0.25, num_seeds=1)
    second = SystemValue(mean=0.25 + value, low=0.25, high=0.5, num_seeds=num_seeds)
    return ScoreDifference(first=first, second=second, value=value, interval=interval)


def said(differences: dict[str, ScoreDifference], task: str, warnings: tuple[str, ...] = ()) -> list[str]:
    one = Comparison(task=task, num_images=10, differences=differences, warnings=warnings)
    return list(sentences({("base", "rft"): [one]}, 0))


def test_detection_has_a_sentence_about_f1_and_one_about_ap() -> None:
    found = said(
        {"f1": difference(0.1, (0.05, 0.15)), "ap": difference(0.01, (-0.01, 0.03)), "ap50": difference(0.2, None)},
        "detection",
    )
    assert found == [
        "RFT is better than base on these images: f1 +0.100 (+0.050 to +0.150).",
        "RFT is not distinguishable from base on these images: ap +0.010 (-0.010 to +0.030).",
        "Confidence intervals resample images, pooled over 3 seeds; they do not generalize to other data, models or "
        "budgets.",
    ]


def test_a_worse_system_is_called_worse_and_warnings_follow() -> None:
    found = said({"accuracy": difference(-0.1, (-0.15, -0.05), num_seeds=1)}, "classification", ("thinking differs",))
    assert found[0] == "RFT is worse than base on these images: accuracy -0.100 (-0.150 to -0.050)."
    assert found[1] == "Not evaluated alike: thinking differs"
    assert "pooled over 1 seed;" in found[2]


def test_one_image_has_no_confidence_interval() -> None:
    (sentence, _) = said({"box_miou": difference(0.1, None)}, "grounding")
    assert sentence == "RFT is not distinguishable from base on these images: box_miou +0.100 (one image: no interval)."


def blind(differences: dict[str, ScoreDifference], answers: dict[str, CommonAnswer] | None = None) -> BlindComparison:
    """A mean box with F1 0.5, and the position of each system against it."""
    best = SystemValue(mean=0.5, low=0.5, high=0.5, num_seeds=1)
    baseline = BlindBaseline(name="mean box", task="detection", values={"f1": 0.5, "ap": 0.25}, intervals={})
    found = BlindScores(
        task="detection",
        metric="f1",
        baselines=(baseline,),
        best_headline=(best, Resampled(images=(), values={})),
        difference=differences["rft"],
        common_answer=None,
    )
    return BlindComparison(blind=found, differences=differences, common_answers=answers or {})


BETTER = {"f1": difference(0.1, (0.05, 0.15)), "ap": difference(0.0, (-0.01, 0.01))}


def test_a_better_system_that_is_not_above_the_best_blind_baseline_is_marked() -> None:
    position = blind(
        {"base": difference(-0.25, (-0.3, -0.2)), "rft": difference(0.01, (-0.1, 0.1))},
        {"rft": CommonAnswer(count=31, num_answers=40, description='"No Objects"')},
    )
    one = Comparison(task="detection", num_images=10, differences=BETTER)
    found = list(sentences({("base", "rft"): [one]}, 0, position))
    assert found[0] == (
        "RFT is better than base on these images: f1 +0.100 (+0.050 to +0.150), but RFT is not above the best blind "
        "baseline (mean box)."
    )
    assert found[2:5] == [
        "base is BELOW the best blind baseline (mean box): f1 -0.250 (-0.300 to -0.200).",
        "RFT is NOT DISTINGUISHABLE FROM the best blind baseline (mean box): f1 +0.010 (-0.100 to +0.100).",
        'RFT: 31 of 40 answers are "No Objects".',
    ]


def test_a_better_system_above_the_best_blind_baseline_is_not_marked() -> None:
    position = blind({"base": difference(-0.25, (-0.3, -0.2)), "rft": difference(0.3, (0.2, 0.4))})
    one = Comparison(task="detection", num_images=10, differences=BETTER)
    found = list(sentences({("base", "rft"): [one]}, 0, position))
    assert found[0] == "RFT is better than base on these images: f1 +0.100 (+0.050 to +0.150)."
    assert found[3] == "RFT is above the best blind baseline (mean box): f1 +0.300 (+0.200 to +0.400)."


def system(name: str, validation: float | None = None, **more: object) -> TrainedSystem:
    runs = () if name == "base" else (Path(f"{name}/lr_0.0001_seed_0"),)
    one = TrainedSystem(name=name, runs=runs, learning_rates=(1e-4,), validation=validation, steps=4, tokens=1000)
    return replace(one, **more)  # type: ignore[arg-type]


def compared(*systems: TrainedSystem, value: float = 0.1) -> Compared:
    """A comparison in which the second system of every pair is better by ``value``."""
    names = [one.name for one in systems]
    one = Comparison(task="classification", num_images=10, differences={"accuracy": difference(value, (0.05, 0.15))})
    by_pair = {(first, second): (one,) for i, second in enumerate(names) for first in names[:i]}
    return Compared(systems=systems, comparisons={"test": by_pair}, predictions={})


def test_better_than_sft_means_the_best_sft_system_by_validation() -> None:
    found = compared(system("base"), system("sft", 0.5), system("curated_sft", 0.6), system("rft", 0.9))
    lines = compared_text(found).splitlines()
    assert lines[0] == (
        "curated SFT represents the SFT systems: its validation score, 0.600, is the highest of them. No test was used "
        "to choose it."
    )
    said = [line.strip().partition(" on these images")[0] for line in lines if "on these images" in line]
    assert said == [
        "SFT is better than base",
        "curated SFT is better than base",
        "curated SFT is better than SFT",
        "RFT is better than base",
        "RFT is better than curated SFT",
    ]


def test_without_validation_data_sft_represents_the_sft_systems() -> None:
    found = compared(system("base"), system("sft"), system("rejection_sft"), system("rft"))
    assert list(plan_sentences(found)) == ["Without validation data, SFT represents the SFT systems."]
    assert list(plan_sentences(compared(system("base"), system("sft", 0.5), system("rft", 0.4)))) == []


def test_a_skipped_system_is_named_with_the_reason() -> None:
    found = replace(compared(system("base"), system("rft")), skipped={"curated_sft": "no sample is solved"})
    assert list(plan_sentences(found)) == ["curated SFT is skipped: no sample is solved."]


def test_the_base_model_has_the_thinking_mode_of_the_system() -> None:
    found = replace(compared(system("base"), system("sft"), system("rft")), without_thinking=frozenset({"sft"}))
    lines = compared_text(found).splitlines()
    assert lines[1:3] == ["  base without thinking 0.250", "  base          0.250"]
    assert "(+0.050 to +0.150) against base without thinking; learning" in lines[3]
    assert "(+0.050 to +0.150) against base; learning" in lines[4]
    assert "  SFT is better than base without thinking on these images: accuracy +0.100 (+0.050 to +0.150)." in lines
    assert "  RFT is better than base on these images: accuracy +0.100 (+0.050 to +0.150)." in lines


def test_a_difference_within_the_repeatability_limit_is_a_tie() -> None:
    one = Comparison(task="classification", num_images=10, differences={"accuracy": difference(0.01, (0.005, 0.015))})
    by_pair = {("base", "rft"): [one]}
    tied = list(sentences(by_pair, 0, limits={"accuracy": 0.01}))
    assert tied[0] == "RFT is tied with base on these images: accuracy +0.010 (+0.005 to +0.015)."
    assert tied[1] == "Repeatability limit of predictions: accuracy 0.0100; smaller differences are ties."
    assert next(iter(sentences(by_pair, 0, limits={"accuracy": 0.009}))).startswith("RFT is better than base")


def test_the_steps_of_a_warm_start_are_shown() -> None:
    warm = system("sft_rft", 0.6, warm_start_steps=2, learning_rates=(1e-4, 1e-5), seconds=61.0)
    (line,) = [one for one in compared_text(compared(system("base"), warm)).splitlines() if "SFT then RFT  " in one]
    assert line.endswith("learning rate 0.0001 then 1e-05, 4 steps (2 of them warm start), 1,000 tokens, 1:01")


def test_the_cost_of_base_completions_is_shown() -> None:
    curated = system("curated_sft", 0.6, base_tokens=300, tokens=1300, seconds=61.0)
    (line,) = [one for one in compared_text(compared(system("base"), curated)).splitlines() if "curated SFT  " in one]
    assert line.endswith("learning rate 0.0001, 4 steps, 1,300 tokens (300 of them base completions), 1:01")
