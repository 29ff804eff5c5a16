"""Score of one step off-policy against on-policy: the quickstart's RFT with sampling.max_staleness 0 and 1.

    python benchmarks/staleness.py OUT [--seeds 0 1 2]

Both train on the same images with the same random streams, and the built-in generator samples: the two differ in the
weights that sample only. Finished runs are only scored; an interrupted run is resumed. About 4 minutes per run on two
idle cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from record import RESULTS, markdown_table, write_results

from virft.recipes.compare.runs import COMPARE, run_compare
from virft.recipes.quickstart import STEPS, TESTS, quickstart_config, write_data
from virft.training.run import METRICS

STALENESS = (0, 1)


def run_here(out: Path, seed: int, max_staleness: int, steps: int) -> None:
    """Train and score one run, and write its scores to ``out``."""
    folder = out / f"seed_{seed}"
    write_data(folder / "data", seed=seed)
    config = quickstart_config(folder, seed=seed, steps=steps)
    config = replace(
        config,
        sampling=replace(config.sampling, max_staleness=max_staleness),
        compare=replace(config.compare, systems=("rft",)),
        run=replace(config.run, dir=str(folder / f"staleness_{max_staleness}")),
    )
    run = Path(config.run.dir)
    found = run_compare(config, resume=(run / COMPARE).exists(), log=lambda line: print(line, flush=True))
    scores: dict[str, Any] = {"f1": {}, "metrics": _metrics(run)}
    for test in TESTS:
        values = {
            system: json.loads((by_test[test][0].parent / "scores.json").read_text())["tasks"]["detection"]["values"]
            for system, by_test in found.predictions.items()
        }
        blind = found.blind[test]["detection"].blind.baselines
        scores["f1"][test] = {
            "blind": max(one.values["f1"] for one in blind),
            **{system: one["f1"] for system, one in values.items()},
        }
    _result(out, seed, max_staleness).write_text(json.dumps(scores, indent=1) + "\n")


def _metrics(run: Path) -> dict[str, float]:
    """Means over the steps of a run."""
    (path,) = run.glob(f"**/{METRICS}")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    names = ("reward", "staleness", "sampler_gap_mean", "capped_frac", "nonzero_std_frac")
    values = {name: [one[name] for one in records if name in one] for name in names}
    return {name: fmean(found) for name, found in values.items() if found}


def _result(out: Path, seed: int, max_staleness: int) -> Path:
    return out / f"seed_{seed}_staleness_{max_staleness}.json"


def table(found: dict[tuple[int, int], dict[str, Any]], seeds: list[int]) -> str:
    """Return F1 of each test and seed, and the paired differences."""
    rows: list[list[str]] = []
    for test in TESTS:
        for seed in seeds:
            f1 = [found[seed, number]["f1"][test] for number in STALENESS]
            values = [f1[0]["blind"], f1[0]["base"], *(one["rft"] for one in f1)]
            rows.append([test, str(seed), *(f"{value:.3f}" for value in values), f"{values[3] - values[2]:+.3f}"])
        each = [[found[seed, number]["f1"][test]["rft"] for seed in seeds] for number in STALENESS]
        blind, base = (fmean(found[seed, 0]["f1"][test][name] for seed in seeds) for name in ("blind", "base"))
        means = [blind, base, *map(fmean, each)]
        rows.append([test, "mean", *(f"{value:.3f}" for value in means), f"{means[3] - means[2]:+.3f}"])
    head = ["test", "seed", "best blind", "base", "max_staleness 0", "max_staleness 1", "difference"]
    lines = [markdown_table(head, rows), "", "Means over the steps of each run:", ""]
    names = sorted({name for one in found.values() for name in one["metrics"]})
    more = [
        [str(seed), str(number), *(f"{found[seed, number]['metrics'].get(name, 0.0):.4g}" for name in names)]
        for seed in seeds
        for number in STALENESS
    ]
    return "\n".join([*lines, markdown_table(["seed", "max_staleness", *names], more)])


def main() -> None:
    """Run all seeds and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    parser.add_argument("--job", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.job:
        run_here(args.out, *args.job, args.steps)
        return
    for seed in args.seeds:
        for number in STALENESS:
            if not _result(args.out, seed, number).exists():
                job = ("--job", str(seed), str(number), "--steps", str(args.steps))
                subprocess.run([sys.executable, __file__, str(args.out), *job], check=True)
    found = {
        (seed, number): json.loads(_result(args.out, seed, number).read_text())
        for seed in args.seeds
        for number in STALENESS
    }
    text = table(found, args.seeds)
    print(text)
    command = " ".join(["python benchmarks/staleness.py OUT", *sys.argv[2:]])
    print(write_results("staleness", command=command, tables=text, date=args.date, folder=args.results))


if __name__ == "__main__":
    main()
