"""Attention of completions over [prompt | own tokens] on a CPU: PyTorch's fused kernel, no tables of scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

# What ``torch.nn.functional.scaled_dot_product_attention`` calls on a CPU; these give back the log-sum-exp as well.
_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@cache
def _has_amx() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


@contextmanager
def _products_in(dtype: torch.dtype) -> Iterator[None]:
    """Inside, if ``dtype`` is bfloat16, a CPU with AMX multiplies float32 as bfloat16, and sums products in float32."""
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    if dtype == torch.bfloat16 and _has_amx():
        settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


class MergedAttention(torch.autograd.Function):
    """Softmax attention of queries over two sets of keys, each by the fused kernel, put together by their log-sum-exps.

    ``apply(query, keys, values, prompt_keys, prompt_values, own_bias, prompt_bias, scaling)``: queries [B, G, Q, d]
    with keys and values of their own [B, G, C, d], and those of the prompt [B, L, d], which all G share. ``own_bias``
    [Q, C] and ``prompt_bias`` ([B, 1, 1, L] or None) are added to the scores and get no gradient. Returns [B, G, Q, d].

    Backwards, each kernel gets the output and the log-sum-exp over both sets: the shares that it computes again are
    then those of all keys, and the gradients exact. It runs in float32, up to three times faster than in bfloat16. With
    inputs in bfloat16 and AMX, factors of the prompt's part are rounded to that type, too, and products summed up in
    float32; the kernel for bfloat16 would round the prompt's gradients after every block of queries.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        prompt_keys: Tensor,
        prompt_values: Tensor,
        own_bias: Tensor,
        prompt_bias: Tensor | None,
        scaling: float,
    ) -> Tensor:
        """See the class."""
        query = query.contiguous()
        to_prompt, prompt_sums = _forward(
            query.flatten(1, 2)[:, None],
            prompt_keys[:, None],
            prompt_values[:, None],
            attn_mask=prompt_bias,
            scale=scaling,
        )
        to_own, own_sums = _forward(
            query.flatten(0, 1)[:, None],
            keys.flatten(0, 1)[:, None],
            values.flatten(0, 1)[:, None],
            attn_mask=own_bias,
            scale=scaling,
        )
        prompt_sums, own_sums = prompt_sums.view(query.shape[:-1]), own_sums.view(query.shape[:-1])
        share = torch.sigmoid(own_sums - prompt_sums)[..., None]
        output = torch.lerp(to_prompt.view(query.shape).float(), to_own.view(query.shape).float(), share)
        output = output.to(query.dtype)
        ctx.save_for_backward(
            query, keys, values, prompt_keys, prompt_values, own_bias, prompt_bias, output,
            torch.logaddexp(prompt_sums, own_sums),
        )  # fmt: skip
        ctx.scaling = scaling
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and values."""
        query, keys, values, prompt_keys, prompt_values, own_bias, prompt_bias, output, sums = ctx.saved_tensors
        grad, wide_query, wide_output = (x.float() for x in (grads[0], query, output))

        def run(
            axes: tuple[int, int], key: Tensor, value: Tensor, bias: Tensor | None
        ) -> tuple[Tensor, Tensor, Tensor]:
            found: tuple[Tensor, Tensor, Tensor] = _backward(
                grad.flatten(*axes)[:, None],
                wide_query.flatten(*axes)[:, None],
                key.float()[:, None],
                value.float()[:, None],
                wide_output.flatten(*axes)[:, None],
                sums.flatten(*axes)[:, None],
                0.0,
                False,
                attn_mask=None if bias is None else bias.float(),
                scale=ctx.scaling,
            )
            return found

        with _products_in(query.dtype):
            by_prompt, grad_prompt_keys, grad_prompt_values = run((1, 2), prompt_keys, prompt_values, prompt_bias)
        by_own, grad_keys, grad_values = run((0, 1), keys.flatten(0, 1), values.flatten(0, 1), own_bias)
        found = (
            (by_prompt.reshape(query.shape) + by_own.reshape(query.shape), query),
            (grad_keys, keys),
            (grad_values, values),
            (grad_prompt_keys, prompt_keys),
            (grad_prompt_values, prompt_values),
        )
        return *(gradient.reshape(of.shape).to(of.dtype) for gradient, of in found), None, None, None
