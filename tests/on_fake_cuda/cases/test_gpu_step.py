"""The program for the day when a GPU is at hand, rehearsed from its check to its tables."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fake_cuda import CUDA, FakeCUDA
from virft.types import Detections, Reading, RewardReport

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def gpu_step(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("gpu_step")
    for name in ("gpu_step", "memory_2b", "counting", "record", "sides", "step_against_trl"):
        sys.modules.pop(name, None)


SIDE = """#!{python}
import json, sys
from pathlib import Path
if sys.argv[1] == "-c":
    print("vllm")
    sys.exit()
task = json.loads((Path(sys.argv[2]) / "task.json").read_text())
sys.path.insert(0, {benchmarks!r})
from sides import Server
server = Server()
server.ready()
for number in range(9):
    if task["completion"] == 6:
        raise RuntimeError("CUDA out of memory")
    server.done(peak_bytes=2**30 * (number + 1))
"""
"""A process in place of TRL's, which fails with completions of 6 tokens."""


def test_every_table_is_filled_and_a_failure_is_named_with_its_reason(
    gpu: FakeCUDA, gpu_step: Any, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(SIDE.format(python=sys.executable, benchmarks=str(BENCHMARKS)))
    python.chmod(0o755)
    text = gpu_step.measure_all(gpu_step.parse(["--try-on-cpu", "--trl-python", str(python)]), CUDA)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "| rehearsal |" in line]
    assert [len(row) for row in rows] == [11, 11, 11, 8, 8]
    assert [row[1:4] for row in rows[:3]] == [["virft", "60", "4"], ["virft", "60", "6"], ["TRL", "60", "4"]]
    assert [row[1] for row in rows[3:]] == ["4", "6"]
    # whatever the clock says: a step samples and updates
    assert all(float(cell) > 0 for row in rows[:2] for cell in row[4:8])
    # G (P + C) = 2 x 64 tokens and 2 completions a step
    assert float(rows[2][5]) / float(rows[2][6]) == pytest.approx(64, rel=0.01)
    assert rows[2][7:] == ["", "", "2.0", ""]  # the peak of two steps, 1 and 2 GiB
    assert "Failed: step of rehearsal, TRL, C 6: RuntimeError: CUDA out of memory\n" in text
    assert gpu.kernels["embedding_dense_backward"] == 0, "adapters are trained, embeddings are not"
    assert gpu.kernels["bmm"] > 0 and gpu.kernels["mm"] > 0
    found = re.search(r"differ by (\S+) at most", text)
    assert found is not None and 0 < float(found[1]) < 1e-4


def test_a_program_without_time_checks_both_sides_and_names_what_it_skips(
    gpu: FakeCUDA, gpu_step: Any, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho trl vllm\n")  # the packages that its environment lacks
    python.chmod(0o755)
    options = ["--try-on-cpu", "--minutes", "0", "--trl-python", str(python)]
    text = gpu_step.measure_all(gpu_step.parse(options), CUDA)
    assert "Failed: steps of TRL: trl not installed\n" in text
    assert "differ by" in text and "| rehearsal |" not in text
    assert "Skipped, to end within 0 minutes: model rehearsal.\n" in text


def test_a_measurement_that_would_end_late_is_skipped_and_named(gpu_step: Any) -> None:
    times = iter([0.0, 0.0, 10.0, 50.0, 50.0])
    budget = gpu_step.Budget(1.0, clock=lambda: next(times))
    # ten seconds for what came before the first, forty for the first: the others would end at 90
    assert [budget.allows(name) for name in ("first", "second", "third")] == [True, False, False]
    assert budget.describe() == "Skipped, to end within 1 minutes: second; third.\n\n"


def test_a_side_that_takes_too_long_is_ended(gpu_step: Any, tmp_path: Path) -> None:
    budget = gpu_step.Budget(1.0)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    found = budget.measure("slow", lambda: gpu_step.Side(command, tmp_path / "log", limit_s=0.2))
    assert found is None
    assert budget.describe() == "Failed: slow: it was ended after 0 s\n\n"


def test_a_measurement_out_of_memory_is_named_and_the_next_one_is_made(gpu_step: Any) -> None:
    def allocate() -> None:
        raise MemoryError("12 GiB\nand a second line")

    budget = gpu_step.Budget(1.0)
    assert [budget.measure("first", allocate), budget.measure("second", lambda: 2)] == [None, 2]
    assert budget.describe() == "Failed: first: MemoryError: 12 GiB\n\n"


def test_a_model_that_does_not_fit_is_named(gpu_step: Any) -> None:
    def too_large(*_: object, **__: object) -> None:
        raise MemoryError("12 GiB")

    gpu_step.check_equal, gpu_step.make_model = (lambda *_: 0.0), too_large
    text = gpu_step.measure_all(gpu_step.parse(["--try-on-cpu"]), torch.device("cpu"))
    assert "Failed: model rehearsal: MemoryError: 12 GiB\n" in text


def test_a_step_without_an_update_fails(gpu: FakeCUDA, gpu_step: Any, tmp_path: Path) -> None:
    class Constant:
        def grade_group(self, texts: list[str], *_: object, **__: object) -> list[RewardReport]:
            readings = [Reading(text=text, well_formed=True, answer=Detections()) for text in texts]
            return [RewardReport(total=1.0, parts={}, reading=one) for one in readings]

    gpu_step.LetterGrader = Constant
    arguments = gpu_step.parse(["--try-on-cpu"])
    loaded = gpu_step.make_model(CUDA, "rehearsal", torch.bfloat16, checkpointing=False)
    sample = gpu_step.make_sample(tmp_path, loaded, arguments.prompt, arguments.image)
    config = gpu_step.run_config("unused", arguments, 4, "builtin")
    with pytest.raises(RuntimeError, match="step 0 had no update"):
        gpu_step.measure_step(loaded, config, arguments, CUDA, sample)


def test_a_difference_of_the_two_sides_ends_the_program(
    gpu: FakeCUDA, gpu_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = gpu_step.shared_logprobs
    monkeypatch.setattr(gpu_step, "shared_logprobs", lambda policy, row: shared(policy, row) * 1.01)
    with pytest.raises(SystemExit, match="prefix sharing differs from the plain batch by 1"):
        gpu_step.check_equal(CUDA, "rehearsal")
