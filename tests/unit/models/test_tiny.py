"""virft-tiny is an ordinary Qwen2-VL with an ordinary Qwen2 tokenizer, and small."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GenerationConfig, Qwen2Tokenizer, Qwen2VLForConditionalGeneration

from virft.models.load import LoadedModel, load_model
from virft.models.tiny import TINY_NAME, tiny_folder
from virft.models.tiny_config import END_OF_TEXT, END_OF_TURN, SPECIAL_TOKENS, tiny_config, train_tokenizer

TEXTS = (
    "<answer>[{'Position':[411,125,714,723],'Confidence':0.9}]</answer>",
    "Detect fire engine. Think first.",
    "<think>Two pandas stand left of the clock.</think>\n<answer>No Objects</answer>",
    "naïve café: 12345, 北京, 🦝 and   spaces\n\n",
)


@pytest.fixture(scope="module")
def tiny() -> Iterator[LoadedModel]:
    yield load_model(TINY_NAME)


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    return train_tokenizer(TEXTS * 3, vocab_size=320)


def test_the_model_is_transformers_own_class(tiny: LoadedModel) -> None:
    assert type(tiny.model) is Qwen2VLForConditionalGeneration


def test_it_has_at_most_7_5_million_parameters(tiny: LoadedModel) -> None:
    assert sum(parameter.numel() for parameter in tiny.model.parameters()) <= 7_500_000


def test_its_folder_in_the_package_has_at_most_16_mb() -> None:
    assert sum(file.stat().st_size for file in tiny_folder().iterdir()) <= 16_000_000


def test_rotary_sections_add_up_to_half_of_the_head(tiny: LoadedModel) -> None:
    config = tiny.model.config.text_config
    assert sum(config.rope_parameters["mrope_section"]) == config.hidden_size // config.num_attention_heads // 2


def test_stop_tokens_are_set_in_text_and_generation_config(tiny: LoadedModel) -> None:
    ids = {token: tiny.tokenizer.convert_tokens_to_ids(token) for token in (END_OF_TEXT, END_OF_TURN)}
    for config in (tiny.model.config.text_config, tiny.model.generation_config):
        assert config.bos_token_id == config.pad_token_id == ids[END_OF_TEXT]
        assert config.eos_token_id == ids[END_OF_TURN]
    assert max(ids.values()) < tiny.model.config.text_config.vocab_size


def test_the_generation_config_restricts_no_sampling() -> None:
    config = GenerationConfig.from_pretrained(tiny_folder())
    assert not config.do_sample
    assert config.top_k in (None, 50)
    assert config.top_p in (None, 1.0)


def test_every_special_token_has_a_row_of_the_embedding(tiny: LoadedModel) -> None:
    ids = [tiny.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS]
    assert len(set(ids)) == len(SPECIAL_TOKENS)
    assert max(ids) < tiny.model.get_input_embeddings().weight.shape[0]
    config = tiny.model.config
    assert tiny.tokenizer.convert_ids_to_tokens(config.image_token_id) == "<|image_pad|>"
    assert tiny.tokenizer.convert_ids_to_tokens(config.vision_start_token_id) == "<|vision_start|>"


@pytest.mark.parametrize("text", TEXTS)
def test_the_shipped_tokenizer_round_trips_any_text(tiny: LoadedModel, text: str) -> None:
    ids = tiny.tokenizer(text, add_special_tokens=False).input_ids
    assert tiny.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text


def test_a_tokenizer_loaded_as_its_own_class_gives_the_same_ids(tokenizer: Qwen2Tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    for loaded in (Qwen2Tokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert type(loaded) is Qwen2Tokenizer
        for text in TEXTS:
            assert loaded(text).input_ids == tokenizer(text).input_ids


def test_the_shipped_tokenizer_survives_saving(tiny: LoadedModel, tmp_path: Path) -> None:
    tiny.tokenizer.save_pretrained(tmp_path)
    loaded = Qwen2Tokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert loaded(text).input_ids == tiny.tokenizer(text).input_ids


def test_a_trained_tokenizer_merges_frequent_text(tokenizer: Qwen2Tokenizer) -> None:
    assert len(tokenizer) == 320
    assert len(tokenizer("<answer>").input_ids) < len("<answer>")
    # Qwen's pre-tokenizer splits digits, so a number is one token a digit
    assert len(tokenizer("411125").input_ids) == 6


def test_each_special_token_is_one_id(tokenizer: Qwen2Tokenizer) -> None:
    for token in SPECIAL_TOKENS:
        assert len(tokenizer(token).input_ids) == 1, token


def test_the_configuration_fits_its_tokenizer(tokenizer: Qwen2Tokenizer) -> None:
    config = tiny_config(tokenizer)
    assert config.text_config.vocab_size == len(tokenizer)
    assert config.text_config.eos_token_id == tokenizer.convert_tokens_to_ids(END_OF_TURN)
    assert config.image_token_id == tokenizer.convert_tokens_to_ids("<|image_pad|>")


def test_the_chat_template_puts_images_before_the_question(tiny: LoadedModel) -> None:
    content = [{"type": "image"}, {"type": "text", "text": "Detect fox."}]
    text = tiny.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Detect fox.<|im_end|>\n<|im_start|>assistant\n"
    )
