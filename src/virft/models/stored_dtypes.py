"""Dtypes in which a run stores the weights of its model, and their conversion from the dtypes of the model's files.

A file in bfloat16 that is mapped into memory is one copy for all processes of a machine. A conversion to float32 makes
a copy for each process, so it is done weight by weight, on the device or right before the weight is sharded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

StoredDtype: TypeAlias = Callable[[Tensor], torch.dtype]
"""A function from a weight to the dtype in which the run stores it."""


def own_dtype(weight: Tensor) -> torch.dtype:
    """Return the dtype that a weight of any shape has."""
    return weight.dtype


def stored_dtypes(module: nn.Module, dtype: torch.dtype) -> StoredDtype:
    """Return a function from a weight of ``module`` to its stored dtype: float32 if it is trained.

    Frozen weights of linear layers have ``dtype``, that of the computation. This changes no number that autocast to it
    computes: autocast rounds these weights for each product anyway. Other frozen weights (embeddings, norms,
    convolutions) have float32. Next to adapters, all frozen weights have ``dtype``.
    """
    linear = {id(one) for one in linear_parameters(module)}
    has_adapters = any(isinstance(one, LoraLayer) for one in module.modules())

    def stored(weight: Tensor) -> torch.dtype:
        is_rounded = not weight.requires_grad and (has_adapters or id(weight) in linear)
        return dtype if is_rounded else torch.float32

    return stored


def linear_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield weights and biases of the linear layers; not those of an output layer that are embeddings too."""
    others = {
        id(one)
        for part in module.modules()
        if not isinstance(part, nn.Linear)
        for one in part.parameters(recurse=False)
    }
    for part in module.modules():
        if isinstance(part, nn.Linear):
            yield from (one for one in part.parameters(recurse=False) if id(one) not in others)


def convert_weights(module: nn.Module, stored_dtype: StoredDtype) -> None:
    """Convert the weights of a module to their stored dtypes, one at a time."""

    def converted(tensor: Tensor) -> Tensor:
        return tensor.to(stored_dtype(tensor)) if isinstance(tensor, nn.Parameter) else tensor  # else a buffer

    # As ``Module.to``, which replaces the numbers inside of each parameter, so that tied weights remain tied.
    module._apply(converted)


@contextmanager
def placeholders(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside the block, all weights have ``dtype`` and their shapes, but neither numbers nor memory."""
    weights = [(one, one.data) for one in module.parameters()]
    try:
        for one, own in weights:
            one.data = own.new_zeros((), dtype=dtype).expand(own.shape)
        yield
    finally:
        for one, own in weights:
            one.data = own
