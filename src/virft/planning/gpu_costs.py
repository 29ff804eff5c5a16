"""Costs of a step on GPUs for the model of ``virft.planning.cluster``: sizes of a model times rates of a GPU.

Nothing here was measured on a GPU. Rates are those of data sheets, times the fractions below, which are assumptions.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from virft.models.peak_rates import MEMORY_RATES, PEAK_RATES
from virft.planning.cluster import StepCosts

LAUNCH_S = 2.4e-3
"""Seconds of a decode step of an engine with CUDA graphs, beyond reading weights and KV cache. Assumption."""
UPDATE_FRAC, FORWARD_FRAC = 0.35, 0.4
"""Fractions of the peak rate in the update (MFU) and in prefill and decoding. Assumption."""
READ_FRAC = 0.8
"""Fraction of the memory's rate at which weights and KV cache are read. Assumption."""
LINK_BYTES_PER_S = 50e9
"""Rate at which weights reach a sampler and gradients a trainer: a 400 Gbit/s port for each GPU. Assumption."""
SYNC_S = 0.2
"""Seconds of a weight update besides the transfer: clearing caches, loading. Assumption."""
MAX_SEQUENCES = 256
"""Largest number of completions that an engine decodes concurrently. Source: vLLM, a default of ``max_num_seqs``."""
SAMPLER_FRAC = 0.9
"""Fraction of a sampler's memory for weights and KV cache. Source: vLLM, ``gpu_memory_utilization``."""
LENGTH_SIGMA = 0.8
"""Standard deviation of the logarithm of completion lengths. Assumption: the 95th percentile is 3.7 medians."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSizes:
    """Sizes of a language model."""

    weights: int
    """Weights that a token passes through, output layer included."""
    trained: int
    """Weights that are trained: of adapters, if there are any."""
    kv_bytes: int
    """Bytes of the KV cache of a token, in bfloat16."""
    has_adapters: bool
    """True if only adapters are trained, so that the other weights have no gradient."""


def gpu_costs(sizes: ModelSizes, gpu: str) -> StepCosts:
    """Return the costs on a GPU, a key of ``PEAK_RATES``; weights and products in bfloat16.

    Forward pass: 2 operations per weight and token. Backward pass: 4, with adapters 2. Optimizer: reads and writes
    weight, gradient and two moments in float32. Gradients: sent and received once each.
    """
    flops, read = PEAK_RATES[gpu], READ_FRAC * MEMORY_RATES[gpu]
    forward = 2 * sizes.weights / (FORWARD_FRAC * flops)
    return StepCosts(
        decode_step=LAUNCH_S + 2 * sizes.weights / read,
        decode_row=forward,
        context_token=sizes.kv_bytes / read,
        prompt_token=forward,
        update_token=(4 if sizes.has_adapters else 6) * sizes.weights / (UPDATE_FRAC * flops),
        update=2 * 4 * sizes.trained / LINK_BYTES_PER_S + 7 * 4 * sizes.trained / read,
        weight_sync=SYNC_S + 2 * sizes.weights / LINK_BYTES_PER_S,
    )


def sampler_rows(sizes: ModelSizes, memory: int, *, prompt_tokens: int, max_completion_tokens: int) -> int:
    """Return the completions that fit concurrently into a sampler of ``memory`` bytes; 0 if not even one does.

    Each has its own prompt in the KV cache, and the largest number of tokens; at most ``MAX_SEQUENCES``.
    """
    room = SAMPLER_FRAC * memory - 2 * sizes.weights
    return max(0, min(MAX_SEQUENCES, int(room / (sizes.kv_bytes * (prompt_tokens + max_completion_tokens)))))


def draw_lengths(
    rng: random.Random, *, num_groups: int, group_size: int, median: float, longest: int, sigma: float = LENGTH_SIGMA
) -> list[list[int]]:
    """Draw completion lengths in tokens of a step from a log-normal distribution, cut at ``longest``."""
    return [
        [min(longest, max(1, round(rng.lognormvariate(math.log(median), sigma)))) for _ in range(group_size)]
        for _ in range(num_groups)
    ]
