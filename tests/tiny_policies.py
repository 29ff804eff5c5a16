"""Helpers of tests that train a tiny policy or sample from it."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from plain_computation import device_of
from virft.generation.generator import EncodedPrompt
from virft.models.load import LoadedModel
from virft.models.policy import Policy
from virft.types import Prompt

_COMPILES = any(map(shutil.which, ("g++", "clang++"))) and Path(sysconfig.get_path("include"), "Python.h").exists()
needs_compiler = pytest.mark.skipif(not _COMPILES, reason="no C++ compiler, or no headers of Python")


def loaded_of(policy: Policy) -> LoadedModel:
    return LoadedModel(
        model=policy.model, tokenizer=None, image_processor=None, family=policy.family, folder=None, card={}
    )


def adapters(loaded: LoadedModel) -> None:
    loaded.add_lora(4, 8)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_" in name:
                # drawn on the CPU: the same numbers on every device
                parameter.copy_(torch.empty(parameter.shape).normal_(0, 0.1, generator=generator))


class Tokenizer:
    """A tokenizer whose tokens are one character each."""

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(chr(0x100 + i) for i in ids)


def encode(policy: Policy, groups: Sequence[Any]) -> list[EncodedPrompt]:
    """Return the prompts of ``make_groups``, encoded for sampling."""
    encoded = []
    for number, (prompt, vision, _) in enumerate(groups):
        positions = policy.family.prompt_positions(policy.model, torch.tensor(prompt), vision)
        with torch.no_grad():
            (features,) = policy.encode_images([vision.to(device_of(policy))])
        made = Prompt(sample_id=str(number), text="", token_ids=tuple(prompt), images=())
        encoded.append(EncodedPrompt(prompt=made, positions=positions, features=features, stream_id=str(number)))
    return encoded
