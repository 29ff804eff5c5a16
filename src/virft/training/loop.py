"""A whole training run: steps from where it stands to the end, logged, saved, stoppable."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

import torch
from torch import nn

from virft.errors import RunStopped
from virft.training.checkpoint import TrainingState, checkpoints, load_checkpoint, save_checkpoint
from virft.training.progress import Progress, step_line
from virft.training.ranks import Ranks
from virft.training.run import METRICS, ROLLOUTS, TIMINGS, RunFolder
from virft.training.step import StepReport
from virft.training.trackers import Trackers
from virft.types import Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopSettings:
    """How long, how often."""

    num_steps: int
    save_every: int
    keep_checkpoints: int
    log_every: int
    validate_every: int = 0
    patience: int = 0


@dataclass(kw_only=True)
class _Best:
    """The best validation so far, and how many have come since without being better."""

    score: float = -float("inf")
    num_since: int = 0

    def add(self, score: float) -> bool:
        """Whether this one is better than all before."""
        if score > self.score:
            self.score, self.num_since = score, 0
            return True
        self.num_since += 1
        return False


VALIDATION_SCORE = "validation_score"

LookAt = Callable[[Sample, int, int], Sample]
"""A sample as it is seen in a step (the second argument) at a place of it (the third)."""


class Trainer(Protocol):
    """What a run needs of a trainer: weights and optimizer to save, and steps."""

    @property
    def policy(self) -> nn.Module: ...

    @property
    def optimizer(self) -> torch.optim.Optimizer: ...

    def step(self, number: int, samples: Sequence[Sample]) -> StepReport:
        """One optimizer step."""
        ...

    def close(self) -> None:
        """Let go of what it holds beside the policy; no step comes after this."""
        ...


def run_training(
    trainer: Trainer,
    batch: Callable[[int], Sequence[Sample]],
    run: RunFolder,
    settings: LoopSettings,
    *,
    say: Callable[[str], None],
    validate: Callable[[int], Mapping[str, float]] | None = None,
    look_at: LookAt | None = None,
    keep_best: Callable[[], None] | None = None,
    trackers: Trackers | None = None,
    ranks: Ranks | None = None,
) -> None:
    """Trains until ``num_steps``, going on from the latest checkpoint in the run folder if there is one.

    ``batch(step)`` gives the samples of a step, the same ones each time it is asked. ``keep_best`` is called after a
    validation whose ``score`` is higher than those of all before, the untrained model's included; after ``patience``
    validations without that, training ends. ``trackers`` are told what the logs get; ending them is the caller's.

    Ctrl-C ends the run after the step in hand, saves it and raises ``RunStopped``; a second one stops at once.

    With several processes (``ranks``) all run this, and end together; ``run`` and ``say`` are silent in all but one.
    """
    ranks = ranks or Ranks()
    folder = run.folder / "checkpoints"
    state = TrainingState(num_steps=0)
    if found := checkpoints(folder):
        state = load_checkpoint(found[-1], module=trainer.policy, optimizer=trainer.optimizer)
        say(f"going on after step {state.num_steps}")
    num_told = 1 + max((record["step"] for record in run.records(METRICS)), default=-1)
    run.cut_logs(state.num_steps)
    ranks.wait()
    progress = Progress(settings.num_steps, done=state.num_steps)
    best = _Best()
    for record in run.records(METRICS):
        if VALIDATION_SCORE in record:
            best.add(record[VALIDATION_SCORE])

    def log(record: Mapping[str, float]) -> None:
        run.append(METRICS, record)
        if trackers is not None:
            trackers.log(record)

    def save(num_steps: int) -> None:
        save_checkpoint(
            folder,
            module=trainer.policy,
            optimizer=trainer.optimizer,
            state=TrainingState(num_steps=num_steps),
            keep=settings.keep_checkpoints,
            ranks=ranks,
        )

    def look_into(record_step: int, num_steps: int) -> bool:
        """Validate; whether that is the best so far."""
        assert validate is not None
        found = _named("validation", validate(num_steps))
        log({"step": record_step, **found})
        return VALIDATION_SCORE in found and best.add(found[VALIDATION_SCORE])

    def is_over() -> bool:
        return settings.patience > 0 and best.num_since >= settings.patience

    if is_over():
        say(f"ended early after step {state.num_steps}: nothing to go on with")
        return
    if trackers is not None and state.num_steps < settings.num_steps:
        trackers.start(num_done=state.num_steps, num_told=num_told)
    if validate is not None and state.num_steps == 0:
        look_into(0, 0)
    with _stop_signal() as stop:
        for number in range(state.num_steps, settings.num_steps):
            samples = batch(number)
            if look_at is not None:
                samples = [look_at(sample, number, place) for place, sample in enumerate(samples)]
            report = trainer.step(number, samples)
            done = number + 1
            last = done == settings.num_steps
            log(rounded(report.metrics))
            if report.alarm is not None:
                say(report.alarm)
            if report.shown is not None:
                run.append(ROLLOUTS, report.shown)
            if trackers is not None and report.most_different is not None:
                trackers.show(number, report.most_different)
            run.append(TIMINGS, {"step": number, **{k: round(v, 4) for k, v in report.timings.items()}})
            if validate is not None and (last or (settings.validate_every and done % settings.validate_every == 0)):
                if look_into(number, done) and keep_best is not None:
                    keep_best()
                if is_over() and not last:
                    say(f"ending after step {done}: {best.num_since} validations were not better than {best.score:.3f}")
                    last = True
            if done % settings.log_every == 0 or last:
                seconds = sum(report.timings.values())
                say(step_line(report.metrics, num_steps=settings.num_steps, seconds=seconds, rest=progress.tell(done)))
            is_stopped = ranks.largest(bool(stop)) > 0  # a signal may reach one process a step before another
            if last or is_stopped or (settings.save_every and done % settings.save_every == 0):
                save(done)
            if last:
                return
            if is_stopped:
                raise RunStopped(f"stopped after step {done}; go on with --resume")


def rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    """Numbers with 9 significant digits: enough for float32, and short lines."""
    return {name: value if isinstance(value, int) else float(f"{value:.9g}") for name, value in metrics.items()}


def _named(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in rounded(values).items()}


@contextmanager
def _stop_signal() -> Iterator[list[bool]]:
    """A list that becomes non-empty at the first Ctrl-C. The second one raises, as usual."""
    asked: list[bool] = []

    def on_interrupt(number: int, frame: FrameType | None) -> Any:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    try:
        before = signal.signal(signal.SIGINT, on_interrupt)
    except ValueError:  # not in the main thread, where signals do not arrive
        yield asked
        return
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
