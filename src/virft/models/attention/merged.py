"""Attention of completions over [prompt | own tokens] with PyTorch's fused CPU kernel, without tables of scores.

The kernel runs twice, over the prompt's keys and over the completion's own, and the two outputs are merged by their
log-sum-exps. Source: Hydragen (arXiv 2402.05099), which does the same for decoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

# The operators behind ``torch.nn.functional.scaled_dot_product_attention`` on a CPU. No public function returns the
# log-sum-exp, and the backward needs it as an argument.
_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@cache
def _has_amx() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


@contextmanager
def _products_in(dtype: torch.dtype) -> Iterator[None]:
    """Inside, if ``dtype`` is bfloat16, a CPU with AMX multiplies float32 as bfloat16, and sums products in float32."""
    # A setting of the whole process, so the value from before is restored whatever happens.
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    if dtype == torch.bfloat16 and _has_amx():
        settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


class MergedAttention(torch.autograd.Function):
    """Softmax attention of queries over two sets of keys, merged from two calls of the fused kernel.

    ``apply(query, keys, values, prompt_keys, prompt_values, own_bias, prompt_bias, scaling)`` takes queries
    [B, G, Q, d], their own keys and values [B, G, C, d], and those of the prompt [B, L, d], which all G completions
    share. ``own_bias`` [Q, C] and ``prompt_bias`` ([B, 1, 1, L] or None) are added to the scores and get no gradient.
    B: prompts * KV heads. Q: query heads per KV head * C. Returns the output [B, G, Q, d].

    Formula, with o the output and l the log-sum-exp of each part: w = sigmoid(l_own - l_prompt) is the softmax mass of
    the own keys, and output = (1 - w) o_prompt + w o_own.

    The gradients are exact: each backward kernel gets the merged output and the log-sum-exp over both sets of keys, so
    the attention weights that it recomputes are those over all keys. The backward runs in float32, up to three times
    faster than in bfloat16. With bfloat16 inputs and AMX, the factors of the prompt's part are rounded to bfloat16 and
    products are summed in float32; the kernel for bfloat16 would round the prompt's gradients after every block of
    queries.
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
        """Return the output [B, G, Q, d]; arguments and shapes are those of ``apply``, see the class."""
        query = query.contiguous()
        # The kernel takes [batch, heads, tokens, d] and returns the output and its log-sum-exp [batch, heads, tokens].
        # All G completions share the prompt's keys, so their queries are one long sequence: [B, 1, G * Q, d].
        to_prompt, prompt_sums = _forward(
            query.flatten(1, 2)[:, None],
            prompt_keys[:, None],
            prompt_values[:, None],
            attn_mask=prompt_bias,
            scale=scaling,
        )
        # Own keys differ between completions, so each is an entry of the batch: [B * G, 1, Q, d].
        to_own, own_sums = _forward(
            query.flatten(0, 1)[:, None],
            keys.flatten(0, 1)[:, None],
            values.flatten(0, 1)[:, None],
            attn_mask=own_bias,
            scale=scaling,
        )
        prompt_sums, own_sums = prompt_sums.view(query.shape[:-1]), own_sums.view(query.shape[:-1])  # [B, G, Q] each
        own_mass = torch.sigmoid(own_sums - prompt_sums)[..., None]  # [B, G, Q, 1]
        # Merged in float32 and rounded once: a lerp in bfloat16 would round the mass and both products as well.
        output = torch.lerp(to_prompt.view(query.shape).float(), to_own.view(query.shape).float(), own_mass)
        output = output.to(query.dtype)
        ctx.save_for_backward(
            query, keys, values, prompt_keys, prompt_values, own_bias, prompt_bias, output,
            torch.logaddexp(prompt_sums, own_sums),
        )  # fmt: skip
        ctx.scaling = scaling
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of queries, keys and values, each of the shape and dtype of its argument."""
        query, keys, values, prompt_keys, prompt_values, own_bias, prompt_bias, output, sums = ctx.saved_tensors
        grad, wide_query, wide_output = (x.float() for x in (grads[0], query, output))

        def run(
            axes: tuple[int, int], key: Tensor, value: Tensor, bias: Tensor | None
        ) -> tuple[Tensor, Tensor, Tensor]:
            # axes (1, 2): one sequence of G * Q queries for each prompt; (0, 1): a batch of B * G completions
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
        # A query gets gradient through both parts: [B, 1, G * Q, d] and [B * G, 1, Q, d], added as [B, G, Q, d].
        found = (
            (by_prompt.reshape(query.shape) + by_own.reshape(query.shape), query),
            (grad_keys, keys),
            (grad_values, values),
            (grad_prompt_keys, prompt_keys),
            (grad_prompt_values, prompt_values),
        )
        return *(gradient.reshape(of.shape).to(of.dtype) for gradient, of in found), None, None, None
