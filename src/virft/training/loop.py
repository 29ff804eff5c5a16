"""A whole training run: steps from where it stands to the end, logged, saved, stoppable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from virft.errors import RunStopped
from virft.files import writing
from virft.training.checkpoint import (
    TrainingState,
    checkpoint_path,
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    num_steps_of,
    save_checkpoint,
)
from virft.training.progress import Progress, step_line
from virft.training.ranks import Ranks
from virft.training.run import METRICS, ROLLOUTS, TIMINGS, RunFolder
from virft.training.step import StepReport
from virft.training.stopping import stop_signals
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

    Ctrl-C or SIGTERM ends the run after the step in hand, saves it and raises ``RunStopped``; a second one stops at
    once, or when what is being written is written. A disk that is full is a ``RunError`` that says what was saved.

    With several processes (``ranks``) all run this, and end together; ``run`` and ``say`` are silent in all but one.
    """
    loop = _Loop(
        trainer=trainer,
        batch=batch,
        run=run,
        settings=settings,
        say=say,
        validate=validate,
        look_at=look_at,
        keep_best=keep_best,
        trackers=trackers,
        ranks=ranks or Ranks(),
    )
    with writing(run.folder, loop.saved_in_words):
        num_steps = loop.begin()
        if num_steps is not None:
            loop.go_on(num_steps)


@dataclass(kw_only=True)
class _Loop:
    """``run_training`` with its arguments at hand."""

    trainer: Trainer
    batch: Callable[[int], Sequence[Sample]]
    run: RunFolder
    settings: LoopSettings
    say: Callable[[str], None]
    validate: Callable[[int], Mapping[str, float]] | None
    look_at: LookAt | None
    keep_best: Callable[[], None] | None
    trackers: Trackers | None
    ranks: Ranks

    def __post_init__(self) -> None:
        self._checkpoints = self.run.folder / "checkpoints"
        self._best = _Best()

    def begin(self) -> int | None:
        """Take up what was saved, and look at the untrained model; the steps done, None where the run is at its end."""
        num_told = 1 + max((record["step"] for record in self.run.records(METRICS)), default=-1)
        done = self._take_up()
        if done:
            self.say(f"going on after step {done}")
        if self._is_over():
            self.say(f"ended early after step {done}: nothing to go on with")
            return None
        if self.trackers is not None and done < self.settings.num_steps:
            self.trackers.start(num_done=done, num_told=num_told)
        if self.validate is not None and done == 0:
            self._look_into(0, 0)
        return done

    def go_on(self, num_steps: int) -> None:
        """The steps from there to the end."""
        settings = self.settings
        progress = Progress(settings.num_steps, done=num_steps)
        with stop_signals() as signals:
            for number in range(num_steps, settings.num_steps):
                report = self.trainer.step(number, self._samples(number))
                done = number + 1
                last = done == settings.num_steps
                self._log_step(number, report)
                if self.validate is not None and (last or _is_time(done, settings.validate_every)):
                    if self._look_into(number, done) and self.keep_best is not None:
                        with signals.held():
                            self.keep_best()
                    if self._is_over() and not last:
                        since, score = self._best.num_since, self._best.score
                        self.say(f"ending after step {done}: {since} validations were not better than {score:.3f}")
                        last = True
                if done % settings.log_every == 0 or last:
                    seconds, rest = sum(report.timings.values()), progress.tell(done)
                    self.say(step_line(report.metrics, num_steps=settings.num_steps, seconds=seconds, rest=rest))
                # a signal may reach one process a step before another
                is_stopped = self.ranks.largest(signals.asked) > 0
                if last or is_stopped or _is_time(done, settings.save_every):
                    with signals.held():
                        self._save(done)
                if last:
                    return
                if is_stopped:
                    raise RunStopped(f"stopped after step {done}; go on with --resume")

    def saved_in_words(self) -> str:
        """What a run that cannot be written to has kept."""
        found = checkpoints(self._checkpoints)
        kept = f"the run is whole as saved after step {num_steps_of(found[-1])}" if found else "nothing is saved yet"
        return f"{kept}; expected room and rights to write, then go on with --resume"

    def _take_up(self) -> int:
        """The steps done by the latest checkpoint that is whole, which is loaded; 0 without one."""
        found = latest_checkpoint(self._checkpoints, self.say) if self.ranks.is_first else None
        done = int(self.ranks.largest(num_steps_of(found) if found is not None else 0))
        if done:
            place = checkpoint_path(self._checkpoints, done)
            load_checkpoint(place, module=self.trainer.policy, optimizer=self.trainer.optimizer)
        self.run.cut_logs(done)
        self.ranks.wait()
        self._best = _Best()
        for record in self.run.records(METRICS):
            if VALIDATION_SCORE in record:
                self._best.add(record[VALIDATION_SCORE])
        return done

    def _samples(self, number: int) -> Sequence[Sample]:
        """The samples of a step as they are seen in it."""
        samples = self.batch(number)
        if self.look_at is None:
            return samples
        return [self.look_at(sample, number, place) for place, sample in enumerate(samples)]

    def _log_step(self, number: int, report: StepReport) -> None:
        self._log(rounded(report.metrics))
        if report.alarm is not None:
            self.say(report.alarm)
        if report.shown is not None:
            self.run.append(ROLLOUTS, report.shown)
        if self.trackers is not None and report.most_different is not None:
            self.trackers.show(number, report.most_different)
        self.run.append(TIMINGS, {"step": number, **{k: round(v, 4) for k, v in report.timings.items()}})

    def _log(self, record: Mapping[str, float]) -> None:
        self.run.append(METRICS, record)
        if self.trackers is not None:
            self.trackers.log(record)

    def _look_into(self, record_step: int, num_steps: int) -> bool:
        """Validate; whether that is the best so far."""
        assert self.validate is not None
        found = _named("validation", self.validate(num_steps))
        self._log({"step": record_step, **found})
        return VALIDATION_SCORE in found and self._best.add(found[VALIDATION_SCORE])

    def _is_over(self) -> bool:
        return self.settings.patience > 0 and self._best.num_since >= self.settings.patience

    def _save(self, num_steps: int) -> None:
        self.run.sync_logs()  # a checkpoint never knows of more than the logs
        save_checkpoint(
            self._checkpoints,
            module=self.trainer.policy,
            optimizer=self.trainer.optimizer,
            state=TrainingState(num_steps=num_steps),
            keep=self.settings.keep_checkpoints,
            ranks=self.ranks,
        )


def _is_time(done: int, every: int) -> bool:
    """Whether something that is done every so many steps, 0 for never, is due."""
    return every > 0 and done % every == 0


def rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    """Numbers with 9 significant digits: enough for float32, and short lines."""
    return {name: value if isinstance(value, int) else float(f"{value:.9g}") for name, value in metrics.items()}


def _named(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in rounded(values).items()}
