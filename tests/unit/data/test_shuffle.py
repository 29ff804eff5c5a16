"""The order of samples is a pure function of the number of samples, the seed and the position."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from virft.data.shuffle import shuffled_index


def epoch_order(num_samples: int, *, seed: int = 0, epoch: int = 0) -> list[int]:
    start = epoch * num_samples
    return [shuffled_index(start + i, num_samples=num_samples, seed=seed) for i in range(num_samples)]


@given(num_samples=st.integers(1, 40), seed=st.integers(0, 3), epoch=st.integers(0, 30))
def test_every_epoch_has_every_sample_once(num_samples: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_order(num_samples, seed=seed, epoch=epoch)) == list(range(num_samples))


def test_epochs_and_seeds_differ() -> None:
    assert epoch_order(50) != epoch_order(50, epoch=1)
    assert epoch_order(50) != epoch_order(50, seed=1)


def test_a_position_does_not_depend_on_earlier_calls() -> None:
    # more epochs than are cached, in both directions
    forward = [shuffled_index(position, num_samples=3, seed=0) for position in range(30)]
    backward = [shuffled_index(position, num_samples=3, seed=0) for position in reversed(range(30))]
    assert forward == backward[::-1]


def test_the_order_does_not_depend_on_versions() -> None:
    # A literal: another version of NumPy must not reshuffle a run that is resumed.
    assert epoch_order(8) == [3, 2, 1, 6, 0, 7, 4, 5]
