"""Rendering of prompts: one placeholder per image token, sizes, position ids, think blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from factories import sample
from thinking_models import OPTIONAL, save_thinking_folder
from virft.errors import DataError, ModelError
from virft.models.load import LoadedModel, load_model
from virft.models.renderer import LoadImage, Renderer
from virft.models.tiny import TINY_NAME
from virft.types import ImageSize, Sample


@pytest.fixture(scope="module")
def tiny() -> Iterator[LoadedModel]:
    yield load_model(TINY_NAME)


def image_loader(width: int, height: int) -> LoadImage:
    return lambda path, view: Image.linear_gradient("L").resize((width, height)).convert("RGB")


def sample_of(width: int, height: int) -> Sample:
    return sample(size=(width, height))


@pytest.mark.parametrize(
    ("size", "resized", "tokens"),
    [
        ((112, 112), (112, 112), 16),  # 8 x 8 patches of 14 px, merged 2 x 2
        ((640, 480), (112, 84), 12),  # scaled to at most 12544 px2 in steps of 28
        ((40, 40), (56, 56), 4),  # enlarged to at least 3136 px2
        ((56, 112), (56, 112), 8),
    ],
)
def test_an_image_has_one_placeholder_per_token(
    tiny: LoadedModel, size: tuple[int, int], resized: tuple[int, int], tokens: int
) -> None:
    rendered = Renderer(tiny, image_loader(*size)).render(sample_of(*size), "Detect fox.")
    (image,) = rendered.prompt.images
    assert (image.original, image.resized) == (size, resized)
    assert rendered.prompt.token_ids.count(tiny.model.config.image_token_id) == tokens
    assert rendered.positions.shape == (3, len(rendered.prompt.token_ids))
    # patches of 2 frames x 3 channels x 14 x 14
    assert rendered.vision.pixel_values.shape == (4 * tokens, 1176)


def test_the_prompt_has_its_text_and_the_question(tiny: LoadedModel) -> None:
    prompt = Renderer(tiny, image_loader(112, 112)).render(sample_of(112, 112), "Detect fox.").prompt
    assert prompt.text.count("<|image_pad|>") == 1
    assert "<|vision_end|>Detect fox.<|im_end|>" in prompt.text
    assert prompt.text.endswith("<|im_start|>assistant\n")
    text = tiny.tokenizer.decode(prompt.token_ids)
    assert text.replace("<|image_pad|>" * 16, "<|image_pad|>") == prompt.text


def test_positions_of_an_image_run_along_height_and_width(tiny: LoadedModel) -> None:
    rendered = Renderer(tiny, image_loader(56, 112)).render(sample_of(56, 112), "Detect fox.")
    ids = torch.tensor(rendered.prompt.token_ids)
    inside = rendered.positions[:, ids == tiny.model.config.image_token_id]
    first = int(inside[0, 0])
    # 2 columns and 4 rows of tokens
    assert (inside[1] - first).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert (inside[2] - first).tolist() == [0, 1, 0, 1, 0, 1, 0, 1]


def test_a_long_question_is_never_truncated(tiny: LoadedModel) -> None:
    question = "Detect fox. " * 500
    prompt = Renderer(tiny, image_loader(112, 112)).render(sample_of(112, 112), question).prompt
    assert question in tiny.tokenizer.decode(prompt.token_ids)


def test_a_question_with_an_image_placeholder_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(DataError, match=r"a\.png:fox: the question holds 1 image placeholders of its own"):
        Renderer(tiny, image_loader(112, 112)).render(sample_of(112, 112), "Detect <|image_pad|>.")


def test_an_image_of_extreme_aspect_ratio_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(DataError, match=r"a\.png: 1000 x 4 pixels, an aspect ratio of 250; expected at most 200"):
        Renderer(tiny, image_loader(1000, 4)).render(sample_of(1000, 4), "Detect fox.")


def test_sizes_are_those_of_the_sample(tiny: LoadedModel) -> None:
    refs = Renderer(tiny, image_loader(112, 56)).render(sample_of(112, 56), "?").prompt.images
    assert refs[0].original == ImageSize(112, 56)


def test_several_images_are_numbered_and_the_target_is_named(tiny: LoadedModel) -> None:
    about_the_first = replace(sample_of(112, 112), images=("a.png", "b.png"), image_sizes=(ImageSize(112, 112),) * 2)
    rendered = Renderer(tiny, image_loader(112, 112)).render(about_the_first, "Detect fox.")
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    assert f"Image 1: {mark}\nImage 2: {mark}\nAbout image 1: Detect fox.<|im_end|>" in rendered.prompt.text
    assert rendered.prompt.token_ids.count(tiny.model.config.image_token_id) == 32
    assert rendered.vision.num_images == len(rendered.prompt.images) == 2
    about_the_second = replace(about_the_first, target_image=1)
    assert "About image 2: " in Renderer(tiny, image_loader(112, 112)).render(about_the_second, "?").prompt.text


def test_a_think_block_opened_by_the_template_is_part_of_the_completion(tmp_path: Path) -> None:
    loaded = load_model(str(save_thinking_folder(tmp_path / "always")))
    renderer = Renderer(loaded, image_loader(112, 112))
    prompt = renderer.render(sample_of(112, 112), "Detect fox.", thinking=True).prompt
    assert prompt.text.endswith("<|im_start|>assistant\n<think>\n")
    assert prompt.opened == "<think>\n"
    assert loaded.tokenizer.decode(prompt.token_ids).endswith(prompt.opened)


def test_a_template_that_opens_a_think_block_is_refused_without_thinking(tmp_path: Path) -> None:
    renderer = Renderer(load_model(str(save_thinking_folder(tmp_path / "always"))), image_loader(112, 112))
    message = (
        r"begins a think block in every completion \(prompts end with '<think>\\n'\); expected prompt\.thinking = true"
    )
    with pytest.raises(ModelError, match=message):
        renderer.render(sample_of(112, 112), "Detect fox.", thinking=False)
    with pytest.raises(ModelError, match=message):
        renderer.check(thinking=False)
    renderer.check(thinking=True)


def test_the_template_gets_the_thinking_setting(tmp_path: Path) -> None:
    loaded = load_model(str(save_thinking_folder(tmp_path / "optional", OPTIONAL)))
    renderer = Renderer(loaded, image_loader(112, 112))
    on, off = (renderer.render(sample_of(112, 112), "?", thinking=thinking).prompt for thinking in (True, False))
    assert (on.opened, off.opened) == ("<think>\n", "")
    assert off.text.endswith("<think>\n\n</think>\n\n")


def test_a_think_tag_in_the_question_opens_no_completion(tiny: LoadedModel) -> None:
    assert Renderer(tiny, image_loader(112, 112)).render(sample_of(112, 112), "Say <think>\n").prompt.opened == ""
