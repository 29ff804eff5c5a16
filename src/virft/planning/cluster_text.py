"""Text of a plan about trainers and samplers: memory of a sampler, and throughput of the schedules."""

from __future__ import annotations

import random

from virft.errors import ConfigError
from virft.models.families.family import head_dim_of
from virft.planning.cluster import Cluster, StepEstimate, simulate
from virft.planning.device import GIB
from virft.planning.gpu_costs import LENGTH_SIGMA, ModelSizes, draw_lengths, gpu_costs, sampler_rows
from virft.planning.memory import Planner
from virft.planning.samplers import SamplerRequest

_NUM_STEPS = 8
"""Simulated steps."""


def format_cluster(planner: Planner, request: SamplerRequest, *, memory: int) -> str:
    """Format memory and throughput of samplers with GPUs of their own, next to GPUs that sample and update in turn.

    Raises ``ConfigError`` if fewer prompts than samplers are in a step, or nothing fits into a sampler.
    """
    grpo, limit = planner.config.grpo, planner.config.sampling.max_completion_tokens
    if grpo.prompts_per_step < request.count:
        raise ConfigError(
            f"grpo.prompts_per_step is {grpo.prompts_per_step} with {request.count} samplers; expected at least one "
            "for each"
        )
    sizes, prompt = model_sizes(planner), planner.prompt.prompt_tokens
    rows = sampler_rows(sizes, memory, prompt_tokens=prompt, max_completion_tokens=limit)
    if not rows:
        raise ConfigError(
            f"a sampler of {memory / GIB:.4g} GiB has no room for a completion next to its weights of "
            f"{2 * sizes.weights / GIB:.1f} GiB; expected a smaller model, shorter completions, or tensor parallelism, "
            "which is not planned"
        )
    rng = random.Random(0)
    steps = [
        draw_lengths(
            rng,
            num_groups=grpo.prompts_per_step,
            group_size=grpo.group_size,
            median=request.completion_tokens,
            longest=limit,
        )
        for _ in range(_NUM_STEPS)
    ]
    trainers, costs = planner.processes.count, gpu_costs(sizes, request.gpu)
    apart = Cluster(trainers=trainers, samplers=request.count, rows=rows)
    shared = Cluster(trainers=trainers + request.count, samplers=0, rows=rows)
    found = {
        "sampling.max_staleness = 1": simulate(
            steps, apart, prompt_tokens=prompt, costs=costs, schedule="one_step_off"
        ),
        "sampling.max_staleness = 0": simulate(steps, apart, prompt_tokens=prompt, costs=costs, schedule="continuous"),
        f"{shared.count} that sample and update in turn": simulate(
            steps, shared, prompt_tokens=prompt, costs=costs, schedule="continuous"
        ),
    }
    held = 2 * sizes.weights / GIB
    lines = [
        f"# {trainers} trainers and {request.count} samplers, each a {request.gpu}. Estimated by rates of its data "
        "sheet, not measured.",
        f"# Log-normal lengths: median {request.completion_tokens} tokens, sigma {LENGTH_SIGMA}, at most {limit}.",
        f"sampler     {held:.1f} GiB of weights, {rows} completions concurrently with "
        f"{rows * sizes.kv_bytes * (prompt + limit) / GIB:.1f} GiB of KV cache at most",
        f"{'':34}{'step':>10}{'tokens/s':>12}{'trainers idle':>15}{'samplers idle':>15}",
        *(_row(name, one) for name, one in found.items()),
    ]
    return "\n".join(lines)


def model_sizes(planner: Planner) -> ModelSizes:
    """Return the sizes of a plan's language model; its input embeddings are not counted, as a token reads one row."""
    model, text = planner.loaded.model, planner.loaded.model.config.get_text_config()
    language = planner.loaded.model.get_submodule(planner.loaded.family.language_module)
    head = model.get_output_embeddings().weight
    skipped = {id(head), id(model.get_input_embeddings().weight)}
    layers = [one for name, one in language.named_parameters() if id(one) not in skipped and ".lora_" not in name]
    return ModelSizes(
        weights=head.numel() + sum(one.numel() for one in layers),
        trained=sum(one.numel() for one in model.parameters() if one.requires_grad),
        kv_bytes=2 * 2 * text.num_hidden_layers * text.num_key_value_heads * head_dim_of(text),
        has_adapters=planner.loaded.adapters is not None,
    )


def _row(name: str, one: StepEstimate) -> str:
    return (
        f"{name:<34}{one.seconds:>8.1f} s{one.tokens_per_s:>12,.0f}{one.trainer_idle_frac:>15.0%}"
        f"{one.sampler_idle_frac:>15.0%}"
    )
