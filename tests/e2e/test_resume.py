"""Ctrl-C, --resume, and not a bit of difference."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runs import files, log, virft, write_config
from virft.cli.main import EXIT_INTERRUPTED
from virft.config.toml_file import load_config

DEMONSTRATIONS = ("grpo.demonstrations=loss", "grpo.demonstration_coef_end=0.0", "grpo.demonstration_fade=true")
STEPS = (
    "grpo.steps=8",
    "grpo.warm_start_steps=2",
    "grpo.refill_rounds=1",
    "grpo.max_base_score=0.95",
    "grpo.kl_coef_end=0.0",
    *DEMONSTRATIONS,
)
CHECKPOINT = ("checkpoints/step_000004/trained.safetensors", "checkpoints/step_000004/optimizer.safetensors")
SAME = ("metrics.jsonl", "rollouts.jsonl", "checkpoints/step_000008/trained.safetensors", "model/model.safetensors")


def interrupted(config: Path, *more: str) -> tuple[int, str]:
    """Exit status and last line of a run that gets Ctrl-C after its first step, which is in the warm start."""
    code = "import sys; from virft.cli.main import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", code, "train", str(config), *STEPS, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # as in this process: another number of threads adds up in another order
        env=os.environ | {"OMP_NUM_THREADS": str(num_threads())},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 1/"):
                process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        printed = process.stderr.read().strip().splitlines()
    return process.returncode, printed[-1]


def num_threads() -> int:
    import torch

    return torch.get_num_threads()


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_a_run_stopped_by_ctrl_c_and_resumed_equals_one_that_was_not(
    scenes: Path, tmp_path: Path, max_staleness: int
) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    more = f"sampling.max_staleness={max_staleness}"
    assert virft("grpo", write_config(tmp_path / "whole", scenes / "train"), *STEPS, more) == 0
    config = write_config(tmp_path / "cut", scenes / "train")
    status, printed = interrupted(config, more)
    assert status == EXIT_INTERRUPTED
    run = tmp_path / "cut" / "run"
    # how far the run has come when the signal arrives is left to the machine
    assert 1 <= len(log(run)) < 8
    assert printed == f"virft: stopped after step {len(log(run))}; resume with --resume"
    assert not (run / "model").exists()

    # all that `virft train` chooses is set: it is the same run
    assert virft("train", config, *STEPS, more, "--resume") == 0
    whole = files(tmp_path / "whole" / "run")
    for name in SAME:
        assert files(run)[name] == whole[name], name
    assert len(log(run, "timings.jsonl")) == 8


@pytest.mark.parametrize("frozen", [True, False])
def test_groups_in_flight_are_resumed_to_the_last_bit(scenes: Path, tmp_path: Path, frozen: bool) -> None:
    """With augmented images, replaced groups, several updates of a batch, validation and threads that read images."""
    steps = (
        *("grpo.steps=6", "grpo.prompts_per_step=3", "grpo.refill_rounds=1", "grpo.updates_per_batch=2"),
        *(
            "sampling.max_staleness=1",
            f"data.validation={scenes / 'test'}",
            "data.validate_every=3",
            "run.save_every=2",
        ),
        *(f"model.freeze_vision={str(frozen).lower()}", "augment.resized_crop=0.2", "run.keep_checkpoints=3"),
    )
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        assert virft("grpo", write_config(tmp_path / name, scenes / "train"), *steps) == 0
    run, config = tmp_path / "cut" / "run", tmp_path / "cut" / "config.toml"
    flights = sorted(path.parent.name for path in run.glob("checkpoints/*/groups_in_flight.jsonl"))
    assert flights == ["step_000002", "step_000004"]
    for last in ("step_000006", "step_000004"):
        shutil.rmtree(run / "checkpoints" / last)
        assert virft("grpo", config, *steps, "data.num_workers=2", "--resume") == 0
    whole = files(tmp_path / "whole" / "run")
    for name in ("metrics.jsonl", "rollouts.jsonl", "model/model.safetensors", "checkpoints/step_000006/state.json"):
        assert files(run)[name] == whole[name], name
    first, *others = (one["staleness"] for one in log(run) if "loss" in one)
    assert first == 0
    assert all(0 < one <= 1 for one in others)


def test_a_run_with_groups_in_flight_cannot_be_extended(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    constant = ("grpo.schedule=constant", "reward.iou_threshold=0.5", "sampling.max_staleness=1")
    config = write_config(tmp_path, scenes / "train")
    assert virft("grpo", config, *constant, "grpo.steps=1") == 0
    assert virft("grpo", config, *constant, "grpo.steps=2", "--resume") == 2
    assert "sampling.max_staleness samples the groups of the next step, of which the last step has none" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("frozen", [True, False])
def test_images_that_are_read_ahead_change_no_bit(scenes: Path, tmp_path: Path, frozen: bool) -> None:
    """Neither with cached features, nor with augmented images and replaced groups, nor after a resume."""
    steps = (
        "grpo.steps=4",
        "grpo.prompts_per_step=3",
        "grpo.refill_rounds=1",
        f"model.freeze_vision={str(frozen).lower()}",
    )
    if not frozen:
        steps += ("augment.resized_crop=0.2", "augment.colour_jitter=0.2", "grpo.warm_start_steps=1")
    for name, workers in (("plain", 0), ("ahead", 2)):
        (tmp_path / name).mkdir()
        config = write_config(tmp_path / name, scenes / "train")
        arguments = ("grpo", config, *steps, f"data.num_workers={workers}", "run.save_every=2")
        assert virft(*arguments) == 0
        if workers:
            shutil.rmtree(tmp_path / name / "run" / "checkpoints" / "step_000004")
            assert virft(*arguments, "data.num_workers=1", "--resume") == 0
    plain = files(tmp_path / "plain" / "run")
    for name in ("metrics.jsonl", "rollouts.jsonl", "model/model.safetensors"):
        assert files(tmp_path / "ahead" / "run")[name] == plain[name], name


def test_the_same_seed_gives_the_same_run_and_another_one_another(scenes: Path, tmp_path: Path) -> None:
    runs = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        config = write_config(tmp_path / name, scenes / "train", extra=f"seed = {seed}\n")
        assert virft("grpo", config, "grpo.steps=2") == 0
        runs[name] = files(tmp_path / name / "run")
    assert runs["a"]["metrics.jsonl"] == runs["b"]["metrics.jsonl"]
    assert runs["a"]["model/model.safetensors"] == runs["b"]["model/model.safetensors"]
    assert runs["a"]["rollouts.jsonl"] != runs["c"]["rollouts.jsonl"]


def test_a_finished_run_is_neither_repeated_nor_overwritten(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, scenes / "train")
    assert virft("grpo", config) == 0
    before = files(tmp_path / "run")
    capsys.readouterr()

    assert virft("grpo", config) == 2
    assert capsys.readouterr().err == (
        f"virft: {tmp_path / 'run'}: already holds a run; resume with --resume, or choose another run.dir\n"
    )
    assert virft("grpo", config, "grpo.steps=4", "grpo.group_size=2", "--resume") == 2
    assert capsys.readouterr().err == (
        f"virft: {tmp_path / 'run'}: holds a run of another config: grpo.steps is 3 (saved) and 4 (now); it cannot be "
        'extended, because grpo.schedule "linear" decays to 0 in the last step; start a new run from its model with '
        f"`virft grpo --from {tmp_path / 'run'} run.dir=ANOTHER`\n"
    )
    assert files(tmp_path / "run") == before

    assert virft("grpo", config, "--resume") == 0
    assert "step 1/" not in capsys.readouterr().out
    assert files(tmp_path / "run") == before


def test_a_run_with_more_steps_equals_one_that_had_them_from_the_start(scenes: Path, tmp_path: Path) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    constant = ("grpo.schedule=constant", "reward.iou_threshold=0.5", "run.save_every=2")
    assert virft("grpo", write_config(tmp_path / "whole", scenes / "train"), *constant, "grpo.steps=4") == 0
    config = write_config(tmp_path / "cut", scenes / "train")
    assert virft("grpo", config, *constant, "grpo.steps=2") == 0
    assert virft("grpo", config, *constant, "grpo.steps=4", "--resume") == 0
    whole, cut = files(tmp_path / "whole" / "run"), files(tmp_path / "cut" / "run")
    for name in ("metrics.jsonl", "rollouts.jsonl", "model/model.safetensors", *CHECKPOINT):
        assert cut[name] == whole[name], name


def test_a_new_run_starts_from_the_model_of_another(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, scenes / "train")
    first, second = tmp_path / "run", tmp_path / "second"
    assert virft("grpo", "--from", first, f"run.dir={second}") == 2
    assert "holds no run; expected the folder of a finished run" in capsys.readouterr().err
    assert virft("grpo", config, "grpo.steps=1") == 0
    before = files(first)
    capsys.readouterr()

    assert virft("grpo", "--from", first) == 2
    assert f"run.dir is that run; expected another one, such as run.dir={first}_2" in capsys.readouterr().err
    assert virft("grpo", "--from", first, f"run.dir={second}", "grpo.steps=2") == 0
    assert files(first) == before
    saved = load_config(second / "config.toml").config
    assert (saved.model.path, saved.grpo.steps, saved.grpo.group_size) == (str(first / "model"), 2, 3)
    # the policy that it samples from is the trained one
    assert log(second)[0]["reward"] != log(first)[0]["reward"]
    assert (
        virft("grpo", "--from", first, config, f"run.dir={tmp_path / 'third'}", "grpo.group_size=2", "--dry-run") == 0
    )
    assert f'model.path = "{first / "model"}"' in capsys.readouterr().out


def test_settings_without_a_file_need_what_has_no_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert virft("grpo", "run.dir=x") == 2
    assert capsys.readouterr().err.startswith("virft: command line: data.train is missing; expected a folder that ")
