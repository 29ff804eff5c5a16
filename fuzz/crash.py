"""Kills short runs at random moments, goes on with them, and holds each against one that was left alone.

    python fuzz/crash.py 200 --seed 0      # so many kills; the moments and signals come from the seed

Each start is a process that is forked when the model is loaded, killed by SIGKILL, SIGTERM or SIGINT (sometimes twice),
and started again with ``--resume`` until the run ends. Then weights, optimizer, ``metrics.jsonl``, ``rollouts.jsonl``,
the best and the saved model must be those of the undisturbed run, byte by byte. After every kill the folder must be
readable and its latest checkpoint whole.
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
from virft.config.toml_file import load
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
"""A reward that the first tokens of an answer earn, so that steps may be short."""
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LAST = "checkpoints/step_000006/"


def start(folder: Path) -> int:
    """A process that begins the run in ``folder``, or goes on with it; its id."""
    child = os.fork()
    if child:
        return child
    os.chdir(folder)
    log = os.open("started.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os._exit(virft(["grpo", "config.toml", "--resume"]))


def kill(child: int, rng: random.Random, span_s: float) -> str:
    """Wait for a moment, kill; what it was killed by, or "ended" if it had ended before."""
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


def look_at(run: Path) -> int:
    """The steps that the run in a folder has saved; whatever cannot be read raises."""
    if not (run / CONFIG).exists():
        return 0
    load(run / CONFIG)
    json.loads((run / CARD).read_text(encoding="utf-8"))
    RunFolder(run).records(METRICS)
    torn: list[str] = []
    found = latest_checkpoint(run / "checkpoints", torn.append)
    assert not torn, torn
    return num_steps_of(found) if found is not None else 0


def contents(run: Path) -> dict[str, bytes]:
    """What must be the same: all but times, events, the card, which names its folder, and checkpoints on the way."""
    names = {path: str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for path, name in names.items()
        if name not in (TIMINGS, EVENTS, CARD, CONFIG)
        and (name.startswith(LAST) or not name.startswith("checkpoints/"))
    }


def begin(folder: Path, data: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(SETTINGS.format(data=data), encoding="utf-8")
    return folder


def main() -> int:
    """So many kills, in as many runs as that takes; 0 where every run came to the same end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("number", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng, began = random.Random(given.seed), time.monotonic()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "data"
        for name, questions in (("train", 4), ("test", 2)):
            virft(["build", "scenes", str(data / name), "--classes", "novel", "--questions", str(questions)])
        (data / "variety.py").write_text(VARIETY, encoding="utf-8")
        whole = begin(Path(place) / "whole", data)
        config = load(whole / "config.toml").config
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
        assert b'"grad_norm":0.0' not in expected[METRICS], "nothing was learnt"
        print(f"left alone: {span_s:.1f} s, {len(expected)} files", flush=True)
        killed: Counter[str] = Counter()
        num_runs = 0
        while killed.total() < given.number:
            folder = begin(Path(place) / f"{num_runs}", data)
            how = ""
            while killed.total() < given.number and how != "ended":
                how = kill(start(folder), rng, 0.7 * span_s)
                killed[how] += how != "ended"
                look_at(folder / "run")
            if how != "ended":
                os.waitpid(start(folder), 0)
            num_runs += 1
            found = contents(folder / "run")
            odd = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            if odd:
                print((folder / "started.log").read_text(encoding="utf-8"))
                print(f"seed {given.seed}, run {num_runs}: not as the one left alone: {', '.join(odd)}")
                return 1
            if killed.total():
                told = ", ".join(f"{name} {count}" for name, count in sorted(killed.items()) if count)
                print(f"{killed.total()} kills ({told}), {num_runs} runs the same", flush=True)
    minutes = (time.monotonic() - began) / 60
    print(f"{minutes:.1f} minutes", file=sys.stderr)
    print(f"{killed.total()} kills in {num_runs} runs: every run came to the same end, byte by byte")
    return 0


if __name__ == "__main__":
    sys.exit(main())
