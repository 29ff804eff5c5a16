"""Attention of a packed row by the kernel for sequences of different lengths equals transformers and the tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import varlen_reference
from literal_grpo import assert_same_gradients
from plain_computation import make_groups, make_pair, pair_of, plain_logprobs
from tiny_models import MAKERS, tiny_model_with_window
from virft.models.attention import shared_prompt, varlen
from virft.models.attention.layout import PackedRow, pack_row
from virft.models.attention.varlen import takes_varlen

TOLERANCE = 1e-5
WITH_WINDOW = "qwen2_vl with a window"


def pair(name: str) -> Any:
    return pair_of(tiny_model_with_window()) if name == WITH_WINDOW else make_pair(name)


def row_of(policy: Any, groups: Any, method: str | None) -> PackedRow:
    positions = [policy.family.prompt_positions(policy.model, torch.tensor(ids), vision) for ids, vision, _ in groups]
    row = pack_row([ids for ids, _, _ in groups], positions, [completions for _, _, completions in groups])
    return replace(row, layout=replace(row.layout, method=method))


def logprobs(policy: Any, groups: Any, method: str | None = "varlen") -> Tensor:
    found: Tensor = policy(row_of(policy, groups, method), vision=[vision for _, vision, _ in groups])
    return found


@pytest.mark.parametrize("name", [*MAKERS, WITH_WINDOW])
def test_logprobs_and_gradients_equal_transformers(name: str) -> None:
    plain, policy = pair(name)
    groups = make_groups(plain.config)
    varlen_reference.calls.clear()
    expected, found = plain_logprobs(plain, groups), logprobs(policy, groups)
    # Gemma 3 attends both ways inside images, which the kernel cannot
    windows = {"gemma3": [], "gemma4": [[4, 0], [-1, 0]] * 2, WITH_WINDOW: [[4, 0]] * 3}.get(name, [[-1, 0]] * 3)
    assert [call["window"] for call in varlen_reference.calls] == windows
    assert all(call["gqa"] for call in varlen_reference.calls)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
    weights = torch.randn(len(expected), generator=torch.Generator().manual_seed(1)) / len(expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    assert_same_gradients(plain, policy.model, at_least=20)


@pytest.mark.parametrize("window", [None, 1, 5, 14])
def test_attention_equals_that_of_tables(window: int | None, device: torch.device) -> None:
    # a GPU has the kernel in bfloat16 only; elsewhere it is written out, with log-sum-exps in float32
    dtype, tolerance = (torch.float64, 1e-5) if device.type == "cpu" else (torch.bfloat16, 0.05)
    generator = torch.Generator().manual_seed(0)
    prompts, lengths = (9, 14), ([7, 4, 1], [3, 0, 6, 2])
    row = pack_row(
        [[0] * length for length in prompts],
        [torch.arange(length)[None] for length in prompts],
        [[[0] * own for own in group] for group in lengths],
    )
    tokens = len(row.token_ids)
    inputs = [torch.randn(heads, tokens, 16, dtype=torch.float64, generator=generator).to(dtype) for heads in (6, 2, 2)]
    outer = torch.randn(1, tokens, 6, 16, dtype=torch.float64, generator=generator)

    def compute(method: Any, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        on_device = row.to(device)
        layout = replace(on_device.layout, method=method)
        query, key, value = (one.to(device, dtype).requires_grad_() for one in inputs)
        output = shared_prompt._packed(query, key, value, 0.25, window, layout)
        gradients = torch.autograd.grad((output * outer.to(device, dtype)).sum(), (query, key, value))
        return [one.detach().cpu().double() for one in (output, *gradients)]

    expected = compute(None, torch.device("cpu"), torch.float64)
    for one, other in zip(compute("varlen", device, dtype), expected, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance if dtype == torch.bfloat16 else 0)


def test_keys_of_a_sibling_change_the_result() -> None:
    _, policy = make_pair("qwen2_vl")
    groups = make_groups(policy.config)
    row = row_of(policy, groups, "varlen")
    segments = row.layout.segments
    place, length = segments.key_place.clone(), len(groups[0][0])
    own = int(segments.key_starts[2]) + length  # the first token of the second completion, after one of 7 tokens
    assert place[own] == length + 7
    place[own] = length
    wrong = replace(row, layout=replace(row.layout, segments=replace(segments, key_place=place)))
    vision = [one for _, one, _ in groups]
    with torch.no_grad():
        difference = (policy(wrong, vision=vision) - policy(row, vision=vision)).abs()
    # the prompt predicts the first token, and tokens 7 to 10 are the second completion
    assert difference[8:11].min() > 1e-3 and difference[:8].max() < TOLERANCE


def test_scores_of_tables_on_a_gpu_are_not_rounded() -> None:
    # scores of 300 to 308, whose differences vanish in bfloat16 (steps of 2); the exact attention is a softmax of 0..7
    generator = torch.Generator().manual_seed(0)
    row = pack_row([[0]], [torch.zeros(1, 1, dtype=torch.long)], [[[0] * 7]])
    layout = replace(row.layout, method="tables")
    query = torch.zeros(1, 8, 16)
    key, value = torch.zeros(1, 8, 16), torch.randn(1, 8, 16, generator=generator)
    query[..., 0], query[..., 1] = 20, 1
    key[..., 0], key[0, :, 1] = 15, torch.arange(8.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = shared_prompt._packed(*(one.bfloat16() for one in (query, key, value)), 1.0, None, layout)
    expected = torch.softmax(torch.arange(8.0), 0) @ value[0]
    torch.testing.assert_close(found[0, -1, 0].float(), expected, atol=0.02, rtol=0)


def test_the_kernel_is_not_used_where_it_cannot_serve() -> None:
    row = pack_row([[0, 0]], [torch.arange(2)[None]], [[[0]]])
    cpu = torch.zeros(2, 3, 16, dtype=torch.bfloat16)
    assert not takes_varlen(cpu, cpu, row.layout)
    assert takes_varlen(cpu, cpu, replace(row.layout, method="varlen"))
    both_ways = row.layout.with_image_blocks(torch.tensor([True, True, False]))
    assert not takes_varlen(cpu, cpu, replace(both_ways, method="varlen"))


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ({"dtype": torch.float32}, "in float32 (expected bfloat16)"),
        ({"bidirectional_images": True}, "for images whose tokens attend to each other in both directions"),
        ({"head_dim": 60}, "for heads of 60 numbers (expected a multiple of 8, at most 256)"),
        ({}, "on this GPU, or in this build of PyTorch"),
    ],
)
def test_a_run_names_the_reason_why_scores_are_stored(case: Any, reason: str, monkeypatch: Any) -> None:
    facts = {"dtype": torch.bfloat16, "head_dim": 128, "bidirectional_images": False} | case
    monkeypatch.setattr(varlen, "has_varlen", lambda device: bool(case))
    note = varlen.note_on_stored_scores(torch.device("cuda"), **facts)
    assert note == f"attention stores the scores of each packed row: there is no fused kernel for it {reason}"
    assert varlen.note_on_stored_scores(torch.device("cpu"), **facts) is None
    monkeypatch.setattr(varlen, "has_varlen", lambda device: True)
    assert (varlen.note_on_stored_scores(torch.device("cuda"), **facts) is None) is (not case)
