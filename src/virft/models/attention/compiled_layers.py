"""Decoder layers compiled with ``torch.compile`` for the update.

Sampling stays eager: its shapes change with every token, and each length of the KV cache would be a graph of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from virft.errors import ConfigError
from virft.models.attention.shared_prompt import SHARED_PROMPT, shared_prompt_attention


def compile_layers(module: nn.Module) -> None:
    """Compile the decoder layers of a language model, at their first packed row.

    All layers share one graph, which serves rows of every length: attention, whose code depends on the shapes of a
    row, stays eager. The graphs with and without gradient are compiled separately.

    Raises ``ConfigError`` on a machine that cannot compile.
    """
    device = next(module.parameters()).device
    try:
        # Compile something small now: a missing compiler should fail before training, not in its first step.
        torch.compile(torch.exp)(torch.zeros(16, device=device))
    except (RuntimeError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"model.compile is true, but PyTorch cannot compile on this machine: {reason:.300}; expected a compiler of "
            "C++ and Python's headers (on a GPU Triton), or model.compile = false"
        ) from error
    # A graph break at attention. Its branches depend on the row: compiled, each new length took 16 s (docs/log.md).
    AttentionInterface.register(SHARED_PROMPT, torch.compiler.disable(shared_prompt_attention))
    for layer in module.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            # A bound method, not a closure: a deep copy of the model (the reference) must use its own weights.
            layer.forward = MethodType(_forward, layer)


def _forward(self: Any, *args: Any, **kwargs: Any) -> Tensor:
    plain = type(self).forward
    # A packed row without a KV cache is an update or a reference. Prefill and decode steps carry a cache.
    is_row = kwargs.get("group_layout") is not None and kwargs.get("group_cache") is None
    found: Tensor = (_compiled(plain) if is_row else plain)(self, *args, **kwargs)
    return found


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # Casts are emulated so that a compiled layer rounds where the eager one does. Otherwise policy, reference and
    # sampler would differ in bfloat16: the KL divergence of the first step would not be 0.
    return torch.compile(function, dynamic=True, options={"emulate_precision_casts": True})
