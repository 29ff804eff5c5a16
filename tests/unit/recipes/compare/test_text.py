"""Sentences about a comparison."""

from __future__ import annotations

from virft.evaluation.comparison import Comparison, ScoreDifference, SystemValue
from virft.recipes.compare.text import sentences


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
