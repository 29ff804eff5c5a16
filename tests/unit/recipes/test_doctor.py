"""Findings of `virft doctor`."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from broken_models import BROKEN, BROKEN_TEMPLATES, forget_end_of_turn, make_broken, save_adapters
from factories import detections, sample, save_image
from refused_samples import REFUSED, Refused, save_questions
from runs import virft, write_config
from virft.config.schema import Config, DataConfig, ModelConfig, RunConfig
from virft.data.store_writer import StoreWriter
from virft.models.tiny import tiny_folder
from virft.planning.device import GIB
from virft.recipes import doctor
from virft.recipes.doctor import Finding, State, disk, memory, of_run, one_step, packages, processor


def test_packages_that_fit_are_listed_with_their_versions() -> None:
    found, extras = packages(["numpy>=2.0", 'datasets>=5.0; extra == "hf"', 'no-such-tool; extra == "dev"'])
    assert found.state is State.OK
    assert found.message.startswith("numpy 2.")
    assert extras.message.startswith("virft[hf] with datasets ")
    assert "no-such-tool" not in extras.message


def test_missing_or_old_packages_are_listed_with_the_command_that_installs_them() -> None:
    found, extras = packages(["numpy>=99.0", "no-such-package>=1", 'no-such-app; extra == "app"'])
    assert found.state is State.FIX
    assert "no-such-package is not installed" in found.message
    assert found.advice == 'pip install "numpy>=99.0" "no-such-package>=1"'
    assert extras.message == "virft[app] not installed"


def test_a_cuda_build_without_a_gpu_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert processor().state is State.OK
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert processor().state is State.NOTE
    assert "nvidia-smi" in processor().advice


def test_little_memory_and_little_disk_space_are_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory(3 * GIB) == Finding(about="memory", message="3.0 GiB available")
    assert memory(GIB).state is State.NOTE
    assert disk(tmp_path / "not" / "there" / "yet").state is State.OK
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB))
    assert disk(tmp_path).state is State.NOTE
    assert disk(tmp_path).message == f"1.0 GiB free in {tmp_path}"


def test_a_folder_without_write_permission_is_to_be_fixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert disk(tmp_path).state is State.FIX


def test_a_training_step_works_here() -> None:
    assert one_step().state is State.OK


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "non-finite"), (None, "changed no weight")])
def test_a_step_that_corrupts_or_leaves_the_weights_is_to_be_fixed(
    monkeypatch: pytest.MonkeyPatch, value: float | None, message: str
) -> None:
    made = doctor.open_grpo_trainer

    def open_trainer(config):
        trainer = made(config)

        def step(number, samples):
            if value is not None:
                with torch.no_grad():
                    trainer.policy.model.get_input_embeddings().weight.fill_(value)

        trainer.step = step
        return trainer

    monkeypatch.setattr(doctor, "open_grpo_trainer", open_trainer)
    found = one_step()
    assert found.state is State.FIX
    assert message in found.message


def config(tmp_path: Path, **model: str) -> Config:
    return Config(
        model=ModelConfig(**model), data=DataConfig(train=str(tmp_path / "no_data")), run=RunConfig(dir=str(tmp_path))
    )


def test_model_data_and_disk_space_of_a_run_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, room, data = of_run(config(tmp_path))
    assert model.message.startswith("virft-tiny: qwen2_vl, ")
    assert (room.state, data.state) == (State.OK, State.FIX)
    assert "no_data" in data.message
    # 7 million weights: three checkpoints of weights and two moments each, and two models, about 0.3 GiB
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB // 10))
    _, room, _ = of_run(config(tmp_path))
    assert room.state is State.FIX
    assert "run.keep_checkpoints" in room.advice
    missing, _ = of_run(config(tmp_path, path="./nothing"))
    assert missing.state is State.FIX


def test_questions_that_the_settings_do_not_fit_are_to_be_fixed(tmp_path: Path) -> None:
    file = save_image(tmp_path / "a.png", (64, 48))
    for folder, question, message in (
        ("think", "Answer in <think> </think>.", "1 of 1 questions demand <think>"),
        ("pixels", "Give the box in absolute pixels.", "1 of 1 questions, such as that of sample a.png"),
    ):
        with StoreWriter(tmp_path / folder) as writer:
            one = sample(detections((1, 1, 20, 20)), image=writer.add_image_file("a.png", file), size=(64, 48))
            writer.add(replace(one, question=question))
            writer.finish(source={}, seed=0)
        settings = Config(data=DataConfig(train=str(tmp_path / folder)), run=RunConfig(dir=str(tmp_path)))
        *_, data = of_run(settings)
        assert data.state is State.FIX
        assert message in data.message


@pytest.mark.parametrize("name", [*BROKEN, *BROKEN_TEMPLATES])
def test_a_broken_checkpoint_is_to_be_fixed(name: str, tmp_path: Path) -> None:
    broken = (BROKEN | BROKEN_TEMPLATES)[name]
    path = str(make_broken(broken, tmp_path / "model"))
    (found,) = (one for one in of_run(config(tmp_path, path=path)) if one.about == "model" and one.state is State.FIX)
    assert broken.message in found.message


def test_a_chat_template_of_adapters_is_a_note(tmp_path: Path) -> None:
    adapters = save_adapters(tmp_path / "a")
    template = (adapters / "chat_template.jinja").read_text()
    (adapters / "chat_template.jinja").write_text(template + "{# another #}")
    found = [one for one in of_run(config(tmp_path, path=str(adapters))) if one.about == "model"]
    assert (found[0].state, found[0].message) == (
        State.NOTE,
        "its adapters have a chat template of their own, which is used",
    )
    assert all(one.state is not State.FIX for one in found)


def test_missing_stop_tokens_are_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = forget_end_of_turn(Path(shutil.copytree(tiny_folder(), tmp_path / "model")))
    (found,) = (one for one in of_run(config(tmp_path, path=str(folder))) if one.state is State.NOTE)
    assert found.message.startswith("generation_config.json has no stop token <|im_end|>; ")
    data = save_questions(tmp_path / "data", Refused((64, 48), None, ""))
    assert virft("doctor", f"model.path={folder}", f"data.train={data}", f"run.dir={tmp_path / 'run'}") == 0
    assert capsys.readouterr().out.endswith("nothing has to be fixed; see the notes about: model\n")


@pytest.mark.parametrize("name", REFUSED)
def test_a_sample_that_the_model_refuses_is_to_be_fixed(tmp_path: Path, name: str) -> None:
    data = save_questions(tmp_path / "no_data", REFUSED[name])
    (found,) = (one for one in of_run(config(tmp_path)) if one.about == "data")
    assert found.state is State.FIX
    assert found.message.startswith(f"{data}: ")
    assert REFUSED[name].message in found.message


def test_the_verb_ends_with_the_findings_to_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert virft("doctor") == 0
    assert capsys.readouterr().out.endswith("no problems found\n")
    assert virft("doctor", write_config(tmp_path, tmp_path / "nowhere")) == 1
    captured = capsys.readouterr()
    assert "\nFIX   data        " in captured.out
    assert captured.err == "virft: to be fixed: data\n"
