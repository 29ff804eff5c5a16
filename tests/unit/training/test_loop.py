"""A whole run: logged, saved, stopped and resumed without a trace of having been stopped."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch

from toy_training import question, toy_trainer
from virft.config.schema import Config, DataConfig, RunConfig
from virft.errors import DataError, RunError, RunStopped
from virft.training import checkpoint
from virft.training.checkpoint import checkpoints
from virft.training.grpo.trainer import GRPOTrainer
from virft.training.loop import LoopSettings, rounded, run_training
from virft.training.monitors import GuardSettings
from virft.training.run import EVENTS, METRICS, ROLLOUTS, TIMINGS, RunFolder

QUESTIONS = [question(id) for id in "abcde"]


def settings(**changes: Any) -> LoopSettings:
    numbers: dict[str, Any] = {"num_steps": 4, "save_every": 0, "keep_checkpoints": 2, "log_every": 1}
    return LoopSettings(**numbers | changes)


def open_run(folder: Path, *, resume: bool = False) -> RunFolder:
    config = Config(data=DataConfig(train="d"), run=RunConfig(dir=str(folder)))
    return RunFolder.open(config, resume=resume, card={"data_hash": "0", "trainer": "grpo"})


def run(folder: Path, *, resume: bool = False, trainer: GRPOTrainer | None = None, **more: Any) -> list[str]:
    """The lines that a run said."""
    said: list[str] = []
    others = {name: more.pop(name, None) for name in ("validate", "look_at", "keep_best", "trackers")}
    run_training(
        trainer or toy_trainer(),
        lambda step: [QUESTIONS[(2 * step + place) % len(QUESTIONS)] for place in range(2)],
        open_run(folder, resume=resume),
        settings(**more),
        say=said.append,
        **others,
    )
    return said


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def interrupting(trainer: GRPOTrainer, at: int, *, times: int = 1, by: signal.Signals = signal.SIGINT) -> GRPOTrainer:
    """A trainer whose user presses Ctrl-C in the middle of a step, or whose time is up."""
    step: Callable[..., Any] = trainer.step

    def stopped(number: int, samples: Any) -> Any:
        for _ in range(times if number == at else 0):
            os.kill(os.getpid(), by)
        return step(number, samples)

    trainer.step = stopped  # type: ignore[method-assign]
    return trainer


def test_every_step_is_logged_and_the_last_one_saved(tmp_path: Path) -> None:
    said = run(tmp_path / "r")
    assert [line["step"] for line in lines(tmp_path / "r" / METRICS)] == [0, 1, 2, 3]
    assert [line["step"] for line in lines(tmp_path / "r" / ROLLOUTS)] == [0, 1, 2, 3]
    assert "update" in lines(tmp_path / "r" / TIMINGS)[0]
    assert [path.name for path in checkpoints(tmp_path / "r" / "checkpoints")] == ["step_000004"]
    assert len(said) == 4
    assert said[0].startswith("step 1/4  reward 2.00 (confidence 0.50 format 1.00 iou 0.50)  unreadable 0%  ")


def test_lines_come_as_often_as_asked_and_at_the_end(tmp_path: Path) -> None:
    assert [line[:8] for line in run(tmp_path / "r", num_steps=5, log_every=3)] == ["step 3/5", "step 5/5"]


def test_an_alarm_is_told_whatever_lines_were_asked_for(tmp_path: Path) -> None:
    trainer = toy_trainer(gaps=(0.3, 0.3), importance_cap=2.0, gap_alarm=0.1)
    said = run(tmp_path / "r", trainer=trainer, num_steps=3, log_every=3)
    assert [line[:8] for line in said] == ["step 1: ", "step 2: ", "step 3: ", "step 3/3"]


def test_only_the_latest_checkpoints_are_kept(tmp_path: Path) -> None:
    run(tmp_path / "r", num_steps=7, save_every=2)
    assert [path.name for path in checkpoints(tmp_path / "r" / "checkpoints")] == ["step_000006", "step_000007"]


@pytest.mark.parametrize("stop_at", [0, 2])
def test_a_stopped_and_resumed_run_equals_one_that_was_not(tmp_path: Path, stop_at: int) -> None:
    run(tmp_path / "whole")
    with pytest.raises(RunStopped, match=f"stopped after step {stop_at + 1}; go on with --resume"):
        run(tmp_path / "cut", trainer=interrupting(toy_trainer(), stop_at))
    said = run(tmp_path / "cut", resume=True)
    assert said[0] == f"going on after step {stop_at + 1}"
    for name in (METRICS, ROLLOUTS, "checkpoints/step_000004/trained.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    run(tmp_path / "whole")

    def killed(number: int, samples: Any) -> Any:
        raise MemoryError

    trainer = toy_trainer()
    run_until_3 = trainer.step
    trainer.step = lambda number, samples: (killed if number == 3 else run_until_3)(number, samples)  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        run(tmp_path / "cut", trainer=trainer, save_every=2)
    with (tmp_path / "cut" / METRICS).open("a") as file:
        file.write('{"step":3,"rew')  # the last write was cut
    said = run(tmp_path / "cut", resume=True, save_every=2)
    assert said[0] == "going on after step 2"
    assert (tmp_path / "cut" / METRICS).read_bytes() == (tmp_path / "whole" / METRICS).read_bytes()


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    open_run(tmp_path / "cut").append(METRICS, {"step": 0, "reward": 9.0})
    run(tmp_path / "cut", resume=True)
    assert (tmp_path / "cut" / METRICS).read_bytes() == (tmp_path / "whole" / METRICS).read_bytes()


def test_ctrl_c_in_the_last_step_ends_the_run_as_usual(tmp_path: Path) -> None:
    assert len(run(tmp_path / "r", trainer=interrupting(toy_trainer(), 3))) == 4


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "r", trainer=interrupting(toy_trainer(), 1, times=2))
    assert checkpoints(tmp_path / "r" / "checkpoints") == []


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_end_saves_the_step_in_hand(tmp_path: Path, by: signal.Signals) -> None:
    with pytest.raises(RunStopped, match=r"^stopped after step 2; go on with --resume$"):
        run(tmp_path / "r", trainer=interrupting(toy_trainer(), 1, by=by))
    assert [path.name for path in checkpoints(tmp_path / "r" / "checkpoints")] == ["step_000002"]


def test_who_insists_during_a_save_gets_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoint.replace_folder

    def interrupted(new: Path, goal: Path) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        real(new, goal)

    monkeypatch.setattr(checkpoint, "replace_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "r", save_every=2)
    assert checkpoint.latest_checkpoint(tmp_path / "r" / "checkpoints", print) is not None
    monkeypatch.undo()
    assert run(tmp_path / "r", resume=True, save_every=2)[0] == "going on after step 2"


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("function", "at", "kept"),
    [
        ("virft.training.loop.save_checkpoint", 1, "nothing is saved yet"),
        ("virft.training.loop.save_checkpoint", 2, "the run is whole as saved after step 1"),
        ("virft.training.run.RunFolder.append", 6, "the run is whole as saved after step 1"),
        ("virft.training.run.RunFolder.sync_logs", 2, "the run is whole as saved after step 1"),
    ],
)
def test_a_full_disk_ends_the_run_with_what_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, at: int, kept: str
) -> None:
    run(tmp_path / "whole")
    real: Callable[..., Any] = resolve_name(function.replace("loop.save", "checkpoint.save"))
    calls = iter(range(1, 99))

    def until_full(*arguments: Any, **named: Any) -> Any:
        if next(calls) == at:
            raise FULL
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(function, until_full)
        with pytest.raises(RunError) as told:
            run(tmp_path / "r", save_every=1)
    assert str(told.value) == (
        f"{tmp_path / 'r'}: cannot be written (No space left on device); {kept}; "
        "go on with --resume when that is mended"
    )
    run(tmp_path / "r", resume=True, save_every=1)
    assert (tmp_path / "r" / METRICS).read_bytes() == (tmp_path / "whole" / METRICS).read_bytes()


def test_a_torn_checkpoint_is_told_and_the_one_before_is_gone_on_from(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    with pytest.raises(RunStopped):
        run(tmp_path / "r", save_every=1, trainer=interrupting(toy_trainer(), 2))
    (tmp_path / "r" / "checkpoints" / "step_000003" / "trained.safetensors").write_bytes(b"half")
    said = run(tmp_path / "r", resume=True, save_every=1)
    assert said[0].startswith(f"{tmp_path / 'r' / 'checkpoints' / 'step_000003'}: trained.safetensors has 4 bytes; ")
    assert said[1] == "going on after step 2"
    for name in (METRICS, ROLLOUTS, "checkpoints/step_000004/trained.safetensors"):
        assert (tmp_path / "r" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def spoiling(trainer: GRPOTrainer, at: int, *, times: int = 1) -> GRPOTrainer:
    """A trainer whose weights a fault of the machine spoils before a step, so many times."""
    step: Callable[..., Any] = trainer.step
    left = iter(range(times))

    def spoilt(number: int, samples: Any) -> Any:
        report = step(number, samples)
        if number == at - 1 and next(left, None) is not None:
            with torch.no_grad():
                trainer.policy.weight[0] = math.nan  # type: ignore[operator]
        return report

    trainer.step = spoilt  # type: ignore[method-assign]
    return trainer


def unable(trainer: GRPOTrainer, *steps: int, times: int = 99) -> GRPOTrainer:
    """A trainer whose gradient is no number in these steps."""
    step: Callable[..., Any] = trainer.step
    left = iter(range(times))

    def skipped(number: int, samples: Any) -> Any:
        if number in steps and next(left, None) is not None:
            hook = trainer.policy.weight.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[operator]
            report = step(number, samples)
            hook.remove()
            return report
        return step(number, samples)

    trainer.step = skipped  # type: ignore[method-assign]
    return trainer


def same(one: Path, other: Path) -> bool:
    names = (METRICS, ROLLOUTS, "checkpoints/step_000004/trained.safetensors")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_weights_that_were_spoilt_are_taken_from_the_last_checkpoint(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    said = run(tmp_path / "r", trainer=spoiling(toy_trainer(), 3), save_every=2)
    told = "step 4: trained weights are not finite numbers; going back to where 2 steps were done"
    assert said[3] == told
    assert same(tmp_path / "r", tmp_path / "whole")
    assert lines(tmp_path / "r" / EVENTS) == [
        {"step": 3, "event": "nonfinite", "did": "went back", "told": told, "incident": True}
    ]


def test_spoilt_weights_are_not_saved(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    run(tmp_path / "r", trainer=spoiling(toy_trainer(), 4), save_every=2)
    assert same(tmp_path / "r", tmp_path / "whole")


def test_a_run_whose_weights_are_spoilt_again_ends(tmp_path: Path) -> None:
    with pytest.raises(RunError) as told:
        run(tmp_path / "r", trainer=spoiling(toy_trainer(), 3, times=2), save_every=2)
    assert str(told.value) == (
        "step 4: trained weights are not finite numbers, also after going back to the last checkpoint; the run is "
        "whole as saved after step 2. Look at the samples that events.jsonl names; a smaller learning rate is a run of "
        "its own"
    )
    with pytest.raises(RunError, match="and nothing was saved to go back to; nothing is saved yet"):
        run(tmp_path / "other", trainer=spoiling(toy_trainer(), 3))


def test_a_step_that_came_to_no_number_is_skipped_and_told(tmp_path: Path) -> None:
    said = run(tmp_path / "r", trainer=unable(toy_trainer(), 1))
    told = "step 2: gradient norm is not a finite number (samples c, d)"
    assert said[1] == f"{told}; the step is skipped, the weights are those of the step before"
    assert [line.get("skipped") for line in lines(tmp_path / "r" / METRICS)] == [None, 1, None, None]
    assert lines(tmp_path / "r" / EVENTS) == [
        {"step": 1, "event": "nonfinite", "did": "skipped", "told": told, "incident": False}
    ]


def test_a_run_with_skipped_steps_resumes_to_the_same_end(tmp_path: Path) -> None:
    run(tmp_path / "whole", trainer=unable(toy_trainer(), 1, 2))
    with pytest.raises(RunStopped):
        run(tmp_path / "r", trainer=interrupting(unable(toy_trainer(), 1, 2), 1))
    run(tmp_path / "r", resume=True, trainer=unable(toy_trainer(), 1, 2))
    assert same(tmp_path / "r", tmp_path / "whole")
    alarms = [line for line in lines(tmp_path / "r" / EVENTS) if not line["incident"]]
    assert alarms == lines(tmp_path / "whole" / EVENTS)


def test_after_several_skipped_steps_the_run_goes_back_once(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    guards = GuardSettings(nonfinite_steps=2)
    said = run(tmp_path / "r", trainer=unable(toy_trainer(), 1, 2, times=2), save_every=1, guards=guards)
    # the first skipped step was saved: 2 steps were done, the second of them skipped, and step 3 is done again
    skipped = "step 3: 2 steps in a row were skipped, the last since gradient norm is not a finite number"
    (told,) = (line for line in said if line.startswith(skipped))
    assert told.endswith("; going back to where 2 steps were done")
    assert [line.get("skipped") for line in lines(tmp_path / "r" / METRICS)] == [None, 1, None, None]
    with pytest.raises(RunError, match=r"step 3: 2 steps in a row were skipped, .*, also after going back"):
        run(tmp_path / "other", trainer=unable(toy_trainer(), 1, 2), save_every=1, guards=guards)


def test_a_run_may_be_told_to_stop_at_the_first_number_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(RunError) as told:
        run(tmp_path / "r", trainer=unable(toy_trainer(), 1), save_every=1, guards=GuardSettings(nonfinite="stop"))
    assert str(told.value).startswith(
        "step 2: gradient norm is not a finite number (samples c, d); the weights are those of the step before. "
        "the run is whole as saved after step 1"
    )
    run(tmp_path / "r", resume=True, save_every=1)
    run(tmp_path / "whole")
    assert same(tmp_path / "r", tmp_path / "whole")


def test_a_guard_warns_or_stops_a_run_that_goes_on_all_the_same(tmp_path: Path) -> None:
    guards = {"window": 1, "max_length_ratio": 0.0, "max_unreadable_frac": 0.0, "max_equal_steps": 2}
    told = "step 2: in 2 steps no group's rewards differed: nothing is learnt"
    said = run(tmp_path / "whole", trainer=toy_trainer(equal=True), guards=GuardSettings(**guards))
    assert [line for line in said if "in 2 steps" in line] == [told]
    event = {"step": 1, "event": "spread", "saw": {"steps": 2}, "did": "went on", "told": told, "incident": False}
    assert lines(tmp_path / "whole" / EVENTS) == [event]

    stopping = GuardSettings(**guards, stop_on=("spread",))
    with pytest.raises(RunError) as stopped:
        run(tmp_path / "r", trainer=toy_trainer(equal=True), guards=stopping)
    assert str(stopped.value) == (
        "step 2: in 2 steps no group's rewards differed: nothing is learnt; stopped, as guards.stop_on says, and "
        "saved. --resume goes on all the same"
    )
    assert lines(tmp_path / "r" / EVENTS)[0] == event | {"did": "stopped"}
    run(tmp_path / "r", resume=True, trainer=toy_trainer(equal=True), guards=stopping)
    assert same(tmp_path / "r", tmp_path / "whole")


def test_a_picture_that_went_missing_ends_the_run_and_may_come_back(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    trainer = toy_trainer()
    step: Callable[..., Any] = trainer.step

    def missing(number: int, samples: Any) -> Any:
        if number == 3:
            raise DataError("a.png: no such image")
        return step(number, samples)

    trainer.step = missing  # type: ignore[method-assign]
    with pytest.raises(DataError) as told:
        run(tmp_path / "r", trainer=trainer, save_every=2)
    assert str(told.value) == (
        "step 4: a.png: no such image; the run is whole as saved after step 2; go on with --resume when that is mended"
    )
    assert [(line["step"], line["event"], line["did"]) for line in lines(tmp_path / "r" / EVENTS)] == [
        (3, "end", "failed")
    ]
    run(tmp_path / "r", resume=True, save_every=2)
    assert same(tmp_path / "r", tmp_path / "whole")


def test_memory_that_ran_out_in_a_microbatch_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole")
    trainer = toy_trainer()
    real, calls = trainer.policy.forward, iter(range(9))

    def forward(*given: Any, **more: Any) -> Any:
        if next(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(*given, **more)

    trainer.policy.forward = forward  # type: ignore[method-assign]
    with pytest.raises(
        RunError, match=r"^step 4: out of memory \(CUDA out of memory.*saved after step 2; .*microbatch"
    ):
        run(tmp_path / "r", trainer=trainer, save_every=2)
    run(tmp_path / "r", resume=True, save_every=2)
    assert same(tmp_path / "r", tmp_path / "whole")


def test_ctrl_c_has_its_old_meaning_after_the_run(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    run(tmp_path / "r")
    assert signal.getsignal(signal.SIGINT) is before


def test_validation_comes_before_the_first_and_after_the_last_step(tmp_path: Path) -> None:
    asked: list[int] = []

    def validate(num_steps: int) -> dict[str, float]:
        asked.append(num_steps)
        return {"f1": num_steps / 10}

    run(tmp_path / "r", validate=validate, validate_every=3)
    assert asked == [0, 3, 4]
    found = [line for line in lines(tmp_path / "r" / METRICS) if "validation_f1" in line]
    assert found == [
        {"step": 0, "validation_f1": 0.0},
        {"step": 2, "validation_f1": 0.3},
        {"step": 3, "validation_f1": 0.4},
    ]


def validating(*scores: float) -> Callable[[int], dict[str, float]]:
    """Scores of the untrained model, then of steps 1, 2, .."""
    return lambda num_steps: {"f1": 0.0, "score": scores[num_steps]}


def test_the_best_model_is_kept_and_only_if_it_beats_the_untrained_one(tmp_path: Path) -> None:
    kept: list[int] = []
    path = tmp_path / "r" / METRICS
    run(
        tmp_path / "r",
        validate=validating(0.3, 0.2, 0.4, 0.4, 0.5),
        validate_every=1,
        keep_best=lambda: kept.append(lines(path)[-1]["step"]),
    )
    assert kept == [1, 3]


def test_a_run_ends_early_when_nothing_gets_better(tmp_path: Path) -> None:
    scores = (0.1, 0.5, 0.4, 0.5, 0.3)
    said = run(tmp_path / "r", num_steps=9, validate=validating(*scores), validate_every=1, patience=2)
    assert said[-2] == "ending after step 3: 2 validations were not better than 0.500"
    assert [path.name for path in checkpoints(tmp_path / "r" / "checkpoints")] == ["step_000003"]
    again = run(tmp_path / "r", resume=True, num_steps=9, validate=validating(), validate_every=1, patience=2)
    assert again == ["going on after step 3", "ended early after step 3: nothing to go on with"]


def test_a_resumed_run_knows_what_was_best(tmp_path: Path) -> None:
    kept: list[int] = []
    scores = (0.1, 0.5, 0.4, 0.45, 0.3)
    with pytest.raises(RunStopped):
        run(tmp_path / "r", trainer=interrupting(toy_trainer(), 1), validate=validating(*scores), validate_every=1)
    run(
        tmp_path / "r",
        resume=True,
        validate=validating(*scores),
        validate_every=1,
        keep_best=lambda: kept.append(1),
    )
    assert kept == []


def test_numbers_are_logged_with_9_digits() -> None:
    assert rounded({"a": 1 / 3, "b": 7, "c": 1e-12 / 3}) == {"a": 0.333333333, "b": 7, "c": 3.33333333e-13}


def test_each_sample_is_looked_at_by_step_and_place(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    def look_at(sample: Any, step: int, place: int) -> Any:
        asked.append((step, place))
        return replace(sample, id=f"{sample.id} seen")

    run(tmp_path / "r", look_at=look_at, num_steps=2)
    assert asked == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(line["sample"].endswith(" seen") for line in lines(tmp_path / "r" / ROLLOUTS))


class Listener:
    """Trackers that remember."""

    def __init__(self) -> None:
        self.started: list[dict[str, int]] = []
        self.records: list[Any] = []
        self.shown: list[tuple[int, str]] = []

    def start(self, **where: int) -> None:
        self.started.append(where)

    def log(self, record: Any) -> None:
        self.records.append(record)

    def show(self, step: int, group: Any) -> None:
        self.shown.append((step, group.sample.id))


def test_trackers_are_told_what_the_logs_get(tmp_path: Path) -> None:
    listener = Listener()
    run(tmp_path / "r", trackers=listener, validate=validating(0.3, 0.2, 0.4, 0.4, 0.5), validate_every=2)
    assert listener.records == lines(tmp_path / "r" / METRICS)
    assert listener.records[0] == {"step": 0, "validation_f1": 0.0, "validation_score": 0.3}
    assert listener.shown == [(line["step"], line["sample"]) for line in lines(tmp_path / "r" / ROLLOUTS)]
    assert listener.started == [{"num_done": 0, "num_told": 0}]


def test_trackers_of_a_resumed_run_know_where_it_stands_and_what_they_were_told(tmp_path: Path) -> None:
    trainer, listener = toy_trainer(), Listener()
    step = trainer.step

    def killed(number: int, samples: Any) -> Any:
        if number == 3:
            raise MemoryError
        return step(number, samples)

    trainer.step = killed  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        run(tmp_path / "r", trainer=trainer, save_every=2)
    run(tmp_path / "r", resume=True, save_every=2, trackers=listener)
    # two steps are saved, three were told
    assert listener.started == [{"num_done": 2, "num_told": 3}]
    assert [record["step"] for record in listener.records] == [2, 3]
    run(tmp_path / "r", resume=True, trackers=listener)
    assert len(listener.started) == 1, "nothing is left to tell of a finished run"


def test_a_run_is_the_same_with_and_without_trackers(tmp_path: Path) -> None:
    run(tmp_path / "without")
    run(tmp_path / "with", trackers=Listener())
    for name in (METRICS, ROLLOUTS, "checkpoints/step_000004/trained.safetensors"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes(), name
