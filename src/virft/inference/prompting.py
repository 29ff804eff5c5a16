"""Prompts from samples: the template and the thinking mode that a model is prompted with, resolved once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import islice

from virft.config.fitting import PAPER_MAX_PIXELS
from virft.data.images import load_image as load_image_file
from virft.errors import DataError, ModelError
from virft.geometry.boxes import BoxSpace
from virft.geometry.crops import zoom_region
from virft.models.load import LoadedModel
from virft.models.model_folders import CARD
from virft.models.renderer import LoadImage, PromptLength, RenderedPrompt, RenderedTurn, Renderer
from virft.tasks import TASKS
from virft.text.prompts import BUILT_IN, read_template
from virft.text.zoom import read_zoom_call
from virft.types import Box, Prompt, Sample

DEFAULT_TEMPLATE = "paper"
MANY_IMAGE_TOKENS = 1300
"""Tokens of an image above which ``image_warning`` warns: a megapixel, if a token has 28 x 28 pixels (Qwen2-VL)."""
_MOST_NAMED = 20
"""Largest number of samples that a message names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompting:
    """The way a model is prompted, with every default resolved. Made once for a run by ``resolve_prompting``."""

    template: str
    """Name of a built-in template, or a text with ``{query}``; never "auto" or a path."""
    thinking: bool
    """If the prompt requests a think block before the answer."""
    zoom: bool = False
    """If the prompt offers a zoom call, and calls are answered by the enlarged region."""
    thinking_by_origin: Mapping[str, bool] = field(default_factory=dict)
    """The thinking mode of each dataset of a mixture, by the name that its samples have as ``origin``."""

    def thinking_for(self, sample: Sample) -> bool:
        """The thinking mode of a sample's dataset."""
        return self.thinking_by_origin.get(sample.origin, self.thinking)

    def of_origin(self, name: str) -> Prompting:
        """The prompting of one dataset of a mixture, for samples that do not say where they come from."""
        return replace(self, thinking=self.thinking_by_origin.get(name, self.thinking), thinking_by_origin={})

    @property
    def card(self) -> dict[str, str | bool]:
        """Entries of a saved model's ``virft_card.json``, which later runs with ``template`` "auto" take over.

        If the datasets of a mixture agree on thinking, that is the model's mode.
        """
        modes = set(self.thinking_by_origin.values())
        found: dict[str, str | bool] = {"prompt_template": self.template}
        found["thinking"] = modes.pop() if len(modes) == 1 else self.thinking
        return found | ({"zoom_calls": True} if self.zoom else {})


def resolve_prompting(
    loaded: LoadedModel,
    *,
    template: str,
    thinking: bool | None,
    zoom: bool | None = False,
    thinking_by_origin: Mapping[str, bool] | None = None,
) -> Prompting:
    """The prompting of a model under settings that may refer to its card: ``template`` "auto", the others None.

    Raises ``ModelError`` if the card is invalid, and ``ConfigError`` if the template is.
    """
    return Prompting(
        template=resolve_template(loaded, template),
        thinking=resolve_flag(loaded, "thinking", thinking),
        zoom=resolve_flag(loaded, "zoom_calls", zoom),
        thinking_by_origin=thinking_by_origin or {},
    )


def make_renderer(
    loaded: LoadedModel, prompting: Prompting, *, load_image: LoadImage = load_image_file
) -> Callable[[Sample], RenderedPrompt]:
    """A function from a sample to its prompt and image tensors. ``load_image`` reads the image of a path.

    Raises ``ModelError`` if the model's chat template does not support a thinking mode that is used.
    """
    renderer = _checked_renderer(loaded, prompting, load_image)

    def render(sample: Sample) -> RenderedPrompt:
        thinking = prompting.thinking_for(sample)
        rendered = renderer.render(sample, _question(loaded, prompting, sample, thinking), thinking=thinking)
        if not prompting.zoom:
            return rendered
        # Cached: the trainer renders the tool turns that the sampler has rendered.
        answer_call = cache(partial(_answer_call, renderer, space, sample, rendered.prompt, thinking))
        return replace(rendered, answer_call=answer_call)

    space = loaded.family.box_space
    return render


def _answer_call(
    renderer: Renderer,
    space: BoxSpace,
    sample: Sample,
    prompt: Prompt,
    thinking: bool,
    text: str,
    token_ids: Sequence[int],
) -> RenderedTurn | None:
    """See ``AnswerCall``."""
    size = sample.target_size
    box = read_zoom_call(text, space=space, original=size, resized=prompt.images[sample.target_image].resized)
    if not isinstance(box, Box):
        return None
    return renderer.render_turn(sample, prompt, text, token_ids, zoom_region(box, size), thinking=thinking)


def _checked_renderer(loaded: LoadedModel, prompting: Prompting, load_image: LoadImage) -> Renderer:
    renderer = Renderer(loaded, load_image)
    for mode in set(prompting.thinking_by_origin.values()) or {prompting.thinking}:
        renderer.check(thinking=mode)
        if prompting.zoom:
            renderer.check_zoom(thinking=mode)
    return renderer


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedPrompts:
    """The prompts of samples, measured without their images."""

    num_tokens: Mapping[str, int]
    """Length of each prompt that the model accepts, by the id of its sample."""
    refused: Mapping[str, str]
    """Reason for each other sample, by its id."""
    max_tokens: int | None
    """Largest number of tokens of a prompt and its completion; None if the model does not say."""
    largest_image: tuple[str, int] | None = None
    """Id of the sample whose image has most tokens, and their number; None without samples."""

    def image_warning(self) -> str | None:
        """Return a warning about an image that is too large for most devices; None without one."""
        if self.largest_image is None or self.largest_image[1] <= MANY_IMAGE_TOKENS:
            return None
        name, number = self.largest_image
        return (
            f"an image of sample {name} has {number:,} tokens, and model.max_pixels is not set: memory and time of a "
            f"step grow with them; expected a limit, such as model.max_pixels = {PAPER_MAX_PIXELS} (the paper's)"
        )

    def describe_refused(self) -> str:
        """Return the number of refused samples, and a line for each."""
        number = len(self.refused) + len(self.num_tokens)
        lines = [f"{len(self.refused)} of {number} samples cannot be used with this model:"]
        lines += [f"  {name}: {reason}" for name, reason in islice(self.refused.items(), _MOST_NAMED)]
        if len(self.refused) > _MOST_NAMED:
            lines.append(f"  and {len(self.refused) - _MOST_NAMED} more")
        return "\n".join(lines)

    def length_warning(self, max_completion_tokens: int) -> str | None:
        """Return a warning about prompts that leave no room for a completion of this length; None without any."""
        limit = self.max_tokens
        if limit is None:
            return None
        longer = {name: number for name, number in self.num_tokens.items() if number + max_completion_tokens > limit}
        if not longer:
            return None
        named = [f"{name} ({number} + {max_completion_tokens})" for name, number in longer.items()]
        more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
        return (
            f"prompt and completion can be longer than the {limit} tokens that the model takes "
            f"(max_position_embeddings) on {len(named)} of {len(self.num_tokens)} samples: "
            f"{', '.join(named[:_MOST_NAMED])}{more}; expected smaller images (model.max_pixels), shorter questions, "
            "or a smaller max_completion_tokens"
        )


def inspect_prompts(loaded: LoadedModel, prompting: Prompting, samples: Iterable[Sample]) -> CheckedPrompts:
    """Measure the prompt of each sample. Reads no images: takes about 1 ms a sample.

    Raises ``ModelError`` as ``make_renderer`` does.
    """
    renderer = _checked_renderer(loaded, prompting, load_image_file)
    checked: dict[tuple[object, ...], PromptLength] = {}
    lengths: dict[str, PromptLength] = {}
    refused: dict[str, str] = {}
    for sample in samples:
        thinking = prompting.thinking_for(sample)
        text = _question(loaded, prompting, sample, thinking)
        # Most samples share their question and the size of their image with others.
        key = (text, sample.image_sizes, sample.target_image, thinking)
        try:
            if key not in checked:
                checked[key] = renderer.check_sample(sample, text, thinking=thinking)
            lengths[sample.id] = checked[key]
        except DataError as error:
            refused[sample.id] = str(error).removeprefix(f"{sample.id}: ")
    largest = max(lengths, key=lambda name: lengths[name].largest_image, default=None)
    return CheckedPrompts(
        num_tokens={name: one.num_tokens for name, one in lengths.items()},
        refused=refused,
        max_tokens=renderer.max_tokens,
        largest_image=None if largest is None else (largest, lengths[largest].largest_image),
    )


def check_prompts(loaded: LoadedModel, prompting: Prompting, samples: Iterable[Sample]) -> CheckedPrompts:
    """Measure the prompt of each sample; raise ``DataError`` with all samples that the model would refuse."""
    checked = inspect_prompts(loaded, prompting, samples)
    if checked.refused:
        raise DataError(checked.describe_refused())
    return checked


def _question(loaded: LoadedModel, prompting: Prompting, sample: Sample, thinking: bool) -> str:
    return TASKS[sample.task].format_question(
        sample,
        template=prompting.template,
        thinking=thinking,
        zoom=prompting.zoom,
        space=loaded.family.box_space,
    )


def resolve_template(loaded: LoadedModel, template: str) -> str:
    """A built-in template's name or a template text, from a setting that may also be a path, or "auto".

    "auto" is the template of the model's card, or "paper" without one. Raises ``ModelError`` if the card is invalid,
    and ``ConfigError`` if the setting is.
    """
    if template != "auto":
        return read_template(template)
    text = loaded.card.get("prompt_template", DEFAULT_TEMPLATE)
    if not isinstance(text, str) or not (text in BUILT_IN or "{query}" in text):
        raise ModelError(
            f"{CARD} of the model: prompt_template is {text!r:.80}; "
            f"expected {', '.join(BUILT_IN)}, or a text with {{query}}"
        )
    return text


def resolve_flag(loaded: LoadedModel, name: str, value: bool | None) -> bool:
    """A setting that is true or false; if it is None, that of the model's card, or false.

    Raises ``ModelError`` if the card is invalid.
    """
    if value is not None:
        return value
    own = loaded.card.get(name, False)
    if not isinstance(own, bool):
        raise ModelError(f"{CARD} of the model: {name} is {own!r:.80}; expected true or false")
    return own
