"""The way a model is prompted, resolved from settings and the model's card."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from factories import sample
from run_parts import load_model_of, make_config
from virft.errors import ModelError
from virft.inference.prompting import Prompting, make_renderer, resolve_prompting
from virft.models.load import LoadedModel
from virft.models.renderer import Renderer


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load_model_of(make_config())


def test_template_auto_is_that_of_the_models_card(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[str] = []
    monkeypatch.setattr(Renderer, "render", lambda self, one, question, thinking: prompts.append(question))
    for card, template in (
        ({"prompt_template": "short"}, "auto"),
        ({}, "auto"),
        ({"prompt_template": "short"}, "paper"),
    ):
        loaded = replace(tiny, card=card)
        make_renderer(loaded, resolve_prompting(loaded, template=template, thinking=False))(sample())
    assert prompts[0] == "Detect fox."
    # a model without a card is prompted with the paper's template
    assert prompts[1] == prompts[2] != prompts[0]
    assert "'fox'" in prompts[1]


@pytest.mark.parametrize("card", [{"prompt_template": "where?"}, {"prompt_template": 3}, {"thinking": "yes"}])
def test_an_invalid_card_is_a_model_error(tiny: LoadedModel, card: dict[str, Any]) -> None:
    loaded = replace(tiny, card=card)
    with pytest.raises(ModelError, match=r"^virft_card\.json of the model: (prompt_template|thinking) is .*; expect"):
        resolve_prompting(loaded, template="auto", thinking=None)


def test_a_dataset_of_a_mixture_has_its_own_thinking_mode() -> None:
    prompting = Prompting(template="short", thinking=False, thinking_by_origin={"hard": True})
    modes = [prompting.thinking_for(sample(origin=origin)) for origin in ("", "hard", "other")]
    assert modes == [False, True, False]
