"""What a comparison says in sentences."""

from __future__ import annotations

from virft.evaluation.comparison import Comparison, Difference, SystemValue
from virft.recipes.compare.text import sentences


def difference(value: float, interval: tuple[float, float] | None, num_seeds: int = 3) -> Difference:
    first = SystemValue(mean=0.25, low=0.25, high=0.25, num_seeds=1)
    second = SystemValue(mean=0.25 + value, low=0.25, high=0.5, num_seeds=num_seeds)
    return Difference(first=first, second=second, value=value, interval=interval)


def said(differences: dict[str, Difference], task: str, warnings: tuple[str, ...] = ()) -> list[str]:
    one = Comparison(task=task, num_images=10, differences=differences, warnings=warnings)
    return list(sentences({("base", "rft"): [one]}, 0))


def test_detection_is_told_by_f1_and_by_ap_each_with_its_own_verdict() -> None:
    found = said(
        {"f1": difference(0.1, (0.05, 0.15)), "ap": difference(0.01, (-0.01, 0.03)), "ap50": difference(0.2, None)},
        "detection",
    )
    assert found == [
        "RFT is better than base on these images: f1 +0.100 (+0.050 to +0.150).",
        "RFT cannot be told from base on these images: ap +0.010 (-0.010 to +0.030).",
        "Intervals are over images, pooled over 3 seeds: they say nothing of other data, other models or other "
        "budgets.",
    ]


def test_a_worse_system_is_called_worse_and_what_was_asked_differently_follows() -> None:
    found = said({"accuracy": difference(-0.1, (-0.15, -0.05), num_seeds=1)}, "classification", ("thinking differs",))
    assert found[0] == "RFT is worse than base on these images: accuracy -0.100 (-0.150 to -0.050)."
    assert found[1] == "Asked differently: thinking differs"
    assert "pooled over 1 seed:" in found[2]


def test_of_one_image_nothing_can_be_told() -> None:
    (sentence, _) = said({"box_miou": difference(0.1, None)}, "grounding")
    assert sentence == "RFT cannot be told from base on these images: box_miou +0.100 (one image: no interval)."
