"""Choices depend on names and the seed, not on the order of the names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virft.data.sampling import SplitPlan, choose_absent, choose_shots, shuffled
from virft.errors import ConfigError

NAMES = [f"{i}.jpg" for i in range(100)]


@given(st.permutations(NAMES[:8]), st.integers(0, 5))
def test_order_of_the_names_does_not_matter(names: list[str], seed: int) -> None:
    assert shuffled(names, seed=seed, purpose="x") == shuffled(NAMES[:8], seed=seed, purpose="x")


def test_seed_and_purpose_give_other_orders() -> None:
    first = shuffled(NAMES, seed=0, purpose="x")
    assert first != shuffled(NAMES, seed=1, purpose="x")
    assert first != shuffled(NAMES, seed=0, purpose="y")


def test_an_additional_name_does_not_reorder_the_others() -> None:
    more = shuffled([*NAMES, "new"], seed=0, purpose="x")
    assert [name for name in more if name != "new"] == shuffled(NAMES, seed=0, purpose="x")


def test_a_split_has_every_name_once() -> None:
    parts = SplitPlan(test_frac=0.2, validation_frac=0.1, seed=3).parts(NAMES)
    assert {part: len(names) for part, names in parts.items()} == {"train": 70, "validation": 10, "test": 20}
    assert sorted(name for names in parts.values() for name in names) == sorted(NAMES)


def test_a_validation_part_does_not_change_the_test_part() -> None:
    plain, both = SplitPlan(test_frac=0.2, seed=3), SplitPlan(test_frac=0.2, validation_frac=0.1, seed=3)
    assert plain.parts(NAMES)["test"] == both.parts(NAMES)["test"]


@pytest.mark.parametrize(
    ("names", "test_frac", "validation_frac", "sizes"),
    [
        ("ab", 0.01, 0.0, (1, 0, 1)),
        ("ab", 0.99, 0.0, (1, 0, 1)),
        ("ab", 0.0, 0.5, (1, 1, 0)),
        ("ab", 0.5, 0.5, (1, 0, 1)),
        ("abc", 0.01, 0.01, (1, 1, 1)),
        ("abc", 0.99, 0.99, (1, 0, 2)),
        ("a", 0.5, 0.5, (1, 0, 0)),
        ("ab", 0.0, 0.0, (2, 0, 0)),
    ],
)
def test_a_small_split_has_at_least_one_name_for_training(
    names: str, test_frac: float, validation_frac: float, sizes: tuple[int, int, int]
) -> None:
    parts = SplitPlan(test_frac=test_frac, validation_frac=validation_frac).split(names)
    assert tuple(len(parts[part]) for part in ("train", "validation", "test")) == sizes


def test_without_a_split_there_is_one_folder() -> None:
    assert SplitPlan().parts("ba") == {"": ["a", "b"]}


def test_every_class_has_exactly_k_questions() -> None:
    images_of = {"cat": NAMES[:50], "dog": NAMES[30:90]}
    pairs = choose_shots(images_of, shots=4, seed=0, is_usable=lambda image: True)
    assert [sum(label == name for _, label in pairs) for name in images_of] == [4, 4]
    assert all(image in images_of[label] for image, label in pairs)


def test_fewer_shots_are_part_of_more_shots() -> None:
    def drawn(shots: int) -> set[tuple[str, str]]:
        return set(choose_shots({"cat": NAMES}, shots=shots, seed=0, is_usable=lambda image: True))

    assert drawn(2) < drawn(8)


def test_an_unusable_image_is_replaced_by_the_next() -> None:
    first = shuffled(NAMES, seed=0, purpose="shots cat")
    pairs = choose_shots({"cat": NAMES}, shots=2, seed=0, is_usable=lambda image: image != first[0])
    assert {image for image, _ in pairs} == set(first[1:3])


def test_only_the_needed_images_are_checked() -> None:
    checked: list[str] = []
    choose_shots({"cat": NAMES}, shots=3, seed=0, is_usable=lambda image: not checked.append(image))
    assert len(checked) == 3


def test_class_with_too_few_images_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"fewer than 2 usable images \(shots\): 'cat' \(1\); lower shots"):
        choose_shots({"cat": ["a"]}, shots=2, seed=0, is_usable=lambda image: True)


def test_all_classes_with_too_few_images_are_named_and_the_others_offered() -> None:
    shown = {"cat": ["a"], "red dog": ["a", "b"], "eel": [], "owl": ["a", "b"]}
    with pytest.raises(ConfigError) as caught:
        choose_shots(shown, shots=2, seed=0, is_usable=lambda image: True)
    assert str(caught.value) == (
        "classes with fewer than 2 usable images (shots): 'cat' (1), 'eel' (0); "
        "exclude them with --classes 'owl,red dog', or lower shots"
    )


def test_absent_classes_are_the_given_fraction_of_all_questions() -> None:
    candidates = [(image, "cat") for image in NAMES]
    # n / (p + n) = 0.2 with p = 40: n = 10
    assert len(choose_absent(candidates, num_present=40, negatives_frac=0.2, seed=0)) == 10
    assert choose_absent(candidates, num_present=40, negatives_frac=0.0, seed=0) == []
    assert len(choose_absent(candidates[:3], num_present=40, negatives_frac=0.2, seed=0)) == 3
