"""A whole training run: steps from where it stands to the end, logged, saved, stoppable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from virft.errors import RunError, RunStopped, VirftError
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
from virft.training.distributed import Ranks
from virft.training.failures import faults_told
from virft.training.monitors import VALIDATION_SCORE, Alarm, GuardSettings, NonFinite, Watch, is_finite
from virft.training.progress import Progress, step_line
from virft.training.run import EVENTS, INCIDENT, METRICS, ROLLOUTS, TIMINGS, RunFolder
from virft.training.step import StepReport
from virft.training.stopping import stop_signals
from virft.training.trackers import Trackers
from virft.training.zero import AnyOptimizer
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
    guards: GuardSettings = field(default_factory=GuardSettings)


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


LookAt = Callable[[Sample, int, int], Sample]
"""A sample as it is seen in a step (the second argument) at a place of it (the third)."""


class Trainer(Protocol):
    """What a run needs of a trainer: weights and optimizer to save, and steps."""

    @property
    def policy(self) -> nn.Module: ...

    @property
    def optimizer(self) -> AnyOptimizer: ...

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
    once, or when what is being written is written. A disk that is full, memory that does not suffice, another process
    that is gone are a ``RunError`` that says what was saved.

    A step that came to a number that is not finite is skipped; where weights are not finite, or too many steps were
    skipped in a row, the run goes back to its last checkpoint, and ends with a ``RunError`` where that did not help.
    Guards are told, and stop the run if ``settings.guards`` says so.

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
    try:
        faults = faults_told(lambda: loop.step, loop.saved_in_words, count=loop.ranks.count)
        with writing(run.folder, loop.saved_in_words), faults:
            num_steps = loop.begin()
            if num_steps is not None:
                loop.go_on(num_steps)
    except VirftError as error:
        with suppress(OSError):  # of a disk that is full
            loop.note_end(error)
        raise


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
        self._watch = Watch(self.settings.guards)
        self._went_back_at: int | None = None
        self.step = 0

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
            number = num_steps
            while number < settings.num_steps:
                self.step = number
                if not self._is_sound():
                    number = self._go_back(number, "trained weights are not finite numbers")
                    continue
                report = self.trainer.step(number, self._samples(number))
                done = number + 1
                last = done == settings.num_steps
                alarms = self._log_step(number, report)
                if self._watch.num_skipped >= settings.guards.nonfinite_steps:
                    number = self._go_back(number, _skipped_in_words(self._watch.num_skipped, report))
                    continue
                if self.validate is not None and (last or _is_time(done, settings.validate_every)):
                    is_best, more = self._look_into(number, done)
                    alarms += more
                    if is_best and self.keep_best is not None:
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
                is_stopped = self.ranks.largest(signals.queried) > 0
                stopping = [one for one in alarms if one.guard in settings.guards.stop_on]
                if last or is_stopped or stopping or _is_time(done, settings.save_every):
                    if not self._is_sound():
                        number = self._go_back(number, "trained weights are not finite numbers")
                        continue
                    with signals.held():
                        self._save(done)
                if last:
                    return
                if stopping:
                    raise RunError(
                        f"step {done}: {stopping[0].told}; stopped, as guards.stop_on says, and saved. "
                        "--resume goes on all the same"
                    )
                if is_stopped:
                    raise RunStopped(f"stopped after step {done}; go on with --resume")
                number = done

    def note_end(self, error: VirftError) -> None:
        """In the events: why the run ended before its time."""
        did = "stopped" if isinstance(error, RunStopped) else "failed"
        self._note(self.step, "end", did=did, told=str(error), is_incident=True)

    def saved_in_words(self, cure: str | None = "go on with --resume when that is mended") -> str:
        """What a run that ends before its time has kept."""
        found = checkpoints(self._checkpoints)
        kept = f"the run is whole as saved after step {num_steps_of(found[-1])}" if found else "nothing is saved yet"
        return f"{kept}; {cure}" if cure else kept

    def _take_up(self) -> int:
        """The steps done by the latest checkpoint that is whole, which is loaded; 0 without one."""
        found = latest_checkpoint(self._checkpoints, self._tell_torn) if self.ranks.is_first else None
        done = int(self.ranks.largest(num_steps_of(found) if found is not None else 0))
        if done:
            place = checkpoint_path(self._checkpoints, done)
            load_checkpoint(place, module=self.trainer.policy, optimizer=self.trainer.optimizer)
        self.run.cut_logs(done)
        self.ranks.wait()
        self._best, self._watch = _Best(), Watch(self.settings.guards)
        for record in self.run.records(METRICS):
            self._watch.add(record)
            if VALIDATION_SCORE in record:
                self._best.add(record[VALIDATION_SCORE])
        return done

    def _go_back(self, number: int, why: str) -> int:
        """To the last checkpoint, unless the run went back from here before; the steps done by then.

        A fault of the machine's memory does not come again. What does is in the data or the settings.
        """
        again = self._went_back_at == number
        done = 0 if again else self._take_up()
        if not done:
            what = "also after going back to the last checkpoint" if again else "and nothing was saved to go back to"
            raise RunError(
                f"step {number + 1}: {why}, {what}; {self.saved_in_words(cure=None)}. Look at the samples that "
                "events.jsonl names; a smaller learning rate is a run of its own"
            )
        self._went_back_at = number
        told = f"step {number + 1}: {why}; going back to where {done} steps were done"
        self.say(told)
        self._note(number, "nonfinite", did="went back", told=told, is_incident=True)
        if self.trackers is not None:
            self.trackers.go_back(num_told=number + 1)
        return done

    def _is_sound(self) -> bool:
        """Whether all trained weights of all processes are finite numbers."""
        return self.ranks.largest(not is_finite(self.trainer.policy)) == 0

    def _note(
        self,
        step: int,
        event: str,
        *,
        did: str,
        told: str,
        saw: Mapping[str, float] | None = None,
        is_incident: bool = False,
    ) -> None:
        """A line of ``events.jsonl``."""
        seen = {"saw": rounded(saw)} if saw else {}
        self.run.append(EVENTS, {"step": step, "event": event, **seen, "did": did, "told": told, INCIDENT: is_incident})

    def _tell_torn(self, told: str) -> None:
        self.say(told)
        self._note(self.step, "checkpoint", did="used the one before", told=told, is_incident=True)

    def _raise(self, step: int, alarms: Sequence[Alarm]) -> None:
        for one in alarms:
            did = "stopped" if one.guard in self.settings.guards.stop_on else "went on"
            told = f"step {step + 1}: {one.told}"
            self.say(told)
            self._note(step, one.guard, saw=one.saw, did=did, told=told)

    def _samples(self, number: int) -> Sequence[Sample]:
        """The samples of a step as they are seen in it."""
        samples = self.batch(number)
        if self.look_at is None:
            return samples
        return [self.look_at(sample, number, place) for place, sample in enumerate(samples)]

    def _log_step(self, number: int, report: StepReport) -> list[Alarm]:
        """The alarms that begin with this step."""
        metrics = rounded(report.metrics)
        self._log(metrics)
        if report.alarm is not None:
            self.say(report.alarm)
            self._note(number, "sampler", did="went on", told=report.alarm)
        if report.nonfinite is not None:
            self._skip(number, report.nonfinite)
        alarms = self._watch.add(metrics)
        self._raise(number, alarms)
        if report.shown is not None:
            self.run.append(ROLLOUTS, report.shown)
        if self.trackers is not None and report.most_different is not None:
            self.trackers.show(number, report.most_different)
        self.run.append(TIMINGS, {"step": number, **{k: round(v, 4) for k, v in report.timings.items()}})
        return alarms

    def _skip(self, number: int, found: NonFinite) -> None:
        told = f"step {number + 1}: {found.in_words()}"
        stops = self.settings.guards.nonfinite == "stop"
        self._note(number, "nonfinite", did="stopped" if stops else "skipped", told=told)
        if stops:
            raise RunError(f"{told}; the weights are those of the step before. {self.saved_in_words()}")
        self.say(f"{told}; the step is skipped, the weights are those of the step before")

    def _log(self, record: Mapping[str, float]) -> None:
        self.run.append(METRICS, record)
        if self.trackers is not None:
            self.trackers.log(record)

    def _look_into(self, record_step: int, num_steps: int) -> tuple[bool, list[Alarm]]:
        """Validate; whether that is the best so far, and the alarms that begin with it."""
        assert self.validate is not None
        found = _named("validation", self.validate(num_steps))
        self._log({"step": record_step, **found})
        alarms = self._watch.add(found)
        self._raise(record_step, alarms)
        return VALIDATION_SCORE in found and self._best.add(found[VALIDATION_SCORE]), alarms

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


def _skipped_in_words(count: int, last: StepReport) -> str:
    since = f", the last since {last.nonfinite.in_words()}" if last.nonfinite is not None else ""
    return f"{count} steps in a row were skipped{since}"


def _is_time(done: int, every: int) -> bool:
    """Whether something that is done every so many steps, 0 for never, is due."""
    return every > 0 and done % every == 0


def rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    """Numbers with 9 significant digits: enough for float32, and short lines."""
    return {name: value if isinstance(value, int) else float(f"{value:.9g}") for name, value in metrics.items()}


def _named(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in rounded(values).items()}
