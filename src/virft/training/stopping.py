"""Ctrl-C and SIGTERM: the first signal ends the run after the current step, the second one immediately."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""SIGTERM is the signal of Slurm and of container engines when the time limit is reached."""


class StopSignals:
    """Signals received so far. ``received`` is true once the run is to end after the current step."""

    def __init__(self) -> None:
        self.received = False
        self._second_is_pending = False
        self._is_held = False

    def handle(self, number: int, frame: FrameType | None) -> Any:
        """Signal handler. Raises ``KeyboardInterrupt`` for a second signal, outside of ``held``."""
        # The first signal only sets a flag: an exception could interrupt an optimizer step half way.
        if not self.received:
            self.received = True
        elif self._is_held:
            self._second_is_pending = True
        else:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delay a second signal to the end of this block, so that a file written in it is complete.

        Raises ``KeyboardInterrupt`` at the end if there was one.
        """
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._second_is_pending:
            raise KeyboardInterrupt


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Handle the signals of a run inside the block; the previous handlers are restored after it.

    Outside of the main thread nothing is handled: Python delivers signals to the main thread only.
    """
    signals = StopSignals()
    before: dict[signal.Signals, Any] = {}
    try:
        for one in SIGNALS:
            before[one] = signal.signal(one, signals.handle)
    except ValueError:  # signal.signal outside of the main thread
        yield signals
        return
    try:
        yield signals
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
