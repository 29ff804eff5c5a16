"""Crash test: kill short runs at random moments, resume them, and compare each with an uninterrupted run.

    python fuzz/crash.py 200 --seed 0      # number of kills; moments and signals are drawn from the seed

Each start is a process that is forked after the model is loaded, killed by SIGKILL, SIGTERM or SIGINT (sometimes
twice), and started again with ``--resume`` until the run ends. Then weights, optimizer, ``metrics.jsonl``,
``rollouts.jsonl``, the best and the saved model must be those of the uninterrupted run, byte by byte. After each kill
the folder must be readable and its latest checkpoint complete.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from virft.cli.main import main as virft
from virft.config.toml_file import load_config
from virft.recipes import train
from virft.recipes.setup import load_for_training, make_runtime
from virft.training.checkpoint import latest_checkpoint, num_steps_of
from virft.training.run import CARD, CONFIG, EVENTS, METRICS, ROLLOUTS, TIMINGS, RunFolder

SETTINGS = """
data.train = "{data}/train"
data.validation = "{data}/test"
data.validate_every = 3
run.dir = "run"
run.save_every = 2
sampling.max_completion_tokens = 6
sampling.max_staleness = {max_staleness}
reward.extra = ["{data}/variety.py:variety"]

[grpo]
steps = 6
prompts_per_step = 1
group_size = 4
learning_rate = 1e-3
kl_coef = 0.0
"""
VARIETY = """
def variety(reading, target, context):
    return len(set(reading.text)) / max(1, len(reading.text))
"""
"""Reward that depends on the first tokens of a completion, so that short completions have reward variance."""
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LAST = "checkpoints/step_000006/"


def start(folder: Path) -> int:
    """Start or resume the run in ``folder`` in a forked process and return its id."""
    child = os.fork()
    if child:
        return child
    os.chdir(folder)
    log = os.open("started.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os._exit(virft(["grpo", "config.toml", "--resume"]))


def kill(child: int, rng: random.Random, span_s: float) -> str:
    """Wait for a random time, then kill; return the name of the signal, or "ended" if the process ended before."""
    until = time.monotonic() + rng.uniform(0, span_s)
    while time.monotonic() < until:
        if os.waitpid(child, os.WNOHANG)[0]:
            return "ended"
        time.sleep(0.002)
    by = rng.choice(SIGNALS)
    os.kill(child, by)
    if by != signal.SIGKILL and rng.random() < 0.3:
        time.sleep(rng.uniform(0, 0.05))
        if not os.waitpid(child, os.WNOHANG)[0]:
            os.kill(child, by)
            os.waitpid(child, 0)
        return f"{by.name} twice"
    os.waitpid(child, 0)
    return by.name


def check_folder(run: Path) -> int:
    """Read the files of a run folder and return the number of saved steps; raises if a file is invalid."""
    if not (run / CONFIG).exists():
        return 0
    load_config(run / CONFIG)
    json.loads((run / CARD).read_text(encoding="utf-8"))
    RunFolder(run).records(METRICS)
    torn: list[str] = []
    found = latest_checkpoint(run / "checkpoints", torn.append)
    assert not torn, torn
    return num_steps_of(found) if found is not None else 0


def contents(run: Path) -> dict[str, bytes]:
    """Return the files that must be the same: all except timings, events, config, card and earlier checkpoints."""
    names = {path: str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for path, name in names.items()
        if name not in (TIMINGS, EVENTS, CARD, CONFIG)
        and (name.startswith(LAST) or not name.startswith("checkpoints/"))
    }


def begin(folder: Path, data: Path, *, max_staleness: int) -> Path:
    folder.mkdir(parents=True)
    text = SETTINGS.format(data=data, max_staleness=max_staleness)
    (folder / "config.toml").write_text(text, encoding="utf-8")
    return folder


def main() -> int:
    """Kill runs until the number of kills is reached; return 0 if every run had the same result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("number", type=int, help="number of kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--staleness", type=int, default=0, help="sampling.max_staleness of the runs")
    given = parser.parse_args()
    rng, began = random.Random(given.seed), time.monotonic()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "data"
        for name, questions in (("train", 4), ("test", 2)):
            virft(["build", "scenes", str(data / name), "--classes", "novel", "--questions", str(questions)])
        (data / "variety.py").write_text(VARIETY, encoding="utf-8")
        whole = begin(Path(place) / "whole", data, max_staleness=given.staleness)
        config = load_config(whole / "config.toml").config
        loaded = load_for_training(config.model, make_runtime(config.model, config.parallel), seed=config.seed)
        # every process has a copy of it from the fork
        train.load_for_training = lambda *sections, **named: loaded
        since = time.monotonic()
        _, status = os.waitpid(start(whole), 0)
        span_s = time.monotonic() - since
        if status:
            print((whole / "started.log").read_text(encoding="utf-8"))
            return 1
        expected = contents(whole / "run")
        weights = (f"{LAST}trained.safetensors", f"{LAST}optimizer.safetensors", "model/model.safetensors")
        assert {METRICS, ROLLOUTS, *weights} <= expected.keys(), expected.keys()
        assert b'"grad_norm":0.0' not in expected[METRICS], "the weights did not change"
        print(f"uninterrupted: {span_s:.1f} s, {len(expected)} files", flush=True)
        killed: Counter[str] = Counter()
        num_runs = 0
        while killed.total() < given.number:
            folder = begin(Path(place) / f"{num_runs}", data, max_staleness=given.staleness)
            how = ""
            while killed.total() < given.number and how != "ended":
                how = kill(start(folder), rng, 0.7 * span_s)
                killed[how] += how != "ended"
                check_folder(folder / "run")
            if how != "ended":
                os.waitpid(start(folder), 0)
            num_runs += 1
            found = contents(folder / "run")
            odd = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            if odd:
                print((folder / "started.log").read_text(encoding="utf-8"))
                print(f"seed {given.seed}, run {num_runs}: differs from the uninterrupted run in {', '.join(odd)}")
                return 1
            if killed.total():
                signals = ", ".join(f"{name} {count}" for name, count in sorted(killed.items()) if count)
                print(f"{killed.total()} kills ({signals}), {num_runs} equal runs", flush=True)
    minutes = (time.monotonic() - began) / 60
    print(f"{minutes:.1f} minutes", file=sys.stderr)
    print(f"{killed.total()} kills in {num_runs} runs: every run has the same result, byte by byte")
    return 0


if __name__ == "__main__":
    sys.exit(main())
