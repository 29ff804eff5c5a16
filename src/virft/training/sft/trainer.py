"""Supervised fine-tuning: the right answer of each sample made likelier, under the prompts that GRPO asks with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from virft.models.policy import Policy
from virft.models.renderer import RenderedPrompt
from virft.models.vision import FeatureCache
from virft.training.distributed import Ranks
from virft.training.monitors import SKIPPED, NonFinite
from virft.training.optim import set_learning_rate, update_weights
from virft.training.policy_runner import Passes
from virft.training.sft.batch import pack_answers
from virft.training.step import StepReport, Stopwatch
from virft.training.zero import AnyOptimizer
from virft.types import Sample


@dataclass(kw_only=True)
class SFTTrainer:
    """The parts of a run. ``answer_ids``: token ids of the right answer to a sample, its end token among them.

    ``feature_cache``: set if the vision tower is frozen, so each image is encoded once a run. With several processes
    (``ranks``) each takes every so many-th sample; ``is_sharded``: they compute together; ``engine``: what the policy
    is called through where gradients are wanted. ``encoder``: what encodes images, in the context ``encoding_mode``,
    where the policy has not all weights.
    """

    policy: Policy
    render: Callable[[Sample], RenderedPrompt]
    answer_ids: Callable[[Sample, RenderedPrompt], Sequence[int]]
    optimizer: AnyOptimizer
    learning_rate_at: Callable[[int], float]
    max_grad_norm: float
    microbatch_tokens: int
    feature_cache: FeatureCache | None = None
    ranks: Ranks = field(default_factory=Ranks)
    is_sharded: bool = False
    engine: Callable[..., Tensor] | None = None
    encoder: Policy | None = None
    encoding_mode: Callable[[], AbstractContextManager[Any]] = nullcontext
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    autocast: Callable[[], AbstractContextManager[Any]] | None = None

    def __post_init__(self) -> None:
        self._passes = Passes(
            policy=self.policy,
            engine=self.engine,
            encoder=self.encoder,
            cache=self.feature_cache,
            device=self.device,
            autocast=self.autocast,
        )

    def step(self, number: int, samples: Sequence[Sample]) -> StepReport:
        """One optimizer step on the mean negative log-probability of all answer tokens of the samples."""
        watch = Stopwatch()
        own = self.ranks.share(samples)
        rendered = [self.render(sample) for sample in own]
        with self.encoding_mode():
            features = self._passes.features(rendered) if self.feature_cache is not None else []
        watch.lap("images")
        answers = [self.answer_ids(sample, one) for sample, one in zip(own, rendered, strict=True)]
        rows = pack_answers(rendered, answers, microbatch_tokens=self.microbatch_tokens)
        watch.lap("pack")
        rate = self.learning_rate_at(number)
        set_learning_rate(self.optimizer, rate)
        self.policy.train()
        totals = self.ranks.sums(
            {
                "answer_tokens": sum(map(len, answers)),
                "num_tokens": sum(len(one.row.token_ids) for one in rows),
            }
        )
        num_idle = int(self.ranks.largest(len(rows))) - len(rows) if self.is_sharded else 0
        weights = [1.0] * len(rows) + [0.0] * num_idle
        loss = 0.0
        spoilt: list[str] = []
        for one, weight in zip([*rows, *[rows[-1]] * num_idle], weights, strict=True):
            logprobs = self._passes.logprobs(
                one.row, [rendered[i] for i in one.members], [features[i] for i in one.members if features]
            )
            part = -logprobs.sum() / totals["answer_tokens"] * weight
            value = part.item()
            if not math.isfinite(value):
                spoilt += [own[i].id for i in one.members]
            loss += value
            part.backward()
        loss = self.ranks.sums({"loss": loss})["loss"]
        nonfinite = None
        if math.isfinite(loss):
            norm = update_weights(self.optimizer, max_grad_norm=self.max_grad_norm, ranks=self.ranks)
            if not math.isfinite(norm):
                nonfinite = NonFinite(what="gradient norm", samples=tuple(sample.id for sample in samples))
        else:
            self.optimizer.zero_grad(set_to_none=True)
            nonfinite = NonFinite(what="loss", samples=tuple(self.ranks.union(spoilt)))
        watch.lap("update")
        found = {SKIPPED: 1} if nonfinite is not None else {"loss": loss, "grad_norm": norm}
        return StepReport(
            metrics={
                "step": number,
                **found,
                "answer_tokens": totals["answer_tokens"] / len(samples),
                "num_tokens": int(totals["num_tokens"]),
                "learning_rate": rate,
            },
            timings=watch.seconds,
            nonfinite=nonfinite,
        )

    def close(self) -> None:
        """Nothing is held."""
