"""Functions shared by the families whose images are tiles of one size and whose position ids are 0, 1, 2, .."""

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
    """Return the position ids of a prompt of L tokens, int64 [1, L]: 0, 1, 2, .."""
    return torch.arange(len(token_ids))[None]


def by_image(tiles: Tensor, num_tiles: Tensor) -> ImageFeatures:
    """Split features [tiles, tokens of a tile, hidden] by image: [image tokens, hidden] of each.

    ``num_tiles``: int64 [images], the number of tiles of each image; tiles of one image are adjacent. Raises
    ``ModelError`` if the number of tiles is another.
    """
    if len(tiles) != (expected := int(num_tiles.sum())):
        # Idefics3 and SmolVLM drop tiles that are zero everywhere, which would shift features to the next image.
        # After their normalisation no tile is zero everywhere.
        raise ModelError(f"the vision tower made features of {len(tiles)} tiles; expected {expected}")
    return ImageFeatures(tokens=tuple(part.flatten(0, 1) for part in tiles.split(num_tiles.tolist())))


def one_tensor(features: Sequence[ImageFeatures]) -> dict[str, Any]:
    """Return ``mm_encoder_outputs`` as one tensor [1, all image tokens of the row, hidden]; empty without images."""
    tokens = [tensor for one in features for tensor in one.tokens]
    if not tokens:
        return {}
    joined: Any = torch.cat(tokens)[None]
    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=joined)}}


def token_blocks(features: Sequence[ImageFeatures]) -> dict[str, Any]:
    """Return ``mm_encoder_outputs`` as one tensor [all image tokens of the rows, 1, hidden]; empty without images.

    SmolVLM fills rows in blocks of as many tokens as the second axis has, and refuses rows with a part of a block.
    """
    tokens = [tensor for one in features for tensor in one.tokens]
    if not tokens:
        return {}
    blocks: Any = torch.cat(tokens)[:, None]
    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=blocks)}}


def meta_tiles(count: int, side: tuple[int, int] | int) -> Tensor:
    """Return pixels of ``count`` tiles on the meta device, [count, 3, height, width]; ``side``: (height, width)."""
    height, width = (side, side) if isinstance(side, int) else side
    return torch.empty((count, 3, height, width), device="meta")


def sides_of(image_size: Any) -> tuple[int, int]:
    """Return height and width of a setting that holds both, or one for both."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return int(height), int(width)


def ids_of(tokenizer: Any, tokens: Sequence[str]) -> frozenset[int]:
    """Return the ids of those ``tokens`` that are single tokens of the tokenizer."""
    vocabulary = tokenizer.get_vocab()
    return frozenset(vocabulary[token] for token in tokens if token in vocabulary)


def grid_sizes(rows: Tensor, columns: Tensor, side: int) -> list[ImageSize]:
    """Return the sizes in pixels of images of ``rows`` x ``columns`` (int64 [images] each) square tiles of ``side``.

    0 x 0 tiles mean an image in one piece.
    """
    return [ImageSize(max(1, c) * side, max(1, r) * side) for r, c in zip(rows.tolist(), columns.tolist(), strict=True)]
