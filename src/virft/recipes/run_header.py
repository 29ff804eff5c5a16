"""The lines before the first step of a run: model, device, data, length, and how to stop and watch it."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from virft.config.schema import Config, Method
from virft.config.wording import counted
from virft.data.counts import Counts, count_sample, negatives_frac
from virft.data.store import Store
from virft.recipes.preflight import CheckedRun
from virft.training.runtime import Runtime


class ParameterCounts(NamedTuple):
    """Numbers of parameters of a model."""

    total: int
    trained: int


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count the parameters of a model, and those that are trained; weights of 4 bits are counted unpacked."""
    sizes = [(_num_values(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return ParameterCounts(
        sum(number for number, _ in sizes), sum(number for number, is_trained in sizes if is_trained)
    )


def header_lines(run: CheckedRun, size: ParameterCounts, runtime: Runtime) -> list[str]:
    """Format what is trained on what, one fact a line."""
    config = run.config
    trained = "LoRA adapters" if config.model.train == "lora" else "full training"
    trained += ", vision tower frozen" if config.model.freeze_vision else ""
    devices = f"{runtime.ranks.count} x {runtime.device.type}" if runtime.ranks.count > 1 else runtime.device.type
    rows = {
        "model": f"{config.model.path}, {format_count(size.total)} parameters, {format_count(size.trained)} trained "
        f"({trained}); {devices}, {runtime.dtype_name}",
        **{f"data {name}".rstrip(): describe_data(store) for name, store in run.data.stores.items()},
        **(
            {"excluded": f"{counted(len(excluded), 'sample')} ({config.data.exclude})"}
            if (excluded := run.data.excluded)
            else {}
        ),
        **{f"validation {name}".rstrip(): describe_data(store) for name, store in run.validation.items()},
        "steps": describe_steps(config, run.method),
        "run": f"{config.run.dir}; watch with: virft report {config.run.dir}",
        "stop": "Ctrl-C finishes the step and saves; --resume continues",
    }
    width = max(map(len, rows))
    return [f"{name:<{width}}  {text}" for name, text in rows.items()]


def describe_data(store: Store) -> str:
    """Format folder, images, questions and the fraction of questions about absent classes of a dataset."""
    counts: Counts = {}
    images: set[str] = set()
    for sample in store:
        count_sample(sample, counts)
        images.update(sample.images)
    absent = negatives_frac(counts)
    text = f"{store.folder}: {counted(len(images), 'image')}, {counted(len(store), 'question')}"
    return text if absent is None else f"{text}, {absent:.0%} about an absent class"


def describe_steps(config: Config, method: Method) -> str:
    """Format the number of steps and the size of one.

    >>> from virft.config.schema import DataConfig, RunConfig
    >>> describe_steps(Config(data=DataConfig(train="d"), run=RunConfig(dir="r")), "sft")
    '100 steps x 16 samples, learning rate 1e-05 (cosine)'
    """
    if method == "sft":
        sft = config.sft
        return (
            f"{counted(sft.steps, 'step')} x {counted(sft.samples_per_step, 'sample')}, learning rate "
            f"{sft.learning_rate:g} ({sft.schedule})"
        )
    grpo = config.grpo
    warm_start = f"warm start of {counted(grpo.warm_start_steps, 'step')} at {config.sft.learning_rate:g}, then "
    num_steps = grpo.steps - grpo.warm_start_steps
    steps = (
        f"{counted(num_steps, 'step')} x {counted(grpo.prompts_per_step, 'prompt')} x "
        f"{counted(grpo.group_size, 'completion')}, learning rate "
        f"{grpo.learning_rate:g} ({grpo.schedule}), {config.reward.preset} reward"
    )
    demonstrations = f", demonstrations ({grpo.demonstrations})"
    return (
        (warm_start if grpo.warm_start_steps else "") + steps + (demonstrations if grpo.demonstrations != "off" else "")
    )


def format_count(number: float) -> str:
    """Format a large number with three digits.

    >>> format_count(6_912_345), format_count(3.75e9), format_count(812)
    ('6.91M', '3.75B', '812')
    """
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def _num_values(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(state.shape.numel())
