"""Facts of every family's row, checked against the models themselves."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import pytest
import torch

from factories import box, detections, sample
from plain_computation import make_groups, make_pair
from tiny_models import IMAGE_TOKEN, MAKERS, tiny_model
from virft.errors import ModelError
from virft.geometry.boxes import BoxSpace
from virft.models.families import FAMILIES, family_of
from virft.tasks import TASKS
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule
from virft.text.answers import render_detection, render_grounding
from virft.types import ImageSize, RewardContext

ORIGINAL, RESIZED = ImageSize(640, 480), ImageSize(560, 420)


def test_every_family_has_a_tiny_model() -> None:
    assert set(MAKERS) == set(FAMILIES)


@pytest.mark.parametrize("model_type", MAKERS)
def test_module_paths_of_the_row_cover_all_parameters(model_type: str) -> None:
    model, family = tiny_model(model_type), family_of(model_type)
    vision = sum(p.numel() for p in family.vision_parameters(model))
    language = sum(p.numel() for p in model.get_submodule(family.language_module).parameters())
    head = 0 if model.config.tie_word_embeddings else model.lm_head.weight.numel()
    assert vision + language + head == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("model_type", MAKERS)
def test_an_image_has_as_many_features_as_placeholders(model_type: str) -> None:
    model, family = tiny_model(model_type), family_of(model_type)
    for prompt, vision, _ in make_groups(model.config):
        counts = family.num_image_tokens(model.config, vision)
        assert prompt.count(IMAGE_TOKEN) == sum(counts)
        assert [len(tensor) for tensor in family.encode_images(model, vision).tokens] == counts


@pytest.mark.parametrize("model_type", MAKERS)
def test_forward_features_are_a_new_object_each_time(model_type: str) -> None:
    model, family = tiny_model(model_type), family_of(model_type)
    with torch.no_grad():
        features = [family.encode_images(model, vision) for _, vision, _ in make_groups(model.config)]
    first, second = family.forward_features(features), family.forward_features(features)
    assert first["mm_encoder_outputs"]["image"] is not second["mm_encoder_outputs"]["image"]
    assert family.forward_features([]) == {}


@pytest.mark.parametrize("model_type", MAKERS)
def test_a_tower_with_another_number_of_tokens_is_refused(model_type: str) -> None:
    _, policy = make_pair(model_type)
    policy.family = replace(policy.family, num_image_tokens=lambda config, vision: [1] * vision.num_images)
    with pytest.raises(ModelError, match=r"the vision tower made \[\d+(, \d+)*\] tokens of these images; expected \[1"):
        policy.encode_images([vision for _, vision, _ in make_groups(policy.config)])


SPACES = {
    "qwen2_vl": BoxSpace.RELATIVE_1000,
    "qwen2_5_vl": BoxSpace.RESIZED_PIXELS,
    "qwen3_vl": BoxSpace.RELATIVE_1000,
    "qwen3_vl_moe": BoxSpace.RELATIVE_1000,
    "glm4v": BoxSpace.RELATIVE_1000,
    "glm4v_moe": BoxSpace.RELATIVE_1000,
    "smolvlm": BoxSpace.RELATIVE_1000,
    "idefics3": BoxSpace.RELATIVE_1000,
    "internvl": BoxSpace.RELATIVE_1000,
    "llava_onevision": BoxSpace.RELATIVE_1000,
    "gemma3": BoxSpace.RELATIVE_1000,
    "gemma4": BoxSpace.RELATIVE_1000,
}


def test_each_family_has_its_own_box_space() -> None:
    assert {name: family.box_space for name, family in FAMILIES.items()} == SPACES


def reward(text: str, task: str, target: object, model_type: str) -> float:
    """Return the robust reward of a text in the family's box space."""
    space = family_of(model_type).box_space
    one = sample(target, task=task, size=ORIGINAL)  # type: ignore[arg-type]
    grader = Grader(rule=RewardRule(), thinking=False, box_space=space)
    report = grader.grade(text, one, resized=RESIZED, context=RewardContext())
    return report.parts["iou" if task == "detection" else "giou"]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_ground_truth_in_the_familys_box_space_has_reward_1_and_in_another_less(model_type: str) -> None:
    # a box of whole numbers in every space: 640, 560 and 1000 wide, 480, 420 and 1000 high
    x1, y1, x2, y2 = 160, 120, 480, 360
    for task, target, render in (
        ("detection", detections((x1, y1, x2, y2)), render_detection),
        ("grounding", box(x1, y1, x2, y2), render_grounding),
    ):
        for space in BoxSpace:
            text = render(target, space=space, original=ORIGINAL, resized=RESIZED)  # type: ignore[operator]
            found = reward(text, task, target, model_type)
            if space is family_of(model_type).box_space:
                assert found == pytest.approx(1.0)
            else:
                assert found < 0.9, (space, task)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_paper_template_names_the_familys_box_space(model_type: str) -> None:
    space = family_of(model_type).box_space
    text = TASKS["detection"].format_question(sample(), template="paper", thinking=False, space=space)
    assert ("from 0 to 1000" in text) == (space is BoxSpace.RELATIVE_1000)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("lfm2_vl", "short convolutions read the tokens before each token in the row"),
        ("qwen3_5", "linear-attention layers carry a recurrent state"),
        ("qwen3_5_moe", "linear-attention layers carry a recurrent state"),
    ],
)
def test_layers_with_a_state_are_refused_with_the_reason(model_type: str, reason: str) -> None:
    with pytest.raises(ModelError, match=f"^models of type '{model_type}' are not supported: their {reason}.*, which"):
        family_of(model_type)


@pytest.mark.parametrize(("model_type", "layer"), [("lfm2_vl", "Lfm2ShortConv"), ("qwen3_5", "Qwen3_5GatedDeltaNet")])
def test_models_that_are_refused_still_have_these_layers(model_type: str, layer: str) -> None:
    # a version of transformers without them would make the refusal untrue
    text = model_type.removesuffix("_vl")
    assert hasattr(import_module(f"transformers.models.{text}.modeling_{text}"), layer)


def test_an_unknown_model_type_raises_with_the_supported_ones() -> None:
    with pytest.raises(ModelError, match="'llava' are not supported; supported are qwen2_vl, qwen2_5_vl, qwen3_vl, qw"):
        family_of("llava")
