"""Scaling of a step's time with group size, completion length, prompt length, number of groups and model size.

    pip install -c constraints.txt -e ".[hf,bench]"
    python benchmarks/step_costs.py

One factor at a time is varied around one shape (``--around``: P prompt tokens, pixels a side, C completion tokens, G
completions, groups per step). Each point is a separate trainer on the shape of virft-tiny (random weights, float32,
frozen tower, see ``step_against_trl.py``), all in one process; they run their steps in turn, the first turn is not
counted, and seconds are medians. The exponent is the slope of a straight line through the logarithms of all points; the
second exponent is that of the counted operations (``counting.py``), which is 1 if twice the work is twice the
arithmetic.
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
LABELS = {
    "G": "completions per group",
    "C": "completion tokens",
    "P": "prompt tokens",
    "groups": "groups per step",
    "model": "weights of the language model",
}


@dataclass(kw_only=True)
class Point:
    """One shape, with a trainer that is ready to step."""

    factor: str
    """Varied factor, a key of ``FACTORS``."""
    value: float
    """Its value; of "model", the number of weights."""
    operations: int
    """Counted operations of a step."""
    step: Callable[[int], object]
    """Run the step of this number."""
    seconds: list[float] = field(default_factory=list)
    """Measured seconds of each step."""

    @property
    def median(self) -> float:
        """Median seconds of a step, without the first, which warms up."""
        return statistics.median(self.seconds[1:])


def make_point(factor: str, value: int | str, around: dict[str, int], folder: Path, threads: int) -> Point:
    """Make a trainer for the shape ``around`` with one value changed."""
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
    """Return the slope of the line through the logarithms."""
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def draw(points: Sequence[Point], path: Path) -> None:
    """Plot the seconds of a step over each factor on logarithmic axes, with the line of the counted operations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    factors = list(dict.fromkeys(point.factor for point in points))
    figure, axes = plt.subplots(1, len(factors), figsize=(3 * len(factors), 3), sharey=True, layout="constrained")
    for axis, factor in zip(np.atleast_1d(axes), factors, strict=True):
        chosen = [point for point in points if point.factor == factor]
        values, seconds = [point.value for point in chosen], [point.median for point in chosen]
        rate = max(point.operations / point.median for point in chosen)
        axis.loglog(values, seconds, "o-", color="#1f6f8b", label="measured")
        axis.loglog(
            values, [point.operations / rate for point in chosen], "--", color="#999999", label="counted operations"
        )
        axis.set_xlabel(LABELS[factor])
        axis.set_xticks(values, [f"{value / 1e6:.0f} M" if value >= 1e6 else f"{value:.0f}" for value in values])
        axis.minorticks_off()
        axis.yaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].set_ylabel("seconds per step")
    np.atleast_1d(axes)[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def main(arguments: argparse.Namespace) -> None:
    """Measure every point, write the table and the plot."""
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
        chosen = [point for point in points if point.factor == factor]
        values = [point.value for point in chosen]
        found = exponent(values, [point.median for point in chosen])
        counted = exponent(values, [float(point.operations) for point in chosen])
        slopes.append([LABELS[factor], f"{found:.2f}", f"{counted:.2f}"])
        rows += [
            [
                LABELS[factor],
                f"{point.value:,.0f}",
                f"{point.median:.3f}",
                f"{point.operations / point.median / 1e9:.1f}",
            ]
            for point in chosen
        ]
    centre = ", ".join(f"{key} {value}" for key, value in around.items())
    tables = (
        f"Around {centre}; virft-tiny's shape in float32. Medians of {arguments.repeats} steps.\n\n"
        f"{markdown_table(['factor', 'exponent', 'of counted operations'], slopes)}\n\n"
        f"{markdown_table(['factor', 'value', 'seconds', 'counted Gop/s'], rows)}"
    )
    print(f"{machine()}\n{tables}")
    command = " ".join(["python benchmarks/step_costs.py", *sys.argv[1:]])
    print(write_results("step_costs", command=command, tables=tables, date=arguments.date, folder=arguments.out))
    if arguments.plot:
        draw(points, arguments.plot)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--around", default="200,112,64,8,8", help="P,pixels a side,C,G,groups per step")
    parser.add_argument("--factors", nargs="+", choices=tuple(FACTORS), default=list(FACTORS))
    parser.add_argument("--most", type=int, help="number of values of each factor; default: all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="PyTorch threads; default: PyTorch's default")
    parser.add_argument("--plot", type=Path, help="also save a plot as PNG; needs matplotlib")
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--out", type=Path, default=RESULTS)
    main(parser.parse_args())
