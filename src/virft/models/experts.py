"""Weights of mixtures of experts (MoE), which are no linear layers: all experts of a layer are one tensor."""

from __future__ import annotations

import torch
from torch import nn


def expert_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights [experts, out, in] of all experts of a model; empty for a dense model."""
    experts = (module for module in model.modules() if hasattr(module, "num_experts"))
    return [weight for module in experts for weight in module.parameters(recurse=False) if weight.ndim == 3]


def has_wide_experts(model: nn.Module, *, kind: str | None = None) -> bool:
    """Return True if experts are stored in another dtype than bfloat16, the only one of the kernel on a GPU.

    ``kind``: only those on a device of this kind, such as "cuda".
    """
    experts = (weight for weight in expert_weights(model) if kind in (None, weight.device.type))
    return any(weight.dtype != torch.bfloat16 for weight in experts)
