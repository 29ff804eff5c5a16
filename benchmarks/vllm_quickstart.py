"""Quickstart with vLLM and with the built-in generator: F1 of each seed on the same tests.

    make test-vllm  # once: makes the environment
    .venv-vllm/bin/python benchmarks/vllm_quickstart.py OUT [--seeds 0 1 2 --steps 40]

Data, settings and both tests are those of the quickstart; a seed determines data, order and sampling. The engines use
different random streams, so their scores differ like those of two seeds. Finished runs are only scored.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from record import RESULTS, markdown_table, write_results

from virft.config.schema import CompareConfig, Config
from virft.config.toml_file import dump
from virft.recipes.compare.systems import without_demonstrations
from virft.recipes.quickstart import quickstart_config, write_data

TESTS = ("same_sprites", "other_style")


def virft(*arguments: object) -> None:
    """Run a command of virft in a separate process, because vLLM changes the thread settings."""
    subprocess.run([sys.executable, "-m", "virft", *map(str, arguments)], check=True)


def config_of(data: Path, run: Path, *, engine: str, seed: int, steps: int) -> Config:
    """Return the config of RFT in the quickstart, without the demonstrations of mix, with another engine."""
    quickstart = quickstart_config(run, seed=seed, steps=steps)
    return replace(
        quickstart,
        data=replace(quickstart.data, train=str(data)),
        sampling=replace(quickstart.sampling, engine=engine),
        grpo=without_demonstrations(quickstart.grpo),
        compare=CompareConfig(),
        run=replace(quickstart.run, dir=str(run), save_every=0),
    )


def f1_of(run: Path, data: Path) -> dict[str, float]:
    """Return F1 of the trained model on each test; predictions are made if they are missing."""
    found = {}
    for test in TESTS:
        answers = run / "eval" / test
        if not (answers / "scores.json").exists():
            virft("predict", run / "model", data / test, answers)
        tree = json.loads((answers / "scores.json").read_text())
        found[test] = float(tree["tasks"]["detection"]["values"]["f1"])
    return found


def train(folder: Path, *, engine: str, seed: int, steps: int) -> dict[str, float]:
    """Train one run, unless it is finished, and return its F1 on each test."""
    data, run = folder / f"data_{seed}", folder / f"{engine}_{seed}"
    if not data.exists():
        write_data(data, seed=seed)
    if not (run / "model").exists():
        config = folder / f"{engine}_{seed}.toml"
        config.write_text(dump(config_of(data / "train", run, engine=engine, seed=seed, steps=steps)))
        virft("grpo", config)
    return f1_of(run, data)


def main() -> None:
    """Run all missing runs, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--engines", nargs="+", default=["builtin", "vllm"])
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    found = {
        engine: [train(args.out, engine=engine, seed=seed, steps=args.steps) for seed in args.seeds]
        for engine in args.engines
    }
    rows = []
    for test in TESTS:
        for engine, by_seed in found.items():
            values = [one[test] for one in by_seed]
            each = ", ".join(f"{value:.3f}" for value in values)
            rows.append([test, engine, each, f"{fmean(values):.3f}", f"{max(values) - min(values):.3f}"])
    text = markdown_table(["test", "engine", f"F1 of seeds {args.seeds}", "mean", "range"], rows)
    print(text)
    command = " ".join(["python benchmarks/vllm_quickstart.py OUT", *sys.argv[2:]])
    tables = f"{args.steps} steps.\n\n{text}"
    print(write_results("vllm_quickstart", command=command, tables=tables, date=args.date, folder=args.results))


if __name__ == "__main__":
    main()
