"""From a sample to what a model is given: the prompt's tokens and the images' pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from virft.errors import DataError
from virft.models.load import LoadedModel
from virft.models.vision import VisionInputs
from virft.types import ImageRef, ImageSize, Prompt, Sample, View


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedPrompt:
    """A prompt with its images' pixels and its rotary positions [3, L]."""

    prompt: Prompt
    vision: VisionInputs
    positions: Tensor


LoadImage = Callable[[str, View | None], Image.Image]
"""The picture of a path, as a view shows it if there is one."""


class Renderer:
    """Makes prompts of samples. Prompts are never cut: image tokens must all be there."""

    def __init__(self, loaded: LoadedModel, load_image: LoadImage) -> None:
        self._model = loaded.model
        self._tokenizer = loaded.tokenizer
        self._processor = loaded.image_processor
        self._family = loaded.family
        self._load_image = load_image

    def render(self, sample: Sample, question: str) -> RenderedPrompt:
        """The prompt that asks ``question`` about the sample's images."""
        views = [sample.view if i == sample.target_image else None for i in range(len(sample.images))]
        images = [self._load_image(path, view) for path, view in zip(sample.images, views, strict=True)]
        vision = self._process(images, sample)
        text = self._chat_text(question, len(images))
        ids = self._expand(text, vision, sample)
        unit = self._processor.patch_size
        refs = tuple(
            ImageRef(path=path, original=size, resized=ImageSize(int(w) * unit, int(h) * unit), view=view)
            for path, size, view, (_, h, w) in zip(
                sample.images, sample.image_sizes, views, vision.grid_thw.tolist(), strict=True
            )
        )
        prompt = Prompt(sample_id=sample.id, text=text, token_ids=tuple(ids), images=refs)
        positions = self._family.prompt_positions(self._model, torch.tensor(ids), vision)
        return RenderedPrompt(prompt=prompt, vision=vision, positions=positions)

    def _process(self, images: Sequence[Image.Image], sample: Sample) -> VisionInputs:
        for path, image in zip(sample.images, images, strict=True):
            if max(image.size) > 200 * min(image.size):
                raise DataError(f"{path}: {image.width} x {image.height} is longer than 200 times its width")
        made = self._processor(images=list(images), return_tensors="pt")
        return VisionInputs(pixel_values=made["pixel_values"], grid_thw=made["image_grid_thw"])

    def _chat_text(self, question: str, num_images: int) -> str:
        content = [{"type": "image"}] * num_images + [{"type": "text", "text": question}]
        return str(
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
        )

    def _expand(self, text: str, vision: VisionInputs, sample: Sample) -> list[int]:
        """Token ids, each image placeholder repeated for every token of its image."""
        placeholder = self._family.image_placeholder_id(self._model.config)
        counts = self._family.num_image_tokens(self._model.config, vision)
        ids = self._tokenizer(text, add_special_tokens=False).input_ids
        found = ids.count(placeholder)
        if found != len(counts):
            raise DataError(
                f"{sample.id}: the question holds {found - len(counts)} image placeholders of its own; expected none"
            )
        left = iter(counts)
        return [token for one in ids for token in ([one] * next(left) if one == placeholder else [one])]
