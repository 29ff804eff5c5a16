"""Decoding of sampled tokens, and stop tokens. Parity with transformers: ``tests/parity``."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from virft.generation.hf_generator import TextDecoder
from virft.models.load import LoadedModel, load_model
from virft.models.stop_tokens import stop_token_ids
from virft.models.tiny import TINY_NAME


@pytest.fixture(scope="module")
def tiny() -> Iterator[LoadedModel]:
    yield load_model(TINY_NAME)


def test_token_ends_count_the_characters_up_to_each_token(tiny: LoadedModel) -> None:
    text = "<answer>[{'Position':[1,2,30,40]}]</answer>"
    ids = tiny.tokenizer(text).input_ids
    decoded, ends = TextDecoder(tiny.tokenizer).decode(ids)
    assert decoded == text
    assert ends[-1] == len(text)
    pieces = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert pieces == [tiny.tokenizer.decode([token]) for token in ids]


def test_a_character_of_several_tokens_is_decoded_whole_with_ascending_ends(tiny: LoadedModel) -> None:
    ids = tiny.tokenizer("a 🦝 b").input_ids
    text, ends = TextDecoder(tiny.tokenizer).decode(ids)
    assert text == "a 🦝 b"
    assert len(ids) > len(text)
    assert ends == sorted(ends)
    assert ends[-1] == len(text)


def test_special_tokens_are_part_of_the_text(tiny: LoadedModel) -> None:
    ids = tiny.tokenizer("<|box_start|>1<|box_end|>").input_ids
    assert TextDecoder(tiny.tokenizer).decode(ids)[0] == "<|box_start|>1<|box_end|>"


def test_no_tokens_are_an_empty_text(tiny: LoadedModel) -> None:
    assert TextDecoder(tiny.tokenizer).decode([]) == ("", [])


def model(generation: Any, text: Any = 7) -> Any:
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(eos_token_id=text))
    return SimpleNamespace(generation_config=generation, config=config)


def test_stop_tokens_come_from_the_generation_config_first() -> None:
    assert stop_token_ids(model(SimpleNamespace(eos_token_id=5))) == {5}
    assert stop_token_ids(model(SimpleNamespace(eos_token_id=[5, 6]))) == {5, 6}
    assert stop_token_ids(model(SimpleNamespace(eos_token_id=None))) == {7}
    assert stop_token_ids(model(None, [8, 9])) == {8, 9}


def test_a_completion_begins_with_the_prefix_that_the_prompt_opened(tiny: LoadedModel) -> None:
    words = tiny.tokenizer("a</think>").input_ids
    completion = TextDecoder(tiny.tokenizer).completion(
        [*words, 0], [-1.0] * (len(words) + 1), True, opened="<think>\n"
    )
    assert completion.text == "<think>\na</think>"
    # 8 characters of the prompt, then those of the tokens; the stop token has none
    ends = TextDecoder(tiny.tokenizer).decode(words)[1]
    assert completion.token_ends == (*(8 + end for end in ends), 17)
    assert completion.token_ids == (*words, 0)
