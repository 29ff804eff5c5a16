"""The order of samples is a pure function of the number of samples, the seed and the position."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virft.data.stream import ShuffledStream


@given(num=st.integers(1, 40), size=st.integers(1, 17), seed=st.integers(0, 3), skip=st.integers(0, 30))
def test_a_stream_resumed_at_a_position_is_the_same_stream(num: int, size: int, seed: int, skip: int) -> None:
    whole = ShuffledStream(num_samples=num, batch_size=size, seed=seed)
    for _ in range(skip):
        whole.next_batch()
    resumed = ShuffledStream(num_samples=num, batch_size=size, seed=seed, position=skip)
    assert [resumed.next_batch() for _ in range(3)] == [whole.next_batch() for _ in range(3)]
    assert resumed.position == skip + 3


@given(num=st.integers(1, 40), size=st.integers(1, 17))
def test_every_epoch_has_every_sample_once(num: int, size: int) -> None:
    stream = ShuffledStream(num_samples=num, batch_size=size, seed=0)
    drawn = [index for _ in range(2 * num) for index in stream.next_batch()]
    for epoch in range(2):
        assert sorted(drawn[epoch * num : (epoch + 1) * num]) == list(range(num))


def test_epochs_and_seeds_differ() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return ShuffledStream(num_samples=50, batch_size=50, seed=seed).batch(epoch)

    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_the_order_does_not_depend_on_versions() -> None:
    # A literal: another version of NumPy must not reshuffle a run that is resumed.
    assert ShuffledStream(num_samples=8, batch_size=8, seed=0).batch(0) == [3, 2, 1, 6, 0, 7, 4, 5]


@pytest.mark.parametrize(("num", "size"), [(0, 1), (1, 0)])
def test_empty_stream_is_refused(num: int, size: int) -> None:
    with pytest.raises(ValueError, match="a stream of"):
        ShuffledStream(num_samples=num, batch_size=size, seed=0)
