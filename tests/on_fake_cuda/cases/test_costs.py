"""Kernels and host waits of one decoded token: exact numbers, so that a change of them is seen."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest
import torch

import varlen_reference
from fake_cuda import COPY, CUDA, FakeCUDA
from plain_computation import pair_of
from tiny_models import EOS, IMAGE_TOKEN, QWEN, with_large_weights
from tiny_policies import Tokenizer, adapters, loaded_of
from virft.generation.generator import EncodedPrompt, GenerationParams
from virft.generation.hf_generator import HFGenerator
from virft.generation.random_streams import StepKey
from virft.models.attention.layout import pack_row
from virft.models.policy import Policy, TokenRules
from virft.models.vision import ImageFeatures
from virft.types import Prompt


class Costs(NamedTuple):
    """Kernels by operation, and host waits by kind."""

    kernels: Counter[str]
    waits: Counter[str]


def decode(kind: str, num_layers: int, num_tokens: int) -> Costs:
    """Return the costs of sampling ``num_tokens`` for 4 completions of each of two prompts."""
    model = with_large_weights(lambda: QWEN["qwen2_vl"](num_hidden_layers=num_layers), 0)
    _, made = pair_of(model)
    loaded = loaded_of(made)
    if kind == "adapters in bfloat16":
        loaded.model.to(torch.bfloat16)
        adapters(loaded)
    # no completion ends before its last token
    policy = Policy(loaded.model, made.family, TokenRules(temperature=0.9, forbidden_ids=(IMAGE_TOKEN, EOS)))
    prompts = []
    for number, length in enumerate((7, 9)):
        prompt = Prompt(sample_id=str(number), text="", token_ids=tuple(range(length)), images=())
        positions, features = torch.arange(length).expand(3, -1), ImageFeatures(tokens=())
        prompts.append(EncodedPrompt(prompt=prompt, positions=positions, features=features, stream_id=str(number)))
    with FakeCUDA() as gpu:
        policy.to(CUDA)
        with torch.autocast("cuda", torch.bfloat16, enabled="bfloat16" in kind):
            gpu.kernels.clear()
            gpu.waits.clear()
            params = GenerationParams(max_completion_tokens=num_tokens)
            HFGenerator(policy, Tokenizer()).generate(prompts, 4, params, StepKey(seed=0, step=0))
    return Costs(gpu.kernels, gpu.waits_by_kind())


def per_token(kind: str, num_layers: int) -> Costs:
    """Return the costs of each token after the first."""
    few, more = (decode(kind, num_layers, number) for number in (3, 5))
    differences = []
    for before, after in zip(few, more, strict=True):
        changes = {name: after[name] - before[name] for name in after | before}
        assert not any(change % 2 for change in changes.values()), changes
        differences.append(Counter({name: change // 2 for name, change in changes.items() if change}))
    return Costs(*differences)


def update(num_layers: int) -> Counter[str]:
    """Return the kernels of forward and backward over a row with adapters in bfloat16, and check its attention."""
    loaded = loaded_of(pair_of(with_large_weights(lambda: QWEN["qwen2_vl"](num_hidden_layers=num_layers), 0))[1])
    loaded.model.to(torch.bfloat16)
    adapters(loaded)
    policy = Policy(loaded.model, loaded.family, TokenRules(forbidden_ids=(IMAGE_TOKEN,)))
    row = pack_row([[5] * 60], [torch.arange(60).expand(3, -1)], [[[7] * 20] * 8])
    with FakeCUDA() as gpu:
        policy.to(CUDA).train()
        row = row.to(CUDA)
        gpu.kernels.clear()
        gpu.waits.clear()
        varlen_reference.calls.clear()
        with torch.autocast("cuda", torch.bfloat16):
            logprobs = policy(row, features=[ImageFeatures(tokens=())])
        logprobs.sum().backward()
    expected = {"dtype": torch.bfloat16, "window": [-1, 0], "is_causal": True, "gqa": True}
    assert varlen_reference.calls == [expected] * num_layers
    assert gpu.kernels["_varlen_attn"] == gpu.kernels["_varlen_attn_backward"] == num_layers
    assert not gpu.kernels["bmm"] + gpu.kernels["_softmax"]  # no scores in tables
    assert set(gpu.waits_by_kind()) <= {COPY}  # the forbidden ids
    return gpu.kernels


def test_kernels_of_an_updated_row() -> None:
    # 28 layers: 5,355; with tables of scores and PEFT's own layers 8,156
    two, four = update(2).total(), update(4).total()
    per_layer = (four - two) / 2
    assert (per_layer, two - 2 * per_layer) == (190, 35)


KERNELS = {"full in float32": (53, 37), "full in bfloat16": (66, 38), "adapters in bfloat16": (80, 42)}
"""Kernels of a token: of each layer, and of everything else (embeddings, head, draw)."""


@pytest.mark.parametrize("kind", KERNELS)
def test_kernels_of_a_decoded_token(kind: str) -> None:
    two, four = per_token(kind, 2).kernels, per_token(kind, 4).kernels
    layer = Counter({name: (four[name] - two[name]) / 2 for name in four})
    per_layer = layer.total()
    assert (per_layer, two.total() - 2 * per_layer) == KERNELS[kind], f"{layer}"


def test_host_waits_of_a_decoded_token() -> None:
    # inside a token: the forbidden ids are copied, and the number of ended rows is read; `tolist` comes after the last
    assert per_token("adapters in bfloat16", 2).waits == {COPY: 1, "_local_scalar_dense": 1, "tolist": 3}
