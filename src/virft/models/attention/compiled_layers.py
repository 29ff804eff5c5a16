"""Decoder layers compiled for packed rows; sampling, whose shapes change with every token, stays as it is."""

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
    """Have PyTorch compile the layers of a language model, at their first packed row.

    All layers share what is compiled, and it serves rows of every length: attention, whose code depends on the shapes
    of a row, is left out of it. With and without gradient are compiled each on their own.

    Raises ``ConfigError`` on a machine that cannot compile.
    """
    device = next(module.parameters()).device
    try:
        torch.compile(torch.exp)(torch.zeros(16, device=device))
    except (RuntimeError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"model.compile is true, but PyTorch cannot compile on this machine: {reason:.300}; expected a compiler of "
            "C++ and Python's headers (on a GPU Triton), or model.compile = false"
        ) from error
    AttentionInterface.register(SHARED_PROMPT, torch.compiler.disable(shared_prompt_attention))
    for layer in module.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            # a method, so that a copy of the model (the reference) computes with its own weights
            layer.forward = MethodType(_forward, layer)


def _forward(self: Any, *args: Any, **kwargs: Any) -> Tensor:
    plain = type(self).forward
    is_row = kwargs.get("group_layout") is not None and kwargs.get("group_cache") is None
    found: Tensor = (_compiled(plain) if is_row else plain)(self, *args, **kwargs)
    return found


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # rounded where the layer itself rounds: else policy, reference and sampler would differ by more in bfloat16
    return torch.compile(function, dynamic=True, options={"emulate_precision_casts": True})
