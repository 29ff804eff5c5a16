"""The fused attention of completions is softmax attention over [prompt | own tokens], and so are its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from virft.models.attention import shared_prompt
from virft.models.attention.layout import AttentionLayout, pack_row

_KV, _REPEAT, _DIM = 2, 3, 16
_GROUPS = {"equal": [[7, 4, 7], [7, 7, 2]], "unequal": [[7, 4, 7], [1, 7]]}


def _make(
    prompts: list[int], completions: list[list[int]], dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], AttentionLayout]:
    row = pack_row(
        [[1] * length for length in prompts],
        [torch.arange(length)[None] for length in prompts],
        [[[1] * count for count in group] for group in completions],
    )
    count, length, group, size = row.layout.table_shape
    random = torch.Generator().manual_seed(3)
    own, shared = (count, _KV, group, size, _DIM), (count, _KV, length, _DIM)
    shapes = [(count, _KV, group, _REPEAT, size, _DIM), own, own, shared, shared]
    return [(2 * torch.randn(shape, generator=random)).to(dtype).requires_grad_() for shape in shapes], row.layout


def _run(parts: list[Tensor], layout: AttentionLayout, grad: Tensor) -> list[Tensor]:
    output = shared_prompt._completion_attention(*parts, _DIM**-0.5, None, layout)
    return [output.detach(), *torch.autograd.grad(output, parts, grad)]


def _both(parts: list[Tensor], layout: AttentionLayout, monkeypatch) -> tuple[list[Tensor], list[Tensor]]:
    grad = torch.randn(parts[0].shape, generator=torch.Generator().manual_seed(4)).to(parts[0].dtype)
    monkeypatch.setattr(shared_prompt, "_SMALL_TABLES", 10**12)
    tables = _run(parts, layout, grad)
    monkeypatch.setattr(shared_prompt, "_SMALL_TABLES", 0)
    return tables, _run(parts, layout, grad)


@pytest.mark.parametrize(("prompts", "name"), [([9, 9], "equal"), ([9, 5], "unequal"), ([1, 600], "unequal")])
def test_output_and_gradients_equal_those_of_tables_of_scores(prompts, name, monkeypatch):
    parts, layout = _make(prompts, _GROUPS[name])
    assert layout.equal_prompts == (prompts[0] == prompts[1])
    tables, merged = _both(parts, layout, monkeypatch)
    for expected, found in zip(tables, merged, strict=True):
        assert expected.std() > 0.05
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_merged_attention_in_bfloat16_is_as_exact_as_tables_of_scores(monkeypatch):
    parts, layout = _make([40, 33], _GROUPS["unequal"], torch.bfloat16)
    tables, merged = _both(parts, layout, monkeypatch)
    exact, _ = _both([x.detach().float().requires_grad_() for x in parts], layout, monkeypatch)
    for expected, by_tables, found in zip(exact, tables, merged, strict=True):
        assert found.dtype == torch.bfloat16
        error, of_tables = ((x.float() - expected).norm() / expected.norm() for x in (found, by_tables))
        assert error < 1.1 * of_tables < 0.02


def test_the_precision_of_other_products_is_restored(monkeypatch):
    parts, layout = _make([40, 33], _GROUPS["unequal"], torch.bfloat16)
    monkeypatch.setattr(shared_prompt, "_SMALL_TABLES", 0)
    wide = torch.randn(64, 64)
    before, setting = wide @ wide, torch.backends.mkldnn.matmul.fp32_precision
    _run(parts, layout, torch.ones_like(parts[0]))
    assert torch.backends.mkldnn.matmul.fp32_precision == setting
    assert torch.equal(wide @ wide, before)


def test_merged_attention_takes_float32_queries_from_autocast(monkeypatch):
    (query, keys, values, *prompt), layout = _make([9, 5], _GROUPS["unequal"])
    halves = [query, keys, values.bfloat16(), prompt[0], prompt[1].bfloat16()]
    monkeypatch.setattr(shared_prompt, "_SMALL_TABLES", 0)
    output = shared_prompt._completion_attention(*halves, _DIM**-0.5, None, layout)
    assert output.dtype == torch.bfloat16
    (grad,) = torch.autograd.grad(output.float().square().sum(), query)
    assert grad.dtype == torch.float32 and grad.abs().max() > 0.01


def test_merged_attention_is_deterministic(monkeypatch):
    parts, layout = _make([300, 280], [[60] * 8] * 2)
    monkeypatch.setattr(shared_prompt, "_SMALL_TABLES", 0)
    grad = torch.ones_like(parts[0])
    first = _run(parts, layout, grad)
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, _run(parts, layout, grad), strict=True))


@pytest.mark.parametrize("window", [None, 4])
def test_a_sliding_window_uses_tables_of_scores(window, monkeypatch):
    parts, layout = _make([9, 9], _GROUPS["equal"])
    monkeypatch.setattr(shared_prompt, "_SMALL_TABLES", 0)
    output = shared_prompt._completion_attention(*parts, _DIM**-0.5, window, layout)
    grads = torch.autograd.grad(output.sum(), parts[3])[0]  # by the prompt's keys, which a window of 4 forgets
    assert (grads[:, :, 0].abs().max() == 0) == (window is not None)
