"""Prompts and pixels equal those of transformers' own processors (``scripts/make_placeholder_goldens.py``)."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from factories import sample
from tiny_folders import TILED, pixel_digest, striped_image, tiny_chat_model, tiny_image_processor, tiny_tokenizer
from virft.errors import DataError, ModelError
from virft.models.families import family_of
from virft.models.load import wrap_model
from virft.models.renderer import RenderedPrompt, Renderer
from virft.types import ImageSize

CASES = json.loads((Path(__file__).parents[3] / "data" / "placeholders.json").read_text())["cases"]


def render(model_type: str, sizes: list[list[int]], question: str = "Where is it?") -> RenderedPrompt:
    """Render a prompt about the last of several images."""
    about_the_last = replace(
        sample(id="a"),
        images=tuple(str(number) for number in range(len(sizes))),
        image_sizes=tuple(ImageSize(*size) for size in sizes),
        target_image=len(sizes) - 1,
    )
    loaded = wrap_model(tiny_chat_model(model_type), tiny_tokenizer(model_type), tiny_image_processor(model_type))
    return Renderer(loaded, lambda path, view: striped_image(*sizes[int(path)], int(path))).render(
        about_the_last, question
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['family']}-{case['sizes']}")
def test_prompts_and_pixels_equal_those_of_the_processor(case: dict[str, Any]) -> None:
    rendered = render(case["family"], case["sizes"])
    assert rendered.prompt.text == case["text"]
    assert [[token, len(list(run))] for token, run in groupby(rendered.prompt.token_ids)] == case["ids"]
    found = pixel_digest(rendered.vision.pixel_values)
    assert len(found) == len(case["tiles"])
    for tile, expected in zip(found, case["tiles"], strict=True):
        assert tile == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("model_type", TILED)
def test_every_family_was_compared(model_type: str) -> None:
    sizes = [case["sizes"] for case in CASES if case["family"] == model_type]
    assert len(sizes) >= 6
    assert {len(one) for one in sizes} == {1, 2}


@pytest.mark.parametrize("model_type", TILED)
def test_the_target_image_is_named(model_type: str) -> None:
    text = render(model_type, [[60, 40], [20, 50]]).prompt.text
    assert "About image 2: Where is it?" in text
    if not family_of(model_type).images_first:
        assert text.index("Image 1:") < text.index("Image 2:") < text.index("About image 2:")
    assert "image 1" not in render(model_type, [[60, 40]]).prompt.text.lower()


@pytest.mark.parametrize("model_type", TILED)
def test_a_question_with_an_image_placeholder_is_refused(model_type: str) -> None:
    config, tokenizer = tiny_chat_model(model_type).config, tiny_tokenizer(model_type)
    for token in {config.image_token_id, family_of(model_type).placeholder_id(config)}:
        mark = tokenizer.convert_ids_to_tokens(token)
        with pytest.raises(DataError, match="a: the question holds 1 image placeholders of its own; expected none"):
            render(model_type, [[20, 20]], f"Where is {mark}?")


@pytest.mark.parametrize("model_type", TILED)
def test_a_template_without_images_is_refused(model_type: str) -> None:
    tokenizer = tiny_tokenizer(model_type)
    tokenizer.chat_template = "{{ messages[0]['role'] }}:"
    loaded = wrap_model(tiny_chat_model(model_type), tokenizer, tiny_image_processor(model_type))
    with pytest.raises(
        ModelError, match=r"a\.png:fox: the chat template wrote 0 image placeholders \(.*\) for 1 image;"
    ):
        Renderer(loaded, lambda path, view: striped_image(20, 20)).render(sample(size=(20, 20)), "?")


@pytest.mark.parametrize("model_type", TILED)
def test_image_tokens_and_markers_are_forbidden(model_type: str) -> None:
    config, tokenizer = tiny_chat_model(model_type).config, tiny_tokenizer(model_type)
    forbidden = family_of(model_type).forbidden_token_ids(tokenizer, config)
    # all special tokens of the prompts but those of the chat
    in_prompts = {token for case in CASES if case["family"] == model_type for token, _ in case["ids"]}
    chat = set(tokenizer("".join(CHAT)).input_ids)
    special = {token for token in in_prompts if token in tokenizer.all_special_ids} - chat
    assert special and special <= forbidden
    assert not forbidden & chat
    letters = tokenizer("[12, 34] <answer>").input_ids
    assert not forbidden & set(letters)


CHAT = ("<|im_start|>", "<|im_end|>", "<end_of_utterance>", "<bos>", "<start_of_turn>", "<end_of_turn>")
