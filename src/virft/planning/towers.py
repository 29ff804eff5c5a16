"""Memory of a vision tower.

Towers of tiles are counted like the language model, layer by layer with fake tensors. Towers of rows of patches
(Qwen-VL, GLM, Gemma 4) read sizes from the values of tensors, which fake tensors do not have, so they have formulas.
Patch embedding and projector are not counted: each needs less than a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from virft.models.load import LoadedModel
from virft.planning.live_bytes import LiveBytes
from virft.planning.skeleton import unfilled


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerSizes:
    """Sizes of a vision transformer."""

    width: int
    """Numbers per patch in a block."""

    inner: int
    """Numbers per patch inside the MLP of a block."""

    depth: int
    """Number of blocks."""

    @classmethod
    def of(cls, settings: Any) -> TowerSizes:
        """Read the sizes from the ``vision_config`` of any family."""
        # In Qwen2-VL's `vision_config`, `hidden_size` is the width of the language model.
        width = int(getattr(settings, "embed_dim", None) or settings.hidden_size)
        inner = getattr(settings, "intermediate_size", None) or settings.mlp_ratio * width
        depth = getattr(settings, "depth", None) or settings.num_hidden_layers
        return cls(width=width, inner=int(inner), depth=int(depth))


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiles:
    """Input of a tower: tiles of equal size, or, for Qwen-VL, GLM and Gemma 4, rows of patches."""

    pieces: int
    """Number of tiles; for a row, the number of patches."""

    patches: int
    """Patches per tile; 1 for a row."""

    @property
    def is_row(self) -> bool:
        """True if images are rows of patches, of any aspect ratio."""
        return self.patches == 1

    @property
    def total(self) -> int:
        """Number of patches of all pieces."""
        return self.pieces * self.patches


class Tower:
    """Memory of the vision tower of a model with fake tensors. ``item``: bytes per number that it computes."""

    def __init__(
        self,
        loaded: LoadedModel,
        mode: FakeTensorMode,
        *,
        item: int,
        precision: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._sizes = TowerSizes.of(loaded.model.config.vision_config)
        self._loaded, self._mode = loaded, mode
        self._item, self._precision = item, precision

    def encoding(self, tiles: Tiles) -> int:
        """Return the peak bytes of a forward pass of all pieces, without gradient.

        Formula for rows: in the MLP of a block, N patches * 2 (width + inner) numbers.
        """
        if tiles.is_row:
            return tiles.total * 2 * (self._sizes.width + self._sizes.inner) * self._item
        with torch.no_grad():
            return self._run(tiles, 1)[1]

    def saved(self, tiles: Tiles, *, checkpointing: bool) -> int:
        """Return the bytes that a trained tower saves for the backward.

        Formula for rows: per block and patch, two inputs of norms (float32), 9 tensors of the width and 4 of the inner
        width of the MLP. With gradient checkpointing, the input of each block, and everything of one block.
        """
        width, inner, depth = self._sizes.width, self._sizes.inner, self._sizes.depth
        if tiles.is_row:
            block = tiles.total * (8 * width + (9 * width + 4 * inner) * self._item)
            return depth * tiles.total * width * 4 + block if checkpointing else depth * block
        # Each layer after the first saves as much as the second.
        (one, _), (two, peak) = self._run(tiles, 1), self._run(tiles, 2)
        whole = two + (depth - 2) * (two - one)
        return whole + peak - two if checkpointing else whole

    def _run(self, tiles: Tiles, num_layers: int) -> tuple[int, int]:
        """Bytes after the forward of the first layers, and peak bytes, including the backward if gradients are on."""
        layers = self._layers()
        training = torch.is_grad_enabled()
        weights = [weight for layer in layers for weight in layer.parameters()]
        known: list[Tensor] = [*weights, *(buffer for layer in layers for buffer in layer.buffers())]
        for weight in weights:
            if training and weight.requires_grad and weight.grad is None:
                weight.grad = unfilled(weight, self._mode)
        known += [weight.grad for weight in weights if weight.grad is not None]
        shape = (tiles.pieces, tiles.patches, self._sizes.width)
        with self._mode, LiveBytes(known) as live:
            # Input of the layers: the embedded patches, with a gradient of their own.
            hidden = torch.empty(shape, dtype=weights[0].dtype, requires_grad=training)
            with self._precision():
                for layer in layers[:num_layers]:
                    layer.train(training)
                    options = (
                        {"attention_mask": None} if "attention_mask" in signature(layer.forward).parameters else {}
                    )
                    hidden = layer(hidden, **options)
            saved = live.now
            if training:
                hidden.sum().backward()
        return saved, live.peak

    def _layers(self) -> nn.ModuleList:
        tower = self._loaded.model.get_submodule(self._loaded.family.vision_names[0].rstrip("."))
        return next(module for module in tower.modules() if isinstance(module, nn.ModuleList))
