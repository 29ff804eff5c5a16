"""The memory of a vision tower.

Towers of tiles are counted like the language model, layer by layer on tensors without contents. Qwen's read sizes out
of tensors, which those without contents do not have: they have formulas. What embeds patches and what projects features
is not counted: each is less than a layer.
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
    """Numbers of a patch in a block, in its MLP, and how many blocks there are."""

    width: int
    inner: int
    depth: int

    @classmethod
    def of(cls, settings: Any) -> TowerSizes:
        """Read from a ``vision_config`` of any family."""
        # Qwen2-VL calls the language model's width hidden_size
        width = int(getattr(settings, "embed_dim", None) or settings.hidden_size)
        inner = getattr(settings, "intermediate_size", None) or settings.mlp_ratio * width
        depth = getattr(settings, "depth", None) or settings.num_hidden_layers
        return cls(width=width, inner=int(inner), depth=int(depth))


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiles:
    """What a tower is given: so many pieces of so many patches each. Qwen's images are rows: each patch is a piece."""

    pieces: int
    patches: int

    @property
    def is_row(self) -> bool:
        """Whether the images are rows of patches, of any aspect."""
        return self.patches == 1

    @property
    def total(self) -> int:
        """Patches of all pieces."""
        return self.pieces * self.patches


class Tower:
    """The vision tower of a model without contents. ``item``: bytes of a number that it computes."""

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
        """One pass without gradient: what is alive at most in a block, of the pieces all together.

        Formula: in a block's MLP, N patches x 2 (width + inner) numbers.
        """
        if tiles.is_row:
            return tiles.total * 2 * (self._sizes.width + self._sizes.inner) * self._item
        with torch.no_grad():
            return self._run(tiles, 1)[1]

    def kept(self, tiles: Tiles, *, checkpointing: bool) -> int:
        """What a trained tower keeps for its backward.

        Formula: of each block and patch two inputs of norms (float32), 9 tensors of its width and 4 of its MLP's inner
        width. Under checkpointing the input of each block, and all that of one block.
        """
        width, inner, depth = self._sizes.width, self._sizes.inner, self._sizes.depth
        if tiles.is_row:
            block = tiles.total * (8 * width + (9 * width + 4 * inner) * self._item)
            return depth * tiles.total * width * 4 + block if checkpointing else depth * block
        (one, _), (two, peak) = self._run(tiles, 1), self._run(tiles, 2)
        whole = two + (depth - 2) * (two - one)
        return whole + peak - two if checkpointing else whole

    def _run(self, tiles: Tiles, num_layers: int) -> tuple[int, int]:
        """Bytes after the first layers, and the most there were at once, in the backward too if there is one."""
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
            # What stands before the layers: the embedded patches, with a gradient of their own.
            hidden = torch.empty(shape, dtype=weights[0].dtype, requires_grad=training)
            with self._precision():
                for layer in layers[:num_layers]:
                    layer.train(training)
                    options = (
                        {"attention_mask": None} if "attention_mask" in signature(layer.forward).parameters else {}
                    )
                    hidden = layer(hidden, **options)
            kept = live.now
            if training:
                hidden.sum().backward()
        return kept, live.peak

    def _layers(self) -> nn.ModuleList:
        tower = self._loaded.model.get_submodule(self._loaded.family.vision_names[0].rstrip("."))
        return next(module for module in tower.modules() if isinstance(module, nn.ModuleList))
