"""Facts about the Qwen-VL families, against the models themselves."""

from __future__ import annotations

import pytest
import torch

from plain_computation import make_groups
from tiny_models import IMAGE_TOKEN, MAKERS, VIDEO_TOKEN, tiny_model
from virft.boxes import BoxSpace
from virft.errors import ModelError
from virft.models.families import FAMILIES, family_of
from virft.models.vision import ImageFeatures, VisionInputs


@pytest.mark.parametrize("model_type", MAKERS)
def test_modules_are_where_the_row_says(model_type: str) -> None:
    model, family = tiny_model(model_type), family_of(model_type)
    vision = sum(p.numel() for p in model.get_submodule(family.vision_module).parameters())
    language = sum(p.numel() for p in model.get_submodule(family.language_module).parameters())
    head = 0 if model.config.tie_word_embeddings else model.lm_head.weight.numel()
    assert vision + language + head == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("model_type", MAKERS)
def test_an_image_has_as_many_features_as_placeholders(model_type: str) -> None:
    model, family = tiny_model(model_type), family_of(model_type)
    for prompt, vision, _ in make_groups(model.config):
        (count,) = family.num_image_tokens(model.config, vision)
        assert prompt.count(family.image_placeholder_id(model.config)) == count
        features = family.encode_images(model, vision)
        assert [tensor.shape[0] for tensor in features.tokens] == [count]
        # Qwen3-VL hands features of two of its tower's layers to the language model
        assert len(features.deep) == (2 if model_type == "qwen3_vl" else 0)


def test_several_images_are_counted_apart() -> None:
    vision = VisionInputs(pixel_values=torch.zeros(0), grid_thw=torch.tensor([[1, 4, 4], [1, 4, 6]]))
    # patches / 4: 16 / 4 and 24 / 4
    assert family_of("qwen2_vl").num_image_tokens(tiny_model("qwen2_vl").config, vision) == [4, 6]


def test_features_are_handed_over_in_a_new_object_each_time() -> None:
    # transformers may rewrite the object in place; the cached features must not change
    one = ImageFeatures(tokens=(torch.ones(2, 3),))
    family = family_of("qwen2_vl")
    first, second = family.forward_features([one]), family.forward_features([one])
    assert first["mm_encoder_outputs"]["image"] is not second["mm_encoder_outputs"]["image"]
    first["mm_encoder_outputs"]["image"].pooler_output.append(None)
    assert len(one.tokens) == 1
    assert family.forward_features([ImageFeatures(tokens=())]) == {}


def test_placeholders_of_images_and_videos_are_forbidden() -> None:
    config = tiny_model("qwen2_vl").config
    assert family_of("qwen2_vl").forbidden_token_ids(config) == {IMAGE_TOKEN, VIDEO_TOKEN}


def test_each_family_has_its_own_box_space() -> None:
    assert {name: family.box_space for name, family in FAMILIES.items()} == {
        "qwen2_vl": BoxSpace.RELATIVE_1000,
        "qwen2_5_vl": BoxSpace.RESIZED_PIXELS,
        "qwen3_vl": BoxSpace.RELATIVE_1000,
    }


def test_an_unknown_type_is_told_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="'llava' are not supported; supported are qwen2_vl, qwen2_5_vl, qwen3_vl"):
        family_of("llava")
