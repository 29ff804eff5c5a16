"""Facts about the Qwen-VL families, against the models themselves."""

from __future__ import annotations

import pytest
import torch

from plain_computation import make_groups
from tiny_models import IMAGE_TOKEN, QWEN, VIDEO_TOKEN, tiny_model
from virft.models.families import family_of
from virft.models.vision import ImageFeatures, VisionInputs


@pytest.mark.parametrize("model_type", QWEN)
def test_qwen3_has_deepstack_features_of_two_layers(model_type: str) -> None:
    model = tiny_model(model_type)
    for _, vision, _ in make_groups(model.config):
        features = family_of(model_type).encode_images(model, vision)
        assert len(features.deep) == (2 if model_type.startswith("qwen3_vl") else 0)


def test_tokens_of_several_images_are_counted_separately() -> None:
    vision = VisionInputs(pixel_values=torch.zeros(0), per_image={"grid_thw": torch.tensor([[1, 4, 4], [1, 4, 6]])})
    # patches / 4: 16 / 4 and 24 / 4
    assert family_of("qwen2_vl").num_image_tokens(tiny_model("qwen2_vl").config, vision) == [4, 6]


def test_forward_features_are_a_new_object_each_time() -> None:
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
    assert family_of("qwen2_vl").forbidden_token_ids(None, config) == {IMAGE_TOKEN, VIDEO_TOKEN}
