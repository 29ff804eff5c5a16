"""Does reinforcement teach new classes? The quickstart over several seeds, with its controls.

    python benchmarks/quickstart_seeds.py OUT [--seeds 0 1 2] [--result FILE]

Each seed is run twice: as it is, and with the names of the few-shot questions permuted among the classes (control:
what is learnt must then be of no use). The held-out classes, never trained on, show what is general skill. About
5 minutes a run on two cores. Runs that are there already are only scored; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from statistics import fmean

import torch

from virft.assembly import source_commit
from virft.quickstart import TESTS, run_quickstart
from virft.scenes.assets import class_names

SHOWN = ("f1", "precision", "recall", "false_positive_rate", "duplicates_per_question", "unreadable_frac")


def shifted_names() -> dict[str, str]:
    """Each novel class -> the next one: no class keeps its name."""
    names = class_names("novel")
    return dict(zip(names, (*names[1:], names[0]), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--result", type=Path, help="a Markdown file for the tables")
    args = parser.parse_args()
    runs: dict[str, list[dict]] = {"labels": [], "permuted": []}
    for seed in args.seeds:
        for control, renamed in (("labels", None), ("permuted", shifted_names())):
            out = args.out / f"{control}_{seed}"
            began = time.perf_counter()
            scores = run_quickstart(
                out, seed=seed, steps=args.steps, resume=True, say=lambda line: print(line, flush=True), renamed=renamed
            )
            minutes = (time.perf_counter() - began) / 60
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"{out}: {minutes:.1f} minutes, peak memory of this process {peak:.2f} GiB", flush=True)
            runs[control].append(json.loads((out / "scores.json").read_text()) | {"minutes": minutes, "n": len(scores)})
    text = table(runs, args.seeds)
    print(text)
    if args.result:
        args.result.write_text(
            f"# Quickstart over seeds {args.seeds}\n\ncommit {source_commit()}, torch {torch.__version__}, "
            f"{torch.get_num_threads()} threads\n\n{text}\n"
        )


def table(runs: dict[str, list[dict]], seeds: list[int]) -> str:
    """Means with the range over seeds, and the rise of F1 seed by seed."""
    lines = ["| run | test | model | " + " | ".join(SHOWN) + " |", "|---" * (3 + len(SHOWN)) + "|"]
    for control, found in runs.items():
        for test in TESTS:
            for model in ("base", "rft"):
                cells = []
                for name in SHOWN:
                    values = [one[model][test][name] for one in found]
                    cells.append(f"{fmean(values):.3f} ({min(values):.3f}..{max(values):.3f})")
                lines.append(f"| {control} | {test} | {model} | " + " | ".join(cells) + " |")
    lines += ["", "Rise of F1 by seed:", ""]
    for control, found in runs.items():
        for test in TESTS:
            rises = [one["rft"][test]["f1"] - one["base"][test]["f1"] for one in found]
            each = ", ".join(f"{seed}: {rise:+.3f}" for seed, rise in zip(seeds, rises, strict=True))
            lines.append(f"- {control}, {test}: mean {fmean(rises):+.3f} ({each})")
    minutes = [f"{one['minutes']:.1f}" for found in runs.values() for one in found]
    lines += ["", f"Minutes a run: {', '.join(minutes)}"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
