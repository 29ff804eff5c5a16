"""``Policy``: log-probs of completion tokens, for policy, reference, sampler check, SFT and scoring alike.

Everything happens inside ``Policy.forward``, so that a wrapper (DDP, FSDP, accelerate) sees each use of a weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from virft.errors import ModelError
from virft.models.attention.layout import PackedRow, position_ids
from virft.models.families import Family
from virft.models.load import LoadedModel
from virft.models.vision import ImageFeatures, VisionInputs

MAX_PASS_VALUES = (1 << 14) * 1176
"""Pixel values in one forward pass of the vision tower, unless one prompt has more: 16,384 patches of Qwen2-VL."""
_CHUNK_BYTES = 1 << 27
"""Bytes of logits in memory, and as many of their gradient. More are computed in chunks, and again in the backward."""
_BLOCK_LOGITS = {"cpu": 1 << 19}
"""Logits that go through one softmax call, by device: on a CPU 2 MiB of float32, which fit into its cache."""
GPU_BLOCK_LOGITS = 1 << 24
"""The same on other devices, where fewer and larger kernels are faster."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRules:
    """Rules that turn logits into a distribution. Sampler and policy share them: on-policy log-probs must agree."""

    temperature: float = 1.0
    """Logits are divided by this. 1 leaves them as they are."""

    forbidden_ids: tuple[int, ...] = ()
    """Tokens of probability 0, such as image placeholders."""

    def forbidden_on(self, device: torch.device) -> Tensor:
        """Return ``forbidden_ids`` as int64 [N] on a device."""
        return torch.tensor(self.forbidden_ids, dtype=torch.long, device=device)

    def log_distribution(self, logits: Tensor, forbidden: Tensor | None = None) -> Tensor:
        """Return log-probabilities [..., V], float32, in nats, of logits [..., V].

        Formula: log_softmax(logits / temperature), with the logits of forbidden tokens at minus infinity.
        ``forbidden``: the result of ``forbidden_on`` for the device of the logits, if it is at hand.
        """
        # A copy, so that the lines below may work in place. No division by 1: it would cost another pass over the table
        # in the backward.
        scaled = logits.to(torch.float32, copy=True)
        if self.temperature != 1.0:
            scaled /= self.temperature
        if self.forbidden_ids:
            ids = self.forbidden_on(logits.device) if forbidden is None else forbidden
            scaled.index_fill_(-1, ids, float("-inf"))
        return torch.log_softmax(scaled, dim=-1)

    def chosen(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Return the log-probs [N], float32, in nats, of ``tokens`` (int64 [N]) under logits [N, V]."""
        return self.log_distribution(logits).gather(-1, tokens[:, None])[:, 0]

    def chosen_gradient(self, logits: Tensor, tokens: Tensor, outer: Tensor) -> Tensor:
        """Return the gradient [N, V], float32, of sum(``outer`` * ``chosen``) with respect to ``logits`` [N, V].

        ``tokens``: int64 [N]. ``outer``: float32 [N], the gradient of each log-prob. Formula:
        outer * (onehot(token) - softmax) / temperature.
        """
        # Step by step as autograd does it, so that the result has the same bits, but with fewer [N, V] tables alive.
        distribution = self.log_distribution(logits)
        gradient = torch.zeros_like(distribution).scatter_(-1, tokens[:, None], outer[:, None])
        torch._log_softmax_backward_data(gradient, distribution, -1, torch.float32, out=gradient)
        if self.forbidden_ids:
            gradient.index_fill_(-1, self.forbidden_on(logits.device), 0.0)
        if self.temperature != 1.0:
            gradient /= self.temperature
        return gradient


class _Chosen(torch.autograd.Function):
    """Log-probs [N] of ``targets`` [N] under logits [N, V], a block of rows at a time, forward and backward.

    Only the logits are saved for the backward, in their own dtype. With autograd, float32 tables of [N, V] would be
    saved, and writing new memory takes longer than computing the numbers again.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, rules: TokenRules, size: int | None = None) -> Tensor:
        ctx.save_for_backward(logits, targets)
        ctx.rules, ctx.size = rules, size
        return torch.cat([rules.chosen(*block) for block in _blocks(size, logits, targets)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        logits, targets = ctx.saved_tensors
        found = torch.empty_like(logits)
        for block, tokens, outer, out in _blocks(ctx.size, logits, targets, gradient, found):
            out.copy_(ctx.rules.chosen_gradient(block, tokens, outer))
        return found, None, None, None


def _blocks(size: int | None, logits: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of rows of logits [N, V], and the same rows of ``others`` [N, ...]; views, not copies.

    ``size``: logits in a block; None for that of the device.
    """
    size = size or _BLOCK_LOGITS.get(logits.device.type, GPU_BLOCK_LOGITS)
    rows = max(1, size // logits.shape[-1])
    return zip(*(one.split(rows) for one in (logits, *others)), strict=True)


def no_mask(like: Tensor) -> Tensor:
    """Return a placeholder for the attention mask, bool of shape [1, 1, 1, 1], on the device of ``like``.

    The registered attention function derives masks from the layout and ignores this one.
    """
    # 4D masks pass through transformers unchanged. With None it would build one of T x T scores.
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=like.device)


class Policy(nn.Module):
    """A vision-language model for training: packed rows in, log-probs of completion tokens out."""

    model: Any

    def __init__(self, model: nn.Module, family: Family, rules: TokenRules, *, block_logits: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.family = family
        self.rules = rules
        self._block_logits = block_logits  # logits that go through one softmax call; None: as suits the device

    @property
    def config(self) -> Any:
        """Configuration of the model."""
        return self.model.config

    def encode_images(self, prompts: Sequence[VisionInputs]) -> list[ImageFeatures]:
        """Return the image features of each prompt, several prompts per forward pass of the vision tower.

        Features are [image tokens, hidden] of each image. Raises ``ModelError`` if an image gets more or fewer tokens
        than its placeholders in the prompt.
        """
        encoded: list[ImageFeatures] = []
        while len(encoded) < len(prompts):
            first = len(encoded)
            # As many prompts as fit: the memory of a pass grows with its pixels. At least one, whatever its size.
            sizes = accumulate(one.pixel_values.numel() for one in prompts[first:])
            count = max(1, sum(1 for _ in takewhile(lambda size: size <= MAX_PASS_VALUES, sizes)))
            chosen = prompts[first : first + count]
            joined = VisionInputs.join(chosen)
            features = self.family.encode_images(self.model, joined)
            found, expected = [len(one) for one in features.tokens], self.family.num_image_tokens(self.config, joined)
            # Checked here, because transformers compares totals only: a token too many of one image and one too few of
            # the next would shift features unnoticed.
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
        """Return the log-probs of ``row.targets`` under ``rules``: float32 [N], in nats.

        Images are given as ``features`` of each prompt (a frozen tower), or as ``vision`` inputs, which are encoded
        here, with gradient.
        """
        if features is None:
            features = self.encode_images(vision or ())
        # Only the hidden states that predict a completion token reach the head: [T, hidden] -> [N, hidden].
        hidden = self.hidden_states(row, features).index_select(0, row.logit_index)
        head = self.model.get_output_embeddings()
        # Logits [N, V] are the largest tensor of an update (0.6 GB for 1,000 tokens and a vocabulary of 152,000 in
        # float32). Above a limit they are computed in chunks, and each chunk again in the backward.
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
        """Return the last hidden states [T, hidden] of a packed row; ``kwargs`` go to the model's forward."""
        layout = row.layout
        # Added here and not when rows are packed: a packed row does not know which token is an image's.
        if self.family.bidirectional_images:
            layout = layout.with_image_blocks(row.token_ids == self.config.image_token_id)
        # The inner model: the head is applied to the needed rows only. Position ids are always passed, as those that
        # transformers builds would continue from one group to the next.
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

    def next_log_distribution(self, hidden: Tensor, forbidden: Tensor | None = None) -> Tensor:
        """Return the log-probabilities of the next token, float32 [R, V], for last hidden states [R, hidden].

        ``forbidden`` as for ``TokenRules.log_distribution``.
        """
        return self.rules.log_distribution(self._logits(hidden), forbidden)

    def token_layers(self) -> list[nn.Linear]:
        """Return the linear layers that every decode step runs: those of the language model, and the head."""
        return [layer for layer in self._token_modules() if isinstance(layer, nn.Linear)]

    def adapted_layers(self) -> list[Any]:
        """Return the linear layers with adapters; their parts are among ``token_layers``."""
        return [layer for layer in self._token_modules() if isinstance(layer, LoraLayer)]

    def _token_modules(self) -> Iterator[nn.Module]:
        parts = (self.model.get_submodule(self.family.language_module), self.model.get_output_embeddings())
        return (module for part in parts for module in part.modules())

    def _logits(self, hidden: Tensor) -> Tensor:
        """Logits [N, V] of last hidden states [N, hidden], soft-capped as the model's own forward does it."""
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        cap = getattr(self.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _chosen(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self._logits(hidden)
        return _Chosen.apply(logits, targets, self.rules, self._block_logits)  # type: ignore[no-any-return, no-untyped-call]


def make_policy(loaded: LoadedModel, *, temperature: float) -> Policy:
    """Return a policy around the model, with the rules that its completions are sampled and scored with."""
    # Sorted, so that equal models have equal rules: sets have no order.
    forbidden = tuple(sorted(loaded.family.forbidden_token_ids(loaded.tokenizer, loaded.model.config)))
    return Policy(loaded.model, loaded.family, TokenRules(temperature=temperature, forbidden_ids=forbidden))
