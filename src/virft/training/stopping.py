"""Ctrl-C and SIGTERM: the first signal ends the run after the current step, the second one immediately."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""SIGTERM is the signal of Slurm and of container engines when the time limit is reached."""


class StopSignals:
    """Signals received so far. ``received`` is true once the run is to end after the current step.

    ``announce`` is called with the first signal, in the signal handler.
    """

    def __init__(self, announce: Callable[[signal.Signals], object] = lambda _: None) -> None:
        self.received = False
        self._announce = announce
        self._second_is_pending = False
        self._is_held = False

    def handle(self, number: int, frame: FrameType | None) -> Any:
        """Signal handler. Raises ``KeyboardInterrupt`` for a second signal, outside of ``held``."""
        # The first signal only sets a flag: an exception could interrupt an optimizer step half way.
        if not self.received:
            self.received = True
            self._announce(signal.Signals(number))
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


def print_in_handler(log: Callable[[str], None], line: str) -> None:
    """Print a line from a signal handler, in which ``log`` may not be usable: the signal may have interrupted it."""
    try:
        log(line)
    except RuntimeError:  # "reentrant call" of a buffered stream
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{line}\n".encode())


@contextmanager
def stop_signals(announce: Callable[[signal.Signals], object] = lambda _: None) -> Iterator[StopSignals]:
    """Handle the signals of a run inside the block; the previous handlers are restored after it.

    ``announce``: called with the first signal. Outside of the main thread nothing is handled: Python delivers signals
    to the main thread only.
    """
    signals = StopSignals(announce)
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
