"""Time of a step with one process and with two, for each data-parallel strategy.

    python benchmarks/processes.py            # about ten minutes on two idle cores

Complete runs of the built-in model by ``virft grpo``: one process with one thread, and two processes with one thread
each, on two cores. They alternate ``--repeats`` times; the first step of each run is not counted. Seconds are medians
over the steps of all runs, of rank 0, whose ``gather`` is the time it waits for rank 1. The ideal speedup of two
processes is 2; the last column is the fraction of it. ``zero2`` and ``zero3`` run only if DeepSpeed is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from record import RESULTS, markdown_table, write_results

LAUNCHER = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--main_process_port", "0")
LAUNCHER += ("--mixed_precision", "no", "--dynamo_backend", "no")
STAGES = ("images", "sampling", "gather", "update")


def seconds_of_steps(folder: Path, data: Path, settings: Sequence[str], strategy: str) -> list[dict[str, float]]:
    """Return the timings of all steps of a run but the first; ``strategy``: "" for one process."""
    config = folder / "config.toml"
    config.write_text(f'data.train = "{data}"\nrun.dir = "{folder / "run"}"\nrun.save_every = 0\n')
    start = ("-m", "virft") if not strategy else (*LAUNCHER, "--num_processes", "2", "-m", "virft")
    chosen = [f"parallel.strategy={strategy}"] if strategy else []
    command = [sys.executable, *start, "grpo", str(config), *settings, *chosen]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return [json.loads(line) for line in (folder / "run" / "timings.jsonl").read_text().splitlines()][1:]


def main(arguments: argparse.Namespace) -> None:
    """Run the strategies in turn and write the table."""
    ways = ["", "ddp", "fsdp2"] + (["zero2", "zero3"] if importlib.util.find_spec("deepspeed") else [])
    settings = [
        f"grpo.steps={arguments.steps}",
        f"grpo.prompts_per_step={arguments.prompts}",
        f"grpo.group_size={arguments.group}",
        "grpo.kl_coef=0",
        "sampling.max_completion_tokens=64",
    ]
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        build = ("-m", "virft", "build", "scenes", str(data), "--classes", "novel", "--questions", "64")
        subprocess.run([sys.executable, *build], check=True, capture_output=True)
        for turn in range(arguments.repeats):
            for way in ways:
                folder = Path(name) / f"{way}_{turn}"
                folder.mkdir()
                found[way] += seconds_of_steps(folder, data, settings, way)
                print(f"turn {turn + 1}/{arguments.repeats}, {way or 'one process'}: done", flush=True)
    rows = []
    alone = _median(found[""])
    for way, steps in found.items():
        parts = [f"{statistics.median(step.get(stage, 0.0) for step in steps):.2f}" for stage in STAGES]
        seconds = _median(steps)
        speedup = [f"{alone / seconds:.2f}", f"{alone / seconds / 2:.0%}"] if way else ["1.00", ""]
        rows.append([way or "one process", *parts, f"{seconds:.2f}", *speedup])
    head = ["", *(f"{stage} s" for stage in STAGES), "step s", "speedup", "of ideal"]
    tables = (
        f"virft-tiny in float32, {arguments.prompts} prompts x {arguments.group} completions of at most 64 tokens, "
        f"one thread per process, gloo. Medians over {len(found[''])} steps of {arguments.repeats} runs.\n\n"
        f"{markdown_table(head, rows)}"
    )
    print(tables)
    command = " ".join(["python benchmarks/processes.py", *sys.argv[1:]])
    print(write_results("processes", command=command, tables=tables, date=arguments.date, folder=arguments.out))


def _median(steps: Sequence[dict[str, float]]) -> float:
    return statistics.median(sum(value for stage, value in step.items() if stage != "step") for step in steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--out", type=Path, default=RESULTS)
    main(parser.parse_args())
