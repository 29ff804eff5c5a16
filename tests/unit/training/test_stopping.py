"""The first signal ends a run after its step, the second immediately, but never in the middle of a file."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from virft.training.stopping import SIGNALS, StopSignals, print_in_handler, stop_signals


def send(*which: signal.Signals) -> None:
    for one in which:
        os.kill(os.getpid(), one)


@pytest.mark.parametrize("one", SIGNALS)
def test_a_first_signal_is_recorded(one: signal.Signals) -> None:
    with stop_signals() as signals:
        assert not signals.received
        send(one)
        assert signals.received


def test_a_second_signal_of_either_kind_stops_immediately() -> None:
    with pytest.raises(KeyboardInterrupt), stop_signals():
        send(signal.SIGTERM, signal.SIGINT)


def test_a_second_signal_waits_for_the_end_of_a_held_block() -> None:
    written = []
    with pytest.raises(KeyboardInterrupt), stop_signals() as signals:
        with signals.held():
            send(signal.SIGINT, signal.SIGINT, signal.SIGTERM)
            written.append("all")
        written.append("more")
    assert written == ["all"]


def test_one_signal_in_a_held_block_is_recorded_only() -> None:
    with stop_signals() as signals:
        with signals.held():
            send(signal.SIGTERM)
        assert signals.received


def test_an_error_in_a_held_block_is_raised_also_after_a_second_signal() -> None:
    with pytest.raises(OSError, match="full"), stop_signals() as signals, signals.held():
        send(signal.SIGINT, signal.SIGINT)
        raise OSError("full")


def test_the_previous_handlers_are_restored() -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    with stop_signals():
        assert [signal.getsignal(one) for one in SIGNALS] != before
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_outside_of_the_main_thread_no_signal_is_handled() -> None:
    found: list[StopSignals] = []

    def work() -> None:
        with stop_signals() as signals:
            found.append(signals)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not found[0].received


def test_only_the_first_signal_is_announced() -> None:
    announced: list[signal.Signals] = []
    with pytest.raises(KeyboardInterrupt), stop_signals(announced.append):
        send(signal.SIGTERM, signal.SIGINT)
    assert announced == [signal.SIGTERM]


def test_a_line_is_printed_although_the_signal_interrupted_another(capfd: pytest.CaptureFixture[str]) -> None:
    def interrupted(line: str) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    print_in_handler(interrupted, "finishing step 2")
    assert capfd.readouterr().err == "finishing step 2\n"
