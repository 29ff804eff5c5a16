"""What differs between model families, as one record of facts and functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from virft.boxes import BoxSpace
from virft.models.vision import ImageFeatures, VisionInputs


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One row of ``FAMILIES``, found by the ``model_type`` of a model's configuration.

    ``language_module`` and ``vision_module``: attribute paths inside the model, for LoRA targets and freezing;
    ``projector_modules``: those of what carries the tower's features into the language model (in the tower or not).
    ``prompt_positions(model, token_ids [L], vision)`` gives rotary positions [3, L].
    ``encode_images(model, vision)`` runs the vision tower.
    ``forward_features(features)`` gives the keyword arguments that hand features to the model's forward.
    """

    model_type: str
    box_space: BoxSpace
    language_module: str
    vision_module: str
    vision_attention: str | None
    image_placeholder_id: Callable[[Any], int]
    num_image_tokens: Callable[[Any, VisionInputs], list[int]]
    prompt_positions: Callable[[Any, Tensor, VisionInputs], Tensor]
    encode_images: Callable[[Any, VisionInputs], ImageFeatures]
    forward_features: Callable[[Sequence[ImageFeatures]], dict[str, Any]]
    forbidden_token_ids: Callable[[Any], frozenset[int]]
    projector_modules: tuple[str, ...] = ()
