"""Time of a GRPO step on trainers and samplers, by a discrete-event model of decoding and a linear cost model.

The work of a sampler (decode steps, rows in them, tokens of context, tokens of prompts) is counted exactly from the
lengths of completions; seconds are a linear function of the work (``StepCosts``). Three schedules:

- "static": every device samples its prompts in batches, each as long as its longest completion; then all update.
- "continuous": the same, but a completion that waits takes the place of one that has ended.
- "one_step_off": samplers have devices of their own, and sample the next step while the trainers update.

Not modelled: images, rewards, validation, checkpoints, preemption when the KV cache is full, and the network beyond a
constant per step.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple

ClusterSchedule = Literal["static", "continuous", "one_step_off"]

COMPACT_BELOW = 0.85
"""In a static batch, ended rows are decoded until the fraction of active rows is below this, as the built-in generator
does."""


class SamplerWork(NamedTuple):
    """Work of one sampler in a step."""

    decode_steps: int
    """Forward passes of one token for each row."""
    decoded_rows: int
    """Rows of all decode steps: tokens that are generated, those of ended rows included."""
    context_tokens: int
    """Tokens that the rows of all decode steps attend to."""
    prompt_tokens: int
    """Tokens of prompts, each counted once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCosts:
    """Seconds per unit of work on one device."""

    decode_step: float
    """Of a decode step, however many rows it has: reading the weights, starting kernels."""
    decode_row: float
    """Of a row in a decode step."""
    context_token: float = 0.0
    """Of a token of context of a row in a decode step: reading the KV cache."""
    prompt_token: float
    """Of a token of a prompt before sampling (prefill)."""
    update_token: float
    """Forward and backward pass of a token."""
    update: float
    """Of an update, however many tokens it has: gradient exchange, optimizer."""
    weight_sync: float = 0.0
    """Of sending new weights to the samplers, during which neither samplers nor trainers work."""

    def sampling_s(self, work: SamplerWork) -> float:
        """Return the seconds that a sampler works."""
        return (
            self.decode_step * work.decode_steps
            + self.decode_row * work.decoded_rows
            + self.context_token * work.context_tokens
            + self.prompt_token * work.prompt_tokens
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Devices of a run, all of one kind."""

    trainers: int
    """Devices that update."""
    samplers: int
    """Devices that only sample; 0: the trainers sample, too."""
    rows: int
    """Completions that one sampler decodes concurrently, at most."""

    @property
    def count(self) -> int:
        """All devices."""
        return self.trainers + self.samplers


@dataclass(frozen=True, kw_only=True, slots=True)
class StepEstimate:
    """Means over the steps of a simulated run."""

    seconds: float
    """Of a step."""
    sampling_s: float
    """Of the slowest sampler of a step."""
    update_s: float
    """Of the slowest trainer of a step."""
    tokens_per_s: float
    """Tokens of prompts, each once, and completions, per second, on all devices together."""
    idle_frac: float
    """Fraction of the time of all devices in which they neither sample nor update."""
    trainer_idle_frac: float
    """The same of the trainers."""
    sampler_idle_frac: float
    """The same of the samplers; without devices of their own, that of the trainers."""


Lengths = Sequence[Sequence[int]]
"""Tokens of the completions of a step, by group."""


def static_work(groups: Lengths, *, prompt_tokens: int, rows: int) -> SamplerWork:
    """Count the work of a sampler that decodes batches of whole groups, each as long as its longest completion.

    >>> static_work([[1, 3]], prompt_tokens=10, rows=2)  # both rows in step 1, then one
    SamplerWork(decode_steps=3, decoded_rows=4, context_tokens=47, prompt_tokens=10)
    """
    size = max(1, rows // max((len(group) for group in groups), default=1))
    total = SamplerWork(0, 0, 0, prompt_tokens * len(groups))
    for start in range(0, len(groups), size):
        lengths = sorted(length for group in groups[start : start + size] for length in group)
        held, done = len(lengths), 0
        for place, length in enumerate(lengths):
            if length == done:
                continue
            active = len(lengths) - place
            if active < COMPACT_BELOW * held:
                held = active
            total = _plus(total, length - done, held, held * prompt_tokens, first=done)
            done = length
    return total


def continuous_work(groups: Lengths, *, prompt_tokens: int, rows: int) -> SamplerWork:
    """Count the work of a sampler that decodes up to ``rows`` completions of any groups concurrently.

    >>> continuous_work([[1, 3], [2]], prompt_tokens=10, rows=2)  # the third takes the place of the first
    SamplerWork(decode_steps=3, decoded_rows=6, context_tokens=70, prompt_tokens=20)
    """
    waiting = [length for group in groups for length in group]
    waiting.reverse()
    total = SamplerWork(0, 0, 0, prompt_tokens * len(groups))
    now, held = 0, 0  # decode steps done; completion tokens that the active rows hold
    active: list[tuple[int, int]] = []  # (decode step at which the row ends, its tokens)
    while active or waiting:
        while waiting and len(active) < rows:
            length = waiting.pop()
            heapq.heappush(active, (now + length, length))
        steps = active[0][0] - now
        # The row that was admitted last has 0 tokens, and every row gains one in a step.
        total = _plus(total, steps, len(active), len(active) * prompt_tokens + held, first=0)
        held += steps * len(active)
        now += steps
        while active and active[0][0] == now:
            held -= heapq.heappop(active)[1]
    return total


def _plus(total: SamplerWork, steps: int, rows: int, context: int, *, first: int) -> SamplerWork:
    """Add decode steps of the same rows, whose ``context`` tokens grow by one per row and step.

    ``first``: tokens that each row has generated before, if they are not in ``context``.
    """
    grown = rows * (steps * first + steps * (steps + 1) // 2)
    return SamplerWork(
        total.decode_steps + steps,
        total.decoded_rows + steps * rows,
        total.context_tokens + steps * context + grown,
        total.prompt_tokens,
    )


def sampling_seconds(
    groups: Lengths, *, count: int, prompt_tokens: int, rows: int, is_static: bool, costs: StepCosts
) -> list[float]:
    """Return the seconds of each of ``count`` samplers; sampler i has the groups i, i + count, .."""
    work = static_work if is_static else continuous_work
    return [
        costs.sampling_s(work(groups[index::count], prompt_tokens=prompt_tokens, rows=rows)) for index in range(count)
    ]


def update_seconds(groups: Lengths, *, count: int, prompt_tokens: int, costs: StepCosts) -> list[float]:
    """Return the seconds of the update of each of ``count`` trainers, without waiting; groups as above."""
    return [
        costs.update + costs.update_token * sum(prompt_tokens + sum(group) for group in groups[index::count])
        for index in range(count)
    ]


def simulate(
    steps: Sequence[Lengths], cluster: Cluster, *, prompt_tokens: int, costs: StepCosts, schedule: ClusterSchedule
) -> StepEstimate:
    """Simulate a run of at least two steps. Raises ``ValueError`` for "one_step_off" without samplers."""
    if schedule == "one_step_off" and not cluster.samplers:
        raise ValueError("one_step_off needs samplers of their own")
    sampling = [
        sampling_seconds(
            groups,
            count=cluster.samplers or cluster.trainers,
            prompt_tokens=prompt_tokens,
            rows=cluster.rows,
            is_static=schedule == "static",
            costs=costs,
        )
        for groups in steps
    ]
    updates = [
        update_seconds(groups, count=cluster.trainers, prompt_tokens=prompt_tokens, costs=costs) for groups in steps
    ]
    if schedule == "one_step_off":
        # While a step updates, the next one is sampled; the last one has no next one.
        pairs = [(sampling[i + 1], updates[i]) for i in range(len(steps) - 1)]
        seconds = [costs.weight_sync + max(max(sampled), max(updated)) for sampled, updated in pairs]
    else:
        pairs = list(zip(sampling, updates, strict=True))
        seconds = [costs.weight_sync + max(sampled) + max(updated) for sampled, updated in pairs]
    total = math.fsum(seconds)
    sampled_s = math.fsum(value for sampled, _ in pairs for value in sampled)
    updated_s = math.fsum(value for _, updated in pairs for value in updated)
    tokens = math.fsum(prompt_tokens + sum(group) for groups in steps[: len(pairs)] for group in groups)
    trainer_busy = updated_s if cluster.samplers else updated_s + sampled_s
    trainer_idle = 1 - trainer_busy / (cluster.trainers * total)
    return StepEstimate(
        seconds=total / len(seconds),
        sampling_s=fmean(max(sampled) for sampled, _ in pairs),
        update_s=fmean(max(updated) for _, updated in pairs),
        tokens_per_s=tokens / total,
        idle_frac=1 - (sampled_s + updated_s) / (cluster.count * total),
        trainer_idle_frac=trainer_idle,
        sampler_idle_frac=1 - sampled_s / (cluster.samplers * total) if cluster.samplers else trainer_idle,
    )


def best_split(
    steps: Sequence[Lengths], count: int, *, rows: int, prompt_tokens: int, costs: StepCosts, schedule: ClusterSchedule
) -> tuple[Cluster, StepEstimate]:
    """Return the division of ``count`` devices, at least 2, into trainers and samplers with the shortest step.

    Of more than 16 devices, multiples of a sixteenth are tried.
    """
    parts = min(count, 16)
    found = []
    for samplers in sorted({round(count * part / parts) for part in range(1, parts)}):
        cluster = Cluster(trainers=count - samplers, samplers=samplers, rows=rows)
        found.append((cluster, simulate(steps, cluster, prompt_tokens=prompt_tokens, costs=costs, schedule=schedule)))
    return min(found, key=lambda one: one[1].seconds)
