"""The record of facts and functions in which model families differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image
from torch import Tensor, nn

from virft.geometry.boxes import BoxSpace
from virft.models.families.tiles import one_tensor, plain_positions
from virft.models.vision import ImageFeatures, VisionInputs
from virft.types import ImageSize


class FamilyFunctions(Protocol):
    """The functions that the module of a family defines, under these names."""

    def read_images(self, processor: Any, images: Sequence[Image.Image]) -> VisionInputs:
        """Run the image processor; shapes of the pixels and of ``per_image`` are the family's own."""
        ...

    def measure_images(self, processor: Any, sizes: Sequence[ImageSize]) -> VisionInputs:
        """Return what ``read_images`` returns for images of these sizes, with pixels on the meta device.

        Raises ``ModelError`` for a size that the image processor refuses.
        """
        ...

    def check_processor(self, processor: Any, config: Any, path: str) -> None:
        """Raise ``ModelError`` if the image processor makes images of another size than the vision tower takes.

        ``path``: name of the model in messages.
        """
        ...

    def resized_sizes(self, processor: Any, vision: VisionInputs) -> list[ImageSize]:
        """Return the size of each image after the image processor, in pixels."""
        ...

    def limit_pixels(self, processor: Any, low: int | None, high: int | None) -> None:
        """Set the smallest and the largest image area in pixels; None retains the model's own.

        Raises ``ModelError`` where the family has no such choice.
        """
        ...

    def image_texts(self, tokenizer: Any, config: Any, vision: VisionInputs) -> list[str]:
        """Return the text that replaces the placeholder of each image in the prompt."""
        ...

    def num_image_tokens(self, config: Any, vision: VisionInputs) -> list[int]:
        """Return the number of tokens of each image that the vision tower fills (``config.image_token_id``)."""
        ...

    def encode_images(self, model: Any, vision: VisionInputs) -> ImageFeatures:
        """Run vision tower and projector: features [image tokens, hidden] of each image."""
        ...

    def forbidden_token_ids(self, tokenizer: Any, config: Any) -> frozenset[int]:
        """Return the tokens that represent images or parts of them. A sampled one would have no image."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One row of ``FAMILIES``: facts first, then the functions of ``FamilyFunctions`` and two more."""

    model_type: str
    """The ``model_type`` of a model's configuration, by which the row is found."""

    box_space: BoxSpace
    """Coordinates that the model was trained to write, or is taught where it was not trained to write boxes."""

    language_module: str
    """Attribute path of the language model, for LoRA targets."""

    vision_names: tuple[str, ...]
    """Prefixes of the parameter names of vision tower and projector, for freezing."""

    projector_names: tuple[str, ...]
    """Prefixes of the parameter names of the projector alone."""

    vision_attention: str
    """Name of the attention function of the vision tower."""

    placeholder: str
    """Key in the configuration of the token that the chat template writes for one image."""

    images_first: bool
    """True if the chat template writes all images before all text, so that images cannot be numbered."""

    bidirectional_images: bool
    """True if, in the prompt, tokens of one image attend to each other in both directions."""

    on_vllm: bool
    """True if vLLM accepts the image features in the form that ``vllm_generator`` makes."""

    read_images: Callable[[Any, Sequence[Image.Image]], VisionInputs]
    """See ``FamilyFunctions.read_images``."""

    measure_images: Callable[[Any, Sequence[ImageSize]], VisionInputs]
    """See ``FamilyFunctions.measure_images``."""

    check_processor: Callable[[Any, Any, str], None]
    """See ``FamilyFunctions.check_processor``."""

    resized_sizes: Callable[[Any, VisionInputs], list[ImageSize]]
    """See ``FamilyFunctions.resized_sizes``."""

    limit_pixels: Callable[[Any, int | None, int | None], None]
    """See ``FamilyFunctions.limit_pixels``."""

    image_texts: Callable[[Any, Any, VisionInputs], list[str]]
    """See ``FamilyFunctions.image_texts``."""

    num_image_tokens: Callable[[Any, VisionInputs], list[int]]
    """See ``FamilyFunctions.num_image_tokens``."""

    encode_images: Callable[[Any, VisionInputs], ImageFeatures]
    """See ``FamilyFunctions.encode_images``."""

    forbidden_token_ids: Callable[[Any, Any], frozenset[int]]
    """See ``FamilyFunctions.forbidden_token_ids``."""

    prompt_positions: Callable[[Any, Tensor, VisionInputs], Tensor]
    """``prompt_positions(model, token_ids [L], vision)``: rotary position ids [A, L], int64. A is 3 (time, height,
    width) or 1."""

    forward_features: Callable[[Sequence[ImageFeatures]], dict[str, Any]]
    """``forward_features(features)``: keyword arguments that pass image features to the model's forward."""

    def placeholder_id(self, config: Any) -> int:
        """Return the id of the token that the chat template writes for one image."""
        return int(getattr(config, self.placeholder))

    def vision_parameters(self, model: nn.Module) -> Iterator[nn.Parameter]:
        """Yield the weights of vision tower and projector."""
        return (parameter for name, parameter in model.named_parameters() if name.startswith(self.vision_names))


def family_from(
    functions: FamilyFunctions,
    *,
    model_type: str,
    box_space: BoxSpace,
    vision_names: tuple[str, ...],
    projector_names: tuple[str, ...],
    language_module: str = "model.language_model",
    vision_attention: str = "sdpa",
    placeholder: str = "image_token_id",
    images_first: bool = False,
    bidirectional_images: bool = False,
    on_vllm: bool = False,
    prompt_positions: Callable[[Any, Tensor, VisionInputs], Tensor] = plain_positions,
    forward_features: Callable[[Sequence[ImageFeatures]], dict[str, Any]] = one_tensor,
) -> Family:
    """Return a row with the functions of a family's module, and defaults that suit most families.

    The other arguments are fields of ``Family``; functions among them take tensors of the shape given there.
    """
    return Family(
        model_type=model_type,
        box_space=box_space,
        language_module=language_module,
        vision_names=vision_names,
        projector_names=projector_names,
        vision_attention=vision_attention,
        placeholder=placeholder,
        images_first=images_first,
        bidirectional_images=bidirectional_images,
        on_vllm=on_vllm,
        read_images=functions.read_images,
        measure_images=functions.measure_images,
        check_processor=functions.check_processor,
        resized_sizes=functions.resized_sizes,
        limit_pixels=functions.limit_pixels,
        image_texts=functions.image_texts,
        num_image_tokens=functions.num_image_tokens,
        encode_images=functions.encode_images,
        forbidden_token_ids=functions.forbidden_token_ids,
        prompt_positions=prompt_positions,
        forward_features=forward_features,
    )


def head_dim_of(text: Any) -> int:
    """Return the numbers of one attention head of a language model, of its configuration."""
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
