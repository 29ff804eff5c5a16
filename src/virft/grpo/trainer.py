"""Group Relative Policy Optimization: one step of it reads like the paper's box."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from virft.boxes import iou_matrix
from virft.grading import Grader
from virft.grpo.advantages import group_advantages, has_spread
from virft.grpo.loss import importance_weights, policy_loss
from virft.grpo.pack import LossKind, Microbatch, idle_batch, pack_step
from virft.grpo.rollout import roll_out
from virft.models.generator import EncodedPrompt, GenerationParams, Generator
from virft.models.logprobs import Policy
from virft.models.noise import StepKey
from virft.models.renderer import RenderedPrompt
from virft.models.vision import FeatureCache
from virft.training.guards import SKIPPED, NonFinite, all_finite
from virft.training.optim import set_learning_rate, update_weights
from virft.training.passes import Passes
from virft.training.ranks import Ranks
from virft.training.step import StepReport, Stopwatch
from virft.types import Answer, Box, Detections, RewardContext, RolloutGroup, Sample, Unreadable

_DUPLICATE = 0.7
"""A box that overlaps an earlier one of its answer by more than this IoU repeats it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GRPOSettings:
    """The algorithm's numbers, as in ``virft.config.GRPOConfig``; ``prompts_per_batch`` of sampling, None for all.

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


@dataclass(frozen=True, kw_only=True, slots=True)
class GRPOReport(StepReport):
    """A step with the groups that were sampled in it."""

    groups: Sequence[RolloutGroup]


class _Update(NamedTuple):
    """An optimizer update: its numbers, and the log-probs of each microbatch before it, without gradient.

    ``nonfinite``: why there was none; then there are no numbers.
    """

    metrics: dict[str, float]
    logprobs: list[Tensor]
    nonfinite: NonFinite | None = None


@dataclass(kw_only=True)
class GRPOTrainer:
    """The parts of a run, put together by ``virft.pipeline``.

    ``reference``: a frozen second policy; or ``reference_mode``, a context in which ``policy`` is its own reference
    (LoRA: adapters off). ``feature_cache``: set if the vision tower is frozen, so each image is encoded once a run.

    With several processes (``ranks``) each takes every so many-th group, and all report the whole step. Where they
    share out the weights, ``sampler`` is a policy that has them all, in the context ``sampling_mode``.
    """

    policy: Policy
    generator: Generator
    render: Callable[[Sample], RenderedPrompt]
    grader: Grader
    optimizer: torch.optim.Optimizer
    learning_rate_at: Callable[[int], float]
    settings: GRPOSettings
    params: GenerationParams
    num_steps: int
    seed: int
    reference: Policy | None = None
    reference_mode: Callable[[], AbstractContextManager[None]] | None = None
    feature_cache: FeatureCache | None = None
    ranks: Ranks = field(default_factory=Ranks)
    sampler: Policy | None = None
    sampling_mode: Callable[[], AbstractContextManager[Any]] | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    autocast: Callable[[], AbstractContextManager[Any]] | None = None

    def __post_init__(self) -> None:
        self._passes = Passes(
            policy=self.policy,
            encoder=self.sampler,
            cache=self.feature_cache,
            device=self.device,
            autocast=self.autocast,
        )

    def step(self, number: int, samples: Sequence[Sample]) -> GRPOReport:
        """One step: sample a group for each sample, reward it, compare inside the group, update the policy."""
        watch = Stopwatch()
        rendered, encoded, own = self._sample(number, samples, watch)
        groups = self.ranks.gather(own)
        if self.ranks.count > 1:
            watch.lap("gather")  # mostly waiting for those who sample longest
        if spoilt := [group for group in groups if not all_finite(group.rewards)]:
            return self._without_update(number, groups, watch, _nonfinite_reward(spoilt))
        batches = self._pack(own, encoded, counted=groups, drop_equal=self.settings.kl_coef == 0)
        num_batches = int(self.ranks.largest(len(batches)))
        if self.sampler is not None:
            batches += [idle_batch(own, encoded)] * (num_batches - len(batches))
        watch.lap("pack")
        references = [self._reference_logprobs(batch, rendered, encoded) for batch in batches]
        watch.lap("reference")
        rate = self.learning_rate_at(number)
        set_learning_rate(self.optimizer, rate)
        updates: list[_Update] = []
        for _ in range(self.settings.updates_per_batch if num_batches else 0):
            first = updates[0].logprobs if updates else None
            updates.append(self._update(own, batches, references, rendered, encoded, first))
            if updates[-1].nonfinite is not None:
                break
        self.generator.update()
        watch.lap("update")
        nonfinite = updates[-1].nonfinite if updates else None
        if nonfinite is not None:
            return self._without_update(number, groups, watch, nonfinite)
        of_updates = _of_updates([update.metrics for update in updates])
        metrics = {"step": number, **group_metrics(groups), **of_updates, "learning_rate": rate}
        return GRPOReport(
            metrics=metrics,
            timings=watch.seconds,
            shown=best_and_worst(groups, number, scale_by_std=self.settings.scale_by_std),
            most_different=most_different(groups),
            alarm=_gap_in_words(number, of_updates.get("sampler_gap_mean"), self.settings.gap_alarm),
            groups=groups,
        )

    def _without_update(
        self, number: int, groups: Sequence[RolloutGroup], watch: Stopwatch, nonfinite: NonFinite
    ) -> GRPOReport:
        """A step that has nothing to learn from: its groups that are whole are counted."""
        whole = [group for group in groups if all_finite(group.rewards)]
        counted = group_metrics(whole) if whole else {}
        return GRPOReport(
            metrics={"step": number, **counted, SKIPPED: 1, "learning_rate": self.learning_rate_at(number)},
            timings=watch.seconds,
            shown=best_and_worst(whole, number, scale_by_std=self.settings.scale_by_std) if whole else None,
            nonfinite=nonfinite,
            groups=groups,
        )

    def sample(self, number: int, samples: Sequence[Sample]) -> list[RolloutGroup]:
        """The rewarded groups that step ``number`` draws for these samples; nothing is learnt."""
        return self._sample(number, samples, Stopwatch())[2]

    def close(self) -> None:
        """Let go of what samples; no step comes after this."""
        self.generator.close()

    def rehearse(self, sample: Sample) -> list[RolloutGroup]:
        """One group sampled, rewarded and run backward, without an update: what a step does, for timing.

        For one process alone.
        """
        watch = Stopwatch()
        rendered, encoded, groups = self._sample(0, [sample], watch)
        for batch in self._pack(groups, encoded, counted=groups, drop_equal=False):
            self._reference_logprobs(batch, rendered, encoded)
            self._logprobs(batch, rendered, encoded).sum().backward()
        self.optimizer.zero_grad(set_to_none=True)
        return groups

    def _sample(
        self, number: int, samples: Sequence[Sample], watch: Stopwatch
    ) -> tuple[list[RenderedPrompt], list[EncodedPrompt], list[RolloutGroup]]:
        """Of this process's samples: prompts, their image features, and a rewarded group for each."""
        places = self.ranks.share(range(len(samples)))
        own = [samples[place] for place in places]
        rendered = [self.render(sample) for sample in own]
        with self.sampling_mode() if self.sampling_mode is not None else nullcontext():
            encoded = self._encode(rendered, places)
            watch.lap("images")
            groups = self._roll_out(number, own, rendered, encoded, watch)
        return rendered, encoded, groups

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
                context=RewardContext(step_frac=number / max(1, self.num_steps - 1)),
                clock=watch.lap,
                prompts_per_batch=self.settings.prompts_per_batch,
            )

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
        groups: Sequence[RolloutGroup],
        batches: Sequence[Microbatch],
        references: Sequence[Tensor | None],
        rendered: Sequence[RenderedPrompt],
        encoded: Sequence[EncodedPrompt],
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
            logprobs = self._logprobs(batch, rendered, encoded)
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
                kl_coef=self.settings.kl_coef,
            )
            loss = result.loss.item()
            if not math.isfinite(loss):
                spoilt += [groups[i].sample.id for i in batch.prompts]
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
            learnt = self.ranks.union([groups[i].sample.id for batch in batches for i in batch.prompts])
            return _Update({}, before, NonFinite(what="gradient norm", samples=tuple(dict.fromkeys(learnt))))
        if once:
            del totals["clip_frac"]
        if self.settings.kl_coef == 0:
            del totals["kl"]
        if weighed:
            means = torch.cat(weighed, dim=1).mean(1)
            totals["sampler_gap_mean"], totals["capped_frac"] = means.tolist()
        return _Update(totals, before)

    def _logprobs(
        self,
        batch: Microbatch,
        rendered: Sequence[RenderedPrompt],
        encoded: Sequence[EncodedPrompt],
        *,
        policy: Policy | None = None,
    ) -> Tensor:
        return self._passes.logprobs(
            batch.row,
            [rendered[i] for i in batch.prompts],
            [encoded[i].features for i in batch.prompts],
            policy=policy,
        )

    @torch.no_grad()
    def _reference_logprobs(
        self, batch: Microbatch, rendered: Sequence[RenderedPrompt], encoded: Sequence[EncodedPrompt]
    ) -> Tensor | None:
        """What the reference says of the same tokens; None at kl_coef 0."""
        if self.settings.kl_coef == 0:
            return None
        if self.reference is not None:
            return self._logprobs(batch, rendered, encoded, policy=self.reference)
        assert self.reference_mode is not None, "kl_coef above 0 needs a reference"
        with self.reference_mode():
            return self._logprobs(batch, rendered, encoded)

    def _encode(self, rendered: Sequence[RenderedPrompt], places: Sequence[int]) -> list[EncodedPrompt]:
        """Each prompt with the features of its images; ``places``: where it stands in the step."""
        return [
            EncodedPrompt(
                prompt=one.prompt,
                positions=one.positions,
                features=features,
                noise_id=f"{place}/{one.prompt.sample_id}",
            )
            for place, one, features in zip(places, rendered, self._passes.features(rendered), strict=True)
        ]


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


def group_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Means over the completions of a step: reward and its parts, length, shares of what went wrong.

    With several sets, also ``reward@SET`` of those that are in the step. ``entropy``: of the sampler, nats a token, as
    its own log-probs estimate it.
    """
    reports = [report for group in groups for report in group.reports]
    completions = [completion for group in groups for completion in group.completions]
    names = sorted({name for report in reports for name in report.parts})
    parts = {
        f"reward_{name}": fmean(report.parts[name] for report in reports if name in report.parts) for name in names
    }
    return {
        "reward": fmean(report.total for report in reports),
        **parts,
        **_rewards_by_origin(groups),
        "completion_tokens": fmean(len(one.token_ids) for one in completions),
        "num_tokens": sum(len(group.prompt.token_ids) for group in groups)
        + sum(len(one.token_ids) for one in completions),
        "unreadable_frac": fmean(isinstance(report.reading.answer, Unreadable) for report in reports),
        "truncated_frac": fmean(one.truncated for one in completions),
        "spread_frac": fmean(has_spread(group.rewards) for group in groups),
        "entropy": -fmean(logprob for one in completions for logprob in one.sampler_logprobs),
        **_box_metrics([report.reading.answer for report in reports]),
    }


def _box_metrics(answers: Sequence[Answer]) -> dict[str, float]:
    """Of answers that may have any number of boxes: how many they have, and the share that repeat one before."""
    found = [[item.box.xyxy for item in answer.items] for answer in answers if isinstance(answer, Detections)]
    if not found:
        return {}
    num_boxes = sum(map(len, found))
    repeated = sum(
        max(ious[:place], default=0.0) > _DUPLICATE
        for boxes in found
        for place, ious in enumerate(iou_matrix(boxes, boxes))
    )
    return {"boxes_per_answer": num_boxes / len(found), "duplicate_frac": repeated / max(1, num_boxes)}


def _rewards_by_origin(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    origins = sorted({group.sample.origin for group in groups} - {""})
    return {
        f"reward@{origin}": fmean(value for group in groups if group.sample.origin == origin for value in group.rewards)
        for origin in origins
    }


def most_different(groups: Sequence[RolloutGroup]) -> RolloutGroup:
    """The group whose rewards differ most: the one that a step is shown by."""
    return max(groups, key=lambda one: max(one.rewards) - min(one.rewards))


def from_worst_to_best(group: RolloutGroup) -> list[int]:
    """The places of a group's completions by reward; equal ones in their order."""
    return sorted(range(len(group.completions)), key=lambda i: (group.rewards[i], i))


def best_and_worst(groups: Sequence[RolloutGroup], number: int, *, scale_by_std: bool) -> dict[str, Any]:
    """The group that differed most, as a log record: its best and its worst completion.

    ``boxes``: [x1, y1, x2, y2, confidence] of each box that was read, in pixels of the picture as it was seen.
    """
    group = most_different(groups)
    order = from_worst_to_best(group)
    advantages = group_advantages(group.rewards, scale_by_std=scale_by_std).tolist()

    def shown(i: int) -> Mapping[str, Any]:
        report = group.reports[i]
        return {
            "reward": report.total,
            "advantage": round(advantages[i], 6),
            "parts": dict(report.parts),
            "text": group.completions[i].text,
            "boxes": _boxes(report.reading.answer),
        }

    return {
        "step": number,
        "sample": group.sample.id,
        **({"view": asdict(group.sample.view)} if group.sample.view is not None else {}),
        "prompt": group.prompt.text,
        "rewards": list(group.rewards),
        "best": shown(order[-1]),
        "worst": shown(order[0]),
    }


def _boxes(answer: Answer) -> list[list[float]]:
    items = answer.items if isinstance(answer, Detections) else ()
    found = [(*item.box.xyxy, item.confidence) for item in items]
    if isinstance(answer, Box):
        found = [(*answer.xyxy, 1.0)]
    return [[round(value, 2) for value in one] for one in found]
