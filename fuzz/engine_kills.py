"""Kill test of runs with vLLM: kill trainers and servers of two-process runs at random moments.

    python fuzz/engine_kills.py 20 --seed 0             # with vLLM, which must be installed
    python fuzz/engine_kills.py 20 --seed 0 --fake      # a fake vllm module: random tokens, no model

The number is that of the kills of each victim: either trainer, a server by SIGKILL, and a server by SIGSTOP. Each run
is started with ``--resume`` until it ends, with a server for each process or one for both, which starts again. After
each kill the run must continue, or all of its processes must end with a message within a limit; no server may be left.
At the end, all steps must be logged, with the completions of an uninterrupted run (with vLLM, from the first kill of a
server on, up to rounding, which is not compared).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import psutil

from virft.cli.main import main as virft
from virft.training.run import ROLLOUTS, RunFolder

SETTINGS = """
data.train = "{data}/train"
run.dir = "run"
run.save_every = 1
sampling.engine = "vllm"
sampling.max_completion_tokens = 6
sampling.vllm_timeout_minutes = {timeout}
reward.extra = ["{data}/variety.py:variety"]
{more}

[grpo]
steps = {steps}
prompts_per_step = 3
group_size = 3
learning_rate = 1e-3
kl_coef = 0.0
"""
VARIETY = """
def variety(reading, target, context):
    return len(set(reading.text)) / max(1, len(reading.text))
"""
"""Reward that depends on the tokens of a completion, so that any completions have reward variance."""
KINDS = {"a server each": "", "one server": "sampling.vllm_servers = 1"}
STEPS = 8
VICTIMS = ("rank 0", "rank 1", "server", "hung server")
SERVER = "virft.generation.vllm_server_main"
TIMEOUT_MINUTES = 0.5
"""``sampling.vllm_timeout_minutes`` of the runs: also the start of an engine must take less."""
SLACK_S = 120.0
"""A run must end or take a step within that timeout and this: reloading, saving, and the launcher's own wait."""


def start(folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start or resume the run in ``folder`` with two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    with (folder / "started.log").open("ab") as log:
        return subprocess.Popen(
            [*command, "-m", "virft", "grpo", "config.toml", "--resume"],
            cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def processes_of(folder: Path) -> dict[str, list[psutil.Process]]:
    """Return the living processes of the run in ``folder``: "rank 0", "rank 1" and "server"."""
    found: dict[str, list[psutil.Process]] = {"rank 0": [], "rank 1": [], "server": []}
    for one in psutil.process_iter():
        try:
            words, environment = one.cmdline(), one.environ()
            if environment.get("KILL_TEST") != str(folder) or one.status() == psutil.STATUS_ZOMBIE:
                continue
        except psutil.Error:
            continue
        if SERVER in words:
            found["server"].append(one)
        elif "grpo" in words and "RANK" in environment:
            found[f"rank {environment['RANK']}"].append(one)
    return found


def strike(folder: Path, victim: str, rng: random.Random) -> bool:
    """Kill or stop a process of the run; False if there is none of the kind."""
    candidates = processes_of(folder)[victim.removeprefix("hung ")]
    if not candidates:
        return False
    try:
        rng.choice(candidates).send_signal(signal.SIGSTOP if victim == "hung server" else signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True


def num_steps(folder: Path) -> int:
    """Return the number of logged steps."""
    run = folder / "run"
    return len(RunFolder(run).records(ROLLOUTS)) if (run / ROLLOUTS).exists() else 0


def wait_for_end(run: subprocess.Popen[bytes], folder: Path, limit_s: float) -> None:
    """Wait until the run has ended; raises if it takes no step for too long, or leaves a process."""
    done, since = num_steps(folder), time.monotonic()
    while run.poll() is None:
        if num_steps(folder) != done:
            done, since = num_steps(folder), time.monotonic()
        if time.monotonic() - since > limit_s:
            raise TimeoutError(f"no step and no end within {limit_s:g} s")
        time.sleep(0.1)
    until = time.monotonic() + 15
    while left := [one for group in processes_of(folder).values() for one in group]:
        if time.monotonic() > until:
            raise RuntimeError(f"left: {left}")
        time.sleep(0.1)


def begin(root: Path, name: str, data: Path, *, kind: str) -> Path:
    """Return a new folder with a config."""
    folder = root / name
    folder.mkdir()
    settings = SETTINGS.format(data=data, more=KINDS[kind], timeout=TIMEOUT_MINUTES, steps=STEPS)
    (folder / "config.toml").write_text(settings, encoding="utf-8")
    return folder


class Victims:
    """Draws the victims of kills, ``number`` of each."""

    def __init__(self, names: Iterable[str], number: int, rng: random.Random) -> None:
        self._missing = Counter(dict.fromkeys(names, number))
        self._rng = rng

    def draw(self) -> str | None:
        """Return a victim; None if all have been killed often enough."""
        names = [name for name, number in self._missing.items() if number > 0]
        return self._rng.choice(names) if names else None

    def count(self, name: str) -> None:
        """Count a kill."""
        self._missing[name] -= 1


def one_run(
    folder: Path, victims: Victims, rng: random.Random, span_s: float, environment: dict[str, str]
) -> Counter[str]:
    """Kill processes of the run, resume it, and so on until it ends; return the kills and what followed."""
    found: Counter[str] = Counter()
    while not is_complete(folder):
        run = start(folder, environment)
        struck = strike_until_end(run, folder, victims, rng, span_s)
        if run.returncode == 0:
            found.update(f"{victim}: continued" for victim in struck)
            continue
        # The run has survived all kills but the last one.
        *survived, last = struck
        found.update([*(f"{victim}: continued" for victim in survived), f"{last}: ended with a message"])
        printed = (folder / "started.log").read_text(encoding="utf-8", errors="replace")[-20_000:]
        assert any(text in printed for text in ("vLLM server", "SIGKILL")), printed
    return found


def strike_until_end(
    run: subprocess.Popen[bytes], folder: Path, victims: Victims, rng: random.Random, span_s: float
) -> list[str]:
    """Kill processes of a started run, at random moments, until it has ended; return the victims."""
    struck: list[str] = []
    while run.poll() is None and (victim := victims.draw()) is not None:
        until = time.monotonic() + rng.uniform(0.2, 1) * span_s
        while time.monotonic() < until and run.poll() is None:
            time.sleep(0.02)
        if not strike(folder, victim, rng):
            continue
        struck.append(victim)
        victims.count(victim)
        if victim.startswith("rank"):
            break
    wait_for_end(run, folder, 2 * 60 * TIMEOUT_MINUTES + SLACK_S)
    return struck


def is_complete(folder: Path) -> bool:
    """Return True if the run has taken all steps and saved its model."""
    return num_steps(folder) == STEPS and (folder / "run" / "model").exists()


def main() -> int:
    """Run the test; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("number", type=int, help="number of kills of each victim")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=VICTIMS, help="processes to kill")
    parser.add_argument("--fake", action="store_true", help="a fake vllm module in place of vLLM")
    given = parser.parse_args()
    rng = random.Random(given.seed)
    victims = Victims(given.victims, given.number, rng)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        virft(["build", "scenes", str(root / "data" / "train"), "--classes", "novel", "--questions", "6"])
        (root / "data" / "variety.py").write_text(VARIETY, encoding="utf-8")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if given.fake:
            fake = Path(__file__).parents[1] / "tests" / "random_vllm.py"
            shutil.copyfile(fake, root / "vllm.py")
            path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
            environment |= {"PYTHONPATH": path, "FAKE_PLACEHOLDER": str(placeholder()), "SLOW_S": "0.3"}
        expected: dict[str, tuple[float, bytes]] = {}
        killed: Counter[str] = Counter()
        number = 0
        while victims.draw() is not None:
            kind = list(KINDS)[number % 2]
            if kind not in expected:
                whole = begin(root, f"whole {kind}", root / "data", kind=kind)
                run = start(whole, environment | {"KILL_TEST": str(whole)})
                since = time.monotonic()
                wait_for_end(run, whole, 60 * TIMEOUT_MINUTES + SLACK_S)
                assert is_complete(whole), (whole / "started.log").read_text(encoding="utf-8")
                expected[kind] = time.monotonic() - since, (whole / "run" / ROLLOUTS).read_bytes()
                print(f"uninterrupted, {kind}: {expected[kind][0]:.1f} s", flush=True)
            folder = begin(root, f"run {number}", root / "data", kind=kind)
            found = one_run(folder, victims, rng, expected[kind][0], environment | {"KILL_TEST": str(folder)})
            killed += found
            print(f"run {number}, {kind}: {dict(found)}", flush=True)
            if given.fake or not any("continued" in one for one in found):
                assert (folder / "run" / ROLLOUTS).read_bytes() == expected[kind][1], f"{kind}: other completions"
            number += 1
        print(f"{killed.total()} kills: {dict(sorted(killed.items()))}; all runs are complete")
    return 0


def placeholder() -> int:
    """Return the id of the image token of the built-in model."""
    from virft.models.load import load_model

    return int(load_model("virft-tiny").model.config.image_token_id)


if __name__ == "__main__":
    sys.exit(main())
