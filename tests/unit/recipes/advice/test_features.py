"""Features of a base model on training data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from advice_factories import group_of, labelled
from factories import detections, sample
from virft.recipes.advice.features import images_by_class, measure_features
from virft.types import Sample


def foxes(number: int, *, box: tuple[float, float, float, float] = (10, 10, 30, 40)) -> list[Sample]:
    """A fox in the same place of each image."""
    return [sample(detections(box), id=f"{i}.png:fox", image=f"images/{i}.png", query="fox") for i in range(number)]


def test_fractions_count_completions_samples_and_groups() -> None:
    one, two, three, four = (labelled(name, "cat") for name in "abcd")
    groups = [
        group_of(one, [1, 1, 1, 1]),
        group_of(two, [0, 0, 0, 0], num_unreadable=2),
        group_of(three, [1, 0, 1, 0]),
        group_of(four, [1, 1, 1, 1], rewards=[1.0, 2.0, 1.0, 1.0]),
    ]
    found = measure_features(groups, [one, two, three, four])
    assert found.value("pass_rate") == 10 / 16
    assert found.value("always_solved") == 2 / 4
    assert found.value("never_solved") == 1 / 4
    assert found.value("nonzero_std") == 2 / 4  # the rewards of the last group differ, though its scores do not
    assert found.value("readable") == 14 / 16
    assert (found.tokens, found.seconds) == (4 * (10 + 4 * 3), 2.0)
    # the fraction of images drawn decides: no interval reaches outside [0, 1], and each holds its value
    for estimate in found.estimates.values():
        assert estimate.low <= estimate.value <= estimate.high


def test_a_score_of_half_is_correct() -> None:
    one = sample(detections((10, 10, 30, 40)))
    assert measure_features([group_of(one, [0.5, 0.49])], [one]).value("pass_rate") == 1 / 2


def test_a_single_image_has_no_interval() -> None:
    one = labelled("a", "cat")
    found = measure_features([group_of(one, [1, 0])], [one])
    assert found.estimates["pass_rate"] == (0.5, 0.0, 1.0)
    assert not found.resamples


def test_knowledge_is_the_score_above_the_best_blind_baseline() -> None:
    # every fox is in the same place, so the mean box of the other images hits it: nothing is known that is not blind
    samples = foxes(8)
    blind = measure_features([group_of(one, [1.0, 1.0]) for one in samples], samples)
    assert blind.value("blind_score") == 1.0
    assert blind.value("knowledge") == 0.0
    # two cats of eight images of other names: the commonest name is right for two of eight
    names = ["cat", "cat", "dog", "emu", "fox", "gnu", "hen", "ibis"]
    animals = [labelled(str(i), name) for i, name in enumerate(names)]
    found = measure_features([group_of(one, [1, 0]) for one in animals], animals)
    expected = (0.5 - found.value("blind_score")) / (1 - found.value("blind_score"))
    assert found.value("knowledge") == pytest.approx(expected)
    assert found.blind_name == "commonest label"


def test_blind_baselines_never_see_the_image_that_they_answer() -> None:
    # one image with a box of its own: a mean box fitted on it would be perfect
    samples = [*foxes(7, box=(1, 1, 8, 8)), sample(detections((40, 20, 60, 44)), id="z", image="images/z.png")]
    found = measure_features([group_of(samples[-1], [0.0, 0.0])], samples)
    assert found.value("blind_score") == 0.0


def test_questions_about_absent_classes_say_nothing_about_names() -> None:
    shown = foxes(4)
    absent = [sample(detections(), id=f"n{i}", image=f"images/{i}.png", query="dog") for i in range(4)]
    groups = [group_of(one, [0.0, 0.0]) for one in shown] + [group_of(one, [1.0, 1.0]) for one in absent]
    found = measure_features(groups, [*shown, *absent])
    assert found.value("pass_rate") == 0.5
    assert [one.name for one in found.classes] == ["fox"]
    assert images_by_class([*shown, *absent]) == {"fox": 4}
    assert (found.images_per_class, found.fewest_images) == (4.0, ("fox", 4))


def test_classes_are_listed_from_the_least_known_one() -> None:
    animals = [labelled(str(i), name) for i, name in enumerate(["cat", "dog", "cat", "dog", "emu"])]
    scores = {"cat": [1, 1], "dog": [0, 0], "emu": [1, 0]}
    groups = [group_of(one, scores[one.target.text]) for one in animals]  # type: ignore[union-attr]
    found = measure_features(groups, animals)
    assert [(one.name, one.score, one.num_samples) for one in found.classes if one.name != "cat"][:1] == [
        ("dog", 0.0, 2)
    ]
    assert found.num_classes == 3


def test_grounding_has_no_classes() -> None:
    box = detections((10, 10, 30, 40)).items[0].box
    one = sample(box, task="grounding", query="the fox on the left")
    found = measure_features([group_of(one, [0.2, 0.9])], [one])
    assert (found.images_per_class, found.fewest_images, found.num_classes, found.classes) == (None, None, 0, ())


def test_with_thinking_only_rationales_can_be_demonstrated() -> None:
    one, two = labelled("a", "cat"), replace(labelled("b", "dog"), rationale="it barks")
    groups = [group_of(one, [1, 0])]
    assert measure_features(groups, [one, two]).num_demonstrable == 2
    assert measure_features(groups, [one, two], thinking=True).num_demonstrable == 1
