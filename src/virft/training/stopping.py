"""Ctrl-C and SIGTERM: the first asks a run to end after the step in hand, the second insists."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""SIGTERM is what Slurm and container engines send when time is up."""


class StopSignals:
    """What has been asked for so far. ``asked``: whether the run is to end after the step in hand."""

    def __init__(self) -> None:
        self.queried = False
        self._insisted = False
        self._is_held = False

    def receive(self, number: int, frame: FrameType | None) -> Any:
        """A signal handler."""
        if not self.queried:
            self.queried = True
        elif self._is_held:
            self._insisted = True
        else:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is written in this block is written whole: whoever insists is heeded after it."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._insisted:
            raise KeyboardInterrupt


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """The signals of a run, for as long as the block runs; nothing is heard outside of the main thread."""
    signals = StopSignals()
    before: dict[signal.Signals, Any] = {}
    try:
        for one in SIGNALS:
            before[one] = signal.signal(one, signals.receive)
    except ValueError:  # not in the main thread, where signals do not arrive
        yield signals
        return
    try:
        yield signals
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
