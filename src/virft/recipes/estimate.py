"""``--dry-run``: the expected cost of a run, measured on its first steps, and the settings that matter."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from virft.config.schema import WARM_START_KEYS, Config, Method, values, without_effect
from virft.config.setting import format_value
from virft.config.toml_file import DEFAULT, LoadedConfig, value_at
from virft.config.wording import counted
from virft.data.training_data import TrainingData
from virft.inference.prompting import Prompting
from virft.models.load import LoadedModel
from virft.planning.device import GIB
from virft.recipes.evaluate import PredictionSettings, predict_and_score
from virft.recipes.preflight import CheckedRun, run_warnings
from virft.recipes.run_header import ParameterCounts, count_parameters, header_lines
from virft.recipes.setup import build_augmenter, check_run_prompts, load_for_training, make_prompting, make_runtime
from virft.recipes.trainers import make_grpo_trainer, make_sft_trainer
from virft.training.grpo.trainer import GRPOTrainer
from virft.training.loop import Augment
from virft.training.progress import duration
from virft.training.runtime import Runtime
from virft.training.sft.trainer import SFTTrainer
from virft.types import Sample

MOST_MEASURED = 3
"""Steps that are measured, after the first one."""
LONGEST_S = 60.0
"""No other step is measured if it would probably end later than this after the first one began."""
FASTER, SLOWER = 0.5, 1.3
"""The range of a run's time, relative to the fastest measured step and to their mean: completions change in length. The
first ones are often the longest: in docs/tutorial_16_images.md, the second step took 5.0 s and the mean step 3.3 s."""
FASTER_SFT = 0.85
"""``FASTER`` of SFT, whose targets do not change in length."""
MOST_BATCHED = 4
"""A step is at most this much faster than its groups one by one."""
VALIDATED = 16
"""Validation questions that are measured."""


class SecondsRange(NamedTuple):
    """Expected seconds of something: at least, and at most."""

    low: float
    high: float

    def times(self, number: float) -> SecondsRange:
        """The range of this many."""
        return SecondsRange(self.low * number, self.high * number)

    def plus(self, other: SecondsRange) -> SecondsRange:
        """The range of both."""
        return SecondsRange(self.low + other.low, self.high + other.high)

    def __str__(self) -> str:
        return f"{duration(self.low)} to {duration(self.high)}"


NO_TIME = SecondsRange(0.0, 0.0)
"""What a part takes that a run does not have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Measured cost of the steps of a run."""

    step: SecondsRange
    """Seconds of a step after the warm start."""
    measured: str
    """What was measured."""
    tokens_per_step: float
    """Tokens of prompts and completions of a step."""
    prompt_tokens: int
    """Length of the first prompt, in tokens."""
    image_tokens: int
    """Image tokens of the first prompt."""
    completion_tokens: float
    """Mean length of a completion, in tokens; for SFT, of a target."""
    validation: SecondsRange
    """Seconds of one validation; 0 without a validation set."""
    warm_start: SecondsRange = NO_TIME
    """Seconds of a step of the warm start; 0 without one."""
    tokens_per_warm_step: float = 0.0
    """Tokens of prompts and targets of a step of the warm start."""


def dry_run_text(run: CheckedRun, loaded: LoadedConfig) -> str:
    """Load the model, measure the first steps, and return cost, run and settings as text. Nothing is saved."""
    config = run.config
    runtime = make_runtime(config.model, config.parallel)
    model = load_for_training(config.model, runtime, seed=config.seed)
    size = count_parameters(model.model)
    prompting = make_prompting(config.prompt, config.mixture, model)
    too_long = check_run_prompts(model, prompting, run)
    make = make_grpo_trainer if run.method == "grpo" else make_sft_trainer
    with closing(make(config, model, prompting, runtime, (sample.query for sample in run.data))) as trainer:
        cost = measure_cost(trainer, run, model, prompting, runtime)
    lines = [*cost_lines(cost, run), memory_line(runtime), disk_line(config, size), ""]
    lines += [*header_lines(run, size, runtime), *(f"note: {note}" for note in model.notes)]
    lines += [*(f"warning: {message}" for _, message in (*run_warnings(run), *too_long)), ""]
    lines += setting_lines(loaded, run.method)
    return "\n".join(lines) + "\n"


def measure_cost(
    trainer: GRPOTrainer | SFTTrainer, run: CheckedRun, model: LoadedModel, prompting: Prompting, runtime: Runtime
) -> Cost:
    """Take up to 4 steps of a run, and time those after the first. They change the weights of the loaded model.

    If a single group shows that a step would take too long, the step is estimated from that group.
    """
    config, data = run.config, run.data
    augment = build_augmenter(config.augment, seed=config.seed)
    if isinstance(trainer, GRPOTrainer):
        trainer.refill = lambda number, turn: data.batch(turn * config.grpo.steps + number)
    num_warm = config.grpo.warm_start_steps if run.method == "grpo" else 0
    first = _batch(data, augment, 0)
    alone = first[:1]
    _timed(lambda: trainer.step(num_warm, alone))  # warm-up: kernels, caches, memory of the optimizer
    one_by_one = len(first) * _timed(lambda: trainer.step(num_warm, alone))
    faster = FASTER if run.method == "grpo" else FASTER_SFT
    validation_s = _measure_validation(run, model, prompting, runtime)
    reports = []
    if one_by_one > LONGEST_S * MOST_BATCHED:
        reports.append(trainer.step(num_warm, alone))
        step = SecondsRange(faster * one_by_one / MOST_BATCHED, one_by_one)
        measured = f"one of {len(first)} prompts measured; a step computes them in batches"
        num_alike = len(first)
    else:
        seconds = time_steps(
            lambda number: reports.append(trainer.step(num_warm + number, _batch(data, augment, number)))
        )
        step = SecondsRange(faster * min(seconds), SLOWER * fmean(seconds))
        measured = f"{len(seconds)} step{'s' if len(seconds) > 1 else ''} measured"
        num_alike = 1
    report = reports[-1]
    length = report.metrics.get("completion_tokens", report.metrics.get("target_tokens", 0.0))
    prompt = trainer.render(first[0]).prompt.token_ids
    warm_start, warm_tokens = NO_TIME, 0.0
    if num_warm:
        trainer.step(0, alone)  # warm-up, as above
        warm_s = _timed(lambda: reports.append(trainer.step(0, first)))
        warm_start = SecondsRange(FASTER_SFT * warm_s, SLOWER * warm_s)
        warm_tokens = reports[-1].metrics["num_tokens"]
    return Cost(
        step=step,
        measured=measured,
        tokens_per_step=num_alike * report.metrics["num_tokens"],
        prompt_tokens=len(prompt),
        image_tokens=prompt.count(trainer.policy.config.image_token_id),
        completion_tokens=length,
        validation=SecondsRange(faster * validation_s, SLOWER * validation_s),
        warm_start=warm_start,
        tokens_per_warm_step=warm_tokens,
    )


def time_steps(take_step: Callable[[int], object]) -> list[float]:
    """Return the seconds of up to 3 steps that ``take_step`` takes, after a first one, which warms up.

    The first one is returned if it takes so long that no other is to be measured.
    """
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) <= MOST_MEASURED and (not seconds or time.perf_counter() - began + seconds[-1] < LONGEST_S):
        number = max(0, len(seconds) - 1)
        seconds.append(_timed(partial(take_step, number)))
    return seconds[1:] or seconds


def cost_lines(cost: Cost, run: CheckedRun) -> list[str]:
    """Format time and tokens of a run."""
    grpo = run.config.grpo
    num_steps = grpo.steps if run.method == "grpo" else run.config.sft.steps
    num_warm = grpo.warm_start_steps if run.method == "grpo" else 0
    total = cost.step.times(num_steps - num_warm).plus(cost.warm_start.times(num_warm))
    notes = [f"{cost.step.low:.1f} to {cost.step.high:.1f} s a step, {cost.measured}"]
    if num_warm:
        notes.append(f"{cost.warm_start.low:.1f} to {cost.warm_start.high:.1f} s in the {num_warm} of the warm start")
    if run.validation:
        every = run.config.data.validate_every
        number = 2 + ((num_steps - 1) // every if every else 0)
        total = total.plus(cost.validation.times(number))
        notes.append(f"{number} validations of {cost.validation} each")
    if run.method == "grpo" and grpo.filters:
        num_samples = sum(map(len, run.data.stores.values()))
        total = total.plus(cost.step.times(num_samples / grpo.prompts_per_step))
        notes.append(f"a group of each of {num_samples} samples before the first step (grpo.min_base_score)")
    lines = [f"time    {total} for {counted(num_steps, 'step')} ({'; '.join(notes)})"]
    completions = f"targets of {cost.completion_tokens:.0f} on average"
    if run.method == "grpo":
        limit = run.config.sampling.max_completion_tokens
        completions = f"completions of {cost.completion_tokens:.0f} on average, at most {limit}"
    num_tokens = cost.tokens_per_step * (num_steps - num_warm) + cost.tokens_per_warm_step * num_warm
    lines.append(
        f"tokens  {num_tokens:,.0f}, {cost.tokens_per_step:,.0f} a step: prompts of "
        f"{cost.prompt_tokens} ({cost.image_tokens} image tokens), {completions}"
    )
    if run.method == "grpo":
        more = "shorter completions take less time, longer ones more"
        if grpo.refill_rounds:
            more += f"; grpo.refill_rounds may sample up to {grpo.refill_rounds} times as many in addition"
        lines.append(f"        {more}")
    return lines


def memory_line(runtime: Runtime) -> str:
    """Format the peak memory of this process so far, on the accelerator if there is one."""
    if runtime.device.type == "cuda":
        peak, where = torch.cuda.max_memory_allocated(runtime.device), "allocated on the GPU"
    else:
        # kilobytes on Linux, bytes on macOS
        unit = 1 if sys.platform == "darwin" else 1024
        peak, where = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "of this process"
    return f"memory  {peak / GIB:.1f} GiB {where} at most, in the steps measured"


def disk_line(config: Config, size: ParameterCounts) -> str:
    """Format the disk space of checkpoints (weights and two moments of AdamW in float32) and saved models."""
    checkpoint = 4 * 3 * size.trained
    width = 2 if config.run.save_dtype == "bfloat16" else 4
    saved = 4 * size.trained if config.model.train == "lora" else width * size.total
    number = config.run.keep_checkpoints if config.run.save_every else 1
    models = 2 if config.run.keep_best and (config.data.validation or config.mixture) else 1
    total = checkpoint * number + saved * models
    return (
        f"disk    {_size(total)} in {config.run.dir}: {number} checkpoint{'s' if number > 1 else ''} of "
        f"{_size(checkpoint)}, {models} model{'s' if models > 1 else ''} of {_size(saved)}"
    )


def setting_lines(loaded: LoadedConfig, method: Method) -> list[str]:
    """Format the settings that were set or fitted, each with its origin, and the number of the others.

    Settings of other methods and those without effect are hidden.
    """
    shown = list(_settings_of(loaded.config, method))
    own = [key for key in loaded.origins if loaded.origins[key] != DEFAULT and _base(key, shown) in shown]
    # a table that has entries of its own is listed by them
    own = [key for key in own if not any(other.startswith(f"{key}.") for other in own)]
    rows = [(f"{key} = {format_value(value_at(loaded.config, key))}", loaded.origins[key]) for key in own]
    width = max((len(text) for text, _ in rows), default=0)
    num_others = len(shown) - len({_base(key, shown) for key in own})
    return [
        "settings that were set, or fitted to model and data:",
        *(f"  {text:<{width}}  {origin}" for text, origin in rows),
        f"{num_others} more have their default: virft config",
    ]


def _base(key: str, known: list[str]) -> str:
    """The setting that a key, or an entry of a table such as ``reward.weights.iou``, belongs to."""
    return key if key in known else key.rpartition(".")[0]


def _settings_of(config: Config, method: Method) -> Iterator[str]:
    """The keys of settings that affect a training method."""
    hidden = ("compare.", "sft.") if method == "grpo" else ("compare.", "grpo.", "reward.")
    shared = WARM_START_KEYS if method == "grpo" and config.grpo.warm_start_steps else ()
    idle = without_effect(config)
    for setting, _ in values(config):
        if setting.key in shared or (not setting.key.startswith(hidden) and setting.key not in idle):
            yield setting.key


def _batch(data: TrainingData, augment: Augment | None, number: int) -> list[Sample]:
    samples = data.batch(number)
    return samples if augment is None else [augment(one, number, place) for place, one in enumerate(samples)]


def _timed(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def _measure_validation(run: CheckedRun, model: LoadedModel, prompting: Prompting, runtime: Runtime) -> float:
    """Seconds of one validation, from the first questions of each set."""
    seconds = 0.0
    settings = PredictionSettings(
        prompting=prompting,
        max_completion_tokens=run.config.sampling.max_completion_tokens,
        model_name=run.config.model.path,
    )
    for store in run.validation.values():
        limit = min(VALIDATED, len(store))
        with TemporaryDirectory(prefix="virft-") as folder, model.gathered() as gathered:
            out = Path(folder) / "validation"
            began = time.perf_counter()
            predict_and_score(gathered, store, out, settings=settings, runtime=runtime, limit=limit)
            seconds += (time.perf_counter() - began) * len(store) / limit
    return seconds


def _size(num_bytes: float) -> str:
    """Format bytes in MiB or GiB.

    >>> _size(84 * 2**20), _size(3 * 2**30)
    ('84 MiB', '3.0 GiB')
    """
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:.0f} MiB"
