"""The training loop: steps from the latest checkpoint to the end, logged, validated, saved and stoppable."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from torch import nn

from virft.config.schema import MonitorsConfig
from virft.errors import RunError, RunStopped, VirftError
from virft.files import writing
from virft.metrics.labels import label_of
from virft.tasks import TASKS
from virft.training.checkpoint import (
    CheckpointWriter,
    TrainingState,
    checkpoint_path,
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    num_steps_of,
)
from virft.training.distributed import Ranks
from virft.training.failures import translate_failures
from virft.training.monitors import VALIDATION_SCORE, Alarm, HealthMonitors, RewardParts, is_finite
from virft.training.progress import Progress, step_line
from virft.training.prompt_loader import Following, no_samples
from virft.training.run import (
    CHECKPOINTS,
    END,
    METRICS,
    RESUME,
    ROLLOUTS,
    TIMINGS,
    VALIDATION_PREFIX,
    RunFolder,
    is_unsaved,
)
from virft.training.step import NonFinite, StepReport, update_mfu
from virft.training.stopping import StopSignals, print_in_handler, stop_signals
from virft.training.trackers import Trackers
from virft.training.zero import AnyOptimizer, ZeroOptimizer
from virft.types import Sample

Augment = Callable[[Sample, int, int], Sample]
"""Data augmentation: (sample, step, index in the batch) -> augmented sample."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopSettings:
    """Length of a run and the intervals of its output."""

    num_steps: int
    """Optimizer steps of the run."""
    save_every: int
    """Save a checkpoint every N steps; 0: only after the last step."""
    keep_checkpoints: int
    """Number of checkpoints that are retained."""
    log_every: int
    """Print a line every N steps. Each step is recorded in any case."""
    validate_every: int = 0
    """Validate every N steps; 0: only before the first and after the last step."""
    patience: int = 0
    """Early stopping after N consecutive validations without improvement; 0: never."""
    monitors: MonitorsConfig = field(default_factory=MonitorsConfig)
    """Thresholds of the health monitors."""
    parts: RewardParts = field(default_factory=RewardParts)
    """Reward parts that the monitors compare."""
    warm_start_steps: int = 0
    """Number of the first steps that are supervised. They say nothing about the time that the others take."""


class Trainer(Protocol):
    """The interface of a training method: weights and optimizer to save, and steps."""

    @property
    def policy(self) -> nn.Module: ...

    @property
    def optimizer(self) -> AnyOptimizer: ...

    def step(self, number: int, samples: Sequence[Sample], following: Following = no_samples) -> StepReport:
        """Take one optimizer step on a batch. ``following`` returns the batch of a later step."""
        ...

    def in_flight(self) -> str:
        """Return what a checkpoint holds of later steps that have begun; empty if none has. A collective operation."""
        ...

    def restore_in_flight(self, saved: str) -> None:
        """Forget what has begun of later steps, and take what a checkpoint holds instead."""
        ...

    def close(self) -> None:
        """Release everything but the policy. No step follows."""
        ...


@dataclass(kw_only=True)
class EarlyStopping:
    """The best validation score so far, the steps done at it, and the number of validations since then."""

    patience: int
    best: float = -float("inf")
    best_step: int = 0
    num_without_improvement: int = 0

    def add(self, score: float, num_steps: int) -> bool:
        """Add the score after ``num_steps`` steps; true if it exceeds all before it."""
        if score > self.best:
            self.best, self.best_step, self.num_without_improvement = score, num_steps, 0
            return True
        self.num_without_improvement += 1
        return False

    @property
    def is_over(self) -> bool:
        """True if ``patience`` is exhausted."""
        return 0 < self.patience <= self.num_without_improvement


class _Rollback(Exception):
    """Internal signal from inside a step: the weights or too many steps are non-finite, roll back."""


class _Validated(NamedTuple):
    """If a validation gave the best score so far, and the alarms that begin with it."""

    is_best: bool
    alarms: list[Alarm]


@dataclass(kw_only=True)
class TrainingLoop:
    """Trains until ``num_steps``, from the latest checkpoint in the run folder if there is one.

    Every rank runs the same loop and ends it together with the others; ``log`` and ``run_folder`` write in rank 0 only.
    """

    trainer: Trainer
    """The training method with its policy."""
    batch: Callable[[int], Sequence[Sample]]
    """Step -> its samples. Must be a pure function, as steps may be repeated."""
    run_folder: RunFolder
    """Config, logs and checkpoints of the run."""
    settings: LoopSettings
    """Number of steps, and intervals."""
    log: Callable[[str], None]
    """Prints a line."""
    validate: Callable[[int], Mapping[str, float]] | None = None
    """Steps done -> validation scores by name; "score" is the one that selects the best model."""
    augment: Augment | None = None
    """Data augmentation."""
    save_best: Callable[[], None] | None = None
    """Saves the model. Called after each validation with a higher score than all before, the base model's included."""
    trackers: Trackers | None = None
    """Experiment trackers; the caller ends them."""
    peak_flops: float | None = None
    """Peak rate of the devices of all ranks, in operations per second; None: not known, no MFU is logged."""
    ranks: Ranks = field(default_factory=Ranks)
    """This process among those of the run."""

    def __post_init__(self) -> None:
        self._checkpoints = self.run_folder.folder / CHECKPOINTS
        self._writer = CheckpointWriter(
            self._checkpoints,
            keep=self.settings.keep_checkpoints,
            ranks=self.ranks,
            in_background=self.ranks.count > 1 and not isinstance(self.trainer.optimizer, ZeroOptimizer),
        )
        self._early_stopping = EarlyStopping(patience=self.settings.patience)
        self._monitors = HealthMonitors(self.settings.monitors, self.settings.parts)
        self._last_rollback: int | None = None
        self._current = 0
        self._has_begun = False
        self._stops_after = 1

    def run(self) -> None:
        """Train to the end.

        The first Ctrl-C or SIGTERM ends the run after the current step, saves it and raises ``RunStopped``; a second
        one ends it immediately, or as soon as the file being written is complete, with ``KeyboardInterrupt``. A line is
        printed at each. Raises ``RunError`` for a full disk, out of memory and a lost rank; it says which checkpoint is
        the last.

        A step with a non-finite number is skipped. If weights are non-finite, or too many consecutive steps were
        skipped, the run rolls back to its last checkpoint; if the same step fails again, it raises ``RunError``. Health
        monitors warn, and stop the run if ``settings.monitors`` says so.
        """
        failures = translate_failures(lambda: self._current, self._describe_saved, world_size=self.ranks.count)
        try:
            with writing(self.run_folder.folder, self._describe_saved), failures, self._writer:
                self._run_steps(self._start())
                self._report_no_gain()
        except KeyboardInterrupt:
            self._report_interrupt()
            raise
        except VirftError as error:
            with suppress(OSError):  # the disk may be full
                self._record_end(error)
            raise

    def _start(self) -> int:
        """Restore the latest checkpoint, or validate the base model; the number of steps done."""
        # Counted before the logs are cut back to the checkpoint: trackers have already got these records.
        num_logged = 1 + max((record["step"] for record in self.run_folder.records(METRICS)), default=-1)
        done = self._restore()
        if done:
            self.log(f"resuming after step {done}")
        if self._early_stopping.is_over:
            self.log(f"early stopping ended this run after step {done}; nothing is left to do")
            return done
        if self.trackers is not None and done < self.settings.num_steps:
            self.trackers.start(num_done=done, num_logged=num_logged)
        if done and done < self.settings.num_steps:
            message = f"resumed after step {done}"
            self.run_folder.append_event(done, RESUME, action="continued", message=message, is_incident=True)
        if self.validate is not None and done == 0:
            self._validate(0, num_done=0)
        return done

    def _run_steps(self, done: int) -> None:
        warm_start_steps = self.settings.warm_start_steps
        progress = Progress(max(done, warm_start_steps), done=done)
        with stop_signals(self._announce_stop) as signals:
            while done < self.settings.num_steps and not self._early_stopping.is_over:
                if done >= warm_start_steps and progress.total < self.settings.num_steps:
                    progress = Progress(self.settings.num_steps, done=done)
                try:
                    done = self._run_step(done, progress, signals)
                except _Rollback as reason:
                    done = self._roll_back(done, str(reason))

    def _announce_stop(self, received: signal.Signals) -> None:
        """Print immediately that the first signal was received; in rank 0 only, as ``log`` is."""
        what = f"finishing step {self._stops_after}, then saving"
        if received == signal.SIGINT:
            print_in_handler(self.log, f"{what}; press Ctrl-C again to stop now")
        else:
            print_in_handler(self.log, f"{received.name}: {what}; a second signal stops now")

    def _report_interrupt(self) -> None:
        """Print and record a stop in the middle of a step or before the first one, and the work that is saved."""
        where = f"during step {self._current + 1}" if self._has_begun else "before the first step"
        how = "the same command starts it again" if is_unsaved(self.run_folder.folder) else "resume with --resume"
        message = f"stopped {where}; {self._describe_last_checkpoint()}; {how}"
        self.log(message)
        with suppress(OSError):
            self.run_folder.append_event(self._current, END, action="stopped", message=message, is_incident=True)

    def _run_step(self, number: int, progress: Progress, signals: StopSignals) -> int:
        """Train, record, validate, print and save one step; the number of steps done.

        Raises ``RunStopped`` or ``RunError`` if the run is to stop after this step, when it is saved.
        """
        self._current, self._has_begun, done = number, True, number + 1
        self._stops_after = done
        # Before a step and before a save: a NaN must neither be trained on nor saved.
        self._require_finite_weights()
        report = self.trainer.step(number, self._samples(number), lambda ahead: self._following(number + ahead))
        alarms = self._record(number, report)
        if self._monitors.num_skipped >= self.settings.monitors.nonfinite_steps:
            raise _Rollback(_describe_skipped(self._monitors.num_skipped, report))
        if self.validate is not None and self._is_due(done, self.settings.validate_every):
            alarms += self._validate_and_save_best(number, signals)
        is_last = done == self.settings.num_steps or self._early_stopping.is_over
        if is_last or done % self.settings.log_every == 0:
            of = " in the warm start" if number < self.settings.warm_start_steps else ""
            self._log_step(report, time_left=progress.describe(done) + of)
        # All ranks have to agree: a signal may reach one of them a step earlier than another.
        self._stops_after = min(done + 1, self.settings.num_steps)  # of a signal that comes after the next line
        is_stopped = self.ranks.max(signals.received) > 0
        if self.ranks.max(self._writer.has_failed) > 0:
            self._writer.wait()
        stopping = [one for one in alarms if one.monitor in self.settings.monitors.stop_on]
        if is_last or is_stopped or stopping or self._is_due(done, self.settings.save_every):
            self._require_finite_weights()
            in_flight = self.trainer.in_flight()  # may take as long as sampling, which a second signal may cut
            # a second signal must not cut the file
            with signals.held():
                self._save(done, in_flight)
                if is_last or is_stopped or stopping:
                    self._writer.wait()
        if stopping and not is_last:
            raise RunError(
                f"step {done}: {stopping[0].message}; saved and stopped, as monitors.stop_on says. "
                "--resume continues regardless"
            )
        if is_stopped and not is_last:
            raise RunStopped(f"stopped after step {done}; resume with --resume")
        return done

    def _is_due(self, done: int, every: int) -> bool:
        """True after every N steps (0: never) and after the last step."""
        return done == self.settings.num_steps or (every > 0 and done % every == 0)

    def _samples(self, number: int) -> Sequence[Sample]:
        """The samples of a step, augmented."""
        samples = self.batch(number)
        if self.augment is None:
            return samples
        return [self.augment(sample, number, place) for place, sample in enumerate(samples)]

    def _following(self, number: int) -> Sequence[Sample]:
        """The samples of a later step; none after the last one."""
        return self._samples(number) if number < self.settings.num_steps else ()

    def _record(self, number: int, report: StepReport) -> list[Alarm]:
        """Write the report of a step to the logs and trackers; the alarms that begin with it.

        Raises ``RunError`` for a skipped step if ``monitors.nonfinite`` is "stop".
        """
        metrics = rounded(report.metrics)
        self._append_metrics(metrics)
        if report.warning is not None:
            self.log(report.warning)
            self.run_folder.append_event(number, "sampler", action="continued", message=report.warning)
        if report.nonfinite is not None:
            self._report_skipped(number, report.nonfinite)
        # The monitors get the rounded numbers of the log, from which a resumed run rebuilds their state.
        alarms = self._monitors.add(metrics)
        self._report_alarms(number, alarms)
        if report.rollout_record is not None:
            self.run_folder.append(ROLLOUTS, report.rollout_record)
        if self.trackers is not None and report.widest_group is not None:
            self.trackers.log_group(number, report.widest_group)
        self.run_folder.append(TIMINGS, {"step": number, **{k: round(v, 4) for k, v in report.timings.items()}})
        return alarms

    def _append_metrics(self, record: Mapping[str, float]) -> None:
        self.run_folder.append(METRICS, record)
        if self.trackers is not None:
            self.trackers.log(record)

    def _report_skipped(self, number: int, nonfinite: NonFinite) -> None:
        message = f"step {number + 1}: {nonfinite.describe()}"
        stops = self.settings.monitors.nonfinite == "stop"
        self.run_folder.append_event(number, "nonfinite", action="stopped" if stops else "skipped", message=message)
        if stops:
            raise RunError(f"{message}; the weights are unchanged by this step. {self._describe_saved()}")
        self.log(f"{message}; the step is skipped, the weights are unchanged")

    def _report_alarms(self, step: int, alarms: Sequence[Alarm]) -> None:
        for one in alarms:
            action = "stopped" if one.monitor in self.settings.monitors.stop_on else "continued"
            message = f"step {step + 1}: {one.message}"
            self.log(message)
            observed = rounded(one.observed)
            self.run_folder.append_event(step, one.monitor, action=action, message=message, observed=observed)

    def _log_step(self, report: StepReport, *, time_left: str) -> None:
        seconds = sum(report.timings.values())
        self.log(
            step_line(
                report.metrics,
                weights=self.settings.parts.weights,
                num_steps=self.settings.num_steps,
                seconds=seconds,
                time_left=time_left,
                mfu=update_mfu(report.metrics, report.timings, self.peak_flops),
            )
        )

    def _validate_and_save_best(self, number: int, signals: StopSignals) -> list[Alarm]:
        """Validate after a step, save the model if it is the best so far; the alarms that begin with it."""
        done = number + 1
        validated = self._validate(number, num_done=done)
        if validated.is_best and self.save_best is not None:
            with signals.held():
                self.save_best()
        if self._early_stopping.is_over and done < self.settings.num_steps:
            count, best = self._early_stopping.num_without_improvement, self._early_stopping.best
            self.log(f"early stopping after step {done}: {count} validations without improvement over {best:.3f}")
        return validated.alarms

    def _report_no_gain(self) -> None:
        """Print if no validation score exceeded the one before the first step: then there is no best model."""
        found = self._early_stopping
        if self.save_best is not None and found.best_step == 0 and found.num_without_improvement:
            self.log(
                f"note: no validation score of this run is above {found.best:.3f}, that of the model before the first "
                "step, so no best model is saved, and the trained one may be worse; a smaller learning rate (as `virft "
                "advise` proposes) or more images may help"
            )

    def _validate(self, record_step: int, *, num_done: int) -> _Validated:
        """Validate and record the scores at a step of ``metrics.jsonl``."""
        assert self.validate is not None
        scores = {VALIDATION_PREFIX + name: value for name, value in rounded(self.validate(num_done)).items()}
        self._append_metrics({"step": record_step, **scores})
        alarms = self._monitors.add(scores)
        self._report_alarms(record_step, alarms)
        is_best = VALIDATION_SCORE in scores and self._early_stopping.add(scores[VALIDATION_SCORE], num_done)
        self.log(f"validation {_describe_steps(num_done)}: {_validation_text(scores, self._early_stopping, num_done)}")
        return _Validated(is_best, alarms)

    def _save(self, num_steps: int, in_flight: str) -> None:
        # Logs first: after a power cut, a checkpoint must not be ahead of them, as a resume cuts the logs to its step.
        self.run_folder.sync_logs()
        state = TrainingState(num_steps=num_steps, in_flight=in_flight)
        self._writer.save(self.trainer.policy, self.trainer.optimizer, state)

    def _restore(self) -> int:
        """Load the latest valid checkpoint and the state of logs and monitors; the number of steps done, or 0."""
        self._writer.wait()  # before a rollback
        # Rank 0 validates the checkpoints and decides for all ranks, which then load the same one.
        found = latest_checkpoint(self._checkpoints, self._report_corrupt) if self.ranks.is_first else None
        done = int(self.ranks.max(num_steps_of(found) if found is not None else 0))
        if done:
            place = checkpoint_path(self._checkpoints, done)
            state = load_checkpoint(place, module=self.trainer.policy, optimizer=self.trainer.optimizer)
            self.trainer.restore_in_flight(state.in_flight)
        self.run_folder.cut_logs(done)
        # No rank reads the metrics before they are cut.
        self.ranks.barrier()
        self._early_stopping = EarlyStopping(patience=self.settings.patience)
        self._monitors = HealthMonitors(self.settings.monitors, self.settings.parts)
        for record in self.run_folder.records(METRICS):
            self._monitors.add(record)
            if VALIDATION_SCORE in record:
                # the first one precedes the first step; its record has the number of that step
                is_first = self._early_stopping.best == -float("inf")
                self._early_stopping.add(record[VALIDATION_SCORE], 0 if is_first else int(record["step"]) + 1)
        return done

    def _report_corrupt(self, message: str) -> None:
        self.log(message)
        self.run_folder.append_event(
            self._current, "checkpoint", action="used the previous one", message=message, is_incident=True
        )

    def _require_finite_weights(self) -> None:
        """Raise ``_Rollback`` if a trained weight of any rank is not finite."""
        if self.ranks.max(not is_finite(self.trainer.policy)) > 0:
            raise _Rollback("trained weights are not finite numbers")

    def _roll_back(self, number: int, reason: str) -> int:
        """Load the last checkpoint; the number of steps done.

        A fault of the machine's memory does not recur; a fault of data or hyperparameters does, in the same step. Then,
        or without a checkpoint, this raises ``RunError``.
        """
        # deterministic steps: a failure that recurs would recur after every rollback
        recurs = self._last_rollback == number
        done = 0 if recurs else self._restore()
        if not done:
            what = "again after a rollback to the last checkpoint" if recurs else "and no checkpoint to roll back to"
            raise RunError(
                f"step {number + 1}: {reason}, {what}; {self._describe_last_checkpoint()}. Inspect the samples that "
                "events.jsonl names. A lower learning rate needs a new run, as it cannot change on --resume"
            )
        self._last_rollback = number
        message = f"step {number + 1}: {reason}; rolling back to the checkpoint after step {done}"
        self.log(message)
        self.run_folder.append_event(number, "nonfinite", action="rolled back", message=message, is_incident=True)
        if self.trackers is not None:
            self.trackers.roll_back(num_logged=number + 1)
        return done

    def _record_end(self, error: VirftError) -> None:
        """Record the reason of an early end in ``events.jsonl``."""
        action = "stopped" if isinstance(error, RunStopped) else "failed"
        self.run_folder.append_event(self._current, END, action=action, message=str(error), is_incident=True)

    def _describe_saved(self) -> str:
        """The last checkpoint and the way to resume, as a clause of an error message."""
        return f"{self._describe_last_checkpoint()}; resume with --resume once this is resolved"

    def _describe_last_checkpoint(self) -> str:
        found = checkpoints(self._checkpoints)
        return f"the last checkpoint is that after step {num_steps_of(found[-1])}" if found else "nothing is saved yet"


def _describe_skipped(count: int, last: StepReport) -> str:
    reason = f", the last because the {last.nonfinite.describe()}" if last.nonfinite is not None else ""
    return f"{count} consecutive steps were skipped{reason}"


def _describe_steps(num_steps: int) -> str:
    return f"after step {num_steps}" if num_steps else "before the first step"


def _validation_text(scores: Mapping[str, float], best: EarlyStopping, num_steps: int) -> str:
    """Headline metrics of a validation, their mean if there are several, and the best score so far.

    >>> scores = {"validation_f1": 0.25, "validation_recall": 0.5, "validation_score": 0.25}
    >>> _validation_text(scores, EarlyStopping(patience=0, best=0.5, best_step=20), 40)
    'F1 0.250; the best is 0.500 after step 20'
    """
    headlines = {task.headline for task in TASKS.values()}
    named = {key.removeprefix(VALIDATION_PREFIX): value for key, value in scores.items()}
    shown = {label_of(name): value for name, value in named.items() if name.partition("@")[0] in headlines}
    score = scores.get(VALIDATION_SCORE)
    if score is not None and list(shown.values()) != [score]:
        shown["mean score"] = score
    text = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
    if score is None or not num_steps:
        return text
    if best.best_step == num_steps:
        return f"{text}, the best so far"
    return f"{text}; the best is {best.best:.3f} {_describe_steps(best.best_step)}"


def rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    """Floats with 9 significant digits: enough to distinguish float32 values, and short lines. Integers unchanged."""
    return {name: value if isinstance(value, int) else float(f"{value:.9g}") for name, value in metrics.items()}
