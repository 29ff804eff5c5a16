"""Gemma 4: prompts and sizes equal those of transformers' own processor; larger models are refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from transformers.models.gemma4 import image_processing_pil_gemma4

from factories import sample
from plain_computation import make_groups, make_pair, plain_logprobs, shared_logprobs
from tiny_folders import striped_image, tiny_chat_model, tiny_image_processor, tiny_tokenizer
from virft.errors import DataError, ModelError
from virft.models.families import family_of
from virft.models.layer_shapes import kv_sources, layer_shapes
from virft.models.load import wrap_model
from virft.models.renderer import RenderedPrompt, Renderer
from virft.types import ImageSize

FAMILY = family_of("gemma4")
SIZES = [(60, 40)], [(16, 16)], [(30, 90)], [(200, 31)], [(60, 40), (20, 50)], [(48, 48), (16, 12)], [(500, 3)]


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The processor of transformers without sounds and videos, which need other libraries."""
    # It imports two names from the image processor for torchvision, which the one for PIL has, too.
    needs_torchvision = "transformers.models.gemma4.image_processing_gemma4"
    monkeypatch.setitem(sys.modules, needs_torchvision, image_processing_pil_gemma4)
    made = import_module("transformers.models.gemma4.processing_gemma4").Gemma4Processor
    monkeypatch.setattr(made, "check_argument_for_proper_class", lambda *_: None)
    return made(None, tiny_image_processor("gemma4"), tiny_tokenizer("gemma4"), None)


def render(sizes: list[tuple[int, int]], question: str = "Where is it?") -> RenderedPrompt:
    about_the_last = replace(
        sample(id="a"),
        images=tuple(str(number) for number in range(len(sizes))),
        image_sizes=tuple(ImageSize(*size) for size in sizes),
        target_image=len(sizes) - 1,
    )
    loaded = wrap_model(tiny_chat_model("gemma4"), tiny_tokenizer("gemma4"), tiny_image_processor("gemma4"))
    return Renderer(loaded, lambda path, view: striped_image(*sizes[int(path)], int(path))).render(
        about_the_last, question
    )


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_prompts_and_pixels_equal_those_of_the_processor(sizes: list[tuple[int, int]], processor: Any) -> None:
    rendered = render(sizes)
    images = [striped_image(*size, number) for number, size in enumerate(sizes)]
    made = processor(images=[images], text=[rendered.prompt.text], return_tensors="pt", add_special_tokens=False)
    assert list(rendered.prompt.token_ids) == made["input_ids"][0].tolist()
    assert torch.equal(rendered.vision.pixel_values, made["pixel_values"])
    places = made["image_position_ids"]
    assert torch.equal(rendered.vision.per_image["places"], places)
    sides = [(image.resized.width // 4 - 1, image.resized.height // 4 - 1) for image in rendered.prompt.images]
    assert sides == [tuple(one.max(0).values.tolist()) for one in places]


def test_a_question_with_an_image_placeholder_is_refused() -> None:
    with pytest.raises(DataError, match="a: the question holds 1 image placeholders of its own; expected none"):
        render([(20, 20)], "Where is <|image|>?")


def test_placeholders_and_markers_are_forbidden() -> None:
    config, tokenizer = tiny_chat_model("gemma4").config, tiny_tokenizer("gemma4")
    found = {tokenizer.convert_ids_to_tokens(token) for token in FAMILY.forbidden_token_ids(tokenizer, config)}
    assert found == {"<|image>", "<image|>", "<|image|>", "<|video|>", "<|audio|>", "<|audio>", "<audio|>"}


# 70 tokens are 70 * 12 * 12 = 10,080 pixels
@pytest.mark.parametrize(("limit", "tokens"), [(10_080, 70), (20_159, 70), (20_160, 140), (10**7, 1120)])
def test_a_pixel_budget_is_the_largest_number_of_tokens_that_fits(limit: int, tokens: int) -> None:
    processor = tiny_image_processor("gemma4")
    FAMILY.limit_pixels(processor, None, limit)
    assert processor.max_soft_tokens == tokens
    for size in ((300, 200), (60, 90)):
        vision = FAMILY.read_images(processor, [striped_image(*size)])
        (seen,) = FAMILY.resized_sizes(processor, vision)
        assert seen.width * seen.height <= limit
        (count,) = FAMILY.num_image_tokens(tiny_chat_model("gemma4").config, vision)
        assert count == seen.width * seen.height // 144 <= tokens


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (None, 10_079, "model.max_pixels is 10079; expected at least 10080, 70 image tokens"),
        (100, None, "model.min_pixels is set, but Gemma 4 scales every image to one area; expected max_pixels only"),
    ],
)
def test_impossible_pixel_budgets_are_refused(low: int | None, high: int | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        FAMILY.limit_pixels(tiny_image_processor("gemma4"), low, high)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention_k_eq_v": True, "num_global_key_value_heads": 1}, "have 1 and 2 KV heads"),
        ({"use_bidirectional_attention": "vision"}, "bidirectional attention vision"),
        ({"enable_moe_block": True}, "and experts"),
    ],
)
def test_larger_models_are_refused(settings: dict[str, Any], message: str) -> None:
    config = tiny_chat_model("gemma4").config
    text = config.text_config.to_dict()
    text.pop("per_layer_config", None)
    config.text_config = type(config.text_config)(**text | {"global_head_dim": 16} | settings)
    with pytest.raises(ModelError, match=rf"^m: layers of this Gemma 4 .*{message}.*, as in E2B and E4B$"):
        FAMILY.check_processor(tiny_image_processor("gemma4"), config, "m")


def test_logits_are_soft_capped() -> None:
    plain, policy = make_pair("gemma4")
    groups = make_groups(plain.config)
    expected = plain_logprobs(plain, groups)
    torch.testing.assert_close(shared_logprobs(policy, groups), expected, atol=1e-5, rtol=0)
    plain.config.text_config.final_logit_softcapping = None
    assert (plain_logprobs(plain, groups) - expected).abs().max() > 0.1


def test_the_last_layers_use_keys_and_values_of_the_last_own_layer_of_their_kind() -> None:
    plain, _ = make_pair("gemma4")
    text = plain.config.text_config
    assert kv_sources(text) == [0, 1, 0, 1]
    # 2 heads of 8 numbers, and of 16
    assert [layer.kv_width for layer in layer_shapes(text)] == [16, 32, 0, 0]
