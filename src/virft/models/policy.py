"""The one place where log-probabilities are computed: policy, reference, sampler check, SFT and scoring use it.

Everything happens inside ``Policy.forward``, so that a wrapper (DDP, FSDP, accelerate) sees each use of a weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from virft.errors import ModelError
from virft.models.attention.layout import PackedRow, position_ids
from virft.models.families import Family
from virft.models.load import LoadedModel
from virft.models.vision import ImageFeatures, VisionInputs

PASS_NUMBERS = (1 << 14) * 1176
"""Pixel numbers that go through the vision tower at once, unless a prompt has more: 16,384 patches of Qwen2-VL."""
_CHUNK_BYTES = 1 << 27
"""Logits held at once, and as much for their gradient; more are computed in chunks and again in the backward."""
_BLOCK_LOGITS = {"cpu": 1 << 19}
"""Logits that are made probabilities at once, in numbers: on a CPU 2 MiB of float32, which stay in its cache."""
_BLOCK_ELSEWHERE = 1 << 24


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRules:
    """What turns logits into the distribution that is sampled and scored: the same on both sides."""

    temperature: float = 1.0
    forbidden_ids: tuple[int, ...] = ()

    def log_distribution(self, logits: Tensor) -> Tensor:
        """Log-probabilities in float32 over the last axis: logits / temperature, forbidden tokens at minus infinity."""
        scaled = logits.to(torch.float32, copy=True)  # in place below; a division by 1 would cost another pass back
        if self.temperature != 1.0:
            scaled /= self.temperature
        if self.forbidden_ids:
            ids = torch.tensor(self.forbidden_ids, device=logits.device)
            scaled.index_fill_(-1, ids, float("-inf"))
        return torch.log_softmax(scaled, dim=-1)

    def chosen(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities [N] of ``tokens`` [N] by logits [N, V]."""
        return self.log_distribution(logits).gather(-1, tokens[:, None])[:, 0]

    def chosen_gradient(self, logits: Tensor, tokens: Tensor, outer: Tensor) -> Tensor:
        """Gradient [N, V] in float32, by ``logits``, of the sum of ``outer`` [N] times ``chosen``.

        Step by step what autograd would do, so with the same bits, in fewer tables.
        """
        distribution = self.log_distribution(logits)
        gradient = torch.zeros_like(distribution).scatter_(-1, tokens[:, None], outer[:, None])
        torch._log_softmax_backward_data(gradient, distribution, -1, torch.float32, out=gradient)
        if self.forbidden_ids:
            gradient.index_fill_(-1, torch.tensor(self.forbidden_ids, device=logits.device), 0.0)
        if self.temperature != 1.0:
            gradient /= self.temperature
        return gradient


class _Chosen(torch.autograd.Function):
    """Log-probs [N] of ``targets`` [N] by logits [N, V], a block of rows at a time, in both directions.

    Kept for the backward are the logits alone, in their own dtype: whole tables of float32 would cost more time to fill
    than the numbers in them.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, rules: TokenRules) -> Tensor:
        ctx.save_for_backward(logits, targets)
        ctx.rules = rules
        return torch.cat([rules.chosen(*block) for block in _blocks(logits, targets)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        logits, targets = ctx.saved_tensors
        found = torch.empty_like(logits)
        for some, wanted, outer, inner in _blocks(logits, targets, gradient, found):
            inner.copy_(ctx.rules.chosen_gradient(some, wanted, outer))
        return found, None, None


def _blocks(logits: Tensor, *further: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of logits, and of what belongs to them, as many as are best at once."""
    rows = max(1, _BLOCK_LOGITS.get(logits.device.type, _BLOCK_ELSEWHERE) // logits.shape[-1])
    return zip(*(one.split(rows) for one in (logits, *further)), strict=True)


def no_mask(like: Tensor) -> Tensor:
    """An attention mask that no one reads: masks follow from the layout.

    Being 4D it is passed through as it is; with None transformers would make a T x T mask.
    """
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=like.device)


class Policy(nn.Module):
    """A vision-language model as the trainers see it: packed rows in, log-probs of completion tokens out."""

    model: Any

    def __init__(self, model: nn.Module, family: Family, rules: TokenRules) -> None:
        super().__init__()
        self.model = model
        self.family = family
        self.rules = rules

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    def encode_images(self, prompts: Sequence[VisionInputs]) -> list[ImageFeatures]:
        """The features of each prompt's images, many prompts in one pass of the vision tower."""
        encoded: list[ImageFeatures] = []
        while len(encoded) < len(prompts):
            first = len(encoded)
            sizes = accumulate(one.pixel_values.numel() for one in prompts[first:])
            count = max(1, sum(1 for _ in takewhile(lambda size: size <= PASS_NUMBERS, sizes)))
            chosen = prompts[first : first + count]
            joined = VisionInputs.join(chosen)
            features = self.family.encode_images(self.model, joined)
            found, expected = [len(one) for one in features.tokens], self.family.num_image_tokens(self.config, joined)
            if found != expected:
                raise ModelError(f"the vision tower made {found} tokens of these images; expected {expected}")
            encoded += features.split([one.num_images for one in chosen])
        return encoded

    def forward(
        self,
        row: PackedRow,
        features: Sequence[ImageFeatures] | None = None,
        vision: Sequence[VisionInputs] | None = None,
    ) -> Tensor:
        """Log-probs [N] of ``row.targets`` in nats, float32, under ``rules``.

        Images come as ``features`` of each prompt, or as ``vision`` inputs to be encoded here, with gradient.
        """
        if features is None:
            features = self.encode_images(vision or ())
        hidden = self.hidden_states(row, features).index_select(0, row.logit_index)
        head = self.model.get_output_embeddings()
        rows = max(1, _CHUNK_BYTES // (head.out_features * hidden.element_size()))
        if len(hidden) <= rows:
            return self._chosen(hidden, row.targets)
        parts = []
        for states, targets in zip(hidden.split(rows), row.targets.split(rows), strict=True):
            if torch.is_grad_enabled():
                parts.append(checkpoint(self._chosen, states, targets, use_reentrant=False))
            else:
                parts.append(self._chosen(states, targets))
        return torch.cat(parts)

    def hidden_states(self, row: PackedRow, features: Sequence[ImageFeatures], **kwargs: Any) -> Tensor:
        """Last hidden states [T, hidden] of a packed row."""
        layout = row.layout
        if self.family.bidirectional_images:
            layout = layout.with_image_blocks(row.token_ids == self.config.image_token_id)
        out = self.model.model(
            input_ids=row.token_ids[None],
            position_ids=position_ids(row.positions[:, None]),
            attention_mask=no_mask(row.token_ids),
            group_layout=layout,
            use_cache="past_key_values" in kwargs,
            **self.family.forward_features(features),
            **kwargs,
        )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    def next_log_distribution(self, hidden: Tensor) -> Tensor:
        """Log-probabilities [R, V] that follow last hidden states [R, hidden]."""
        return self.rules.log_distribution(self.model.get_output_embeddings()(hidden))

    def token_layers(self) -> list[nn.Linear]:
        """The linear layers that every sampled token goes through."""
        parts = (self.model.get_submodule(self.family.language_module), self.model.get_output_embeddings())
        return [layer for part in parts for layer in part.modules() if isinstance(layer, nn.Linear)]

    def _chosen(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self.model.get_output_embeddings()(hidden)
        return _Chosen.apply(logits, targets, self.rules)  # type: ignore[no-any-return, no-untyped-call]


def make_policy(loaded: LoadedModel, *, temperature: float) -> Policy:
    """The model under the rules that its samples are drawn and scored with."""
    forbidden = tuple(sorted(loaded.family.forbidden_token_ids(loaded.tokenizer, loaded.model.config)))
    return Policy(loaded.model, loaded.family, TokenRules(temperature=temperature, forbidden_ids=forbidden))
