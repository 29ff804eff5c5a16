"""Supervised fine-tuning: the right answer of each sample made likelier, under the prompts that GRPO asks with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from virft.models.logprobs import Policy
from virft.models.renderer import RenderedPrompt
from virft.models.vision import FeatureCache
from virft.sft.batch import pack_answers
from virft.training.guards import require_finite
from virft.training.optim import set_learning_rate
from virft.training.passes import Passes
from virft.training.step import StepReport, Stopwatch
from virft.types import Sample


@dataclass(kw_only=True)
class SFTTrainer:
    """The parts of a run. ``answer_ids``: token ids of the right answer to a sample, its end token among them.

    ``feature_cache``: set if the vision tower is frozen, so each image is encoded once a run.
    """

    policy: Policy
    render: Callable[[Sample], RenderedPrompt]
    answer_ids: Callable[[Sample, RenderedPrompt], Sequence[int]]
    optimizer: torch.optim.Optimizer
    learning_rate_at: Callable[[int], float]
    max_grad_norm: float
    microbatch_tokens: int
    feature_cache: FeatureCache | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    autocast: Callable[[], AbstractContextManager[Any]] | None = None

    def __post_init__(self) -> None:
        self._passes = Passes(policy=self.policy, cache=self.feature_cache, device=self.device, autocast=self.autocast)

    def step(self, number: int, samples: Sequence[Sample]) -> StepReport:
        """One optimizer step on the mean negative log-probability of all answer tokens of the samples."""
        watch = Stopwatch()
        rendered = [self.render(sample) for sample in samples]
        features = self._passes.features(rendered) if self.feature_cache is not None else []
        watch.lap("images")
        answers = [self.answer_ids(sample, one) for sample, one in zip(samples, rendered, strict=True)]
        rows = pack_answers(rendered, answers, microbatch_tokens=self.microbatch_tokens)
        watch.lap("pack")
        rate = self.learning_rate_at(number)
        set_learning_rate(self.optimizer, rate)
        self.policy.train()
        num_answer_tokens = sum(map(len, answers))
        loss = 0.0
        for one in rows:
            logprobs = self._passes.logprobs(
                one.row, [rendered[i] for i in one.members], [features[i] for i in one.members if features]
            )
            part = -logprobs.sum() / num_answer_tokens
            loss += require_finite("loss", part.item(), number)
            part.backward()
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, self.max_grad_norm)
        norm_value = require_finite("gradient norm", norm.item(), number)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        watch.lap("update")
        return StepReport(
            metrics={
                "step": number,
                "loss": loss,
                "answer_tokens": num_answer_tokens / len(samples),
                "num_tokens": sum(len(one.row.token_ids) for one in rows),
                "grad_norm": norm_value,
                "learning_rate": rate,
            },
            timings=watch.seconds,
        )

    def close(self) -> None:
        """Nothing is held."""
