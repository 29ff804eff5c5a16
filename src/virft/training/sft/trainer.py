"""Supervised fine-tuning: cross-entropy of the ground truth, under the same prompts as GRPO."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from virft.models.policy import Policy
from virft.models.renderer import RenderedPrompt, RenderedTurn
from virft.models.vision import ImageFeatures
from virft.training.distributed import Ranks
from virft.training.monitors import SKIPPED
from virft.training.optim import set_learning_rate, update_weights
from virft.training.policy_runner import PolicyRunner
from virft.training.prompt_loader import Following, PromptLoader, no_samples
from virft.training.sft.batch import SupervisedRow, ZoomCall, pack_targets
from virft.training.step import NonFinite, NonFiniteStep, StageTimer, StepReport
from virft.training.zero import AnyOptimizer
from virft.types import Sample


@dataclass(kw_only=True)
class SFTTrainer:
    """Supervised fine-tuning. ``virft.recipes.trainers`` builds it from a config.

    Rank r processes samples r, r + n, ... of a batch of n ranks, and every rank reports the whole step.
    """

    runner: PolicyRunner
    """Runs the policy: forward passes, image features, gathered weights."""
    render: Callable[[Sample], RenderedPrompt]
    """From a sample to its prompt and images."""
    target_ids: Callable[[Sample, RenderedPrompt], Sequence[int]]
    """Token ids of the ground-truth completion of a sample, its end token included."""
    optimizer: AnyOptimizer
    """Optimizer of the policy's trained weights."""
    learning_rate_at: Callable[[int], float]
    """Learning-rate schedule: step, from 0, -> learning rate."""
    max_grad_norm: float
    """Gradients are clipped to this global norm."""
    microbatch_tokens: int
    """Tokens of one forward and backward pass; bounds memory, not the result."""
    zoom_call: Callable[[Sample, RenderedPrompt], ZoomCall | None] | None = None
    """Zoom call that comes before the ground-truth completion of a sample, or None; None: there are no calls."""
    num_workers: int = 0
    """Background threads that read the images of the next step; 0: none."""

    def __post_init__(self) -> None:
        self._loader = PromptLoader(self.render, self.runner.needs_pixels, num_workers=self.num_workers)

    @property
    def policy(self) -> Policy:
        """The trained policy."""
        return self.runner.policy

    @property
    def ranks(self) -> Ranks:
        """This process among those of the run."""
        return self.runner.runtime.ranks

    def step(self, number: int, samples: Sequence[Sample], following: Following = no_samples) -> StepReport:
        """One optimizer step on the mean cross-entropy of all target tokens of a batch.

        ``following`` returns the batch of a later step; the images of the next one are read meanwhile.
        """
        timer = StageTimer()
        own = self.ranks.shard(samples)
        rendered = self._loader.load(own)
        features = self._encode(rendered)
        timer.lap("images")
        self._loader.prefetch(lambda: self.ranks.shard(following(1)))
        calls = [None if self.zoom_call is None else self.zoom_call(*one) for one in zip(own, rendered, strict=True)]
        targets = [
            [*(() if call is None else call.token_ids), *self.target_ids(sample, one)]
            for sample, one, call in zip(own, rendered, calls, strict=True)
        ]
        turns = [None if call is None else call.turn for call in calls]
        rows = pack_targets(
            rendered,
            targets,
            microbatch_tokens=self.microbatch_tokens,
            insertions=[None if turn is None else turn.insertion for turn in turns],
        )
        timer.lap("pack")
        totals = self.ranks.sum(
            {"target_tokens": sum(map(len, targets)), "num_tokens": sum(len(one.row.token_ids) for one in rows)}
        )
        flops = self.runner.update_flops(one.row for one in rows)
        nonfinite: NonFinite | None = None
        set_learning_rate(self.optimizer, self.learning_rate_at(number))
        try:
            images = _Images(rendered, features, turns, self._encode_turns(turns))
            found = self._update(samples, rows, images, num_targets=totals["target_tokens"])
        except NonFiniteStep as signal:
            found, nonfinite = {SKIPPED: 1}, signal.nonfinite
        timer.lap("update")
        return StepReport(
            metrics={
                "step": number,
                **found,
                "target_tokens": totals["target_tokens"] / len(samples),
                "num_tokens": int(totals["num_tokens"]),
                **({} if nonfinite else {name: round(value) for name, value in flops.items()}),
                "learning_rate": self.learning_rate_at(number),
            },
            timings=timer.seconds,
            nonfinite=nonfinite,
        )

    def in_flight(self) -> str:
        """Nothing: no later step has begun."""
        return ""

    def restore_in_flight(self, saved: str) -> None:
        """Nothing to restore."""

    def close(self) -> None:
        """End the threads that read images. No step follows."""
        self._loader.close()

    def _encode(self, rendered: Sequence[RenderedPrompt]) -> list[ImageFeatures]:
        """Image features of a frozen tower; a trained one encodes the images in the forward pass, with gradient."""
        if self.runner.feature_cache is None:
            return []
        with self.runner.gather():
            return self.runner.encode_images(rendered)

    def _encode_turns(self, turns: Sequence[RenderedTurn | None]) -> list[ImageFeatures | None]:
        """The same of each tool turn."""
        if self.runner.feature_cache is None:
            return []
        self.runner.turn_features.clear()
        encoded = iter(self.runner.encode_turns([turn for turn in turns if turn is not None]))
        return [None if turn is None else next(encoded) for turn in turns]

    def _update(
        self,
        samples: Sequence[Sample],
        rows: Sequence[SupervisedRow],
        images: _Images,
        *,
        num_targets: float,
    ) -> dict[str, float]:
        """Accumulate the gradient over all rows and take one optimizer step; loss and gradient norm.

        Raises ``NonFiniteStep`` if one of them is not finite; the weights are then unchanged.
        """
        self.policy.train()
        own = self.ranks.shard(samples)
        loss = 0.0
        nonfinite_samples: list[str] = []
        weighted = self._with_zero_weight_rows(rows)
        for number, (one, weight) in enumerate(weighted, start=1):
            self.runner.prepare_backward(is_last_row=number == len(weighted))
            # the denominator of the whole step, so that neither microbatches nor ranks change the result
            part = -self._logprobs(one, images).sum() / num_targets * weight
            value = part.item()
            if not math.isfinite(value):
                nonfinite_samples += [own[i].id for i in one.members]
            loss += value
            part.backward()
        loss = self.ranks.sum({"loss": loss})["loss"]
        if not math.isfinite(loss):
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteStep("loss", self.ranks.union(nonfinite_samples))
        norm = update_weights(self.optimizer, max_grad_norm=self.max_grad_norm, ranks=self.ranks)
        if not math.isfinite(norm):
            raise NonFiniteStep("gradient norm", [sample.id for sample in samples])
        return {"loss": loss, "grad_norm": norm}

    def _with_zero_weight_rows(self, rows: Sequence[SupervisedRow]) -> list[tuple[SupervisedRow, float]]:
        """Rows with their weight in the loss. Sharded ranks need equally many forward passes: a row again, weight 0."""
        num_extra = int(self.ranks.max(len(rows))) - len(rows) if self.runner.runtime.is_sharded else 0
        return [(one, 1.0) for one in rows] + [(rows[-1], 0.0)] * num_extra

    def _logprobs(self, one: SupervisedRow, images: _Images) -> Tensor:
        """Log-probs [N] of the target tokens of a row, in nats."""
        return self.runner.logprobs(one.row, *images.of_row(one))


class _Images(NamedTuple):
    """Sources of the images of a batch, by sample, and their features; a trained tower has no features."""

    prompts: Sequence[RenderedPrompt]
    features: Sequence[ImageFeatures]
    turns: Sequence[RenderedTurn | None]
    turn_features: Sequence[ImageFeatures | None]

    def of_row(self, row: SupervisedRow) -> tuple[list[RenderedPrompt | RenderedTurn], list[ImageFeatures]]:
        """The sources of a row in its order: of each sample, the prompt and then the tool turn."""
        sources = [one for i in row.members for one in (self.prompts[i], self.turns[i]) if one is not None]
        if not self.features:
            return sources, []
        features = [one for i in row.members for one in (self.features[i], self.turn_features[i]) if one is not None]
        return sources, features
