"""Every family samples, scores and learns on the device as on a CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fake_cuda import CUDA, DeviceMixing, FakeCUDA, to_cpu
from plain_computation import make_groups, make_pair
from tiny_models import EOS, MAKERS
from tiny_policies import Tokenizer
from virft.generation import hf_generator
from virft.generation.generator import EncodedPrompt, GenerationParams
from virft.generation.hf_generator import HFGenerator
from virft.generation.random_streams import StepKey
from virft.models.attention import shared_prompt
from virft.models.attention.layout import AttentionLayout, pack_row
from virft.models.policy import TokenRules
from virft.types import Completion, Prompt

CPU = torch.device("cpu")
PARAMS = GenerationParams(max_completion_tokens=10, temperature=0.9)


class Computed(NamedTuple):
    """Sampled completions of each prompt, log-probs of given ones, and the gradient of their sum."""

    drawn: list[list[Completion]]
    logprobs: Tensor
    gradients: dict[str, Tensor]


def compute(
    model_type: str, device: torch.device, *, cuda_graph: bool = False, prompts_per_batch: int | None = None
) -> Computed:
    _, policy = make_pair(model_type)
    policy.model.generation_config.eos_token_id = [EOS, *range(20)]
    policy.to(device)
    groups = make_groups(policy.config)
    encoded = []
    for number, (ids, vision, _) in enumerate(groups):
        positions = policy.family.prompt_positions(policy.model, torch.tensor(ids), vision)
        with torch.no_grad():
            (features,) = policy.encode_images([vision.to(device)])
        prompt = Prompt(sample_id=str(number), text="", token_ids=tuple(ids), images=())
        encoded.append(EncodedPrompt(prompt=prompt, positions=positions, features=features, stream_id=str(number)))
    generator = HFGenerator(policy, Tokenizer(), cuda_graph=cuda_graph, prompts_per_batch=prompts_per_batch)
    drawn = generator.generate(encoded, 4, PARAMS, StepKey(seed=5, step=2))
    row = pack_row([g[0] for g in groups], [one.positions for one in encoded], [g[2] for g in groups]).to(device)
    logprobs = policy.train()(row, vision=[g[1].to(device) for g in groups])
    logprobs.sum().backward()
    gradients = {name: to_cpu(one.grad) for name, one in policy.named_parameters() if one.grad is not None}
    return Computed(drawn, to_cpu(logprobs), gradients)


@pytest.mark.parametrize(("cuda_graph", "prompts_per_batch"), [(False, None), (True, None), (False, 1), (True, 1)])
@pytest.mark.parametrize("model_type", MAKERS)
def test_a_family_computes_as_on_a_cpu(model_type: str, cuda_graph: bool, prompts_per_batch: int | None) -> None:
    expected = compute(model_type, CPU)
    with FakeCUDA() as gpu:
        found = compute(model_type, CUDA, cuda_graph=cuda_graph, prompts_per_batch=prompts_per_batch)
    assert gpu.num_kernels > 1000
    for group, own in zip(expected.drawn, found.drawn, strict=True):
        assert [one.token_ids for one in own] == [one.token_ids for one in group]
    torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-5, rtol=0)
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        size = gradient.norm().clamp_min(1e-3)
        torch.testing.assert_close(found.gradients[name] / size, gradient / size, atol=2e-5, rtol=0, msg=name)


def _without(name: str) -> Callable[[AttentionLayout, torch.device], AttentionLayout]:
    move = AttentionLayout.to

    def to(self: AttentionLayout, device: torch.device) -> AttentionLayout:
        return dataclasses.replace(move(self, device), **{name: getattr(self, name)})

    return to


def _bias_on_cpu(tokens: int, window: int | None, repeat: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return shared_prompt._as_bias(torch.ones(tokens, tokens, dtype=torch.bool).tril(), dtype).repeat(repeat, 1)


def _rules_on_cpu(self: TokenRules, logits: Tensor, _: Tensor | None = None) -> Tensor:
    return torch.log_softmax(logits.float().index_fill_(-1, torch.tensor(self.forbidden_ids), float("-inf")), -1)


_draw = hf_generator.draw
FAULTS: dict[str, tuple[Any, str, Any]] = {
    "lengths of prompts": (AttentionLayout, "to", _without("prompt_lengths")),
    "places in the row": (AttentionLayout, "to", _without("row_place")),
    "places in the tables": (AttentionLayout, "to", _without("table_place")),
    "bias": (shared_prompt, "causal_bias", _bias_on_cpu),
    "random numbers": (hf_generator, "draw", lambda distribution, uniforms: _draw(distribution, to_cpu(uniforms))),
    "forbidden ids": (TokenRules, "log_distribution", _rules_on_cpu),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_tensor_that_is_left_on_the_cpu_is_found(name: str, gpu: FakeCUDA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*FAULTS[name])
    with pytest.raises(DeviceMixing, match="a CPU tensor"):
        compute("qwen2_vl", CUDA)
