"""Cost of demonstrations: seconds of a GRPO step with one in each group, against a step without.

    pip install -c constraints.txt -e ".[hf,bench]"
    python benchmarks/demonstrations.py

Each side is a trainer on the shape of virft-tiny (random weights, float32, frozen tower, see ``step_against_trl.py``),
all in one process; they take their steps in turn, the first turn is not counted, and seconds are medians. A
demonstration has as many tokens as a completion.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from counting import GroupShape
from record import RESULTS, machine, markdown_table, write_results
from step_against_trl import Task, make_folder, make_samples, make_trainer, shape_config

from virft.models.load import load_model
from virft.training.grpo.demonstrations import WrittenTarget
from virft.training.grpo.trainer import GRPOTrainer

SIDES: dict[str, dict[str, Any]] = {
    "off": {},
    "loss": {"demonstrations": "loss"},
    "group": {"demonstrations": "group"},
}
_BEST_TEXT = "\U0010ffff"
"""A text that ``LetterGrader`` rewards more than any completion, so that the demonstration has an advantage."""


def make_side(folder: Path, settings: dict[str, Any]) -> GRPOTrainer:
    """Make a trainer with these settings and demonstrations of random tokens."""
    task = Task(**json.loads((folder / "task.json").read_text()))
    loaded = load_model(str(folder))
    loaded.freeze_vision()
    trainer = make_trainer(loaded, task, folder)
    generator = torch.Generator().manual_seed(0)
    tokens = tuple(torch.randint(0, 100, (task.completion,), generator=generator).tolist())
    written = WrittenTarget(text=_BEST_TEXT, token_ids=tokens, in_loss=(True,) * task.completion)
    trainer.write_target = lambda sample, rendered: written
    # as many groups in a row on every side
    row = task.groups_per_backward * (task.prompt + (task.group + 1) * task.completion)
    trainer.config = replace(trainer.config, microbatch_tokens=row, **settings)
    return trainer


def main(arguments: argparse.Namespace) -> None:
    """Measure every side and write the table."""
    prompt, side, completion, group = map(int, arguments.shape.split(","))
    patches = (side // shape_config("tiny").vision_config.patch_size) ** 2
    threads = arguments.threads or torch.get_num_threads()
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    tokens: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_folder(
            folder,
            shape=GroupShape(prompt=prompt, completion=completion, group=group, patches=patches),
            num_prompts=arguments.num_prompts,
            groups_per_backward=min(4, arguments.num_prompts),
            frozen_vision=True,
            threads=threads,
            model="tiny",
            dtype="float32",
        )
        samples = make_samples(Task(**json.loads((folder / "task.json").read_text())), folder)
        trainers = {name: make_side(folder, settings) for name, settings in SIDES.items()}
        torch.set_num_threads(threads)
        for turn in range(arguments.repeats + 1):
            for name, trainer in trainers.items():
                began = time.perf_counter()
                report = trainer.step(turn, samples)
                if turn:
                    seconds[name].append(time.perf_counter() - began)
                tokens[name] = report.metrics["num_tokens"]
            print(f"turn {turn} of {arguments.repeats}", flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [
        [
            name,
            f"{tokens[name]:,.0f}",
            f"{tokens[name] / tokens['off'] - 1:+.1%}",
            f"{medians[name]:.3f}",
            f"{medians[name] / medians['off'] - 1:+.1%}",
        ]
        for name in SIDES
    ]
    tables = (
        f"P {prompt}, image of {side} x {side} pixels, C {completion}, G {group}, {arguments.num_prompts} prompts a "
        f"step; virft-tiny's shape in float32. Medians of {arguments.repeats} steps.\n\n"
        + markdown_table(["demonstrations", "tokens a step", "more", "seconds a step", "longer"], rows)
    )
    print(f"{machine()}\n{tables}")
    command = " ".join(["python benchmarks/demonstrations.py", *sys.argv[1:]])
    print(write_results("demonstrations", command=command, tables=tables, date=arguments.date, folder=arguments.out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="300,112,128,8", help="P,pixels a side,C,G")
    parser.add_argument("--num-prompts", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, help="PyTorch threads; default: PyTorch's default")
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--out", type=Path, default=RESULTS)
    main(parser.parse_args())
