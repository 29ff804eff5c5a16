"""Does reinforcement teach new classes, and better than right answers? The quickstart's seeds, with its controls.

    python benchmarks/quickstart_seeds.py OUT [--seeds 0 1 2] [--at-once 2 --threads 1]

Each seed is run twice: as it is, and with the names of the few-shot questions permuted among the classes (control:
what is learnt must then be of no use). The held-out classes, never trained on, show what is general skill. About
10 minutes a run with two cores to itself. Runs that are there already are only scored; one that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from record import RESULTS, write_results

from virft.recipes.quickstart import TESTS, run_quickstart
from virft.scenes.assets import class_names

MODELS = ("base", "sft", "rft")
SHOWN = ("f1", "precision", "recall", "false_positive_rate", "duplicates_per_question", "unreadable_frac")


def shifted_names() -> dict[str, str]:
    """Each novel class -> the next one: no class keeps its name."""
    names = class_names("novel")
    return dict(zip(names, (*names[1:], names[0]), strict=True))


@dataclass(frozen=True)
class Job:
    """One quickstart: a seed, with the labels as they are or permuted."""

    control: str
    seed: int

    def folder(self, out: Path) -> Path:
        """Where its files are."""
        return out / f"{self.control}_{self.seed}"


def run_job(job: Job, arguments: argparse.Namespace) -> dict[str, Any]:
    """The job in a process of its own: its scores, minutes and peak memory. What is there already is kept."""
    folder = job.folder(arguments.out)
    result = folder.with_suffix(".json")
    if not result.exists():
        command = [sys.executable, __file__, str(arguments.out), "--job", job.control, str(job.seed)]
        command += ["--threads", str(arguments.threads)] + (
            ["--steps", str(arguments.steps)] if arguments.steps else []
        )
        with folder.with_suffix(".log").open("a") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    print(f"{folder.name}: done", flush=True)
    return json.loads(result.read_text())  # type: ignore[no-any-return]


def run_here(job: Job, arguments: argparse.Namespace) -> None:
    """The job itself. Minutes and memory are those of this process: of the last stretch, if it was resumed."""
    torch.set_num_threads(arguments.threads)
    began = time.perf_counter()
    compared = run_quickstart(
        job.folder(arguments.out),
        seed=job.seed,
        steps=arguments.steps,
        resume=True,
        log=lambda line: print(line, flush=True),
        renamed=shifted_names() if job.control == "permuted" else None,
    )
    found = {
        model: {test: _values(paths[0].parent / "scores.json") for test, paths in by_test.items()}
        for model, by_test in compared.predictions.items()
    }
    minutes = (time.perf_counter() - began) / 60
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    job.folder(arguments.out).with_suffix(".json").write_text(
        json.dumps(found | {"minutes": minutes, "peak_gib": peak})
    )


def _values(scores: Path) -> dict[str, float]:
    return json.loads(scores.read_text())["tasks"]["detection"]["values"]  # type: ignore[no-any-return]


def main() -> None:
    """Run every job, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--at-once", type=int, default=1, help="runs at the same time")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch, for each run")
    parser.add_argument("--date", help="of the result file; default: today")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.job:
        run_here(Job(args.job[0], int(args.job[1])), args)
        return
    jobs = [Job(control, seed) for seed in args.seeds for control in ("labels", "permuted")]
    with ThreadPoolExecutor(args.at_once) as pool:
        found = dict(zip(jobs, pool.map(lambda job: run_job(job, args), jobs), strict=True))
    runs = {control: [found[Job(control, seed)] for seed in args.seeds] for control in ("labels", "permuted")}
    torch.set_num_threads(args.threads)
    text = f"{args.at_once} runs at once, {args.threads} threads each.\n\n{table(runs, args.seeds)}"
    print(text)
    command = " ".join(["python benchmarks/quickstart_seeds.py OUT", *sys.argv[2:]])
    print(write_results("quickstart_seeds", command=command, tables=text, date=args.date, folder=args.results))


def table(runs: dict[str, list[dict]], seeds: list[int]) -> str:
    """Means with the range over seeds, and the rise of F1 seed by seed."""
    lines = ["| run | test | model | " + " | ".join(SHOWN) + " |", "|---" * (3 + len(SHOWN)) + "|"]
    for control, found in runs.items():
        for test in TESTS:
            for model in MODELS:
                cells = []
                for name in SHOWN:
                    values = [one[model][test][name] for one in found]
                    cells.append(f"{fmean(values):.3f} ({min(values):.3f}..{max(values):.3f})")
                lines.append(f"| {control} | {test} | {model} | " + " | ".join(cells) + " |")
    lines += ["", "Rise of F1 by seed:", ""]
    for control, found in runs.items():
        for test in TESTS:
            for model in MODELS[1:]:
                rises = [one[model][test]["f1"] - one["base"][test]["f1"] for one in found]
                each = ", ".join(f"{seed}: {rise:+.3f}" for seed, rise in zip(seeds, rises, strict=True))
                lines.append(f"- {control}, {test}, {model}: mean {fmean(rises):+.3f} ({each})")
    every = [one for found in runs.values() for one in found]
    minutes = ", ".join(f"{one['minutes']:.1f}" for one in every)
    peak = max(one["peak_gib"] for one in every)
    lines += ["", f"Minutes a run: {minutes}. Highest memory of a run: {peak:.2f} GiB."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
