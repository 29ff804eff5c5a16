"""Quickstart over several seeds, with a control: does GRPO learn novel classes, and better than supervised fine-tuning?

    python benchmarks/quickstart_seeds.py OUT [--seeds 0 1 2] [--parallel 2 --threads 1]

Each seed is run twice: unchanged, and with the class names of the few-shot questions permuted (control: the learned
names are then wrong in the tests). The held-out classes, which are never trained on, measure general improvement. About
10 minutes per run on two idle cores. Finished runs are only scored; an interrupted run is resumed.
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

MODELS = ("base", "sft", "rft", "mix")
SHOWN = ("f1", "precision", "recall", "false_positive_rate", "duplicates_per_question", "unreadable_frac")


def shifted_names() -> dict[str, str]:
    """Return a permutation of the novel classes without a fixed point: each class -> the next one."""
    names = class_names("novel")
    return dict(zip(names, (*names[1:], names[0]), strict=True))


@dataclass(frozen=True)
class Job:
    """One quickstart run: a seed, with correct ("labels") or permuted names."""

    control: str
    seed: int

    def folder(self, out: Path) -> Path:
        """Return the folder of its files."""
        return out / f"{self.control}_{self.seed}"


def run_job(job: Job, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the job in a separate process, unless its result exists; return its scores, minutes and peak memory."""
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
    """Run the job in this process. Minutes and memory are those of this process: after a resume, of the last part."""
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
    """Run all jobs and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--parallel", type=int, default=1, help="number of concurrent runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="PyTorch threads of each run")
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.job:
        run_here(Job(args.job[0], int(args.job[1])), args)
        return
    jobs = [Job(control, seed) for seed in args.seeds for control in ("labels", "permuted")]
    with ThreadPoolExecutor(args.parallel) as pool:
        found = dict(zip(jobs, pool.map(lambda job: run_job(job, args), jobs), strict=True))
    runs = {control: [found[Job(control, seed)] for seed in args.seeds] for control in ("labels", "permuted")}
    torch.set_num_threads(args.threads)
    text = f"{args.parallel} concurrent runs, {args.threads} threads each.\n\n{table(runs, args.seeds)}"
    print(text)
    command = " ".join(["python benchmarks/quickstart_seeds.py OUT", *sys.argv[2:]])
    print(write_results("quickstart_seeds", command=command, tables=text, date=args.date, folder=args.results))


def table(runs: dict[str, list[dict]], seeds: list[int]) -> str:
    """Return means with the range over seeds, and the improvement of F1 for each seed."""
    lines = ["| run | test | model | " + " | ".join(SHOWN) + " |", "|---" * (3 + len(SHOWN)) + "|"]
    for control, found in runs.items():
        for test in TESTS:
            for model in MODELS:
                cells = []
                for name in SHOWN:
                    values = [one[model][test][name] for one in found]
                    cells.append(f"{fmean(values):.3f} ({min(values):.3f}..{max(values):.3f})")
                lines.append(f"| {control} | {test} | {model} | " + " | ".join(cells) + " |")
    lines += ["", "Improvement of F1 over the base model by seed:", ""]
    for control, found in runs.items():
        for test in TESTS:
            for model in MODELS[1:]:
                rises = [one[model][test]["f1"] - one["base"][test]["f1"] for one in found]
                each = ", ".join(f"{seed}: {rise:+.3f}" for seed, rise in zip(seeds, rises, strict=True))
                lines.append(f"- {control}, {test}, {model}: mean {fmean(rises):+.3f} ({each})")
    every = [one for found in runs.values() for one in found]
    minutes = ", ".join(f"{one['minutes']:.1f}" for one in every)
    peak = max(one["peak_gib"] for one in every)
    lines += ["", f"Minutes per run: {minutes}. Highest memory of a run: {peak:.2f} GiB."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
