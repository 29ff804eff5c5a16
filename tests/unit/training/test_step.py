"""Seconds by stage."""

from __future__ import annotations

from virft.training.step import StageTimer


def test_a_timer_adds_up_seconds_by_stage() -> None:
    watch = StageTimer()
    for stage in ("a", "b", "a"):
        watch.lap(stage)
    assert list(watch.seconds) == ["a", "b"]
    assert all(seconds >= 0 for seconds in watch.seconds.values())
