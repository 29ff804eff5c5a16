"""The planned memory of a step is that of real tensors, layer by layer as deep as published models."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

import varlen_reference  # noqa: F401 (the kernel of a GPU, for a CPU)
from virft.config.schema import Config, DataConfig, GRPOConfig, ModelConfig, RunConfig, SamplingConfig
from virft.models.attention.layout import pack_row
from virft.models.built_in import local_folder
from virft.models.families import family_of
from virft.models.load import LoadedModel, prepare_attention
from virft.models.policy import GPU_BLOCK_LOGITS, Policy, TokenRules
from virft.models.stored_dtypes import convert_weights, stored_dtypes
from virft.planning.live_bytes import LiveBytes
from virft.planning.memory import Planner, RowShape
from virft.planning.skeleton import num_bytes
from virft.training.runtime import Runtime
from virft.training.trainable import prepare_for_training, weights_dtype
from virft.types import ImageSize

SHAPE = RowShape(groups=1, completions=4)
DEPTHS = (12, 28)


def folder_of(folder: Path, depth: int) -> Path:
    """Return a folder with the configuration of a narrow Qwen2-VL of ``depth`` layers, without weights."""
    built_in = local_folder("virft-tiny")
    settings = json.loads((built_in / "config.json").read_text(encoding="utf-8"))
    text = settings["text_config"]
    text |= {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": depth}
    text["layer_types"] = ["full_attention"] * depth
    text["rope_parameters"]["mrope_section"] = [2, 3, 3]
    settings["vision_config"] |= {"depth": 1, "hidden_size": 64}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    shutil.copy(built_in / "preprocessor_config.json", folder)
    return folder


def settings_of(folder: Path, **model: Any) -> Config:
    return Config(
        data=DataConfig(train="d"),
        run=RunConfig(dir="r"),
        model=ModelConfig(path=str(folder), **model),
        # no reference, which is a part of its own
        grpo=GRPOConfig(steps=2, prompts_per_step=1, group_size=SHAPE.completions, kl_coef=0.0),
        sampling=SamplingConfig(max_completion_tokens=10),
    )


def planned(settings: Config) -> int:
    """Return the planned bytes of weights, optimizer and an update."""
    planner = Planner(settings, image=ImageSize(112, 112), text_tokens=20)
    option = replace(planner.configured, microbatch_tokens=planner.group_tokens)
    held = sum(size for name, size in planner.held.items() if not name.startswith("image"))
    return held + sum(planner.memory(option).stages["update"].values())


def counted(settings: Config, *, cache: bool = False) -> int:
    """Return the peak of live bytes in the second of two steps with two rows each, as a GPU computes them."""
    source = settings.model.path
    model: Any = AutoModelForImageTextToText.from_config(
        AutoConfig.from_pretrained(source), dtype=weights_dtype(settings.model, getattr(torch, settings.model.dtype))
    )
    family = family_of("qwen2_vl")
    prepare_attention(model, family)
    loaded = LoadedModel(model=model, tokenizer=None, image_processor=None, family=family, folder=None, card={})
    dtype = getattr(torch, settings.model.dtype)
    prepare_for_training(loaded, settings.model, seed=0, dtype=dtype)
    convert_weights(model, stored_dtypes(model, dtype))
    policy = Policy(loaded.model, family, TokenRules(forbidden_ids=(1,)), block_logits=GPU_BLOCK_LOGITS).train()
    is_half = settings.model.dtype == "bfloat16"
    row = pack_row([[5] * 36], [torch.arange(36).expand(3, -1)], [[[7] * 10] * SHAPE.completions])
    row = replace(row, layout=replace(row.layout, method="varlen" if is_half else "tables"))
    trained = [one for one in policy.parameters() if one.requires_grad]
    autocast = Runtime(dtype=getattr(torch, settings.model.dtype)).autocast
    with LiveBytes([*policy.parameters(), *policy.buffers()]) as live:
        optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
        for _ in range(2):
            live.peak = live.now
            for _ in range(2):
                with torch.autocast("cpu", torch.bfloat16) if cache else autocast():
                    logprobs = policy(row, features=[])
                logprobs.sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return live.peak + num_bytes(policy.parameters())


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("train", "dtype"), [("full", "bfloat16"), ("lora", "bfloat16"), ("full", "float32")])
def test_a_step_takes_the_planned_memory(
    train: str, dtype: str, checkpointing: bool, depth: int, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "model", depth)
    settings = settings_of(folder, train=train, dtype=dtype, gradient_checkpointing=checkpointing, lora_rank=4)
    assert planned(settings) == pytest.approx(counted(settings), rel=0.1)


def test_the_count_notices_copies_of_weights(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", DEPTHS[-1])
    settings = settings_of(folder, dtype="bfloat16", gradient_checkpointing=True)
    # autocast's cache holds all linear weights in bfloat16: q and o, k and v, gate, up and down
    copies = 2 * DEPTHS[-1] * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 192)
    plan = planned(settings)
    assert counted(settings, cache=True) - plan > 0.9 * copies
    assert counted(settings) - plan < 0.1 * copies
