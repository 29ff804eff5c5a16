"""Group Relative Policy Optimization: one step of it reads like the paper's box."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from virft.generation.generator import EncodedPrompt, GenerationParams, Generator
from virft.generation.random_streams import StepKey
from virft.models.policy import Policy
from virft.models.renderer import RenderedPrompt
from virft.models.vision import FeatureCache
from virft.tasks.grader import Grader
from virft.training.distributed import Ranks
from virft.training.grpo.advantages import has_spread
from virft.training.grpo.group_metrics import best_and_worst, group_metrics, most_different, num_tokens
from virft.training.grpo.loss import importance_weights, policy_loss
from virft.training.grpo.pack import LossKind, Microbatch, idle_batch, pack_step
from virft.training.grpo.rollout import roll_out
from virft.training.monitors import SKIPPED, NonFinite, all_finite
from virft.training.optim import set_learning_rate, update_weights
from virft.training.policy_runner import Passes
from virft.training.step import StepReport, Stopwatch
from virft.training.zero import AnyOptimizer
from virft.types import RewardContext, RolloutGroup, Sample, Unreadable


@dataclass(frozen=True, kw_only=True, slots=True)
class GRPOSettings:
    """Settings of the algorithm, as in ``virft.config.schema.GRPOConfig``; ``prompts_per_batch``: None for all.

    ``importance_cap`` and ``gap_alarm`` are set where another engine samples: the largest weight of a token, and the
    mean difference in nats between its log-probs and the policy's above which the user is told.
    """

    group_size: int
    kl_coef: float
    loss: LossKind
    scale_by_std: bool
    updates_per_batch: int
    clip_range: float
    max_grad_norm: float
    microbatch_tokens: int
    prompts_per_batch: int | None = None
    importance_cap: float | None = None
    gap_alarm: float | None = None
    mask_truncated: bool = False
    kl_coef_end: float | None = None
    refill_rounds: int = 0

    @property
    def has_reference(self) -> bool:
        """Whether a KL term is added in any step."""
        return self.kl_coef > 0 or bool(self.kl_coef_end)

    def kl_coef_at(self, step_frac: float) -> float:
        """Weight of the KL term: ``kl_coef``, on a straight line to ``kl_coef_end`` if there is one."""
        end = self.kl_coef if self.kl_coef_end is None else self.kl_coef_end
        return self.kl_coef + (end - self.kl_coef) * step_frac


@dataclass(frozen=True, kw_only=True, slots=True)
class GRPOReport(StepReport):
    """A step with the groups that were sampled in it."""

    groups: Sequence[RolloutGroup]


class _Drawn(NamedTuple):
    """Of this process's samples, in order: prompts, their image features, and a rewarded group for each."""

    rendered: list[RenderedPrompt]
    encoded: list[EncodedPrompt]
    groups: list[RolloutGroup]


class _Update(NamedTuple):
    """An optimizer update: its numbers, and the log-probs of each microbatch before it, without gradient.

    ``nonfinite``: why there was none; then there are no numbers.
    """

    metrics: dict[str, float]
    logprobs: list[Tensor]
    nonfinite: NonFinite | None = None


@dataclass(kw_only=True)
class GRPOTrainer:
    """The parts of a run, put together by ``virft.recipes.setup``.

    ``reference``: a frozen second policy; or ``reference_mode``, a context in which ``policy`` is its own reference
    (LoRA: adapters off). ``refill``: the samples that step and round (from 1) may take in place of those whose groups
    have no spread; needed if ``settings.refill_rounds`` is above 0. ``feature_cache``: set if the vision tower is
    frozen, so each image is encoded once a run.

    With several processes (``ranks``) each takes every so many-th group, and all report the whole step. Where they
    compute together (``is_sharded``), each does as many rows as the one that has most; where they share out the
    weights, ``sampler`` is a policy that has them all, in the context ``sampling_mode``. ``engine``: what the policy is
    called through where gradients are wanted.
    """

    policy: Policy
    generator: Generator
    render: Callable[[Sample], RenderedPrompt]
    grader: Grader
    optimizer: AnyOptimizer
    learning_rate_at: Callable[[int], float]
    settings: GRPOSettings
    params: GenerationParams
    num_steps: int
    seed: int
    reference: Policy | None = None
    reference_mode: Callable[[], AbstractContextManager[None]] | None = None
    refill: Callable[[int, int], Sequence[Sample]] | None = None
    feature_cache: FeatureCache | None = None
    ranks: Ranks = field(default_factory=Ranks)
    is_sharded: bool = False
    engine: Callable[..., Tensor] | None = None
    sampler: Policy | None = None
    sampling_mode: Callable[[], AbstractContextManager[Any]] | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    autocast: Callable[[], AbstractContextManager[Any]] | None = None

    def __post_init__(self) -> None:
        self._passes = Passes(
            policy=self.policy,
            engine=self.engine,
            encoder=self.sampler,
            cache=self.feature_cache,
            device=self.device,
            autocast=self.autocast,
        )

    def step(self, number: int, samples: Sequence[Sample]) -> GRPOReport:
        """One step: sample a group for each sample, reward it, compare inside the group, update the policy."""
        watch = Stopwatch()
        drawn = self._sample(number, samples, watch)
        first = self._gathered(drawn, watch)
        more = self._refill(number, first, drawn, watch)
        groups = [*first, *more]
        if spoilt := [group for group in groups if not all_finite(group.rewards)]:
            return self._without_update(number, groups, len(first), watch, _nonfinite_reward(spoilt))
        batches = self._pack(
            drawn.groups,
            drawn.encoded,
            counted=_with_spread_first(groups)[: len(first)],
            drop_equal=not self.settings.has_reference or self.settings.refill_rounds > 0,
        )
        num_batches = int(self.ranks.largest(len(batches)))
        if self.is_sharded:
            batches += [idle_batch(drawn.groups, drawn.encoded)] * (num_batches - len(batches))
        watch.lap("pack")
        references = [self._reference_logprobs(batch, drawn) for batch in batches]
        watch.lap("reference")
        rate = self.learning_rate_at(number)
        set_learning_rate(self.optimizer, rate)
        updates: list[_Update] = []
        for _ in range(self.settings.updates_per_batch if num_batches else 0):
            old = updates[0].logprobs if updates else None
            updates.append(self._update(number, drawn, batches, references, old))
            if updates[-1].nonfinite is not None:
                break
        self.generator.update()
        watch.lap("update")
        nonfinite = updates[-1].nonfinite if updates else None
        if nonfinite is not None:
            return self._without_update(number, groups, len(first), watch, nonfinite)
        of_updates = _of_updates([update.metrics for update in updates])
        metrics = {
            "step": number,
            **self._group_metrics(groups, num_first=len(first)),
            **of_updates,
            **({} if self.settings.kl_coef_end is None else {"kl_coef": self._kl_coef(number)}),
            "learning_rate": rate,
        }
        return GRPOReport(
            metrics=metrics,
            timings=watch.seconds,
            shown=best_and_worst(groups, number, scale_by_std=self.settings.scale_by_std),
            most_different=most_different(groups),
            alarm=_gap_in_words(number, of_updates.get("sampler_gap_mean"), self.settings.gap_alarm),
            groups=groups,
        )

    def _without_update(
        self, number: int, groups: Sequence[RolloutGroup], num_first: int, watch: Stopwatch, nonfinite: NonFinite
    ) -> GRPOReport:
        """A step that has nothing to learn from: its groups that are whole are counted."""
        whole = [group for group in groups if all_finite(group.rewards)]
        counted = self._group_metrics(groups, num_first=num_first)
        return GRPOReport(
            metrics={"step": number, **counted, SKIPPED: 1, "learning_rate": self.learning_rate_at(number)},
            timings=watch.seconds,
            shown=best_and_worst(whole, number, scale_by_std=self.settings.scale_by_std) if whole else None,
            nonfinite=nonfinite,
            groups=groups,
        )

    def sample(self, number: int, samples: Sequence[Sample]) -> list[RolloutGroup]:
        """The rewarded groups that step ``number`` draws for these samples; nothing is learnt."""
        return self._sample(number, samples, Stopwatch()).groups

    def close(self) -> None:
        """Let go of what samples; no step comes after this."""
        self.generator.close()

    def rehearse(self, sample: Sample) -> list[RolloutGroup]:
        """One group sampled, rewarded and run backward, without an update: what a step does, for timing.

        For one process alone.
        """
        watch = Stopwatch()
        drawn = self._sample(0, [sample], watch)
        for batch in self._pack(drawn.groups, drawn.encoded, counted=drawn.groups, drop_equal=False):
            self._reference_logprobs(batch, drawn)
            self._logprobs(batch, drawn).sum().backward()
        self.optimizer.zero_grad(set_to_none=True)
        return drawn.groups

    def _sample(self, number: int, samples: Sequence[Sample], watch: Stopwatch, first_place: int = 0) -> _Drawn:
        """This process's part of the samples, which stand in the step from ``first_place`` on."""
        own = self.ranks.share(samples)
        places = [first_place + place for place in self.ranks.share(range(len(samples)))]
        rendered = [self.render(sample) for sample in own]
        with self.sampling_mode() if self.sampling_mode is not None else nullcontext():
            encoded = self._encode(rendered, places)
            watch.lap("images")
            groups = self._roll_out(number, own, rendered, encoded, watch)
        return _Drawn(rendered, encoded, groups)

    def _gathered(self, drawn: _Drawn, watch: Stopwatch) -> list[RolloutGroup]:
        """The groups of all processes."""
        groups = self.ranks.gather(drawn.groups)
        if self.ranks.count > 1:
            watch.lap("gather")  # mostly waiting for those who sample longest
        return groups

    def _refill(
        self, number: int, groups: Sequence[RolloutGroup], drawn: _Drawn, watch: Stopwatch
    ) -> list[RolloutGroup]:
        """Groups of other samples, a round after the other as many as have no spread still; this process's are added
        to ``drawn``. Source: dynamic sampling of DAPO (arXiv 2503.14476).
        """
        more: list[RolloutGroup] = []
        for turn in range(1, self.settings.refill_rounds + 1):
            missing = len(groups) - sum(has_spread(group.rewards) for group in (*groups, *more))
            if missing <= 0:
                break
            assert self.refill is not None, "refill_rounds above 0 needs samples"
            samples = self.refill(number, turn)[:missing]
            # a sample that was drawn before in this step gets noise of its own
            found = self._sample(number, samples, watch, first_place=turn * len(groups))
            drawn.rendered.extend(found.rendered)
            drawn.encoded.extend(found.encoded)
            drawn.groups.extend(found.groups)
            more += self._gathered(found, watch)
        return more

    def _group_metrics(self, groups: Sequence[RolloutGroup], *, num_first: int) -> dict[str, float]:
        """What the first draw says, of groups whose rewards are numbers; of the others, which were chosen by their
        spread, only how many took a place, and their tokens.
        """
        first = [group for group in groups[:num_first] if all_finite(group.rewards)]
        if not first:
            return {}
        told = group_metrics(first)
        if self.settings.refill_rounds:
            told["num_refilled"] = sum(has_spread(group.rewards) for group in groups[num_first:])
            told["num_tokens"] = num_tokens(groups)
        return told

    def _roll_out(
        self,
        number: int,
        samples: Sequence[Sample],
        rendered: Sequence[RenderedPrompt],
        encoded: Sequence[EncodedPrompt],
        watch: Stopwatch,
    ) -> list[RolloutGroup]:
        with self._passes.precision():
            return roll_out(
                samples,
                rendered,
                encoded,
                generator=self.generator,
                grader=self.grader,
                group_size=self.settings.group_size,
                params=self.params,
                key=StepKey(seed=self.seed, step=number),
                context=RewardContext(step_frac=self._step_frac(number), max_tokens=self.params.max_completion_tokens),
                clock=watch.lap,
                prompts_per_batch=self.settings.prompts_per_batch,
            )

    def _step_frac(self, number: int) -> float:
        return number / max(1, self.num_steps - 1)

    def _kl_coef(self, number: int) -> float:
        return self.settings.kl_coef_at(self._step_frac(number))

    def _pack(
        self,
        groups: Sequence[RolloutGroup],
        encoded: Sequence[EncodedPrompt],
        *,
        counted: Sequence[RolloutGroup],
        drop_equal: bool,
    ) -> list[Microbatch]:
        return pack_step(
            groups,
            encoded,
            loss=self.settings.loss,
            max_completion_tokens=self.params.max_completion_tokens,
            scale_by_std=self.settings.scale_by_std,
            drop_equal=drop_equal,
            microbatch_tokens=self.settings.microbatch_tokens,
            counted=counted,
            mask_truncated=self.settings.mask_truncated,
        )

    def _update(
        self,
        number: int,
        drawn: _Drawn,
        batches: Sequence[Microbatch],
        references: Sequence[Tensor | None],
        first: Sequence[Tensor] | None,
    ) -> _Update:
        """One optimizer update over all microbatches, none where a number is not finite.

        ``first``: the log-probs before the step's first update.
        """
        self.policy.train()
        once, cap = self.settings.updates_per_batch == 1, self.settings.importance_cap
        totals = {"loss": 0.0, "kl": 0.0, "clip_frac": 0.0}
        largest_gap = 0.0
        before: list[Tensor] = []
        weighed: list[Tensor] = []
        spoilt: list[str] = []
        for place, (batch, reference) in enumerate(zip(batches, references, strict=True)):
            logprobs = self._logprobs(batch, drawn)
            before.append(logprobs.detach())
            sampler = batch.sampler_logprobs.to(self.device)
            weights = batch.weights.to(self.device)
            old = before[place] if first is None else first[place]
            importance = None
            if cap is not None:
                importance = importance_weights(old, sampler, cap=cap)
                weighed.append(torch.stack([(old - sampler).abs(), importance.ge(cap).float()]))
            result = policy_loss(
                logprobs,
                advantages=batch.advantages.to(self.device),
                weights=weights,
                old_logprobs=None if once else sampler if cap is None else old,
                importance=importance,
                reference_logprobs=reference,
                clip_range=self.settings.clip_range,
                kl_coef=self._kl_coef(number),
            )
            loss = result.loss.item()
            if not math.isfinite(loss):
                spoilt += [drawn.groups[i].sample.id for i in batch.prompts]
            totals["loss"] += loss
            totals["kl"] += result.kl.item()
            totals["clip_frac"] += result.clip_frac.item()
            gap = ((logprobs.detach() - sampler).abs() * (weights > 0)).max().item()
            largest_gap = max(largest_gap, gap)
            result.loss.backward()
        totals = self.ranks.sums(totals)
        if not math.isfinite(totals["loss"]):
            self.optimizer.zero_grad(set_to_none=True)
            return _Update({}, before, NonFinite(what="loss", samples=tuple(self.ranks.union(spoilt))))
        totals["sampler_gap"] = self.ranks.largest(largest_gap)
        totals["grad_norm"] = update_weights(
            self.optimizer, max_grad_norm=self.settings.max_grad_norm, ranks=self.ranks
        )
        if not math.isfinite(totals["grad_norm"]):
            learnt = self.ranks.union([drawn.groups[i].sample.id for batch in batches for i in batch.prompts])
            return _Update({}, before, NonFinite(what="gradient norm", samples=tuple(dict.fromkeys(learnt))))
        if once:
            del totals["clip_frac"]
        if not self.settings.has_reference:
            del totals["kl"]
        if weighed:
            means = torch.cat(weighed, dim=1).mean(1)
            totals["sampler_gap_mean"], totals["capped_frac"] = means.tolist()
        return _Update(totals, before)

    def _logprobs(
        self,
        batch: Microbatch,
        drawn: _Drawn,
        *,
        policy: Policy | None = None,
    ) -> Tensor:
        return self._passes.logprobs(
            batch.row,
            [drawn.rendered[i] for i in batch.prompts],
            [drawn.encoded[i].features for i in batch.prompts],
            policy=policy,
        )

    @torch.no_grad()
    def _reference_logprobs(self, batch: Microbatch, drawn: _Drawn) -> Tensor | None:
        """What the reference says of the same tokens; None without a KL term."""
        if not self.settings.has_reference:
            return None
        if self.reference is not None:
            return self._logprobs(batch, drawn, policy=self.reference)
        assert self.reference_mode is not None, "kl_coef above 0 needs a reference"
        with self.reference_mode():
            return self._logprobs(batch, drawn)

    def _encode(self, rendered: Sequence[RenderedPrompt], places: Sequence[int]) -> list[EncodedPrompt]:
        """Each prompt with the features of its images; ``places``: where it stands in the step."""
        return [
            EncodedPrompt(
                prompt=one.prompt,
                positions=one.positions,
                features=features,
                stream_id=f"{place}/{one.prompt.sample_id}",
            )
            for place, one, features in zip(places, rendered, self._passes.features(rendered), strict=True)
        ]


def _with_spread_first(groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
    """The groups that teach, in their order, then the others."""
    return sorted(groups, key=lambda group: not has_spread(group.rewards))


def _of_updates(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The last update's numbers, with the gap to the sampler from the first one: after that the policy has moved."""
    if not updates:
        return {}
    of_first = {name: updates[0][name] for name in ("sampler_gap", "sampler_gap_mean") if name in updates[0]}
    return {**updates[-1], **of_first}


def _nonfinite_reward(spoilt: Sequence[RolloutGroup]) -> NonFinite:
    """Of groups with such a reward; what was wrong with the first one."""
    first = next(report for report in spoilt[0].reports if not math.isfinite(report.total))
    why = first.reading.answer.reason if isinstance(first.reading.answer, Unreadable) else ""
    return NonFinite(what="reward", samples=tuple(group.sample.id for group in spoilt), why=why)


def _gap_in_words(number: int, gap: float | None, alarm: float | None) -> str | None:
    """What the user is told where the engine that samples is not the policy."""
    if gap is None or alarm is None or gap <= alarm:
        return None
    return (
        f"step {number + 1}: what vLLM says of a sampled token and what the policy says differ by {gap:.2g} nats on "
        f"average; expected at most {alarm:g}. Training goes on with capped weights; is vLLM's version the tested one?"
    )
