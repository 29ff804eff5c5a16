"""The one place where log-probabilities are computed: policy, reference, sampler check, SFT and scoring use it.

Everything happens inside ``Policy.forward``, so that a wrapper (DDP, FSDP, accelerate) sees each use of a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from virft.errors import ModelError
from virft.models.families import Family
from virft.models.layout import PackedRow, position_ids
from virft.models.vision import ImageFeatures, VisionInputs

PASS_NUMBERS = (1 << 14) * 1176
"""Pixel numbers that go through the vision tower at once, unless a prompt has more: 16,384 patches of Qwen2-VL."""
_CHUNK_LOGITS = 1 << 24
"""Logits held at once, in numbers (64 MiB of float32); more are computed in chunks and again in the backward."""


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
        vocabulary = head.weight.shape[0]
        rows = max(1, _CHUNK_LOGITS // vocabulary)
        if len(hidden) <= rows:
            return self._chosen(hidden, row.targets).clone()  # FSDP2 has a warning for every view that is returned
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
        if self.family.two_way_images:
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

    def _chosen(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return self.next_log_distribution(hidden).gather(-1, targets[:, None])[:, 0]
