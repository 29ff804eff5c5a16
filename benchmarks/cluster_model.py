"""Step time of GRPO on 8 to 256 GPUs by a simulation, and its error on steps that are measured here.

    python benchmarks/cluster_model.py simulate [--lengths FILE ..]   # seconds; no GPU is needed or used
    python benchmarks/cluster_model.py measure                        # 15 minutes on two idle cores

``simulate`` replays completion lengths under the schedules of ``virft.planning.cluster``, with the cost model of
``virft.planning.gpu_costs``, whose rates are assumptions. ``measure`` runs steps of the built-in model in one process
and in two, fits the costs of the linear model on some configurations, and predicts the others. It measures CPU seconds
of processes with one thread each, so that other programs on the machine matter less; waiting is not in them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from processes import LAUNCHER
from record import RESULTS, markdown_table, write_results
from scipy.optimize import nnls

from virft.models.peak_rates import PEAK_RATES
from virft.planning.cluster import (
    Cluster,
    Lengths,
    StepCosts,
    StepEstimate,
    best_split,
    simulate,
    static_work,
)
from virft.planning.gpu_costs import LENGTH_SIGMA, ModelSizes, draw_lengths, gpu_costs, sampler_rows

MODELS = {
    "2B LoRA": ModelSizes(weights=1_543_000_000, trained=37_000_000, kv_bytes=28_672, has_adapters=True),
    "7B full": ModelSizes(weights=7_070_000_000, trained=7_070_000_000, kv_bytes=57_344, has_adapters=False),
}
"""Language models of Qwen2-VL: weights without input embeddings, 28 layers with 2 and 4 KV heads of 128 numbers."""
MEMORY = 80 * 10**9
NUM_STEPS = 6
"""Steps of a simulated run."""
PROMPT_TOKENS, GROUP_SIZE = 541, 8
"""An image of 640 x 480 and 150 tokens of text; completions of a prompt."""


class Case(NamedTuple):
    """A configuration that is measured."""

    processes: int
    prompts: int
    group: int
    tokens: int
    """Largest number of tokens of a completion."""
    is_fitted: bool
    """True if the costs are fitted on it."""


CASES = (
    Case(1, 4, 8, 32, True),
    Case(1, 8, 4, 64, True),
    Case(1, 8, 8, 96, True),
    Case(1, 16, 8, 48, True),
    Case(1, 8, 8, 48, False),
    Case(1, 16, 4, 96, False),
    Case(2, 8, 8, 48, False),
    Case(2, 8, 8, 96, False),
    Case(2, 16, 8, 48, False),
)


class Step(NamedTuple):
    """A measured step."""

    lengths: list[list[int]]
    """Tokens of the completions, by group, in the order of the batch."""
    prompt_tokens: int
    """Mean tokens of a prompt."""
    sampling_s: float
    """Images and sampling, of the slowest process."""
    update_s: float
    """Everything else, of the slowest process."""


def take_steps(config: Path, settings: Sequence[str], out: Path, num_steps: int) -> None:
    """Take steps of a config in this process, one of several, and write lengths and CPU seconds to ``out``."""
    from virft.config.toml_file import load_config
    from virft.data.training_data import open_training_data
    from virft.recipes.trainers import open_grpo_trainer
    from virft.training import step
    from virft.training.distributed import leave_processes
    from virft.training.grpo.trainer import GRPOReport

    step.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment]

    loaded = load_config(config, settings).config
    data = open_training_data(loaded, batch_size=loaded.grpo.prompts_per_step)
    trainer = open_grpo_trainer(loaded)
    steps = []
    for number in range(num_steps + 1):
        report = trainer.step(number, data.batch(number))
        assert isinstance(report, GRPOReport)
        lengths = [[len(one.token_ids) for one in group.completions] for group in report.groups]
        prompt = round(statistics.fmean(len(group.prompt.token_ids) for group in report.groups))
        timings = report.timings
        sampling = timings["images"] + timings["sampling"]
        # All ranks wait for the slowest sampler before the update, and for the slowest trainer after it.
        sampling_s = trainer.ranks.max(sampling)
        update_s = trainer.ranks.max(sum(timings.values()) - sampling)
        steps.append(Step(lengths, prompt, sampling_s, update_s))
    if trainer.ranks.is_first:
        out.write_text(json.dumps(steps[1:]))  # the first one warms up
    trainer.close()
    leave_processes()


def measure_case(case: Case, folder: Path, data: Path, *, num_steps: int) -> list[Step]:
    """Run steps of a case in processes of one thread each."""
    folder.mkdir()
    config, out = folder / "config.toml", folder / "steps.json"
    config.write_text(f'data.train = "{data}"\nrun.dir = "{folder / "run"}"\n')
    settings = [
        f"grpo.prompts_per_step={case.prompts}",
        f"grpo.group_size={case.group}",
        "grpo.kl_coef=0",
        f"sampling.max_completion_tokens={case.tokens}",
    ]
    start = [] if case.processes == 1 else [*LAUNCHER, "--num_processes", str(case.processes)]
    command = [sys.executable, *start, __file__, "steps", str(config), str(out), str(num_steps), *settings]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return [Step(*one) for one in json.loads(out.read_text())]


def fit_costs(steps: Sequence[Step]) -> StepCosts:
    """Fit the costs on steps of one process, by non-negative least squares of the relative error."""
    sampling, update = [], []
    for one in steps:
        rows = sum(map(len, one.lengths))
        work = static_work(one.lengths, prompt_tokens=one.prompt_tokens, rows=rows)
        sampling.append([value / one.sampling_s for value in work])
        tokens = sum(one.prompt_tokens + sum(group) for group in one.lengths)
        update.append([value / one.update_s for value in (1, tokens)])
    ones = np.ones(len(steps))
    (decode_step, decode_row, context, prompt), _ = nnls(np.array(sampling), ones)
    (fixed, token), _ = nnls(np.array(update), ones)
    return StepCosts(
        decode_step=decode_step,
        decode_row=decode_row,
        context_token=context,
        prompt_token=prompt,
        update_token=token,
        update=fixed,
    )


def predict(one: Step, processes: int, costs: StepCosts) -> StepEstimate:
    """Predict a step of built-in sampling, in which every process decodes all of its completions concurrently."""
    cluster = Cluster(trainers=processes, samplers=0, rows=sum(map(len, one.lengths)))
    return simulate([one.lengths], cluster, prompt_tokens=one.prompt_tokens, costs=costs, schedule="static")


def measure(arguments: argparse.Namespace) -> str:
    """Measure all cases in turn, fit the costs, and return a table of the errors."""
    found: dict[Case, list[Step]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        build = ("-m", "virft", "build", "scenes", str(data), "--classes", "novel", "--questions", "128")
        subprocess.run([sys.executable, *build], check=True, capture_output=True)
        for turn in range(arguments.repeats):
            for number, case in enumerate(CASES):
                folder = Path(name) / f"{number}_{turn}"
                found[case] += measure_case(case, folder, data, num_steps=arguments.steps)
                print(f"turn {turn + 1}/{arguments.repeats}, {case}: done", flush=True)
    costs = fit_costs([step for case, steps in found.items() if case.is_fitted for step in steps])
    rows, errors = [], []
    for case, steps in found.items():
        predicted = [predict(step, case.processes, costs) for step in steps]
        pairs = [
            (statistics.median(step.sampling_s for step in steps), statistics.median(o.sampling_s for o in predicted)),
            (statistics.median(step.update_s for step in steps), statistics.median(o.update_s for o in predicted)),
            (
                statistics.median(step.sampling_s + step.update_s for step in steps),
                statistics.median(one.seconds for one in predicted),
            ),
        ]
        error = pairs[2][1] / pairs[2][0] - 1
        if not case.is_fitted:
            errors.append(abs(error))
        mean = statistics.fmean(length for step in steps for group in step.lengths for length in group)
        cells = [cell for measured, modelled in pairs for cell in (f"{measured:.2f}", f"{modelled:.2f}")]
        use = "fitted" if case.is_fitted else "predicted"
        rows.append([use, *map(str, case[:4]), f"{mean:.0f}", *cells, f"{error:+.0%}"])
    head = ["", "processes", "prompts", "group", "limit", "mean tokens"]
    head += [f"{stage} s{suffix}" for stage in ("sampling", "update", "step") for suffix in ("", ", model")]
    constants = ", ".join(f"{name} {getattr(costs, name):.3g}" for name in StepCosts.__slots__)
    return (
        f"virft-tiny in float32, one thread per process, gloo; CPU seconds, medians of "
        f"{arguments.repeats * arguments.steps} steps. "
        f"Largest error of a predicted step: {max(errors):.0%}, mean {statistics.fmean(errors):.0%}.\n\n"
        f"{markdown_table([*head, 'error of the step'], rows)}\n\nFitted seconds: {constants}."
    )


def read_lengths(paths: Iterable[Path]) -> list[list[int]]:
    """Read completion lengths by group from ``groups_in_flight.jsonl`` or ``base_completions.jsonl``.

    Of ``rollouts.jsonl`` only the best and the worst completion of a step are known, by their texts, which are
    tokenized as virft-tiny does.
    """
    groups = []
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if "completions" in record:
                groups.append(
                    [
                        one["num_tokens"] if "num_tokens" in one else len(one["token_ids"])
                        for one in record["completions"]
                    ]
                )
            else:
                texts = [record[name]["text"] for name in ("best", "worst")]
                groups.append([1 + len(ids) for ids in _tokenizer()(texts, add_special_tokens=False).input_ids])
    return groups


@lru_cache
def _tokenizer() -> Any:
    from virft.models.load import load_model

    return load_model("virft-tiny").tokenizer


class Workload(NamedTuple):
    """A distribution of completion lengths."""

    name: str
    limit: int
    """Largest number of tokens of a completion."""
    draw: Callable[[random.Random, int], list[list[int]]]
    """Random generator and number of groups -> lengths by group."""


def workloads(paths: Sequence[Path]) -> list[Workload]:
    """Return the distributions that are replayed."""

    def log_normal(median: int, limit: int) -> Callable[[random.Random, int], list[list[int]]]:
        return lambda rng, count: draw_lengths(
            rng, num_groups=count, group_size=GROUP_SIZE, median=median, longest=limit
        )

    found = [
        Workload("thinking, median 1,000", 8192, log_normal(1000, 8192)),
        Workload("boxes, median 150", 512, log_normal(150, 512)),
    ]
    if paths:
        groups = read_lengths(paths)
        longest = max(length for group in groups for length in group)
        mean = statistics.fmean(length for group in groups for length in group)

        def replay(rng: random.Random, count: int) -> list[list[int]]:
            return [rng.choices(rng.choice(groups), k=GROUP_SIZE) for _ in range(count)]

        found.append(Workload(f"replayed, mean {mean:.0f}", longest, replay))
    return found


def simulated_row(name: str, load: Workload, gpus: int, prompts_per_gpu: int, gpu: str) -> list[str]:
    """Simulate the schedules, and return a row of the table."""
    sizes = MODELS[name]
    costs = gpu_costs(sizes, gpu)
    rows = sampler_rows(sizes, MEMORY, prompt_tokens=PROMPT_TOKENS, max_completion_tokens=load.limit)
    rng = random.Random(0)
    steps: list[Lengths] = [load.draw(rng, gpus * prompts_per_gpu) for _ in range(NUM_STEPS)]
    shared = Cluster(trainers=gpus, samplers=0, rows=rows)
    static, continuous = (
        simulate(steps, shared, prompt_tokens=PROMPT_TOKENS, costs=costs, schedule=schedule)
        for schedule in ("static", "continuous")
    )
    (_, apart), (cluster, off) = (
        best_split(steps, gpus, rows=rows, prompt_tokens=PROMPT_TOKENS, costs=costs, schedule=schedule)
        for schedule in ("continuous", "one_step_off")
    )
    return [
        name,
        load.name,
        str(gpus),
        str(gpus * prompts_per_gpu),
        *(f"{one.seconds:.1f}" for one in (static, continuous, apart, off)),
        f"{cluster.trainers} + {cluster.samplers}",
        f"{off.tokens_per_s / gpus:,.0f}",
        *(f"{one.idle_frac:.0%}" for one in (continuous, apart, off)),
        f"{continuous.seconds / off.seconds:.2f}",
        f"{apart.seconds / off.seconds:.2f}",
    ]


HEAD = [
    "model", "completions", "GPUs", "prompts",
    "shared, static: s", "shared, continuous: s", "apart, strict: s", "apart, one step off: s",
    "trainers + samplers", "tokens/s/GPU", "idle: shared", "idle: apart, strict", "idle: one step off",
    "over shared", "over apart, strict",
]  # fmt: skip


def simulate_all(arguments: argparse.Namespace) -> str:
    """Return the tables of the simulated clusters."""
    loads = workloads(arguments.lengths)
    eight = [
        simulated_row(name, load, arguments.gpus[0], prompts, arguments.gpu)
        for name in MODELS
        for load in loads
        for prompts in (2, 8, 32)
    ]
    more = [simulated_row(name, loads[0], gpus, 8, arguments.gpu) for name in MODELS for gpus in arguments.gpus]
    constants = "\n".join(f"- {name}: {gpu_costs(sizes, arguments.gpu)}" for name, sizes in MODELS.items())
    return (
        f"Simulated, not measured: {arguments.gpu} of 80 GB, prompts of {PROMPT_TOKENS} tokens, {GROUP_SIZE} "
        f'completions each; log-normal lengths with sigma {LENGTH_SIGMA} (an assumption). "shared": all GPUs sample, '
        'then all update. "apart": samplers have GPUs of their own, divided so that a step is shortest. Seconds per '
        f"step. The last columns are the speedups of one step off.\n\n{markdown_table(HEAD, eight)}\n\n8 prompts per "
        f"GPU:\n\n{markdown_table(HEAD, more)}\n\nCosts in seconds:\n\n{constants}"
    )


def main() -> None:
    """Write the result file of one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("simulate", "measure"))
    parser.add_argument("--lengths", type=Path, nargs="+", default=[], help="files of runs, whose lengths are replayed")
    parser.add_argument("--gpu", choices=sorted(PEAK_RATES), default="H100", help="kind of the simulated GPUs")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256], help="sizes of clusters")
    parser.add_argument("--steps", type=int, default=4, help="measured steps of a run")
    parser.add_argument("--repeats", type=int, default=3, help="measured runs of each case")
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file")
    arguments = parser.parse_args()
    text = simulate_all(arguments) if arguments.part == "simulate" else measure(arguments)
    print(text)
    command = " ".join(["python benchmarks/cluster_model.py", *sys.argv[1:]])
    name = f"cluster_model_{arguments.part}d"
    print(write_results(name, command=command, tables=text, date=arguments.date, folder=arguments.out))


if __name__ == "__main__":
    if sys.argv[1:2] == ["steps"]:
        take_steps(Path(sys.argv[2]), sys.argv[5:], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
