"""Group Relative Policy Optimization: ``GRPOTrainer.step`` is one iteration of the paper's algorithm."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from virft.config.schema import GRPOConfig
from virft.errors import DataError, ModelError, SamplerLost
from virft.generation.generator import EncodedPrompt, GenerationParams, Generator, Sampling
from virft.generation.random_streams import StepKey
from virft.models.policy import Policy
from virft.models.renderer import RenderedPrompt
from virft.tasks.grader import Grader
from virft.training.distributed import Ranks
from virft.training.grpo.advantages import has_nonzero_std
from virft.training.grpo.demonstration_weights import (
    advantages_of,
    demonstration_step_metrics,
    linear,
    weigh_demonstrations,
)
from virft.training.grpo.demonstrations import WriteTarget, demonstrate
from virft.training.grpo.group_metrics import group_metrics, num_tokens, rollout_record, widest_reward_range
from virft.training.grpo.in_flight import InFlight, SavedFlight, format_flight, parse_flight
from virft.training.grpo.loss import demonstration_loss, importance_weights, policy_loss
from virft.training.grpo.pack import Microbatch, pack_step, zero_weight_microbatch
from virft.training.grpo.rollout import Drawn, Rollout, rendered_turns, reward_groups
from virft.training.grpo.update import UpdateTotals, demonstration_metrics, merge_updates, off_policy_metrics
from virft.training.monitors import SKIPPED, all_finite
from virft.training.optim import set_learning_rate, update_weights
from virft.training.policy_runner import PolicyRunner
from virft.training.prompt_loader import Following, PromptLoader, no_samples
from virft.training.sft.trainer import SFTTrainer
from virft.training.step import NonFinite, NonFiniteStep, StageTimer, StepReport
from virft.training.zero import AnyOptimizer
from virft.types import Completion, RewardContext, RewardReport, RolloutGroup, Sample, Unreadable


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerCorrection:
    """Off-policy correction for completions that another engine, merged weights or older weights sample."""

    importance_cap: float
    """Largest importance weight of a token, see ``importance_weights``."""
    max_gap: float
    """Warn if the log-probs of engine and policy differ by more than this on average, in nats per token. Not checked if
    the policy has changed since: then the difference is no error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GRPOReport(StepReport):
    """Report of a GRPO step, with the groups that were sampled in it."""

    groups: Sequence[RolloutGroup]
    """Groups of all ranks in the order of the batch, then those of dynamic sampling."""


class _Packed(NamedTuple):
    """The microbatches of this rank, and the largest number of microbatches on any rank."""

    batches: list[Microbatch]
    largest_count: int
    flops: Mapping[str, float]
    """Operations of one update on all ranks, see ``PolicyRunner.update_flops``."""


class _Update(NamedTuple):
    """Metrics of one optimizer update, and the log-probs [N] of each microbatch before it, without gradient."""

    metrics: dict[str, float]
    logprobs: list[Tensor]


@dataclass(kw_only=True)
class GRPOTrainer:
    """GRPO with rule-based rewards. ``virft.recipes.trainers`` builds it from a config.

    Rank r processes samples r, r + n, ... of a batch of n ranks, and every rank reports the whole step.
    """

    runner: PolicyRunner
    """Runs the policy: forward passes, image features, gathered weights."""
    generator: Generator
    """Samples completions: the policy itself, or an engine with a copy of its weights."""
    render: Callable[[Sample], RenderedPrompt]
    """From a sample to its prompt and images."""
    grader: Grader
    """Parses and rewards completions."""
    optimizer: AnyOptimizer
    """Optimizer of the policy's trained weights."""
    learning_rate_at: Callable[[int], float]
    """Learning-rate schedule: step, from 0, -> learning rate."""
    config: GRPOConfig
    """Hyperparameters of the algorithm, section ``[grpo]``."""
    params: GenerationParams
    """Temperature and length limit of sampling."""
    seed: int
    """Seed of the random streams that completions are sampled with."""
    correction: SamplerCorrection | None = None
    """Off-policy correction; None if the policy samples with its own weights."""
    reference: Policy | None = None
    """Frozen copy of the initial policy, for the KL term."""
    reference_mode: Callable[[], AbstractContextManager[None]] | None = None
    """In place of ``reference``: context in which the policy is its own reference (LoRA: adapters disabled)."""
    warm_start: SFTTrainer | None = None
    """Takes the steps of the warm start, with the same policy and optimizer; None without a warm start."""
    sampler_messages: Callable[[], list[str]] | None = None
    """Messages about engines that this rank has lost, replaced or started again since the last call; None if none can
    be lost."""
    refill: Callable[[int, int], Sequence[Sample]] | None = None
    """Dynamic sampling: (step, round from 1) -> replacement samples. Required if ``refill_rounds`` is above 0."""
    write_target: WriteTarget | None = None
    """From a sample to its ground-truth completion. Required if ``demonstrations`` is not "off"."""
    zoom: bool = False
    """True if the prompts offer a zoom call: the fraction of completions with one is a metric."""
    num_workers: int = 0
    """Background threads that read the images of the next step; 0: none."""
    max_staleness: int = 0
    """1: the groups of the next step are sampled with the weights before the update of this one; 0: after it."""

    def __post_init__(self) -> None:
        self._loader = PromptLoader(self.render, self.runner.needs_pixels, num_workers=self.num_workers)
        self._last_number = -1
        self._in_flight: InFlight | None = None
        self._saved_flight: SavedFlight | None = None

    @property
    def policy(self) -> Policy:
        """The trained policy."""
        return self.runner.policy

    @property
    def ranks(self) -> Ranks:
        """This process among those of the run."""
        return self.runner.runtime.ranks

    def step(self, number: int, samples: Sequence[Sample], following: Following = no_samples) -> StepReport:
        """One training step on a batch of samples; a supervised one in the warm start.

        ``following`` returns the batch of a later step. The images of the next one are read while this one is sampled;
        with ``max_staleness`` 1, its completions are sampled from before the update of this one on.

        Source: GRPO (arXiv 2402.03300, algorithm 1) with the rule-based rewards of Visual-RFT.
        """
        if self.warm_start is not None:
            if number < self.config.warm_start_steps:
                return self._warm_up(self.warm_start, number, samples, following)
            if number == self.config.warm_start_steps:
                # The moments are those of another loss; a run that starts from a supervised model has none of them.
                assert isinstance(self.optimizer, Optimizer), "the config refuses a warm start with ZeRO"
                self.optimizer.state.clear()
        timer = StageTimer()
        if number <= self._last_number:
            # The loop has rolled back to the weights of a checkpoint, which another engine does not have.
            self.generator.update()
        self._last_number = number
        self.runner.turn_features.clear()
        # Sample a group of G completions per prompt from the current policy, unless that began in the step before;
        # reward each completion.
        rollout = self._roll_out(number, samples, following, timer)
        if self.max_staleness:
            # Not earlier: replacements of groups need the sampler first. In skipped steps too, so that every rank, and
            # a repeated step, has the same groups in flight.
            self._sample_ahead(number, following, timer)
        try:
            _require_finite_rewards(rollout)
            # Advantages inside each group, A_i = (r_i - mean(r)) / std(r), packed into rows with their tokens.
            packed = self._pack(number, rollout, timer)
            # Log-probs of the same tokens under the reference policy, for the KL term.
            references = [self._reference_logprobs(batch, rollout.own) for batch in packed.batches]
            timer.lap("reference")
            # Optimizer updates of the policy on the clipped objective; then the sampler gets the new weights.
            updates = self._update_policy(number, rollout.own, packed, references, timer)
        except NonFiniteStep as signal:
            return self._skipped_report(number, rollout, signal.nonfinite, timer)
        return self._report(number, rollout, updates, timer)

    def sample(self, number: int, samples: Sequence[Sample]) -> list[RolloutGroup]:
        """This rank's rewarded groups, as step ``number`` samples them for a batch; nothing is learnt."""
        self.runner.turn_features.clear()
        return self._sample(number, samples, StageTimer()).groups

    def in_flight(self) -> str:
        """The completions that are sampled ahead, for a checkpoint; waits for them. A collective operation."""
        if (flight := self._in_flight) is None or (completions := self._finished(flight)) is None:
            return ""
        # In the order of the batch: another number of ranks may resume.
        found = self.ranks.gather(
            [(sample.id, of_prompt) for sample, of_prompt in zip(flight.samples, completions, strict=True)]
        )
        ids, completions = [name for name, _ in found], [of_prompt for _, of_prompt in found]
        return format_flight(SavedFlight(flight.step, flight.policy_step, ids, completions))

    def restore_in_flight(self, saved: str) -> None:
        """Forget what is sampled ahead, and take the completions of a checkpoint instead, which may have none."""
        self._in_flight = None
        self._saved_flight = parse_flight(saved)

    def _warm_up(self, trainer: SFTTrainer, number: int, samples: Sequence[Sample], following: Following) -> StepReport:
        """A step of the warm start. Its loss is the metric ``demonstration_loss``, as it is no loss of GRPO."""
        is_last = number == self.config.warm_start_steps - 1
        report = trainer.step(number, samples, no_samples if is_last else following)
        timer = StageTimer()
        self._publish_weights(timer)
        names = {"loss": "demonstration_loss"}
        return replace(
            report,
            metrics={names.get(name, name): value for name, value in report.metrics.items()},
            timings={**report.timings, "update": report.timings["update"] + timer.seconds["update"]},
        )

    def close(self) -> None:
        """Release the generator, and end the threads that read images. No step follows."""
        self._loader.close()
        if self.warm_start is not None:
            self.warm_start.close()
        self.generator.close()

    def _roll_out(self, number: int, samples: Sequence[Sample], following: Following, timer: StageTimer) -> Rollout:
        """Sample and reward the groups of a step, on all ranks."""
        drawn = self._draw(number, samples, following, timer)
        own = self._demonstrate(number, drawn, first_place=0)
        return self._refill(number, self._gather(own, timer), timer)

    def _draw(self, number: int, samples: Sequence[Sample], following: Following, timer: StageTimer) -> Drawn:
        """This rank's rewarded groups of a batch: those that are in flight, else sampled with the current weights."""
        flight, self._in_flight = self._in_flight, None
        saved, self._saved_flight = self._saved_flight, None
        if saved is not None and saved.step == number:
            # Images are encoded again: a checkpoint has no features.
            saved.require_samples(samples)
            completions = self.ranks.shard(saved.completions)
            flight = self._begin(
                number,
                samples,
                self._loader.load(self.ranks.shard(samples)),
                timer,
                start=lambda encoded: lambda: completions,
                policy_step=saved.policy_step,
            )
        if flight is None or flight.step != number or (finished := self._finished(flight)) is None:
            return self._sample(number, samples, timer, following=following)
        assert number - flight.policy_step <= self.max_staleness
        return self._reward(flight, finished, timer)

    def _finished(self, flight: InFlight) -> list[list[Completion]] | None:
        """Wait for this rank's completions that were sampled ahead; None if a rank has lost its engines meanwhile.

        Then all ranks sample the step anew, with the current weights, as a resumed run does. A collective operation.
        """
        try:
            completions = flight.completions()
        except SamplerLost:
            completions = None
        return None if self.ranks.max(completions is None) > 0 else completions

    def _sample_ahead(self, number: int, following: Following, timer: StageTimer) -> None:
        """Begin to sample the groups of the next step, with the weights that this step is about to change."""
        samples: Sequence[Sample] = ()
        rendered: list[RenderedPrompt] | None = None
        try:
            samples = following(1)
            rendered = self._loader.load(self.ranks.shard(samples))
        except (DataError, ModelError):
            pass  # Raised again by the next step: this one can still be trained and saved.
        # All ranks begin, or none.
        if self.ranks.max(rendered is None) > 0 or not samples or rendered is None:
            return
        self._in_flight = self._begin(
            number + 1,
            samples,
            rendered,
            timer,
            start=partial(self._start, self.generator.begin, number + 1),
            policy_step=number,
            prefetch=lambda: self.ranks.shard(following(2)),
        )
        timer.lap("sampling")

    def _refill(self, number: int, rollout: Rollout, timer: StageTimer) -> Rollout:
        """Add groups of other samples, round by round as many as still have zero reward variance.

        Source: dynamic sampling of DAPO (arXiv 2503.14476).
        """
        for turn in range(1, self.config.refill_rounds + 1):
            if not (missing := rollout.num_zero_std):
                break
            assert self.refill is not None, "refill_rounds above 0 needs samples"
            samples = self.refill(number, turn)[:missing]
            # Places after those of earlier rounds: a sample that recurs in the step gets another random stream.
            first_place = turn * rollout.num_first
            own = self._sample(number, samples, timer, first_place=first_place)
            # The cross-entropy is that of the batch: only members of a group come with its replacements.
            if self.config.demonstrations == "group":
                own = self._demonstrate(number, own, first_place=first_place)
            rollout = rollout.extended(self._gather(own, timer))
        return rollout

    def _sample(
        self,
        number: int,
        samples: Sequence[Sample],
        timer: StageTimer,
        first_place: int = 0,
        following: Following | None = None,
    ) -> Drawn:
        """Sample and reward the groups of this rank; ``first_place`` is the place of the first sample in the step.

        With ``following``, the images of the next step are read meanwhile.
        """

        def sample_now(*arguments: Any) -> Sampling:
            found = self.generator.generate(*arguments)
            return lambda: found

        flight = self._begin(
            number,
            samples,
            self._loader.load(self.ranks.shard(samples)),
            timer,
            start=partial(self._start, sample_now, number),
            policy_step=number,
            first_place=first_place,
            prefetch=None if following is None else lambda: self.ranks.shard(following(1)),
        )
        return self._reward(flight, flight.completions(), timer)

    def _begin(
        self,
        number: int,
        samples: Sequence[Sample],
        rendered: list[RenderedPrompt],
        timer: StageTimer,
        *,
        start: Callable[[list[EncodedPrompt]], Sampling],
        policy_step: int,
        first_place: int = 0,
        prefetch: Callable[[], Sequence[Sample]] | None = None,
    ) -> InFlight:
        """Encode the images of this rank's prompts of a batch, and ``start`` to sample their completions."""
        places = [first_place + place for place in self.ranks.shard(range(len(samples)))]
        # Encoding and sampling differ in length between ranks, so they need a copy of the policy with all its weights.
        with self.runner.gather():
            encoded = self._encode(rendered, places)
            timer.lap("images")
            if prefetch is not None:
                self._loader.prefetch(prefetch)
            with self.runner.runtime.autocast():
                completions = start(encoded)
        return InFlight(number, policy_step, self.ranks.shard(samples), rendered, encoded, completions)

    def _start(self, sample: Callable[..., Sampling], number: int, encoded: list[EncodedPrompt]) -> Sampling:
        """Sample for a step, now or meanwhile.

        Without prompts too: an engine that several processes share samples one batch for all of them.
        """
        return sample(encoded, self.config.group_size, self.params, StepKey(seed=self.seed, step=number))

    def _reward(self, flight: InFlight, completions: Sequence[Sequence[Completion]], timer: StageTimer) -> Drawn:
        """Reward the completions of each prompt, as of the step that trains on them."""
        timer.lap("sampling")
        groups = reward_groups(
            flight.samples,
            flight.rendered,
            completions,
            grader=self.grader,
            policy_step=flight.policy_step,
            context=self._context(flight.step),
        )
        timer.lap("reward")
        turns = [rendered_turns(*one) for one in zip(flight.rendered, completions, strict=True)]
        return Drawn(flight.rendered, flight.encoded, groups, [()] * len(groups), turns)

    def _demonstrate(self, number: int, drawn: Drawn, *, first_place: int) -> Drawn:
        """This rank's groups with their demonstrations; ``first_place`` as in ``_sample``."""
        if self.config.demonstrations == "off":
            return drawn
        assert self.write_target is not None, "demonstrations need targets"
        # the places of ``ranks.shard``
        places = [first_place + self.ranks.index + i * self.ranks.count for i in range(len(drawn.groups))]
        return drawn._replace(
            demonstrations=[
                demonstrate(
                    group,
                    rendered,
                    write=self.write_target,
                    key=StepKey(seed=self.seed, step=number),
                    place=place,
                    near_right=self.config.near_right,
                    grade=partial(self._grade, number, group) if self.config.demonstrations == "group" else None,
                )
                for group, rendered, place in zip(drawn.groups, drawn.rendered, places, strict=True)
            ]
        )

    def _grade(self, number: int, group: RolloutGroup, text: str, num_tokens: int) -> RewardReport:
        """The reward of a demonstration of a group, under the rules of its completions."""
        sample = group.sample
        resized = group.prompt.images[sample.target_image].resized
        context = replace(self._context(number), num_tokens=num_tokens)
        (report,) = self.grader.grade_group([text], sample, resized=resized, contexts=[context])
        return report

    def _context(self, number: int) -> RewardContext:
        return RewardContext(step_frac=self._step_frac(number), max_tokens=self.params.max_completion_tokens)

    def _encode(self, rendered: Sequence[RenderedPrompt], places: Sequence[int]) -> list[EncodedPrompt]:
        """Each prompt with its image features. ``places`` in the step name the random streams of the completions."""
        return [
            EncodedPrompt(
                prompt=one.prompt,
                positions=one.positions,
                features=features,
                stream_id=f"{place}/{one.prompt.sample_id}",
                answer_call=one.answer_call,
            )
            for place, one, features in zip(places, rendered, self.runner.encode_images(rendered), strict=True)
        ]

    def _gather(self, own: Drawn, timer: StageTimer) -> Rollout:
        """The groups of all ranks with their demonstrations and advantages, in the order of the batch."""
        advantages = advantages_of(self.config, own.groups, own.demonstrations)
        found = self.ranks.gather(list(zip(own.groups, own.demonstrations, advantages, strict=True)))
        if self.ranks.count > 1:
            timer.lap("gather")  # mostly the wait for the rank with the longest completions
        return Rollout(
            own,
            advantages,
            [group for group, _, _ in found],
            len(found),
            [demonstrations for _, demonstrations, _ in found],
            [values for _, _, values in found],
        )

    def _pack(self, number: int, rollout: Rollout, timer: StageTimer) -> _Packed:
        """The step's microbatches. Sharded ranks get equally many of them."""
        # Zero advantages leave only the KL term to learn from; groups that were replaced have no part in it either.
        drop_equal = not self.config.has_reference or self.config.refill_rounds > 0
        batches = self._pack_groups(number, rollout, drop_equal=drop_equal)
        largest_count = int(self.ranks.max(len(batches)))
        # before the padding, from which nothing is learnt
        flops = self.runner.update_flops(batch.row for batch in batches)
        if self.runner.runtime.is_sharded:
            padding = zero_weight_microbatch(rollout.own.groups, rollout.own.encoded)
            batches += [padding] * (largest_count - len(batches))
        timer.lap("pack")
        return _Packed(batches, largest_count, flops)

    def _pack_groups(self, number: int, rollout: Rollout, *, drop_equal: bool) -> list[Microbatch]:
        own = rollout.own
        return pack_step(
            own.groups,
            own.encoded,
            loss=self.config.loss,
            max_completion_tokens=self.params.max_completion_tokens,
            scale_by_std=self.config.scale_by_std,
            drop_equal=drop_equal,
            microbatch_tokens=self.config.microbatch_tokens,
            counted=rollout.counted,
            mask_truncated=self.config.mask_truncated,
            advantages=[one.completions for one in rollout.own_advantages],
            demonstrations=weigh_demonstrations(
                self.config,
                rollout,
                max_completion_tokens=self.params.max_completion_tokens,
                step_frac=self._step_frac(number),
            ),
            insertions=[[None if one is None else one.insertion for one in of_group] for of_group in own.turns],
        )

    @torch.no_grad()
    def _reference_logprobs(self, batch: Microbatch, own: Drawn) -> Tensor | None:
        """Log-probs [N] of a microbatch under the reference; None without a KL term."""
        if not self.config.has_reference:
            return None
        if self.reference is not None:
            return batch.sampled(self._logprobs(batch, own, policy=self.reference))
        assert self.reference_mode is not None, "kl_coef above 0 needs a reference"
        with self.reference_mode():
            return batch.sampled(self._logprobs(batch, own))

    def _logprobs(self, batch: Microbatch, own: Drawn, *, policy: Policy | None = None) -> Tensor:
        """Log-probs of all targets of a microbatch, demonstrations included, under the policy, or another one."""
        sources = [own.images(*one) for one in batch.images]
        features = [
            own.encoded[group].features if isinstance(one, RenderedPrompt) else self.runner.encode_turns([one])[0]
            for (group, _), one in zip(batch.images, sources, strict=True)
        ]
        return self.runner.logprobs(batch.row, sources, features, policy=policy)

    def _update_policy(
        self, number: int, own: Drawn, packed: _Packed, references: Sequence[Tensor | None], timer: StageTimer
    ) -> dict[str, float]:
        """Run the optimizer updates of a step; their metrics, empty if no group has anything to learn from."""
        set_learning_rate(self.optimizer, self.learning_rate_at(number))
        updates: list[_Update] = []
        try:
            # A rank without microbatches takes part as long as another rank has some: an update is collective.
            for _ in range(self.config.updates_per_batch if packed.largest_count else 0):
                first_logprobs = updates[0].logprobs if updates else None
                updates.append(self._update(number, own, packed.batches, references, first_logprobs))
        except NonFiniteStep:
            # the updates of this step before the one that failed have changed the weights
            self._publish_weights(timer)
            raise
        self._publish_weights(timer)
        flops = {name: round(value * len(updates)) for name, value in packed.flops.items() if updates}
        return merge_updates([one.metrics for one in updates]) | flops

    def _publish_weights(self, timer: StageTimer) -> None:
        """Give the generator the current weights, once a step: to an engine they are copied."""
        self.generator.update()
        timer.lap("update")

    def _update(
        self,
        number: int,
        own: Drawn,
        batches: Sequence[Microbatch],
        references: Sequence[Tensor | None],
        first_logprobs: Sequence[Tensor] | None,
    ) -> _Update:
        """One optimizer update with gradients accumulated over all microbatches.

        ``first_logprobs``: each microbatch's log-probs before the first update of the step; None in the first update.
        Raises ``NonFiniteStep`` if the loss or the gradient norm is not finite; the weights are then unchanged.
        """
        # Sampling runs in eval(); gradient checkpointing works in train() only. No family has dropout.
        self.policy.train()
        totals = UpdateTotals(
            has_demonstrations=self.config.demonstrations != "off", has_importance=self.correction is not None
        )
        logprobs: list[Tensor] = []
        for i, (batch, reference) in enumerate(zip(batches, references, strict=True)):
            first = None if first_logprobs is None else first_logprobs[i]
            self.runner.prepare_backward(is_last_row=i + 1 == len(batches))
            logprobs.append(self._backward(number, own, batch, reference, first, totals))
        # Summed before it is tested: all ranks have to skip the update, or none.
        metrics = self.ranks.sum(totals.sums)
        taught, off_policy = demonstration_metrics(metrics), off_policy_metrics(metrics)
        if not math.isfinite(metrics["loss"]):
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteStep("loss", self.ranks.union(totals.nonfinite_samples))
        metrics["sampler_gap"] = self.ranks.max(totals.largest_gap)
        metrics["grad_norm"] = update_weights(self.optimizer, max_grad_norm=self.config.max_grad_norm, ranks=self.ranks)
        if not math.isfinite(metrics["grad_norm"]):
            learnt = self.ranks.union([own.groups[i].sample.id for batch in batches for i in batch.prompts])
            raise NonFiniteStep("gradient norm", list(dict.fromkeys(learnt)))
        unused = {"kl": not self.config.has_reference, "clip_frac": self.config.updates_per_batch == 1}
        metrics = {name: value for name, value in metrics.items() if not unused.get(name, False)}
        return _Update({**metrics, **taught, **off_policy}, logprobs)

    def _backward(
        self,
        number: int,
        own: Drawn,
        batch: Microbatch,
        reference: Tensor | None,
        first: Tensor | None,
        totals: UpdateTotals,
    ) -> Tensor:
        """Accumulate the gradient of one microbatch; its log-probs [N] without gradient.

        ``reference`` and ``first`` are log-probs [N] under the reference and before the first update of the step.
        """
        device = self.runner.runtime.device
        found = self._logprobs(batch, own)
        logprobs = batch.sampled(found)
        current = logprobs.detach()
        before = current if first is None else first
        sampler, weights = batch.sampler_logprobs.to(device), batch.weights.to(device)
        importance = None
        if self.correction is not None:
            importance = importance_weights(before, sampler, cap=self.correction.importance_cap)
            totals.add_importance(importance, gaps=before - sampler, cap=self.correction.importance_cap)
        result = policy_loss(
            logprobs,
            advantages=batch.advantages.to(device),
            weights=weights,
            old_logprobs=self._old_logprobs(before, sampler),
            importance=importance,
            reference_logprobs=reference,
            clip_range=self.config.clip_range,
            kl_coef=self._kl_coef_at(number),
        )
        # tokens of weight 0 are masked or padding, and their gap does not matter
        gaps = (current - sampler) * (weights > 0)
        sample_ids = [own.groups[i].sample.id for i in batch.prompts]
        totals.add(result, gaps=gaps, sample_ids=sample_ids)
        loss = result.loss
        if (tokens := batch.demonstrations) is not None:
            taught = found.index_select(0, tokens.index.to(device))
            own_loss = demonstration_loss(
                taught, tokens.weights.to(device), as_ratio=self.config.demonstrations == "group"
            )
            cross_entropy = -taught.detach()[tokens.in_cross_entropy.to(device)]
            totals.add_demonstrations(own_loss, cross_entropy, sample_ids=sample_ids)
            loss = loss + own_loss
        loss.backward()
        return current

    def _old_logprobs(self, before: Tensor, sampler: Tensor) -> Tensor | None:
        """Log-probs [N] in the denominator of the clipped ratio; None if the ratio is 1.

        ``before``: the policy's before the step, [N]; ``sampler``: those of the engine that sampled, [N].
        """
        if self.config.updates_per_batch == 1:
            return None
        # Another engine's error is corrected by importance weights and must not count as a change of the policy.
        return sampler if self.correction is None else before

    def _report(self, number: int, rollout: Rollout, updates: dict[str, float], timer: StageTimer) -> GRPOReport:
        kl_coef = {} if self.config.kl_coef_end is None else {"kl_coef": self._kl_coef_at(number)}
        taught = demonstration_step_metrics(self.config, rollout, step_frac=self._step_frac(number))
        own = self._group_metrics(rollout)
        staleness = self._staleness(number, rollout)
        return GRPOReport(
            metrics={
                "step": number,
                **own,
                **staleness,
                "num_tokens": own["num_tokens"] + taught.get("demonstration_tokens", 0),
                **updates,
                **kl_coef,
                **taught,
                "learning_rate": self.learning_rate_at(number),
            },
            timings=timer.seconds,
            rollout_record=rollout_record(
                rollout.groups,
                number,
                scale_by_std=self.config.scale_by_std,
                advantages=[one.completions for one in rollout.advantages],
                has_staleness=self.max_staleness > 0,
            ),
            widest_group=widest_reward_range(rollout.groups),
            warning=self._sampler_warning(number, None if any(staleness.values()) else updates.get("sampler_gap_mean")),
            groups=rollout.groups,
        )

    def _skipped_report(self, number: int, rollout: Rollout, nonfinite: NonFinite, timer: StageTimer) -> GRPOReport:
        """Report of a step without an update. Its metrics are those of groups with finite rewards."""
        finite = [group for group in rollout.groups if all_finite(group.rewards)]
        return GRPOReport(
            metrics={
                "step": number,
                **self._group_metrics(rollout),
                **self._staleness(number, rollout),
                SKIPPED: 1,
                "learning_rate": self.learning_rate_at(number),
            },
            timings=timer.seconds,
            rollout_record=rollout_record(
                finite,
                number,
                scale_by_std=self.config.scale_by_std,
                has_staleness=self.max_staleness > 0,
            )
            if finite
            else None,
            nonfinite=nonfinite,
            groups=rollout.groups,
        )

    def _group_metrics(self, rollout: Rollout) -> dict[str, float]:
        """Metrics of the initially sampled groups with finite rewards.

        Groups of dynamic sampling are chosen by their rewards, so their means would be biased. They count in
        ``num_refilled`` and ``num_tokens`` only.
        """
        first = [group for group in rollout.first if all_finite(group.rewards)]
        if not first:
            return {}
        metrics = group_metrics(first)
        if self.zoom:
            metrics["zoom_frac"] = fmean(one.zoom is not None for group in first for one in group.completions)
        if self.config.refill_rounds:
            metrics["num_refilled"] = sum(has_nonzero_std(group.rewards) for group in rollout.refilled)
            metrics["num_tokens"] = num_tokens(rollout.groups)
        return metrics

    def _sampler_warning(self, number: int, gap: float | None) -> str | None:
        """Warning about engines that any rank has lost and about the gap of their log-probs; None without one."""
        messages = [] if self.sampler_messages is None else self.ranks.union(self.sampler_messages())
        found = [f"step {number + 1}: {one}" for one in messages]
        if (warning := self._gap_warning(number, gap)) is not None:
            found.append(warning)
        return "\n".join(found) or None

    def _staleness(self, number: int, rollout: Rollout) -> dict[str, float]:
        """Mean over the groups of a step of the steps since the weights that sampled them; empty if it is always 0."""
        if not self.max_staleness:
            return {}
        return {"staleness": fmean(number - group.policy_step for group in rollout.groups)}

    def _gap_warning(self, number: int, gap: float | None) -> str | None:
        """Warning that the log-probs of engine and policy differ too much; None if they do not."""
        if gap is None or self.correction is None or gap <= self.correction.max_gap:
            return None
        return (
            f"step {number + 1}: the log-probs of sampler and policy differ by {gap:.2g} nats per token on "
            f"average; expected at most {self.correction.max_gap:g}. Training continues with capped importance "
            'weights; with vLLM, check that its version is the tested one, else try sampling.weights = "exact"'
        )

    def _step_frac(self, number: int) -> float:
        """Fraction of the steps after the warm start that is done: 0 in the first of them, 1 in the last."""
        first = self.config.warm_start_steps
        return max(0, number - first) / max(1, self.config.steps - first - 1)

    def _kl_coef_at(self, number: int) -> float:
        """Coefficient of the KL term: linear from ``kl_coef`` to ``kl_coef_end`` over the run, if that is set."""
        return linear(self.config.kl_coef, self.config.kl_coef_end, self._step_frac(number))


def _require_finite_rewards(rollout: Rollout) -> None:
    """Raise ``NonFiniteStep`` if a reward is NaN or infinite; the message is that of the first one."""
    affected: list[str] = []
    nonfinite: list[RewardReport] = []
    for group, demonstrations in zip(rollout.groups, rollout.demonstrations, strict=True):
        rewarded = [one.report for one in demonstrations if one.report is not None]
        found = [report for report in (*group.reports, *rewarded) if not math.isfinite(report.total)]
        nonfinite += found
        if found:
            affected.append(group.sample.id)
    if not affected:
        return
    answer = nonfinite[0].reading.answer
    raise NonFiniteStep("reward", affected, answer.reason if isinstance(answer, Unreadable) else "")
