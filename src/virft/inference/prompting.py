"""Prompts from samples: which template and thinking mode a model is prompted with, and the renderer of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from virft.data.images import load_image
from virft.errors import ModelError
from virft.models.load import CARD, LoadedModel
from virft.models.renderer import RenderedPrompt, Renderer
from virft.tasks import TASKS
from virft.text.prompts import BUILT_IN, read_template
from virft.types import Sample

DEFAULT_TEMPLATE = "paper"


def make_renderer(
    loaded: LoadedModel, *, template: str, thinking: bool, thinking_by_origin: Mapping[str, bool] | None = None
) -> Callable[[Sample], RenderedPrompt]:
    """Sample to prompt under a template setting; ``auto`` is what the model's card says."""
    text = template_text(loaded, template)
    renderer = Renderer(loaded, load_image)
    for wanted in set((thinking_by_origin or {"": thinking}).values()):
        renderer.check(thinking=wanted)

    def render(sample: Sample) -> RenderedPrompt:
        own = (thinking_by_origin or {}).get(sample.origin, thinking)
        asked = TASKS[sample.task].format_question(sample, template=text, thinking=own, space=loaded.family.box_space)
        return renderer.render(sample, asked, thinking=own)

    return render


def template_text(loaded: LoadedModel, template: str) -> str:
    """The template that a setting means, a built-in's name or a text; ``auto`` is what the model's card says."""
    if template != "auto":
        return read_template(template)
    text = loaded.card.get("prompt_template", DEFAULT_TEMPLATE)
    if not isinstance(text, str) or not (text in BUILT_IN or "{query}" in text):
        raise ModelError(
            f"{CARD} of the model: prompt_template is {text!r:.80}; "
            f"expected {', '.join(BUILT_IN)}, or a text with {{query}}"
        )
    return text


def asks_thinking(loaded: LoadedModel, thinking: bool | None) -> bool:
    """Whether a think block is asked for: as told, else as the model's card says, else not."""
    if thinking is not None:
        return thinking
    told = loaded.card.get("thinking", False)
    if not isinstance(told, bool):
        raise ModelError(f"{CARD} of the model: thinking is {told!r:.80}; expected true or false")
    return told
