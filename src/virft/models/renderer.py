"""From a sample to the input of a model: token ids of the prompt and pixels of its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from virft.config.wording import counted
from virft.errors import DataError, ModelError
from virft.geometry.crops import zoomed_size
from virft.models.attention.layout import Insertion
from virft.models.load import LoadedModel
from virft.models.stop_tokens import TEMPLATE_ERRORS, end_of_turn_id
from virft.models.vision import VisionInputs
from virft.text.prompts import opened_prefix
from virft.types import Augmentation, Box, ImageRef, ImageSize, Prompt, Sample, Zoom


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedTurn:
    """The tool turn that answers a zoom call, with the tensors that a model needs for it."""

    zoom: Zoom
    """First turn and tool turn."""

    opened: str
    """Prefix of the second turn that the chat template writes, as ``Prompt.opened``."""

    positions: Tensor
    """Rotary position ids of the first turn and the tool turn, int64 [A, T]. The second turn continues from the largest
    of them."""

    load_vision: Callable[[], VisionInputs]
    """Decode, augment, crop and scale the image, and retain the result. Thread-safe."""

    @property
    def insertion(self) -> Insertion:
        """The tool turn in a packed row."""
        return Insertion(after=self.zoom.num_tokens, token_ids=self.zoom.tool_ids, positions=self.positions)

    @property
    def vision(self) -> VisionInputs:
        """Pixels of the enlarged region; ``DataError`` if the image cannot be read."""
        return self.load_vision()


AnswerCall = Callable[[str, tuple[int, ...]], RenderedTurn | None]
"""From text and token ids of a first turn, its end token included, to the tool turn that answers its zoom call; None if
there is no valid call, or no room for the answer in the context of the model. Equal calls return the same object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedPrompt:
    """A prompt with the tensors that a model needs for it. Its images are read at the first use of ``vision``."""

    prompt: Prompt
    """Text, token ids with expanded image placeholders, and references to the images."""

    positions: Tensor
    """Rotary position ids along A axes, int64 [A, L]."""

    load_vision: Callable[[], VisionInputs]
    """Decode, augment and resize its images, and retain the result. Thread-safe."""

    answer_call: AnswerCall | None = None
    """Answers the zoom calls of its completions; None: they are not answered."""

    @property
    def vision(self) -> VisionInputs:
        """Pixels of its images; ``DataError`` if one cannot be read."""
        return self.load_vision()


class PromptLength(NamedTuple):
    """Size of a prompt, measured without pixels."""

    num_tokens: int
    """All tokens."""
    largest_image: int
    """Tokens of the image that has most of them."""


_CALL = "call"
"""Text of the assistant in a chat that is formatted to find the tool turn that follows it."""
_TOOL_RESPONSE = ("<tool_response>", "</tool_response>")
"""Texts before and after the enlarged region in a tool turn, as in the chat template of Qwen3-VL."""
_QUESTION = "Where is the fox?"
"""A question with which a chat template is checked."""
LoadImage = Callable[[str, Augmentation | None], Image.Image]
"""Load the image of a path, with data augmentation applied if the second argument is given."""


class Renderer:
    """Makes prompts of samples with the model's chat template. Prompts are never truncated: all image tokens count."""

    def __init__(self, loaded: LoadedModel, load_image: LoadImage) -> None:
        self._model = loaded.model
        self._tokenizer = loaded.tokenizer
        self._processor = loaded.image_processor
        self._family = loaded.family
        self._load_image = load_image

    def render(self, sample: Sample, question: str, *, thinking: bool = False) -> RenderedPrompt:
        """Return the prompt with ``question`` about the images of the sample, whose pixels are not read yet.

        ``thinking`` is passed to chat templates that can begin a think block. Raises ``ModelError`` if the template
        begins one although ``thinking`` is false, or if it writes another number of image placeholders, and
        ``DataError`` for what ``check_sample`` refuses.
        """
        augmentations = [sample.augmentation if i == sample.target_image else None for i in range(len(sample.images))]
        self._require_sizes(sample)
        # Tokens and positions follow from the sizes: a prompt whose image features are cached needs no pixels.
        vision = self._family.measure_images(self._processor, sample.image_sizes)
        text, ids = self._tokenize(sample, question, vision, thinking)
        resized = self._family.resized_sizes(self._processor, vision)
        refs = tuple(
            ImageRef(path=path, original=size, resized=after, augmentation=one)
            for path, size, one, after in zip(sample.images, sample.image_sizes, augmentations, resized, strict=True)
        )
        opened = _opened(text, thinking)
        prompt = Prompt(sample_id=sample.id, text=text, token_ids=tuple(ids), images=refs, opened=opened)
        positions = self._family.prompt_positions(self._model, torch.tensor(ids), vision)
        return RenderedPrompt(
            prompt=prompt, positions=positions, load_vision=cache(partial(self._read_images, sample, augmentations))
        )

    def check(self, *, thinking: bool) -> None:
        """Raise ``ModelError`` if ``render`` would refuse every prompt with this setting of ``thinking``."""
        text = self._chat_text(_QUESTION, 1, 0, thinking)
        _opened(text, thinking)
        if _QUESTION not in text:
            raise ModelError(
                "the model's chat template does not write the question; expected that of a vision-language model, "
                'which writes the parts of a message that are {"type": "text"}'
            )
        if (found := text.count(self._placeholder)) != 1:
            raise ModelError(
                f"the model's chat template writes {found or 'no'} image placeholder{'s' if found > 1 else ''} "
                f"({self._placeholder}) for an image; expected the model's own template"
            )
        end = end_of_turn_id(self._tokenizer)
        if end is not None and text.rstrip().endswith(str(self._tokenizer.convert_ids_to_tokens(end))):
            raise ModelError(
                f"the model's chat template begins no turn of the assistant (prompts end with {text[-20:]!r}); "
                "expected a template that does, if add_generation_prompt is true"
            )

    def check_zoom(self, *, thinking: bool) -> None:
        """Raise ``ModelError`` if ``render_turn`` would refuse every zoom call with this setting of ``thinking``."""
        text = self._model.config.get_text_config()
        if kinds := set(getattr(text, "layer_types", None) or ()) - {"full_attention"}:
            reason = f"layers of type {', '.join(sorted(kinds))}"
        elif self._family.bidirectional_images:
            reason = "bidirectional attention in images"
        elif self._family.images_first:
            reason = "images in tiles only if a conversation has one of them"  # LLaVA-OneVision
        else:
            reason = ""
        if reason:
            raise ModelError(
                f"zoom calls are not supported for models of type {self._model.config.model_type!r}, which have "
                f"{reason}; expected a model with full causal attention in every layer, or zoom off"
            )
        _opened(self._tool_text(thinking), thinking)

    def render_turn(
        self, sample: Sample, prompt: Prompt, text: str, token_ids: Sequence[int], region: Box, *, thinking: bool
    ) -> RenderedTurn | None:
        """Return the tool turn with an enlarged region of the sample's target image, whose pixels are not read yet.

        ``text`` and ``token_ids``: first turn, its end token included. ``region``: in whole pixels of the original
        image. None if prompt, first turn and tool turn leave no room in the context of the model, and if the image
        processor refuses the size of the region.
        """
        target = prompt.images[sample.target_image]
        size = zoomed_size(region, target.resized)
        try:
            vision = self._family.measure_images(self._processor, [size])
        except ModelError:  # rounding, in an image whose aspect ratio is just small enough
            return None
        tool_text = self._tool_text(thinking)
        tool_ids = self._expand(tool_text, vision, sample)
        ids = [*prompt.token_ids, *token_ids, *tool_ids]
        if self.max_tokens is not None and len(ids) >= self.max_tokens:
            return None
        sizes = [*sample.image_sizes, size]
        both = self._family.measure_images(self._processor, sizes)
        positions = self._family.prompt_positions(self._model, torch.tensor(ids), both)
        (resized,) = self._family.resized_sizes(self._processor, vision)
        image = replace(target, original=size, resized=resized)
        zoom = Zoom(text=text, num_tokens=len(token_ids), region=region, tool_ids=tuple(tool_ids), image=image)
        return RenderedTurn(
            zoom=zoom,
            opened=_opened(tool_text, thinking),
            positions=positions[:, len(prompt.token_ids) :],
            load_vision=cache(partial(self._read_region, sample, zoom)),
        )

    def _tool_text(self, thinking: bool) -> str:
        """The text of the chat after the end token of a first turn: the tool turn, with a placeholder for its image."""
        question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": _QUESTION}]}]
        answer = [{"type": "text", "text": _TOOL_RESPONSE[0]}, {"type": "image"}]
        answer.append({"type": "text", "text": _TOOL_RESPONSE[1]})
        end = end_of_turn_id(self._tokenizer)
        marker = "" if end is None else str(self._tokenizer.convert_ids_to_tokens(end))
        for content in ([{"type": "text", "text": _CALL}], _CALL):
            chat = [*question, {"role": "assistant", "content": content}, {"role": "user", "content": answer}]
            try:
                text = self._tokenizer.apply_chat_template(
                    chat, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
                )
            except TEMPLATE_ERRORS:  # a template for the other format
                continue
            _, found, after = str(text).rpartition(_CALL)
            if found and marker and after.lstrip().startswith(marker) and after.count(self._placeholder) == 1:
                return after.lstrip().removeprefix(marker)
        raise ModelError(
            "the model's chat template cannot format a zoom: a turn of the assistant, closed by a special token, and a "
            "turn of the user with one image; expected the template of a vision-language model, or zoom off"
        )

    def _read_region(self, sample: Sample, zoom: Zoom) -> VisionInputs:
        """Decode and augment the target image of a sample, and scale a region of it."""
        path = sample.images[sample.target_image]
        image = self._load_checked(path, sample.augmentation, sample.target_size, sample.id)
        box = tuple(map(int, zoom.region.xyxy))
        # From the region alone, as if it were a file of its own: pixels around it do not count.
        enlarged = image.crop(box).resize(zoom.image.original, Image.Resampling.BICUBIC)  # type: ignore[arg-type]
        return self._family.read_images(self._processor, [enlarged])

    @property
    def max_tokens(self) -> int | None:
        """Largest number of tokens of a prompt and its completion (``max_position_embeddings``); None if unknown."""
        limit: int | None = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        return limit

    def check_sample(self, sample: Sample, question: str, *, thinking: bool) -> PromptLength:
        """Return the numbers of tokens of the prompt; raise what ``render`` would raise for this sample.

        Reads no image: sizes are those of the sample.

        ``DataError``: an image of extreme aspect ratio, a question that contains image placeholders, and a prompt that
        is longer than the context of the model.
        """
        self._require_sizes(sample)
        vision = self._family.measure_images(self._processor, sample.image_sizes)
        num_tokens = len(self._tokenize(sample, question, vision, thinking)[1])
        return PromptLength(num_tokens, max(self._family.num_image_tokens(self._model.config, vision), default=0))

    @property
    def _placeholder(self) -> str:
        """Text that the chat template writes for an image."""
        return str(self._tokenizer.convert_ids_to_tokens(self._family.placeholder_id(self._model.config)))

    def _read_images(self, sample: Sample, augmentations: Sequence[Augmentation | None]) -> VisionInputs:
        """Decode, augment and resize the images of a sample.

        Raises ``DataError`` if one cannot be read, or has another size than the sample says.
        """
        parts = zip(sample.images, augmentations, sample.image_sizes, strict=True)
        images = [self._load_checked(path, one, size, sample.id) for path, one, size in parts]
        return self._family.read_images(self._processor, images)

    def _load_checked(
        self, path: str, augmentation: Augmentation | None, size: ImageSize, sample_id: str
    ) -> Image.Image:
        """Load an image; ``DataError`` if it has another size than its sample says."""
        image = self._load_image(path, augmentation)
        if image.size != size:
            raise DataError(
                f"{path}: has {image.width} x {image.height} pixels upright; expected {size.width} x "
                f"{size.height}, as the sample says ({sample_id})"
            )
        return image

    def _require_sizes(self, sample: Sample) -> None:
        """Raise ``DataError`` for an image whose size the image processor refuses."""
        for path, size in zip(sample.images, sample.image_sizes, strict=True):
            try:
                self._family.measure_images(self._processor, [size])
            except ModelError as error:
                raise DataError(f"{path}: {error}") from error

    def _tokenize(self, sample: Sample, question: str, vision: VisionInputs, thinking: bool) -> tuple[str, list[int]]:
        """Return the text of the chat, and the token ids of the prompt. ``vision`` needs no pixels."""
        text = self._chat_text(question, len(sample.images), sample.target_image, thinking)
        _opened(text, thinking)
        ids = self._expand(text, vision, sample)
        limit = self.max_tokens
        if limit is not None and len(ids) >= limit:
            num_image = sum(self._family.num_image_tokens(self._model.config, vision))
            raise DataError(
                f"{sample.id}: the prompt has {len(ids)} tokens, {num_image} of them of images; expected fewer than "
                f"the {limit} that the model takes (max_position_embeddings): smaller images (model.max_pixels), or a "
                "shorter question"
            )
        return text, ids

    def _chat_text(self, question: str, count: int, target: int, thinking: bool) -> str:
        """The text of the chat, with one placeholder for each image. If there are several, the target is named."""
        image = {"type": "image"}
        if count == 1 or self._family.images_first:
            content = [image] * count
        else:
            content = []
            for number in range(1, count + 1):
                content += [{"type": "text", "text": f"Image {number}: "}, image, {"type": "text", "text": "\n"}]
        about = f"About image {target + 1}: " if count > 1 else ""
        content.append({"type": "text", "text": about + question})
        try:
            text = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=thinking,
            )
        except TEMPLATE_ERRORS as error:
            raise ModelError(
                f"the model's chat template cannot format a question about an image ({type(error).__name__}: {error}); "
                "expected the template of a vision-language model"
            ) from error
        return str(text)

    def _expand(self, text: str, vision: VisionInputs, sample: Sample) -> list[int]:
        """Token ids, with each image placeholder replaced by the family's text for its image."""
        config, token_of = self._model.config, self._tokenizer.convert_ids_to_tokens
        placeholder, filled = self._placeholder, config.image_token_id
        texts = self._family.image_texts(self._tokenizer, config, vision)
        parts = text.split(placeholder)
        own = len(parts) - 1 - len(texts)  # placeholders that the question itself contains
        if own < 0:
            raise ModelError(
                f"{sample.id}: the chat template wrote {len(parts) - 1} image placeholders ({placeholder}) "
                f"for {counted(len(texts), 'image')}; expected the model's own template"
            )
        # Gemma 3 writes one token in the template and has the tower fill another; a question could contain either.
        if token_of(filled) != placeholder:
            own += text.count(token_of(filled))
        if own:
            raise DataError(f"{sample.id}: the question holds {own} image placeholders of its own; expected none")
        # Expanded as text and then tokenized: line breaks around markers of tiles merge with the text next to them.
        expanded = parts[0] + "".join(image + after for image, after in zip(texts, parts[1:], strict=True))
        ids: list[int] = self._tokenizer(expanded, add_special_tokens=False, verbose=False).input_ids
        found, expected = ids.count(filled), sum(self._family.num_image_tokens(config, vision))
        if found != expected:
            raise ModelError(
                f"{sample.id}: the prompt has {found} image tokens, but the vision tower will make {expected}; "
                "expected tokenizer and image processor of one and the same model"
            )
        return ids


def _opened(text: str, thinking: bool) -> str:
    """The beginning of the completion that the prompt contains already, such as an open think tag."""
    # Without thinking, the model would complete the think block, and every completion would have the wrong format.
    opened = opened_prefix(text)
    if opened and not thinking:
        raise ModelError(
            f"the model's chat template begins a think block in every completion (prompts end with {opened!r}); "
            "expected prompt.thinking = true (--thinking)"
        )
    return opened
