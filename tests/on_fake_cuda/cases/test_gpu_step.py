"""The program for the day when a GPU is at hand, rehearsed from its check to its tables."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from fake_cuda import CUDA, FakeCUDA

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def gpu_step(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("gpu_step")
    for name in ("gpu_step", "memory_2b", "counting", "record"):
        sys.modules.pop(name, None)


def test_every_table_is_filled(gpu: FakeCUDA, gpu_step: Any) -> None:
    text = gpu_step.measure_all(gpu_step.parse(["--try-on-cpu"]), CUDA)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "| rehearsal |" in line]
    assert [len(row) for row in rows] == [11, 11, 8, 8]
    assert [row[1] for row in rows] == ["builtin", "builtin", "4", "6"]
    # whatever the clock says: a step samples and updates
    assert all(float(cell) > 0 for row in rows[:2] for cell in row[4:8])
    assert gpu.kernels["embedding_dense_backward"] == 0, "adapters are trained, embeddings are not"
    assert gpu.kernels["bmm"] > 0 and gpu.kernels["mm"] > 0
    found = re.search(r"differ by (\S+) at most", text)
    assert found is not None and 0 < float(found[1]) < 1e-4


def test_a_program_without_time_checks_both_sides_and_names_what_it_skips(gpu: FakeCUDA, gpu_step: Any) -> None:
    text = gpu_step.measure_all(gpu_step.parse(["--try-on-cpu", "--minutes", "0"]), CUDA)
    assert "differ by" in text and "| rehearsal |" not in text
    assert "Skipped, to end within 0 minutes: model rehearsal.\n" in text


def test_a_measurement_that_would_end_late_is_skipped_and_named(gpu_step: Any) -> None:
    times = iter([0.0, 0.0, 10.0, 50.0, 50.0])
    budget = gpu_step.Budget(1.0, clock=lambda: next(times))
    # ten seconds for what came before the first, forty for the first: the others would end at 90
    assert [budget.allows(name) for name in ("first", "second", "third")] == [True, False, False]
    assert budget.describe() == "Skipped, to end within 1 minutes: second; third.\n\n"


def test_a_difference_of_the_two_sides_ends_the_program(
    gpu: FakeCUDA, gpu_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = gpu_step.shared_logprobs
    monkeypatch.setattr(gpu_step, "shared_logprobs", lambda policy, row: shared(policy, row) * 1.01)
    with pytest.raises(SystemExit, match="prefix sharing differs from the plain batch by 1"):
        gpu_step.check_equal(CUDA, "rehearsal")
