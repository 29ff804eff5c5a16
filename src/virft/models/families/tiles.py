"""What the families have in common whose images are tiles of one size, and whose positions are plain counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from virft.errors import ModelError
from virft.models.vision import ImageFeatures, VisionInputs
from virft.types import ImageSize


def plain_positions(model: Any, token_ids: Tensor, vision: VisionInputs) -> Tensor:
    """Positions [1, L]: 0, 1, 2, .."""
    return torch.arange(len(token_ids))[None]


def by_image(tiles: Tensor, num_tiles: Tensor) -> ImageFeatures:
    """Features [tiles, tokens of a tile, hidden] as those of each image, whose tiles follow one another."""
    if len(tiles) != (expected := int(num_tiles.sum())):
        # Idefics3 and SmolVLM leave out tiles that are zero everywhere, which none is after their normalisation.
        raise ModelError(f"the vision tower made features of {len(tiles)} tiles; expected {expected}")
    return ImageFeatures(tokens=tuple(part.flatten(0, 1) for part in tiles.split(num_tiles.tolist())))


def one_tensor(features: Sequence[ImageFeatures]) -> dict[str, Any]:
    """``mm_encoder_outputs`` as one tensor [1, all image tokens of the row, hidden]; nothing without images."""
    tokens = [tensor for one in features for tensor in one.tokens]
    if not tokens:
        return {}
    joined: Any = torch.cat(tokens)[None]
    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=joined)}}


def ids_of(tokenizer: Any, tokens: Sequence[str]) -> frozenset[int]:
    """The ids of those tokens that the tokenizer has as one."""
    vocabulary = tokenizer.get_vocab()
    return frozenset(vocabulary[token] for token in tokens if token in vocabulary)


def grid_sizes(rows: Tensor, columns: Tensor, side: int) -> list[ImageSize]:
    """Sizes of images of so many square tiles; 0 x 0 stands for an image in one piece."""
    return [ImageSize(max(1, c) * side, max(1, r) * side) for r, c in zip(rows.tolist(), columns.tolist(), strict=True)]
