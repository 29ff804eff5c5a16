"""From a sample to what a model is given: the prompt's tokens and the images' pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from virft.errors import DataError, ModelError
from virft.models.load import LoadedModel
from virft.models.vision import VisionInputs
from virft.text.prompts import opened_prefix
from virft.types import ImageRef, Prompt, Sample, View


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedPrompt:
    """A prompt with its images' pixels and its rotary positions [A, L]."""

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

    def render(self, sample: Sample, question: str, *, thinking: bool = False) -> RenderedPrompt:
        """The prompt that asks ``question`` about the sample's images.

        ``thinking``: told to chat templates that can open or leave out a thought. ``ModelError`` where the template
        opens one although none is wanted.
        """
        views = [sample.view if i == sample.target_image else None for i in range(len(sample.images))]
        images = [self._load_image(path, view) for path, view in zip(sample.images, views, strict=True)]
        vision = self._process(images, sample)
        text = self._chat_text(question, len(sample.images), sample.target_image, thinking)
        opened = _opened(text, thinking)
        ids = self._expand(text, vision, sample)
        resized = self._family.resized_sizes(self._processor, vision)
        refs = tuple(
            ImageRef(path=path, original=size, resized=after, view=view)
            for path, size, view, after in zip(sample.images, sample.image_sizes, views, resized, strict=True)
        )
        prompt = Prompt(sample_id=sample.id, text=text, token_ids=tuple(ids), images=refs, opened=opened)
        positions = self._family.prompt_positions(self._model, torch.tensor(ids), vision)
        return RenderedPrompt(prompt=prompt, vision=vision, positions=positions)

    def check(self, *, thinking: bool) -> None:
        """``ModelError`` where every prompt would be refused: see ``thinking`` of ``render``."""
        _opened(self._chat_text("?", 1, 0, thinking), thinking)

    def _process(self, images: Sequence[Image.Image], sample: Sample) -> VisionInputs:
        for path, image in zip(sample.images, images, strict=True):
            if max(image.size) > 200 * min(image.size):
                raise DataError(f"{path}: {image.width} x {image.height} is longer than 200 times its width")
        return self._family.read_images(self._processor, images)

    def _chat_text(self, question: str, count: int, target: int, thinking: bool) -> str:
        """The chat so far, with one placeholder for each image. Of several images, the one asked about is named."""
        image = {"type": "image"}
        if count == 1 or self._family.images_first:
            content = [image] * count
        else:
            content = []
            for number in range(1, count + 1):
                content += [{"type": "text", "text": f"Image {number}: "}, image, {"type": "text", "text": "\n"}]
        about = f"About image {target + 1}: " if count > 1 else ""
        content.append({"type": "text", "text": about + question})
        return str(
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=thinking,
            )
        )

    def _expand(self, text: str, vision: VisionInputs, sample: Sample) -> list[int]:
        """Token ids, each image placeholder replaced by what stands for its image."""
        config, token_of = self._model.config, self._tokenizer.convert_ids_to_tokens
        placeholder, filled = token_of(self._family.placeholder_id(config)), config.image_token_id
        texts = self._family.image_texts(self._tokenizer, config, vision)
        parts = text.split(placeholder)
        own = len(parts) - 1 - len(texts)
        if own < 0:
            raise ModelError(
                f"{sample.id}: the chat template wrote {len(parts) - 1} image placeholders ({placeholder}) "
                f"for {len(texts)} images; expected the model's own template"
            )
        if token_of(filled) != placeholder:
            own += text.count(token_of(filled))
        if own:
            raise DataError(f"{sample.id}: the question holds {own} image placeholders of its own; expected none")
        whole = parts[0] + "".join(image + after for image, after in zip(texts, parts[1:], strict=True))
        ids: list[int] = self._tokenizer(whole, add_special_tokens=False).input_ids
        found, expected = ids.count(filled), sum(self._family.num_image_tokens(config, vision))
        if found != expected:
            raise ModelError(
                f"{sample.id}: the prompt has {found} image tokens, but the vision tower will make {expected}; "
                "expected tokenizer and image processor of one and the same model"
            )
        return ids


def _opened(text: str, thinking: bool) -> str:
    """What a chat has written of the answer. A thought that was not asked for would be part of every answer."""
    opened = opened_prefix(text)
    if opened and not thinking:
        raise ModelError(
            f"the model's chat template begins a thought in every answer (prompts end with {opened!r}); "
            "expected prompt.thinking = true (--thinking)"
        )
    return opened
