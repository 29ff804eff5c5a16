"""Kernels and host waits of one decoded token: exact numbers, so that a change of them is seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

import fake_cuda
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


def decode(
    kind: str, num_layers: int, num_tokens: int, *, cuda_graph: bool = False, prompts_per_batch: int | None = None
) -> Costs:
    """Return the costs of sampling ``num_tokens`` for 4 completions of each of two prompts."""
    model = with_large_weights(lambda: QWEN["qwen2_vl"](num_hidden_layers=num_layers), 0)
    _, made = pair_of(model)
    loaded = loaded_of(made)
    if "adapters" in kind:
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
            generator = HFGenerator(
                policy,
                Tokenizer(),
                merge_adapters="merged" in kind,
                cuda_graph=cuda_graph,
                prompts_per_batch=prompts_per_batch,
            )
            generator.generate(prompts, 4, params, StepKey(seed=0, step=0))
    return Costs(gpu.kernels, gpu.waits_by_kind())


def per_token(kind: str, num_layers: int, *, cuda_graph: bool = False) -> Costs:
    """Return the costs of each token after the first."""
    few, more = (decode(kind, num_layers, number, cuda_graph=cuda_graph) for number in (3, 5))
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


KERNELS = {
    "full in float32": (48, 33),
    "full in bfloat16": (55, 34),
    "adapters in bfloat16": (74, 38),
    "merged adapters in bfloat16": (53, 38),
}
"""Kernels of a token: of each layer, and of everything else (embeddings, head, draw)."""


@pytest.mark.parametrize("kind", KERNELS)
def test_kernels_of_a_decoded_token(kind: str) -> None:
    two, four = per_token(kind, 2).kernels, per_token(kind, 4).kernels
    layer = Counter({name: (four[name] - two[name]) / 2 for name in four})
    per_layer = layer.total()
    assert (per_layer, two.total() - 2 * per_layer) == KERNELS[kind], f"{layer}"


def test_kernels_of_a_token_in_a_graph() -> None:
    two, four = (per_token("merged adapters in bfloat16", n, cuda_graph=True).kernels.total() for n in (2, 4))
    # in addition to those of an eager token: the bias of all keys, the state that is written in place, and the place of
    # each row's own newest token
    assert ((four - two) / 2, two - (four - two)) == (53, 56)


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("kind", KERNELS)
def test_no_host_wait_inside_a_token(kind: str, cuda_graph: bool) -> None:
    assert per_token(kind, 2, cuda_graph=cuda_graph).waits == {}


def replayed_steps(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return a list that gets the kernels of each step that a graph replays; a host wait in one is an error."""
    steps: list[list[str]] = []

    def capture(step: Callable[[], None]) -> Callable[[], None]:
        def replay() -> None:
            gpu = fake_cuda._active()
            first, waits = len(gpu.launches), gpu.waits.total()
            step()
            steps.append(gpu.launches[first:])
            assert gpu.waits.total() == waits

        return replay

    monkeypatch.setattr(FakeCUDA, "capture", staticmethod(capture))
    return steps


@pytest.mark.parametrize("kind", KERNELS)
def test_every_step_of_a_graph_launches_the_same_kernels(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = replayed_steps(monkeypatch)
    decode(kind, 2, 20, cuda_graph=True)
    # token 0 is the prefill's, token 1 runs eagerly before the capture
    assert len(steps) == 18
    assert steps[0].count("mm") + steps[0].count("addmm") >= 15, "two layers with 7 products, and the head"
    assert all(step == steps[0] for step in steps)


def test_steps_are_the_same_after_another_prompt_has_taken_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = replayed_steps(monkeypatch)
    decode("merged adapters in bfloat16", 2, 20, cuda_graph=True, prompts_per_batch=1)
    # as above for each of the two prompts; the second one is longer, so its steps are captured anew
    assert len(steps) == 2 * 18
    assert all(step == steps[0] for step in steps)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_waiting_prompts_are_admitted_without_another_wait_for_the_device(cuda_graph: bool) -> None:
    kind = "merged adapters in bfloat16"
    few, more = (decode(kind, 2, number, cuda_graph=cuda_graph, prompts_per_batch=1).waits for number in (16, 32))
    # each of the two prompts takes 16 steps more, during which the host reads once which rows have ended
    assert more - few == {"copy to the host": 2}


def test_the_host_reads_which_rows_have_ended_every_16_tokens() -> None:
    kind = "merged adapters in bfloat16"
    few, more = (decode(kind, 2, number).waits for number in (16, 33))
    # the last token of a limit of 16 needs no check; with 33 tokens, those behind tokens 16 and 32 are new
    assert more - few == {"copy to the host": 2}
