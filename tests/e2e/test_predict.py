"""Predictions are the same however they were made: in one go, after a kill, by several processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from factories import save_coco
from launched import launch
from runs import one_thread, virft
from virft.evaluation.predictions import PREDICTIONS

NUM_QUESTIONS = 70  # three batches


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As the processes that are started here: sums are taken in another order with more threads."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions") / "data"
    assert virft("build", "scenes", folder, "--classes", "novel", "--questions", NUM_QUESTIONS) == 0
    return folder


def words(questions: Path, out: Path) -> tuple[str, ...]:
    return ("predict", "virft-tiny", str(questions), str(out), "--max-completion-tokens", "48")


@pytest.fixture(scope="module")
def undisturbed(questions: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a process writes that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "p"
    assert virft(*words(questions, out)) == 0
    return (out / PREDICTIONS).read_bytes()


def test_a_killed_run_that_goes_on_writes_the_same_file(questions: Path, undisturbed: bytes, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "virft", *words(questions, tmp_path / "p")]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, env=one_thread())
    part = tmp_path / "p" / "predictions.part-0.jsonl"
    until = time.monotonic() + 120
    while not (part.exists() and part.stat().st_size) and time.monotonic() < until:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert part.exists()
    assert not (tmp_path / "p" / PREDICTIONS).exists(), "killed too late to show anything"
    assert virft(*words(questions, tmp_path / "p"), "--resume") == 0
    assert (tmp_path / "p" / PREDICTIONS).read_bytes() == undisturbed


def test_two_processes_write_the_same_file_as_one(questions: Path, undisturbed: bytes, tmp_path: Path) -> None:
    done = launch(*words(questions, tmp_path / "p"))
    assert done.returncode == 0, done.stderr
    # batches of 32, 32 and 6: the first process has the first and the last
    assert "38/38" in done.stderr
    assert (tmp_path / "p" / PREDICTIONS).read_bytes() == undisturbed
    assert done.stdout.count("best blind baseline: ") == 1, "one process prints"


def test_presence_writes_a_query_map_that_build_coco_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = {f"{i}.png": [("cat" if i % 2 else "dog", [4.0, 4.0, 30.0, 30.0])] for i in range(4)}
    coco = save_coco(tmp_path, boxes)
    source = ("build", "coco", coco, tmp_path / "images")
    assert virft(*source, tmp_path / "d", "--protocol", "all") == 0
    assert virft("presence", "virft-tiny", tmp_path / "d", tmp_path / "p", "--max-completion-tokens", 8) == 0
    assert "8 questions" in capsys.readouterr().out
    answers = tmp_path / "p" / "map.json"
    assert sorted(json.loads(answers.read_text())) == sorted(boxes)

    answers.write_text(json.dumps({"0.png": ["dog", "cat"], "1.png": []}))
    assert virft(*source, tmp_path / "mapped", "--protocol", f"map:{answers}") == 0
    assert (
        virft("predict", "virft-tiny", tmp_path / "mapped", tmp_path / "q", "--max-completion-tokens", 48, "--all") == 0
    )
    out = capsys.readouterr().out
    # the cat on 1.png is present but not queried; two more images are not queried at all
    assert "detection, protocol map:map.json, 5 questions" in out
    assert len((tmp_path / "q" / PREDICTIONS).read_text().splitlines()) == 2
    assert virft("score", tmp_path / "q", tmp_path / "mapped") == 0
    assert virft(*source, tmp_path / "x", "--protocol", "some") == 2
    assert "--protocol some: expected all, or map:FILE" in capsys.readouterr().err
