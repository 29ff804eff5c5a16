"""Log lines and progress bars of long work: results, throughput and time left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any


class Progress:
    """Throughput and time left of ``total`` items, of which ``done`` were finished before it started."""

    def __init__(self, total: int, *, done: int = 0) -> None:
        self.total = total
        self._start = done
        self._since = time.monotonic()

    def describe(self, done: int) -> str:
        """Throughput and time left after ``done`` items, as text."""
        seconds = time.monotonic() - self._since
        # items of an earlier process took a time that this one does not know
        worked = done - self._start
        if worked <= 0:
            return "starting"
        return f"{format_rate(worked, seconds)}, {duration(seconds / worked * (self.total - done))} left"


def format_rate(count: int, seconds: float) -> str:
    """Items per second, or seconds per item, whichever is above 1.

    >>> format_rate(30, 10.0), format_rate(10, 30.0)
    ('3.0/s', '3.0 s each')
    """
    if seconds <= count:
        return f"{count / max(seconds, 1e-9):.1f}/s"
    return f"{seconds / count:.1f} s each"


def duration(seconds: float) -> str:
    """Minutes and seconds, with hours from one hour on.

    >>> duration(75.4), duration(3675)
    ('1:15', '1:01:15')
    """
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def step_line(
    metrics: Mapping[str, float],
    *,
    num_steps: int,
    seconds: float,
    time_left: str,
    weights: Mapping[str, float] = MappingProxyType({}),
    mfu: float | None = None,
) -> str:
    """Log line of a step: reward and its parts (SFT: the loss), unreadable and truncated fraction, KL, throughput.

    ``weights``: weights of parts in the reward, shown unless they are 1. Throughput: tokens of prompts and completions
    (``num_tokens``) per second of the whole step. ``mfu``: model FLOPs utilization of the update, a fraction; None: not
    known.

    >>> step_line({"step": 0, "reward": 1.5, "reward_iou": 0.5, "reward_format": 1.0, "unreadable_frac": 0.02},
    ...           num_steps=9, seconds=2.0, time_left="0:16 left")
    'step 1/9  reward 1.50 (format 1.00 iou 0.50)  unreadable 2%  2.0 s  0:16 left'
    """
    parts = {
        name.removeprefix("reward_"): value for name, value in sorted(metrics.items()) if name.startswith("reward_")
    }
    factors = {name: "" if weights.get(name, 1.0) == 1 else f"{weights[name]:g}*" for name in parts}
    described = " ".join(f"{factors[name]}{name} {value:.2f}" for name, value in parts.items())
    line = f"step {metrics['step'] + 1:.0f}/{num_steps}"
    took = f"{seconds:.1f} s"
    if metrics.get("num_tokens") and seconds > 0:
        utilization = "" if mfu is None else f", update MFU {mfu:.0%}"
        took += f" ({metrics['num_tokens'] / seconds:,.0f} tokens/s{utilization})"
    if metrics.get("skipped") and "reward" not in metrics:
        return f"{line}  skipped  {took}  {time_left}"
    if "reward" not in metrics:
        # in the warm start of GRPO, a metric of its own
        loss = metrics.get("loss", metrics.get("demonstration_loss", math.nan))
        return f"{line}  loss {loss:.4f}  {took}  {time_left}"
    line += f"  reward {metrics['reward']:.2f} ({described})  unreadable {metrics['unreadable_frac']:.0%}"
    if metrics.get("truncated_frac"):
        line += f"  truncated {metrics['truncated_frac']:.0%}"
    if "kl" in metrics:
        line += f"  kl {metrics['kl']:.4f}"
    return f"{line}  {took}  {time_left}"


@contextmanager
def progress_bar(unit: str = "predictions") -> Iterator[Callable[[int, int], None]]:
    """Give a function ``(num_done, num_all)`` that draws a bar with rate and time left, from its first call on.

    Only the main process draws.
    """
    from tqdm import tqdm

    from virft.training.distributed import is_main_process

    with ExitStack() as stack:
        bars: list[Any] = []

        def show(num_done: int, num_all: int) -> None:
            if not bars:
                bar = tqdm(total=num_all, desc=unit, unit="", disable=not is_main_process())
                bars.append(stack.enter_context(bar))
            bars[0].update(num_done - bars[0].n)

        yield show
