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
from virft.config.schema import Config, DataConfig, MonitorsConfig, RunConfig
from virft.errors import DataError, RunError, RunStopped
from virft.training import checkpoint
from virft.training.checkpoint import checkpoints
from virft.training.grpo.trainer import GRPOTrainer
from virft.training.loop import LoopSettings, TrainingLoop, rounded
from virft.training.run import EVENTS, METRICS, ROLLOUTS, RUN_SCHEMA_VERSION, TIMINGS, RunFolder

QUESTIONS = [question(id) for id in "abcde"]


def settings(**changes: Any) -> LoopSettings:
    numbers: dict[str, Any] = {"num_steps": 4, "save_every": 0, "keep_checkpoints": 2, "log_every": 1}
    return LoopSettings(**numbers | changes)


def open_run(folder: Path, *, resume: bool = False) -> RunFolder:
    config = Config(data=DataConfig(train="d"), run=RunConfig(dir=str(folder)))
    return RunFolder.open(
        config, resume=resume, card={"schema_version": RUN_SCHEMA_VERSION, "data_hash": "0", "trainer": "grpo"}
    )


def run(
    folder: Path,
    *,
    resume: bool = False,
    trainer: GRPOTrainer | None = None,
    logged: list[str] | None = None,
    **more: Any,
) -> list[str]:
    """The lines that a run logged; ``logged`` has them although the run ends with an exception."""
    logged = [] if logged is None else logged
    others = {name: more.pop(name, None) for name in ("validate", "augment", "save_best", "trackers", "peak_flops")}
    TrainingLoop(
        trainer=trainer or toy_trainer(),
        batch=lambda step: [QUESTIONS[(2 * step + place) % len(QUESTIONS)] for place in range(2)],
        run_folder=open_run(folder, resume=resume),
        settings=settings(**more),
        log=logged.append,
        **others,
    ).run()
    return logged


def test_the_line_of_a_step_has_the_mfu_of_the_update_if_the_peak_rate_is_known(tmp_path: Path) -> None:
    trainer = toy_trainer()
    trainer.runner.count_update = lambda row: len(row.token_ids)
    step: Callable[..., Any] = trainer.step
    trainer.step = lambda *given: replace(step(*given), timings={"update": 2.0})  # type: ignore[method-assign]
    # 14 operations in 2 s of 20 a second; 2 prompts of 3 tokens and 8 completions of 1 token
    (first, *_) = run(tmp_path / "known", trainer=trainer, peak_flops=20.0)
    assert "  2.0 s (7 tokens/s, update MFU 35%)  " in first
    assert all("MFU" not in line for line in run(tmp_path / "not_known"))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def interrupting(trainer: GRPOTrainer, at: int, *, times: int = 1, by: signal.Signals = signal.SIGINT) -> GRPOTrainer:
    """A trainer whose user presses Ctrl-C in the middle of a step, or whose time is up."""
    step: Callable[..., Any] = trainer.step

    def stopped(number: int, samples: Any, *rest: Any) -> Any:
        for _ in range(times if number == at else 0):
            os.kill(os.getpid(), by)
        return step(number, samples, *rest)

    trainer.step = stopped  # type: ignore[method-assign]
    return trainer


def test_every_step_is_logged_and_the_last_one_saved(tmp_path: Path) -> None:
    logged = run(tmp_path / "r")
    assert [line["step"] for line in lines(tmp_path / "r" / METRICS)] == [0, 1, 2, 3]
    assert [line["step"] for line in lines(tmp_path / "r" / ROLLOUTS)] == [0, 1, 2, 3]
    assert "update" in lines(tmp_path / "r" / TIMINGS)[0]
    assert [path.name for path in checkpoints(tmp_path / "r" / "checkpoints")] == ["step_000004"]
    assert len(logged) == 4
    assert logged[0].startswith("step 1/4  reward 2.00 (confidence 0.50 format 1.00 iou 0.50)  unreadable 0%  ")


def test_lines_are_printed_every_n_steps_and_at_the_end(tmp_path: Path) -> None:
    assert [line[:8] for line in run(tmp_path / "r", num_steps=5, log_every=3)] == ["step 3/5", "step 5/5"]


def test_the_time_left_of_a_warm_start_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("virft.training.progress.time.monotonic", lambda: clock[0])
    trainer = toy_trainer()
    step: Callable[..., Any] = trainer.step

    def timed(number: int, samples: Any, *rest: Any) -> Any:
        clock[0] += 2 if number < 2 else 10
        return step(number, samples, *rest)

    trainer.step = timed  # type: ignore[method-assign]
    found = [line.rpartition(", ")[2] for line in run(tmp_path / "r", trainer=trainer, num_steps=5, warm_start_steps=2)]
    assert found == [
        "0:02 left in the warm start",
        "0:00 left in the warm start",
        "0:20 left",
        "0:10 left",
        "0:00 left",
    ]


def test_a_warning_is_printed_regardless_of_log_every(tmp_path: Path) -> None:
    trainer = toy_trainer(gaps=(0.3, 0.3), importance_cap=2.0, max_gap=0.1)
    logged = run(tmp_path / "r", trainer=trainer, num_steps=3, log_every=3)
    assert [line[:8] for line in logged] == ["step 1: ", "step 2: ", "step 3: ", "step 3/3"]


def test_only_the_latest_checkpoints_are_kept(tmp_path: Path) -> None:
    run(tmp_path / "r", num_steps=7, save_every=2)
    assert [path.name for path in checkpoints(tmp_path / "r" / "checkpoints")] == ["step_000006", "step_000007"]


@pytest.mark.parametrize("stop_at", [0, 2])
def test_a_stopped_and_resumed_run_equals_one_that_was_not(tmp_path: Path, stop_at: int) -> None:
    run(tmp_path / "whole")
    with pytest.raises(RunStopped, match=f"stopped after step {stop_at + 1}; resume with --resume"):
        run(tmp_path / "cut", trainer=interrupting(toy_trainer(), stop_at))
    logged = run(tmp_path / "cut", resume=True)
    assert logged[0] == f"resuming after step {stop_at + 1}"
    found = [(event["step"], event["event"], event["incident"]) for event in lines(tmp_path / "cut" / EVENTS)]
    assert found == [(stop_at, "end", True), (stop_at + 1, "resume", True)]
    for name in (METRICS, ROLLOUTS, "checkpoints/step_000004/trained.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_killed_run_resumes_from_its_last_checkpoint(tmp_path: Path) -> None:
    run(tmp_path / "whole")

    def killed(number: int, samples: Any, *rest: Any) -> Any:
        raise MemoryError

    trainer = toy_trainer()
    run_until_3 = trainer.step
    trainer.step = lambda number, *rest: (killed if number == 3 else run_until_3)(number, *rest)  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        run(tmp_path / "cut", trainer=trainer, save_every=2)
    with (tmp_path / "cut" / METRICS).open("a") as file:
        file.write('{"step":3,"rew')  # the last write was cut
    logged = run(tmp_path / "cut", resume=True, save_every=2)
    assert logged[0] == "resuming after step 2"
    assert (tmp_path / "cut" / METRICS).read_bytes() == (tmp_path / "whole" / METRICS).read_bytes()


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    open_run(tmp_path / "cut").append(METRICS, {"step": 0, "reward": 9.0})
    run(tmp_path / "cut", resume=True)
    assert (tmp_path / "cut" / METRICS).read_bytes() == (tmp_path / "whole" / METRICS).read_bytes()


def test_ctrl_c_in_the_last_step_ends_the_run_as_usual(tmp_path: Path) -> None:
    logged = run(tmp_path / "r", trainer=interrupting(toy_trainer(), 3))
    assert [line[:8] for line in logged if line.startswith("step")] == ["step 1/4", "step 2/4", "step 3/4", "step 4/4"]


def test_a_second_ctrl_c_stops_immediately_and_says_what_is_saved(tmp_path: Path) -> None:
    logged: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "r", logged=logged, save_every=1, trainer=interrupting(toy_trainer(), 2, times=2))
    assert [path.name for path in checkpoints(tmp_path / "r" / "checkpoints")] == ["step_000001", "step_000002"]
    assert logged[2:] == [
        "finishing step 3, then saving; press Ctrl-C again to stop now",
        "stopped during step 3; the last checkpoint is that after step 2; resume with --resume",
    ]
    assert lines(tmp_path / "r" / EVENTS)[-1]["message"] == logged[-1]


def test_an_interrupt_before_anything_is_saved_leaves_a_folder_for_a_new_run(tmp_path: Path) -> None:
    logged: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "r", logged=logged, trainer=interrupting(toy_trainer(), 1, times=2))
    assert logged[-1] == "stopped during step 2; nothing is saved yet; the same command starts it again"

    def interrupted(num_steps: int) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "r", logged=logged, validate=interrupted)
    assert logged[-1] == "stopped before the first step; nothing is saved yet; the same command starts it again"
    run(tmp_path / "r")
    run(tmp_path / "whole")
    assert (tmp_path / "r" / METRICS).read_bytes() == (tmp_path / "whole" / METRICS).read_bytes()
    assert not (tmp_path / "r" / EVENTS).exists()


@pytest.mark.parametrize(
    ("by", "line"),
    [
        (signal.SIGINT, "finishing step 2, then saving; press Ctrl-C again to stop now"),
        (signal.SIGTERM, "SIGTERM: finishing step 2, then saving; a second signal stops now"),
    ],
)
def test_the_first_signal_is_answered_before_the_step_ends(tmp_path: Path, by: signal.Signals, line: str) -> None:
    logged: list[str] = []
    with pytest.raises(RunStopped):
        run(tmp_path / "r", logged=logged, trainer=interrupting(toy_trainer(), 1, by=by))
    assert [logged[1], logged[2][:8]] == [line, "step 2/4"]


def test_a_signal_during_a_save_names_the_step_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, logged = checkpoint.replace_folder, list[str]()

    def interrupted(new: Path, goal: Path) -> None:
        if not any(line.startswith("finishing") for line in logged):
            os.kill(os.getpid(), signal.SIGINT)
        real(new, goal)

    monkeypatch.setattr(checkpoint, "replace_folder", interrupted)
    with pytest.raises(RunStopped, match="stopped after step 2"):
        run(tmp_path / "r", logged=logged, save_every=1)
    assert logged[1] == "finishing step 2, then saving; press Ctrl-C again to stop now"


def test_a_run_that_is_extended_equals_one_that_was_longer_from_the_start(tmp_path: Path) -> None:
    constant = {"schedule": "constant"}
    run(tmp_path / "whole", num_steps=4, trainer=toy_trainer(num_steps=4, **constant))
    run(tmp_path / "cut", num_steps=2, trainer=toy_trainer(num_steps=2, **constant))
    run(tmp_path / "cut", resume=True, num_steps=4, trainer=toy_trainer(num_steps=4, **constant))
    for name in (METRICS, ROLLOUTS, "checkpoints/step_000004/trained.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_current_step(tmp_path: Path, by: signal.Signals) -> None:
    with pytest.raises(RunStopped, match=r"^stopped after step 2; resume with --resume$"):
        run(tmp_path / "r", trainer=interrupting(toy_trainer(), 1, by=by))
    assert [path.name for path in checkpoints(tmp_path / "r" / "checkpoints")] == ["step_000002"]


def test_a_second_signal_during_a_save_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert run(tmp_path / "r", resume=True, save_every=2)[0] == "resuming after step 2"


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("function", "at", "saved"),
    [
        ("virft.training.checkpoint.save_file", 1, "nothing is saved yet"),
        ("virft.training.checkpoint.save_file", 3, "the last checkpoint is that after step 1"),
        ("virft.training.run.RunFolder.append", 6, "the last checkpoint is that after step 1"),
        ("virft.training.run.RunFolder.sync_logs", 2, "the last checkpoint is that after step 1"),
    ],
)
def test_a_full_disk_ends_the_run_with_what_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, at: int, saved: str
) -> None:
    run(tmp_path / "whole")
    real: Callable[..., Any] = resolve_name(function)
    calls = iter(range(1, 99))

    def until_full(*arguments: Any, **named: Any) -> Any:
        if next(calls) == at:
            raise FULL
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(function, until_full)
        with pytest.raises(RunError) as error:
            run(tmp_path / "r", save_every=1)
    assert str(error.value) == (
        f"{tmp_path / 'r'}: cannot be written (No space left on device); {saved}; "
        "resume with --resume once this is resolved"
    )
    run(tmp_path / "r", resume=True, save_every=1)
    assert (tmp_path / "r" / METRICS).read_bytes() == (tmp_path / "whole" / METRICS).read_bytes()


def test_a_corrupt_checkpoint_is_logged_and_the_previous_one_is_used(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    with pytest.raises(RunStopped):
        run(tmp_path / "r", save_every=1, trainer=interrupting(toy_trainer(), 2))
    (tmp_path / "r" / "checkpoints" / "step_000003" / "trained.safetensors").write_bytes(b"half")
    logged = run(tmp_path / "r", resume=True, save_every=1)
    assert logged[0].startswith(f"{tmp_path / 'r' / 'checkpoints' / 'step_000003'}: trained.safetensors has 4 bytes; ")
    assert logged[1] == "resuming after step 2"
    for name in (METRICS, ROLLOUTS, "checkpoints/step_000004/trained.safetensors"):
        assert (tmp_path / "r" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def corrupting(trainer: GRPOTrainer, at: int, *, times: int = 1) -> GRPOTrainer:
    """A trainer whose weights become NaN before a step by a fault of the machine, ``times`` times."""
    step: Callable[..., Any] = trainer.step
    left = iter(range(times))

    def corrupted(number: int, samples: Any, *rest: Any) -> Any:
        report = step(number, samples, *rest)
        if number == at - 1 and next(left, None) is not None:
            with torch.no_grad():
                trainer.policy.weight[0] = math.nan  # type: ignore[operator]
        return report

    trainer.step = corrupted  # type: ignore[method-assign]
    return trainer


def unable(trainer: GRPOTrainer, *steps: int, times: int = 99) -> GRPOTrainer:
    """A trainer whose gradient is NaN in these steps."""
    step: Callable[..., Any] = trainer.step
    left = iter(range(times))

    def skipped(number: int, samples: Any, *rest: Any) -> Any:
        if number in steps and next(left, None) is not None:
            hook = trainer.policy.weight.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[operator]
            report = step(number, samples, *rest)
            hook.remove()
            return report
        return step(number, samples, *rest)

    trainer.step = skipped  # type: ignore[method-assign]
    return trainer


def same(one: Path, other: Path) -> bool:
    names = (METRICS, ROLLOUTS, "checkpoints/step_000004/trained.safetensors")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_nonfinite_weights_roll_the_run_back_to_the_last_checkpoint(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    logged = run(tmp_path / "r", trainer=corrupting(toy_trainer(), 3), save_every=2)
    message = "step 4: trained weights are not finite numbers; rolling back to the checkpoint after step 2"
    assert logged[3] == message
    assert same(tmp_path / "r", tmp_path / "whole")
    assert lines(tmp_path / "r" / EVENTS) == [
        {"step": 3, "event": "nonfinite", "action": "rolled back", "message": message, "incident": True}
    ]


def stale() -> GRPOTrainer:
    """A trainer that samples one step ahead."""
    return toy_trainer(max_staleness=1, importance_cap=2.0)


@pytest.mark.parametrize("stop_at", [0, 1, 2])
def test_a_run_with_groups_in_flight_resumes_to_the_same_end(tmp_path: Path, stop_at: int) -> None:
    run(tmp_path / "whole", trainer=stale())
    with pytest.raises(RunStopped):
        run(tmp_path / "r", trainer=interrupting(stale(), stop_at))
    run(tmp_path / "r", resume=True, trainer=stale())
    assert same(tmp_path / "r", tmp_path / "whole")
    assert [line["staleness"] for line in lines(tmp_path / "r" / METRICS)] == [0, 1, 1, 1]


def test_a_rollback_brings_back_the_groups_in_flight_of_the_checkpoint(tmp_path: Path) -> None:
    run(tmp_path / "whole", trainer=stale())
    logged = run(tmp_path / "r", trainer=corrupting(stale(), 3), save_every=2)
    assert logged[3].endswith("rolling back to the checkpoint after step 2")
    assert same(tmp_path / "r", tmp_path / "whole")


def test_nonfinite_weights_are_not_saved(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    run(tmp_path / "r", trainer=corrupting(toy_trainer(), 4), save_every=2)
    assert same(tmp_path / "r", tmp_path / "whole")


def test_a_run_whose_weights_become_nonfinite_again_ends(tmp_path: Path) -> None:
    with pytest.raises(RunError) as error:
        run(tmp_path / "r", trainer=corrupting(toy_trainer(), 3, times=2), save_every=2)
    assert str(error.value) == (
        "step 4: trained weights are not finite numbers, again after a rollback to the last checkpoint; the last "
        "checkpoint is that after step 2. Inspect the samples that events.jsonl names. A lower learning rate needs a "
        "new run, as it cannot change on --resume"
    )
    with pytest.raises(RunError, match="and no checkpoint to roll back to; nothing is saved yet"):
        run(tmp_path / "other", trainer=corrupting(toy_trainer(), 3))


def test_a_step_with_a_nonfinite_number_is_skipped_and_logged(tmp_path: Path) -> None:
    logged = run(tmp_path / "r", trainer=unable(toy_trainer(), 1))
    message = "step 2: gradient norm is not a finite number (samples c, d)"
    assert logged[1] == f"{message}; the step is skipped, the weights are unchanged"
    assert [line.get("skipped") for line in lines(tmp_path / "r" / METRICS)] == [None, 1, None, None]
    assert lines(tmp_path / "r" / EVENTS) == [
        {"step": 1, "event": "nonfinite", "action": "skipped", "message": message, "incident": False}
    ]


def test_a_run_with_skipped_steps_resumes_to_the_same_end(tmp_path: Path) -> None:
    run(tmp_path / "whole", trainer=unable(toy_trainer(), 1, 2))
    with pytest.raises(RunStopped):
        run(tmp_path / "r", trainer=interrupting(unable(toy_trainer(), 1, 2), 1))
    run(tmp_path / "r", resume=True, trainer=unable(toy_trainer(), 1, 2))
    assert same(tmp_path / "r", tmp_path / "whole")
    alarms = [line for line in lines(tmp_path / "r" / EVENTS) if not line["incident"]]
    assert alarms == lines(tmp_path / "whole" / EVENTS)


def test_after_several_skipped_steps_the_run_rolls_back_once(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    monitors = MonitorsConfig(nonfinite_steps=2)
    logged = run(tmp_path / "r", trainer=unable(toy_trainer(), 1, 2, times=2), save_every=1, monitors=monitors)
    # the first skipped step was saved: 2 steps were done, the second of them skipped, and step 3 is done again
    skipped = "step 3: 2 consecutive steps were skipped, the last because the gradient norm is not a finite number"
    (message,) = (line for line in logged if line.startswith(skipped))
    assert message.endswith("; rolling back to the checkpoint after step 2")
    assert [line.get("skipped") for line in lines(tmp_path / "r" / METRICS)] == [None, 1, None, None]
    with pytest.raises(RunError, match=r"step 3: 2 consecutive steps were skipped, .*, again after a rollback"):
        run(tmp_path / "other", trainer=unable(toy_trainer(), 1, 2), save_every=1, monitors=monitors)


def test_a_run_may_stop_at_the_first_nonfinite_number(tmp_path: Path) -> None:
    with pytest.raises(RunError) as error:
        stop = MonitorsConfig(nonfinite="stop")
        run(tmp_path / "r", trainer=unable(toy_trainer(), 1), save_every=1, monitors=stop)
    assert str(error.value).startswith(
        "step 2: gradient norm is not a finite number (samples c, d); the weights are unchanged by this step. "
        "the last checkpoint is that after step 1"
    )
    run(tmp_path / "r", resume=True, save_every=1)
    run(tmp_path / "whole")
    assert same(tmp_path / "r", tmp_path / "whole")


def test_a_monitor_warns_or_stops_a_run_which_resumes_regardless(tmp_path: Path) -> None:
    thresholds: dict[str, Any] = {
        "window": 1,
        "max_length_ratio": 0.0,
        "max_unreadable_frac": 0.0,
        "max_zero_std_steps": 2,
    }
    message = "step 2: zero reward variance in every group for 2 steps: all their advantages are 0"
    logged = run(tmp_path / "whole", trainer=toy_trainer(equal=True), monitors=MonitorsConfig(**thresholds))
    assert [line for line in logged if "for 2 steps" in line] == [message]
    event = {
        "step": 1,
        "event": "zero_std",
        "observed": {"steps": 2},
        "action": "continued",
        "message": message,
        "incident": False,
    }
    assert lines(tmp_path / "whole" / EVENTS) == [event]

    stopping = MonitorsConfig(**thresholds, stop_on=("zero_std",))
    with pytest.raises(RunError) as stopped:
        run(tmp_path / "r", trainer=toy_trainer(equal=True), monitors=stopping)
    assert str(stopped.value) == (
        f"{message}; saved and stopped, as monitors.stop_on says. --resume continues regardless"
    )
    assert lines(tmp_path / "r" / EVENTS)[0] == event | {"action": "stopped"}
    run(tmp_path / "r", resume=True, trainer=toy_trainer(equal=True), monitors=stopping)
    assert same(tmp_path / "r", tmp_path / "whole")


def test_a_missing_image_ends_the_run_which_resumes_when_it_is_restored(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    trainer = toy_trainer()
    step: Callable[..., Any] = trainer.step

    def missing(number: int, samples: Any, *rest: Any) -> Any:
        if number == 3:
            raise DataError("a.png: no such image")
        return step(number, samples, *rest)

    trainer.step = missing  # type: ignore[method-assign]
    with pytest.raises(DataError) as error:
        run(tmp_path / "r", trainer=trainer, save_every=2)
    assert str(error.value) == (
        "step 4: a.png: no such image; the last checkpoint is that after step 2; resume with --resume once this is "
        "resolved"
    )
    assert [(line["step"], line["event"], line["action"]) for line in lines(tmp_path / "r" / EVENTS)] == [
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
        RunError,
        match=r"^step 4: out of memory \(CUDA out of memory.*the last checkpoint is that after step 2; .*microbatch",
    ):
        run(tmp_path / "r", trainer=trainer, save_every=2)
    run(tmp_path / "r", resume=True, save_every=2)
    assert same(tmp_path / "r", tmp_path / "whole")


def test_ctrl_c_has_its_old_meaning_after_the_run(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    run(tmp_path / "r")
    assert signal.getsignal(signal.SIGINT) is before


def test_validation_comes_before_the_first_and_after_the_last_step(tmp_path: Path) -> None:
    validated: list[int] = []

    def validate(num_steps: int) -> dict[str, float]:
        validated.append(num_steps)
        return {"f1": num_steps / 10}

    run(tmp_path / "r", validate=validate, validate_every=3)
    assert validated == [0, 3, 4]
    found = [line for line in lines(tmp_path / "r" / METRICS) if "validation_f1" in line]
    assert found == [
        {"step": 0, "validation_f1": 0.0},
        {"step": 2, "validation_f1": 0.3},
        {"step": 3, "validation_f1": 0.4},
    ]


def validating(*scores: float) -> Callable[[int], dict[str, float]]:
    """Scores of the untrained model, then of steps 1, 2, .."""
    return lambda num_steps: {"f1": 0.0, "score": scores[num_steps]}


def test_the_best_model_is_saved_and_only_if_it_exceeds_the_base_model(tmp_path: Path) -> None:
    saved: list[int] = []
    path = tmp_path / "r" / METRICS
    run(
        tmp_path / "r",
        validate=validating(0.3, 0.2, 0.4, 0.4, 0.5),
        validate_every=1,
        save_best=lambda: saved.append(lines(path)[-1]["step"]),
    )
    assert saved == [1, 3]


@pytest.mark.parametrize(("scores", "is_noted"), [((0.3, 0.2, 0.3), True), ((0.3, 0.2, 0.4), False)])
def test_a_run_without_a_better_validation_score_says_so(
    tmp_path: Path, scores: tuple[float, ...], is_noted: bool
) -> None:
    logged = run(tmp_path / "r", num_steps=2, validate=validating(*scores), validate_every=1, save_best=lambda: None)
    note = "note: no validation score of this run is above 0.300, that of the model before the first step"
    assert any(line.startswith(note) for line in logged) is is_noted


def test_each_validation_is_printed_with_the_best_so_far(tmp_path: Path) -> None:
    scores = [{"f1": score, "recall": 1.0, "score": score} for score in (0.2, 0.1, 0.4, 0.3, 0.3)]

    def validate(num_steps: int) -> dict[str, float]:
        return scores[num_steps]

    logged: list[str] = []
    with pytest.raises(RunStopped):
        trainer = interrupting(toy_trainer(), 1)
        run(tmp_path / "r", logged=logged, trainer=trainer, validate=validate, validate_every=1)
    run(tmp_path / "r", resume=True, logged=logged, validate=validate, validate_every=1)
    assert [line for line in logged if line.startswith("validation")] == [
        "validation before the first step: F1 0.200",
        "validation after step 1: F1 0.100; the best is 0.200 before the first step",
        "validation after step 2: F1 0.400, the best so far",
        "validation after step 3: F1 0.300; the best is 0.400 after step 2",
        "validation after step 4: F1 0.300; the best is 0.400 after step 2",
    ]


def test_the_mean_score_of_several_headline_metrics_is_printed_too(tmp_path: Path) -> None:
    logged = run(tmp_path / "r", num_steps=1, validate=lambda _: {"f1@a": 0.2, "accuracy@b": 0.4, "score": 0.3})
    assert logged[0] == "validation before the first step: F1@a 0.200, accuracy@b 0.400, mean score 0.300"


def test_early_stopping_ends_a_run_without_improvement(tmp_path: Path) -> None:
    scores = (0.1, 0.5, 0.4, 0.5, 0.3)
    logged = run(tmp_path / "r", num_steps=9, validate=validating(*scores), validate_every=1, patience=2)
    assert logged[-2] == "early stopping after step 3: 2 validations without improvement over 0.500"
    assert [path.name for path in checkpoints(tmp_path / "r" / "checkpoints")] == ["step_000003"]
    again = run(tmp_path / "r", resume=True, num_steps=9, validate=validating(), validate_every=1, patience=2)
    assert again == ["resuming after step 3", "early stopping ended this run after step 3; nothing is left to do"]


def test_a_resumed_run_knows_what_was_best(tmp_path: Path) -> None:
    saved: list[int] = []
    scores = (0.1, 0.5, 0.4, 0.45, 0.3)
    with pytest.raises(RunStopped):
        run(tmp_path / "r", trainer=interrupting(toy_trainer(), 1), validate=validating(*scores), validate_every=1)
    run(
        tmp_path / "r",
        resume=True,
        validate=validating(*scores),
        validate_every=1,
        save_best=lambda: saved.append(1),
    )
    assert saved == []


def test_numbers_are_logged_with_9_digits() -> None:
    assert rounded({"a": 1 / 3, "b": 7, "c": 1e-12 / 3}) == {"a": 0.333333333, "b": 7, "c": 3.33333333e-13}


def test_each_sample_is_augmented_by_step_and_index(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def augment(sample: Any, step: int, place: int) -> Any:
        seen.append((step, place))
        return replace(sample, id=f"{sample.id} seen")

    run(tmp_path / "r", augment=augment, num_steps=2)
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1)]
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

    def log_group(self, step: int, group: Any) -> None:
        self.shown.append((step, group.sample.id))


def test_trackers_get_the_records_of_the_logs(tmp_path: Path) -> None:
    listener = Listener()
    run(tmp_path / "r", trackers=listener, validate=validating(0.3, 0.2, 0.4, 0.4, 0.5), validate_every=2)
    assert listener.records == lines(tmp_path / "r" / METRICS)
    assert listener.records[0] == {"step": 0, "validation_f1": 0.0, "validation_score": 0.3}
    assert listener.shown == [(line["step"], line["sample"]) for line in lines(tmp_path / "r" / ROLLOUTS)]
    assert listener.started == [{"num_done": 0, "num_logged": 0}]


def test_trackers_of_a_resumed_run_get_the_number_of_steps_done_and_logged(tmp_path: Path) -> None:
    trainer, listener = toy_trainer(), Listener()
    step = trainer.step

    def killed(number: int, samples: Any, *rest: Any) -> Any:
        if number == 3:
            raise MemoryError
        return step(number, samples, *rest)

    trainer.step = killed  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        run(tmp_path / "r", trainer=trainer, save_every=2)
    run(tmp_path / "r", resume=True, save_every=2, trackers=listener)
    # two steps are saved, three were logged
    assert listener.started == [{"num_done": 2, "num_logged": 3}]
    assert [record["step"] for record in listener.records] == [2, 3]
    run(tmp_path / "r", resume=True, trackers=listener)
    assert len(listener.started) == 1, "a finished run has nothing left to log"


def test_a_run_is_the_same_with_and_without_trackers(tmp_path: Path) -> None:
    run(tmp_path / "without")
    run(tmp_path / "with", trackers=Listener())
    for name in (METRICS, ROLLOUTS, "checkpoints/step_000004/trained.safetensors"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes(), name
