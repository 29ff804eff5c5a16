"""What a step costs as the work grows: completions of a group, tokens of prompts and answers, groups, model size.

    pip install -c constraints.txt -e ".[hf,bench]"
    python benchmarks/step_costs.py

Around one shape (``--around``: P prompt tokens, pixels a side, C tokens of a completion, G completions, groups a step)
one thing is varied at a time. Each point is a trainer of its own on the shape of virft-tiny (random weights, float32,
frozen tower, see ``step_against_trl.py``), all in one process; they take their steps in turns, the first turn is not
counted, and seconds are medians. The exponent is the slope of a straight line through the logarithms of all points; the
one beside it is that of counted operations (``counting.py``), which is 1 where a step is twice the arithmetic for twice
the work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from counting import GroupShape, step_operations
from record import RESULTS, machine, markdown_table, write_results
from step_against_trl import Task, make_folder, make_samples, make_trainer, shape_config

from virft.models.load import load_model

FACTORS: dict[str, Sequence[int | str]] = {
    "G": (2, 4, 8, 16, 32),
    "C": (16, 32, 64, 128, 256),
    "P": (100, 200, 400, 800),
    "groups": (2, 4, 8, 16, 32),
    "model": ("tiny", "100m"),
}
WORDS = {
    "G": "completions of a group",
    "C": "tokens of a completion",
    "P": "tokens of a prompt",
    "groups": "groups of a step",
    "model": "weights of the language model",
}


@dataclass(kw_only=True)
class Point:
    """One shape, with a trainer that is ready to step."""

    factor: str
    value: float
    operations: int
    step: Callable[[int], object]
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds of a step; the first one warmed up."""
        return statistics.median(self.seconds[1:])


def make_point(factor: str, value: int | str, around: dict[str, int], folder: Path, threads: int) -> Point:
    """The shape ``around``, but for one number."""
    shape = around | ({factor: int(value)} if factor != "model" else {})
    model = str(value) if factor == "model" else "tiny"
    config = shape_config(model)
    patches = (shape["side"] // config.vision_config.patch_size) ** 2
    group = GroupShape(prompt=shape["P"], completion=shape["C"], group=shape["G"], patches=patches)
    folder.mkdir()
    make_folder(
        folder,
        shape=group,
        num_prompts=shape["groups"],
        groups_per_backward=min(4, shape["groups"]),
        frozen_vision=True,
        threads=threads,
        model=model,
        dtype="float32",
    )
    task = Task(**json.loads((folder / "task.json").read_text()))
    loaded = load_model(str(folder))
    loaded.freeze_vision()
    trainer = make_trainer(loaded, task, folder)
    samples = make_samples(task, folder)
    size = (
        float(value)
        if factor != "model"
        else float(sum(p.numel() for p in loaded.model.model.language_model.parameters()))
    )
    operations = shape["groups"] * step_operations(config, group, shared=True, frozen_vision=True)
    return Point(factor=factor, value=size, operations=operations, step=lambda number: trainer.step(number, samples))


def exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of the line through the logarithms."""
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def draw(points: Sequence[Point], path: Path) -> None:
    """Seconds of a step over each thing, both logarithmic, with the line that counted operations alone would make."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    factors = list(dict.fromkeys(point.factor for point in points))
    figure, axes = plt.subplots(1, len(factors), figsize=(3 * len(factors), 3), sharey=True, layout="constrained")
    for axis, factor in zip(np.atleast_1d(axes), factors, strict=True):
        held = [point for point in points if point.factor == factor]
        values, seconds = [point.value for point in held], [point.median for point in held]
        rate = max(point.operations / point.median for point in held)
        axis.loglog(values, seconds, "o-", color="#1f6f8b", label="measured")
        axis.loglog(
            values, [point.operations / rate for point in held], "--", color="#999999", label="counted operations"
        )
        axis.set_xlabel(WORDS[factor])
        axis.set_xticks(values, [f"{value / 1e6:.0f} M" if value >= 1e6 else f"{value:.0f}" for value in values])
        axis.minorticks_off()
        axis.yaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].set_ylabel("seconds of a step")
    np.atleast_1d(axes)[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def main(arguments: argparse.Namespace) -> None:
    """Measure every point, write table and picture."""
    around = dict(zip(("P", "side", "C", "G", "groups"), map(int, arguments.around.split(",")), strict=True))
    threads = arguments.threads or torch.get_num_threads()
    with tempfile.TemporaryDirectory() as name:
        points = [
            make_point(factor, value, around, Path(name) / f"{factor}_{value}", threads)
            for factor in arguments.factors
            for value in (FACTORS[factor][: arguments.most] if arguments.most else FACTORS[factor])
        ]
        torch.set_num_threads(threads)
        for number in range(arguments.repeats + 1):
            for point in points:
                began = time.perf_counter()
                point.step(number)
                point.seconds.append(time.perf_counter() - began)
            print(f"turn {number} of {arguments.repeats}", flush=True)
    rows, slopes = [], []
    for factor in arguments.factors:
        held = [point for point in points if point.factor == factor]
        values = [point.value for point in held]
        found = exponent(values, [point.median for point in held])
        counted = exponent(values, [float(point.operations) for point in held])
        slopes.append([WORDS[factor], f"{found:.2f}", f"{counted:.2f}"])
        rows += [
            [
                WORDS[factor],
                f"{point.value:,.0f}",
                f"{point.median:.3f}",
                f"{point.operations / point.median / 1e9:.1f}",
            ]
            for point in held
        ]
    told = ", ".join(f"{key} {value}" for key, value in around.items())
    tables = (
        f"Around {told}; virft-tiny's shape in float32. Medians of {arguments.repeats} steps.\n\n"
        f"{markdown_table(['what grows', 'exponent', 'of counted operations'], slopes)}\n\n"
        f"{markdown_table(['what', 'value', 'seconds', 'counted Gop/s'], rows)}"
    )
    print(f"{machine()}\n{tables}")
    command = " ".join(["python benchmarks/step_costs.py", *sys.argv[1:]])
    print(write_results("step_costs", command=command, tables=tables, date=arguments.date, folder=arguments.out))
    if arguments.picture:
        draw(points, arguments.picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--around", default="200,112,64,8,8", help="P,pixels a side,C,G,groups a step")
    parser.add_argument("--factors", nargs="+", choices=tuple(FACTORS), default=list(FACTORS))
    parser.add_argument("--most", type=int, help="values of each factor; default: all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of PyTorch; default: its own choice")
    parser.add_argument("--picture", type=Path, help="also draw it, as PNG; needs matplotlib")
    parser.add_argument("--date", help="of the result file; default: today")
    parser.add_argument("--out", type=Path, default=RESULTS)
    main(parser.parse_args())
