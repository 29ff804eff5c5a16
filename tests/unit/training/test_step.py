"""Seconds by stage."""

from __future__ import annotations

from virft.training.step import Stopwatch


def test_a_stopwatch_books_time_by_stage() -> None:
    watch = Stopwatch()
    for stage in ("a", "b", "a"):
        watch.lap(stage)
    assert list(watch.seconds) == ["a", "b"]
    assert all(seconds >= 0 for seconds in watch.seconds.values())
