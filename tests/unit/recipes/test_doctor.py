"""What `virft doctor` makes of what it finds."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from runs import virft, write_config
from virft.config.schema import Config, DataConfig, ModelConfig, RunConfig
from virft.planning.device import GIB
from virft.recipes import doctor
from virft.recipes.doctor import Finding, State, disk, memory, of_run, one_step, packages, processor


def test_packages_that_fit_are_listed_with_their_versions() -> None:
    found, extras = packages(["numpy>=2.0", 'datasets>=5.0; extra == "hf"', 'no-such-tool; extra == "dev"'])
    assert found.state is State.GOOD
    assert found.told.startswith("numpy 2.")
    assert extras.told.startswith("virft[hf] with datasets ")
    assert "no-such-tool" not in extras.told


def test_packages_that_lack_or_are_too_old_are_told_with_the_command_that_cures_it() -> None:
    found, extras = packages(["numpy>=99.0", "no-such-package>=1", 'no-such-app; extra == "app"'])
    assert found.state is State.BROKEN
    assert "no-such-package is not installed" in found.told
    assert found.cure == 'pip install "numpy>=99.0" "no-such-package>=1"'
    assert extras.told == "virft[app] not installed"


def test_a_pytorch_for_gpus_that_sees_none_is_odd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert processor().state is State.GOOD
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert processor().state is State.ODD
    assert "nvidia-smi" in processor().cure


def test_little_memory_and_little_room_are_odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory(3 * GIB) == Finding(about="memory", told="3.0 GiB available")
    assert memory(GIB).state is State.ODD
    assert disk(tmp_path / "not" / "there" / "yet").state is State.GOOD
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB))
    assert disk(tmp_path).state is State.ODD
    assert disk(tmp_path).told == f"1.0 GiB free in {tmp_path}"


def test_a_folder_that_cannot_be_written_must_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert disk(tmp_path).state is State.BROKEN


def test_a_training_step_works_here() -> None:
    assert one_step().state is State.GOOD


@pytest.mark.parametrize(("spoil", "told"), [(float("nan"), "no numbers"), (None, "changed no weight")])
def test_a_step_that_spoils_or_leaves_the_weights_is_told(
    monkeypatch: pytest.MonkeyPatch, spoil: float | None, told: str
) -> None:
    def trainer(config, loaded):
        def step(number, samples):
            if spoil is not None:
                with torch.no_grad():
                    loaded.model.get_input_embeddings().weight.fill_(spoil)

        return SimpleNamespace(step=step)

    monkeypatch.setattr(doctor, "make_trainer", trainer)
    found = one_step()
    assert found.state is State.BROKEN
    assert told in found.told


def config(tmp_path: Path, **model: str) -> Config:
    return Config(
        model=ModelConfig(**model), data=DataConfig(train=str(tmp_path / "no_data")), run=RunConfig(dir=str(tmp_path))
    )


def test_a_runs_model_data_and_room_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, room, data = of_run(config(tmp_path))
    assert model.told.startswith("virft-tiny: qwen2_vl, ")
    assert (room.state, data.state) == (State.GOOD, State.BROKEN)
    assert "no_data" in data.told
    # 7 million weights: three checkpoints of weights and two moments each, and two models, about 0.3 GiB
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB // 10))
    _, room, _ = of_run(config(tmp_path))
    assert room.state is State.BROKEN
    assert "run.keep_checkpoints" in room.cure
    missing, _ = of_run(config(tmp_path, path="./nothing"))
    assert missing.state is State.BROKEN


def test_the_verb_ends_with_what_must_be_put_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert virft("doctor") == 0
    assert capsys.readouterr().out.endswith("no problems found\n")
    assert virft("doctor", write_config(tmp_path, tmp_path / "nowhere")) == 1
    captured = capsys.readouterr()
    assert "\nFIX   data        " in captured.out
    assert captured.err == "virft: to be fixed: data\n"
