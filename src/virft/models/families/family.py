"""What differs between model families, as one record of facts and functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor, nn

from virft.geometry.boxes import BoxSpace
from virft.models.vision import ImageFeatures, VisionInputs
from virft.types import ImageSize


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One row of ``FAMILIES``, found by the ``model_type`` of a model's configuration.

    ``box_space``: what the model was trained to write, or what it is taught where it was not trained to write boxes.
    ``language_module``: attribute path inside the model, for LoRA targets. ``vision_names``: what the names of all
    parameters of tower and projector begin with, for freezing; ``projector_names``: the projector's alone.
    ``vision_attention``: what the tower attends with.

    ``images_first``: the chat template writes all images before all text, so they cannot be numbered.
    ``two_way_images``: in the prompt, tokens of one image see one another in both directions.

    ``placeholder_id(config)``: the token that the chat template writes for one image.
    ``read_images(processor, images)`` runs the image processor; ``resized_sizes(processor, vision)`` are the images'
    sizes after it. ``limit_pixels(processor, low, high)`` sets the smallest and largest image area, None to keep the
    model's own; it raises ``ModelError`` where the family has no such choice.
    ``image_texts(tokenizer, config, vision)``: what stands in the prompt for each image, in place of the placeholder.
    ``num_image_tokens(config, vision)``: how many of its tokens the tower fills (``config.image_token_id``).
    ``prompt_positions(model, token_ids [L], vision)`` gives rotary positions [A, L]: A is 3 (time, height, width) or 1.
    ``encode_images(model, vision)`` runs the vision tower.
    ``forward_features(features)`` gives the keyword arguments that hand features to the model's forward.
    ``forbidden_token_ids(tokenizer, config)``: tokens that stand for pictures or parts of them. A sampled one has no
    picture behind it.
    """

    model_type: str
    box_space: BoxSpace
    language_module: str
    vision_names: tuple[str, ...]
    vision_attention: str
    placeholder_id: Callable[[Any], int]
    read_images: Callable[[Any, Sequence[Image.Image]], VisionInputs]
    resized_sizes: Callable[[Any, VisionInputs], list[ImageSize]]
    limit_pixels: Callable[[Any, int | None, int | None], None]
    image_texts: Callable[[Any, Any, VisionInputs], list[str]]
    num_image_tokens: Callable[[Any, VisionInputs], list[int]]
    prompt_positions: Callable[[Any, Tensor, VisionInputs], Tensor]
    encode_images: Callable[[Any, VisionInputs], ImageFeatures]
    forward_features: Callable[[Sequence[ImageFeatures]], dict[str, Any]]
    forbidden_token_ids: Callable[[Any, Any], frozenset[int]]
    projector_names: tuple[str, ...]
    images_first: bool = False
    two_way_images: bool = False

    def vision_parameters(self, model: nn.Module) -> Iterator[nn.Parameter]:
        """The weights of tower and projector."""
        return (parameter for name, parameter in model.named_parameters() if name.startswith(self.vision_names))
