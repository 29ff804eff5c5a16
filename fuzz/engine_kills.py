"""Kill test of runs with vLLM: kill trainers and servers of two-process runs at random moments.

    python fuzz/engine_kills.py kills.jsonl --number 20             # with vLLM, which must be installed
    python fuzz/engine_kills.py kills.jsonl --number 20 --fake      # a fake vllm module: random tokens, no model

The number is that of the kills of each victim: either trainer, a server by SIGKILL, and a server by SIGSTOP. They are
divided equally among the phases of a run: start, weight transfer, sampling, training, saving. Steps, and moments within
a phase, are random. Each kill is a line of the file. Another call with the same file makes the kills that are missing.

Each run is started with ``--resume`` until it ends, with a server for each process or one for both, which starts again.
After each kill the run must continue, or all of its processes must end with a message within a limit; no server may be
left. At the end, all steps must be logged, with the completions of an uninterrupted run; with the fake module also its
metrics and weights, byte by byte. (With vLLM, completions after the loss of a server may differ by rounding.)

The processes of a run are forked by PyTorch's launcher from this one, which has imported everything.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from phases import PHASES, START, PhaseReader, PhaseWriter
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from virft.cli.main import main as virft
from virft.models.load import load_model
from virft.origin import source_commit
from virft.training.run import METRICS, ROLLOUTS, RunFolder

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
STEPS = 6
VICTIMS = ("rank 0", "rank 1", "server", "hung server")
TIMEOUT_MINUTES, TIMEOUT_MINUTES_OF_FAKE = 3.0, 0.4
"""``sampling.vllm_timeout_minutes`` of the runs: also the start of an engine must take less."""
SLACK_S = 120.0
"""A run must end or take a step within that timeout and this: reloading, saving, and the launcher's own wait."""
MESSAGES = {
    "rank": ("Signal 9 (SIGKILL)", "another process of the run has ended"),
    "server": ("vLLM server",),
}
"""Texts of which one is printed if a run ends after the kill of a trainer, or of a server."""
TRACEBACK = "\nTraceback"
"""Of an exception that is no message. Those that the launcher logs follow a prefix."""
CONTINUED, ENDED = "continued", "ended with a message"


class Kill(NamedTuple):
    """A victim, and the phase in which it is to be killed."""

    victim: str
    phase: str


class Result(NamedTuple):
    """A kill that was made: its phase, and step from 0."""

    kill: Kill
    hit: str
    step: int


SERVER_START = "start of a server"
SERVER_STARTS = {Kill(victim, START) for victim in ("server", "hung server")}


class Run:
    """A started run: a process that launches two training processes, in a session of their own."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *, number: int) -> None:
        """Start or resume the run in ``folder``, for the ``number``-th time."""
        self.folder = folder
        self.log = folder / f"started_{number}.log"
        self.phases = PhaseReader(folder / f"phases_{number}.jsonl")
        self.returncode: int | None = None
        self.struck: set[int] = set()
        """Ids of the processes that were killed or stopped."""
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                status = self._launch(environment, folder / f"phases_{number}.jsonl")
            finally:
                os._exit(status)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what is left of a run that has failed the test."""
        for one in self.processes():
            with suppress(psutil.NoSuchProcess):
                one.kill()

    def poll(self) -> int | None:
        """Return the exit status, None if the run has not ended."""
        if self.returncode is None and (found := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(found[1])
        return self.returncode

    def processes(self) -> list[psutil.Process]:
        """Return the living processes of the run, servers included."""
        found = []
        for one in psutil.process_iter():
            try:
                is_of_run = os.getsid(one.pid) == self.pid or one.environ().get("KILL_TEST") == str(self.folder)
                if is_of_run and one.status() != psutil.STATUS_ZOMBIE:
                    found.append(one)
            except (psutil.Error, ProcessLookupError):
                continue
        return found

    def victim(self, name: str, place: float) -> tuple[int, int | None]:
        """Return the id of a process to kill, and the training process whose phases count: itself or its server's.

        ``place`` in 0 to 1 chooses between servers. The id is None if there is none to kill now.
        """
        if name.startswith("rank"):
            rank = int(name.removeprefix("rank "))
            latest = self.phases.latest(rank)
            return rank, None if latest is None else latest.pid
        # The newest server of each training process, as earlier ones are lost.
        newest = {moment.rank: pid for pid, moment in self.phases.servers.items()}
        left = sorted(rank for rank, pid in newest.items() if pid not in self.struck)
        if not left:
            return 0, None
        rank = left[int(place * len(left))]
        return rank, newest[rank]

    def printed(self) -> str:
        """Return what all processes have printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _launch(self, environment: Mapping[str, str], phases: Path) -> int:
        os.setsid()
        os.chdir(self.folder)
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(environment)
        os.environ["KILL_TEST"] = str(self.folder)
        sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=2,
            run_id=str(uuid.uuid4()),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            start_method="fork",
        )
        try:
            elastic_launch(config, train)(phases)
        except ChildFailedError as error:
            print(error, flush=True)
            return 1
        return 0


def train(phases: Path) -> None:
    """Train in one of the two processes."""
    PhaseWriter(phases, int(os.environ["RANK"])).trace()
    if status := virft(["grpo", "config.toml", "--resume"]):
        sys.exit(status)


class Test:
    """Runs that are killed, and the uninterrupted ones that they are compared with."""

    def __init__(self, root: Path, results: Path, environment: Mapping[str, str], *, fake: bool, seed: int) -> None:
        self._root = root
        self._results = results
        self._environment = environment
        self._fake = fake
        self._seed = seed
        self._rng = random.Random(seed)
        self._expected: dict[str, dict[str, bytes]] = {}
        self._seconds: dict[str, dict[str, float]] = {}
        self._timeout_minutes = TIMEOUT_MINUTES_OF_FAKE if fake else TIMEOUT_MINUTES

    def kill(self, missing: Counter[Kill], *, number: int, until: float) -> None:
        """Make kills that are ``missing``, and remove them there, in run ``number`` until it ends."""
        kind = list(KINDS)[number % 2]
        if kind not in self._expected:
            self._run_whole(kind)
        folder = self._begin(f"run {number}", kind)
        kills: list[dict[str, Any]] = []
        while not is_complete(folder):
            with Run(folder, self._environment, number=len(list(folder.glob("started_*")))) as run:
                made = self._strike_until_end(run, missing if time.monotonic() < until else Counter(), kind)
            for i, one in enumerate(made):
                # The run has survived all kills but the last one.
                is_last = i == len(made) - 1
                outcome = describe_end(run, one.kill) if run.returncode and is_last else CONTINUED
                kills.append(self._record(one, kind, outcome))
                print(f"run {number}, {kind}: {one.kill.victim} in {one.hit} of step {one.step}: {outcome}", flush=True)
            assert run.returncode == 0 or made, run.printed()
        if self._fake or all(one["outcome"] != CONTINUED for one in kills):
            found = self._outcome(folder)
            odd = [name for name, content in self._expected[kind].items() if found[name] != content]
            assert not odd, f"{folder}: differs from the uninterrupted run in {odd}"
        with self._results.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(one) + "\n" for one in kills)

    def _run_whole(self, kind: str) -> None:
        whole = self._begin(f"whole {kind}", kind)
        since = time.monotonic()
        with Run(whole, self._environment, number=0) as run:
            self._wait_for_end(run)
        assert is_complete(whole), run.printed()
        run.phases.read()
        self._expected[kind] = self._outcome(whole)
        self._seconds[kind] = run.phases.mean_seconds() | {
            SERVER_START: run.phases.seconds_from_server_to_end_of_start()
        }
        spans = ", ".join(f"{phase} {seconds:.3f} s" for phase, seconds in self._seconds[kind].items())
        print(f"uninterrupted, {kind}: {time.monotonic() - since:.1f} s; {spans}", flush=True)

    def _begin(self, name: str, kind: str) -> Path:
        """Return a new folder with a config."""
        folder = self._root / name
        folder.mkdir()
        settings = SETTINGS.format(
            data=self._root / "data", more=KINDS[kind], timeout=self._timeout_minutes, steps=STEPS
        )
        (folder / "config.toml").write_text(settings, encoding="utf-8")
        return folder

    def _outcome(self, folder: Path) -> dict[str, bytes]:
        """Return the files that must be equal."""
        names = (ROLLOUTS, METRICS, "model/model.safetensors") if self._fake else (ROLLOUTS,)
        return {name: (folder / "run" / name).read_bytes() for name in names}

    def _strike_until_end(self, run: Run, missing: Counter[Kill], kind: str) -> list[Result]:
        """Kill processes of a started run until it has ended."""
        made: list[Result] = []
        done = num_steps(run.folder)
        while run.poll() is None:
            # The start comes only once. Two steps ahead, so that the run is still killed several times.
            kills = [one for one, number in missing.items() if number > 0 and (one.phase != START or not made)]
            if not kills:
                break
            # Rare phases are not left for the end.
            kill = self._rng.choices(kills, [missing[one] for one in kills])[0]
            step = -1 if kill.phase == START else min(done + self._rng.randrange(2), STEPS - 1)
            if (found := self._strike(run, kill, step, kind)) is None:
                continue
            made.append(found)
            missing[kill] -= 1
            done = found.step + 1
            if kill.victim.startswith("rank"):
                break
        self._wait_for_end(run)
        return made

    def _strike(self, run: Run, kill: Kill, step: int, kind: str) -> Result | None:
        """Wait for a random moment in a phase of a step or a later one, then kill; None if the run ends before."""
        part, place = self._rng.random(), self._rng.random()
        seconds = self._seconds[kind][SERVER_START if kill in SERVER_STARTS else kill.phase]
        while run.poll() is None:
            run.phases.read()
            rank, pid = run.victim(kill.victim, place)
            latest = run.phases.latest(rank)
            if pid is not None and latest is not None and latest.step >= step and kill.phase in latest.phases:
                time.sleep(part * seconds)
                at_s = time.monotonic()
                try:
                    process = psutil.Process(pid)
                    if process.status() == psutil.STATUS_ZOMBIE:
                        continue
                    process.send_signal(signal.SIGSTOP if kill.victim == "hung server" else signal.SIGKILL)
                except psutil.NoSuchProcess:
                    continue
                run.struck.add(pid)
                run.phases.read()
                moment = run.phases.at(rank, at_s)
                return Result(kill, moment.describe(), moment.step)
            time.sleep(0.002)
        return None

    def _wait_for_end(self, run: Run) -> None:
        """Wait until the run has ended; raises if it takes no step for too long, or leaves a process."""
        limit_s = 2 * 60 * self._timeout_minutes + SLACK_S
        done, since = num_steps(run.folder), time.monotonic()
        while run.poll() is None:
            if num_steps(run.folder) != done:
                done, since = num_steps(run.folder), time.monotonic()
            if time.monotonic() - since > limit_s:
                raise TimeoutError(f"no step and no end within {limit_s:g} s:\n{run.printed()}")
            time.sleep(0.1)
        until = time.monotonic() + 15
        while left := run.processes():
            if time.monotonic() > until:
                raise RuntimeError(f"left: {left}")
            time.sleep(0.1)

    def _record(self, one: Result, kind: str, outcome: str) -> dict[str, Any]:
        return {
            "victim": one.kill.victim,
            "phase": one.kill.phase,
            "hit": one.hit,
            "step": one.step,
            "servers": kind,
            "outcome": outcome,
            "seed": self._seed,
            "date": datetime.date.today().isoformat(),
            "commit": source_commit(),
        }


def describe_end(run: Run, kill: Kill) -> str:
    """Return how a run has ended after a kill, with what it has printed if that is not the expected message."""
    printed = run.printed()
    if TRACEBACK in printed:
        print(printed, flush=True)
        return "ended with a traceback"
    expected = MESSAGES["rank" if kill.victim.startswith("rank") else "server"]
    assert any(text in printed for text in expected), printed
    return ENDED


def num_steps(folder: Path) -> int:
    """Return the number of logged steps."""
    run = folder / "run"
    return len(RunFolder(run).records(ROLLOUTS)) if (run / ROLLOUTS).exists() else 0


def is_complete(folder: Path) -> bool:
    """Return True if the run has taken all steps and saved its model."""
    return num_steps(folder) == STEPS and (folder / "run" / "model").exists()


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return the kills that a file lists."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def missing_kills(results: Iterable[Mapping[str, Any]], victims: Iterable[str], number: int) -> Counter[Kill]:
    """Return the kills to make, ``number`` of each victim, as equally as possible in all phases."""
    planned = Counter(Kill(victim, PHASES[i % len(PHASES)]) for victim in victims for i in range(number))
    return planned - Counter(Kill(one["victim"], one["phase"]) for one in results)


def table(results: Iterable[Mapping[str, Any]]) -> str:
    """Return the counts of kills by victim and outcome, and by victim and phase."""
    counts: Counter[tuple[str, str]] = Counter()
    for one in results:
        counts.update([(one["victim"], "kills"), (one["victim"], one["outcome"]), (one["victim"], one["phase"])])
    columns = ("kills", CONTINUED, ENDED, *PHASES)
    lines = [" | ".join(("victim", *columns)), *(
        " | ".join((victim, *(str(counts[victim, column]) for column in columns))) for victim in VICTIMS
    )]  # fmt: skip
    return "\n".join(f"| {line} |" for line in (lines[0], "|".join(["---"] * (1 + len(columns))), *lines[1:]))


def main() -> int:
    """Run the test; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="file with a line for each kill, which is appended to")
    parser.add_argument("--number", type=int, default=20, help="number of kills of each victim in the file (20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments; another one for each call (0)")
    parser.add_argument("--only", nargs="+", choices=VICTIMS, default=VICTIMS, help="processes to kill (all)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no kill after this time (no limit)")
    parser.add_argument("--fake", action="store_true", help="a fake vllm module in place of vLLM")
    given = parser.parse_args()
    until = time.monotonic() + 60 * given.minutes
    torch.set_num_threads(1)
    given.results.parent.mkdir(parents=True, exist_ok=True)
    missing = missing_kills(read_results(given.results), given.only, given.number)
    root = Path(tempfile.mkdtemp(prefix="engine-kills-"))
    virft(["build", "scenes", str(root / "data" / "train"), "--classes", "novel", "--questions", "6"])
    (root / "data" / "variety.py").write_text(VARIETY, encoding="utf-8")
    environment = {"OMP_NUM_THREADS": "1"}
    # Also imports the modules of the model.
    placeholder = int(load_model("virft-tiny").model.config.image_token_id)
    if given.fake:
        shutil.copyfile(Path(__file__).parents[1] / "tests" / "random_vllm.py", root / "vllm.py")
        path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
        environment |= {"PYTHONPATH": path, "FAKE_PLACEHOLDER": str(placeholder), "SLOW_S": "0.3"}
    test = Test(root, given.results.resolve(), environment, fake=given.fake, seed=given.seed)
    number = 0
    while missing.total() and time.monotonic() < until:
        test.kill(missing, number=number, until=until)
        number += 1
    # Runs of a failed test remain.
    shutil.rmtree(root)
    results = read_results(given.results)
    print(table(results))
    return 0 if all(one["outcome"] in (CONTINUED, ENDED) for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
