"""Planned memory of towers of tiles, and of rows of every family, equals the measured one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from run_parts import load_model_of
from tiny_folders import TILED, save_tiny_folder
from tiny_models import MAKERS
from virft.config.schema import Config, DataConfig, GRPOConfig, ModelConfig, RunConfig, SamplingConfig
from virft.models.attention.layout import pack_row
from virft.models.families import family_of
from virft.models.load import LoadedModel, prepare_attention
from virft.models.policy import make_policy
from virft.models.vision import VisionInputs
from virft.planning.live_bytes import LiveBytes
from virft.planning.memory import Planner, RowShape
from virft.planning.skeleton import replace_tensors, unfilled
from virft.planning.towers import Tiles, Tower
from virft.types import ImageSize

PIECES = 5
"""Four tiles and the whole image."""
SIDE = 112 // 14


def tower_of_size(model_type: str) -> Any:
    """The family's tiny model with a tower whose layers matter: 4 of width 128, tiles of 112 pixels."""
    config = copy.deepcopy(MAKERS[model_type]().config)
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "image_size": 112, "patch_size": 14}
    for name, value in sizes.items():
        is_pair = isinstance(getattr(config.vision_config, name), list | tuple)
        setattr(config.vision_config, name, [value, value] if is_pair else value)
    if model_type == "llava_onevision":
        config.image_grid_pinpoints = [[112, 224], [224, 112], [224, 224]]
        config.vision_aspect_ratio = "anyres_max_9"
    return type(MAKERS[model_type]())(config)


def _plain() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def loaded_tower(model_type: str, model: Any) -> LoadedModel:
    family = family_of(model_type)
    prepare_attention(model, family)
    return LoadedModel(model=model, tokenizer=None, image_processor=None, family=family, folder=None, card={})


def seen(model_type: str) -> VisionInputs:
    """An image of 2 x 2 tiles and a whole one; Gemma has no tiles, so five images."""
    pieces = [1] * PIECES if model_type == "gemma3" else [PIECES]
    per_image = {"rows": [2], "columns": [2], "tiles": [[2, 2]], "pieces": pieces, "size": [[224, 224]]}
    return VisionInputs(
        pixel_values=torch.randn(PIECES, 3, 112, 112),
        per_image={name: torch.tensor(value) for name, value in per_image.items()},
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("model_type", TILED)
def test_a_trained_tower_of_tiles_saves_what_is_planned(model_type: str, checkpointing: bool) -> None:
    model = tower_of_size(model_type).train()
    loaded = loaded_tower(model_type, model)
    if checkpointing:
        loaded.checkpoint_gradients()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    grads = [one.grad for one in model.parameters()]
    vision = seen(model_type)
    with LiveBytes([*model.parameters(), *model.buffers(), *grads, vision.pixel_values]) as live:
        features = loaded.family.encode_images(model, vision)
        saved = live.now
        torch.cat(features.tokens).sum().backward()
    without_contents = loaded_tower(model_type, tower_of_size(model_type).train())
    if checkpointing:
        without_contents.checkpoint_gradients()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    replace_tensors(without_contents.model, lambda tensor: unfilled(tensor, mode))
    tower = Tower(without_contents, mode, item=4, precision=_plain)
    planned = tower.saved(Tiles(pieces=PIECES, patches=SIDE * SIDE), checkpointing=checkpointing)
    # Idefics3 and SmolVLM choose the pieces that are not empty, which copies all pixels
    copied = 4 * vision.pixel_values.numel() if model_type in ("idefics3", "smolvlm") else 0
    assert planned + copied == pytest.approx(live.peak if checkpointing else saved, rel=0.1)


@pytest.mark.parametrize("model_type", [*TILED, "glm4v", "gemma4"])
def test_planned_activations_of_every_family_equal_the_real_ones(tmp_path: Path, model_type: str) -> None:
    settings = Config(
        data=DataConfig(train="d"),
        run=RunConfig(dir="r"),
        model=ModelConfig(path=str(save_tiny_folder(tmp_path, model_type)), train="lora", lora_rank=4, dtype="float32"),
        grpo=GRPOConfig(steps=2, prompts_per_step=3, group_size=4),
        sampling=SamplingConfig(max_completion_tokens=10),
    )
    planner = Planner(settings, image=ImageSize(40, 40), text_tokens=200)
    # as many as in test_the_dry_run_counts_image_tokens, whose images are square too
    tokens = {
        "smolvlm": 40, "idefics3": 40, "internvl": 20, "llava_onevision": 46, "gemma3": 4, "glm4v": 25, "gemma4": 64,
    }[model_type]  # fmt: skip
    assert planner.prompt.image_tokens == tokens
    predicted = planner.activations(RowShape(groups=2, completions=4), False)
    loaded = load_model_of(settings)
    for parameter in loaded.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    policy = make_policy(loaded, temperature=1.0).train()
    prompt = [loaded.model.config.image_token_id] * tokens + [5] * 200
    row = pack_row([prompt] * 2, [torch.arange(len(prompt))[None]] * 2, [[[7] * 10] * 4] * 2)
    known = [x for p in loaded.model.parameters() for x in (p, p.grad) if x is not None]
    with LiveBytes([*known, *loaded.model.buffers()]) as live:
        logprobs = policy(row, features=[])
        saved = live.now
        logprobs.sum().backward()
    assert predicted.saved == pytest.approx(saved, rel=0.05)
    assert predicted.saved + predicted.temporary == pytest.approx(live.peak, rel=0.05)


def test_a_frozen_tower_is_planned_for_one_image_with_all_its_tiles(tmp_path: Path) -> None:
    settings = Config(
        data=DataConfig(train="d"),
        run=RunConfig(dir="r"),
        model=ModelConfig(path=str(save_tiny_folder(tmp_path, "smolvlm"))),
    )
    planner = Planner(settings, image=ImageSize(40, 40), text_tokens=20)
    # 3 x 3 tiles and the whole, 4 x 4 patches each; 3 x 16 x 16 numbers a tile
    assert planner.prompt.tiles == Tiles(pieces=10, patches=16)
    assert planner.prompt.pixel_values == 10 * 768
    one = planner.memory(planner.configured).stages["vision tower"]["one forward pass"]
    # allocated together in a block: at least its input, a norm of it and the MLP's inner numbers, float32
    assert one >= 160 * (16 + 16 + 24) * 4
