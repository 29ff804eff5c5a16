"""The first signal asks, the second insists, and what is being written is written."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from virft.training.stopping import SIGNALS, StopSignals, stop_signals


def send(*which: signal.Signals) -> None:
    for one in which:
        os.kill(os.getpid(), one)


@pytest.mark.parametrize("one", SIGNALS)
def test_a_first_signal_asks(one: signal.Signals) -> None:
    with stop_signals() as signals:
        assert not signals.queried
        send(one)
        assert signals.queried


def test_a_second_one_of_either_kind_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), stop_signals():
        send(signal.SIGTERM, signal.SIGINT)


def test_who_insists_while_something_is_written_waits_for_it() -> None:
    written = []
    with pytest.raises(KeyboardInterrupt), stop_signals() as signals:
        with signals.held():
            send(signal.SIGINT, signal.SIGINT, signal.SIGTERM)
            written.append("all")
        written.append("more")
    assert written == ["all"]


def test_one_signal_while_something_is_written_only_asks() -> None:
    with stop_signals() as signals:
        with signals.held():
            send(signal.SIGTERM)
        assert signals.queried


def test_what_cannot_be_written_is_told_also_where_someone_insists() -> None:
    with pytest.raises(OSError, match="full"), stop_signals() as signals, signals.held():
        send(signal.SIGINT, signal.SIGINT)
        raise OSError("full")


def test_signals_have_their_old_meaning_after_it() -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    with stop_signals():
        assert [signal.getsignal(one) for one in SIGNALS] != before
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_outside_of_the_main_thread_nothing_is_heard() -> None:
    found: list[StopSignals] = []

    def work() -> None:
        with stop_signals() as signals:
            found.append(signals)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not found[0].asked
