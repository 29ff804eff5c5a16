"""What a run says of itself: rate and time left."""

from __future__ import annotations

import pytest

from virft.training import progress
from virft.training.progress import Progress, duration, step_line

METRICS = {"step": 119, "reward": 1.84, "reward_iou": 0.714, "reward_format": 0.5, "unreadable_frac": 0.034}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set by the test."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_time_left_follows_the_rate_so_far(clock: list[float]) -> None:
    progress = Progress(100)
    assert progress.describe(0) == "starting"
    clock[0] += 20
    # 10 in 20 s, so 90 take 180 s
    assert progress.describe(10) == "2.0 s each, 3:00 left"


def test_items_done_before_a_resume_do_not_count_in_the_throughput(clock: list[float]) -> None:
    progress = Progress(100, done=50)
    clock[0] += 5
    # 10 in 5 s, so 40 take 20 s
    assert progress.describe(60) == "2.0/s, 0:20 left"
    assert Progress(100, done=100).describe(100) == "starting"


def test_durations_are_rounded_to_seconds() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.6, 3599.6)] == ["0:00", "1:00", "1:00:00"]


def test_a_step_line_has_reward_parts_unreadable_fraction_and_time() -> None:
    line = step_line(METRICS, num_steps=200, seconds=8.12, time_left="1:00 left")
    assert line == "step 120/200  reward 1.84 (format 0.50 iou 0.71)  unreadable 3%  8.1 s  1:00 left"


def test_truncated_fraction_and_kl_appear_if_they_exist() -> None:
    line = step_line({**METRICS, "truncated_frac": 0.25, "kl": 0.0123}, num_steps=200, seconds=1, time_left="")
    assert "unreadable 3%  truncated 25%  kl 0.0123  1.0 s" in line
    assert "truncated" not in step_line({**METRICS, "truncated_frac": 0.0}, num_steps=200, seconds=1, time_left="")


def test_weights_other_than_1_are_shown_before_their_part() -> None:
    metrics = {**METRICS, "reward": 0.5 * 0.5 + 0.714}
    line = step_line(metrics, num_steps=200, seconds=1, time_left="", weights={"format": 0.5, "iou": 1.0, "other": 3})
    assert "reward 0.96 (0.5*format 0.50 iou 0.71)" in line


def test_throughput_is_that_of_the_whole_step() -> None:
    line = step_line({**METRICS, "num_tokens": 9876}, num_steps=200, seconds=8.0, time_left="1:00 left")
    assert line.endswith("8.0 s (1,234 tokens/s)  1:00 left")  # 9876 / 8 = 1234.5
    known = step_line({**METRICS, "num_tokens": 9876}, num_steps=200, seconds=8.0, time_left="1:00 left", mfu=0.349)
    assert known.endswith("8.0 s (1,234 tokens/s, update MFU 35%)  1:00 left")
    supervised = step_line({"step": 0, "loss": 0.5, "num_tokens": 300}, num_steps=2, seconds=2.0, time_left="")
    assert supervised == "step 1/2  loss 0.5000  2.0 s (150 tokens/s)  "
