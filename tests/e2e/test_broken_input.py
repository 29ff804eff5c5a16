"""Checkpoints and samples that cannot work end a command before it writes anything, with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from broken_models import BROKEN, forget_end_of_turn, make_broken, save_adapters
from refused_samples import REFUSED, save_questions
from runs import files, log, virft, write_config
from virft.models.load import load_model
from virft.models.tiny import TINY_NAME, tiny_folder


@pytest.mark.parametrize("name", REFUSED)
def test_a_sample_that_the_model_refuses_is_found_before_the_first_step(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = save_questions(tmp_path / "bad", REFUSED[name])
    good = save_questions(tmp_path / "good", REFUSED[name]._replace(size=(64, 48), question=None))
    config = write_config(tmp_path, good)
    for verb, *settings in (
        ("grpo", f"data.train={bad}"),
        ("sft", f"data.train={bad}"),
        ("grpo", f"data.validation={bad}"),
        ("grpo", f"data.train={bad}", "--dry-run"),
    ):
        assert virft(verb, config, *settings) == 2
        assert REFUSED[name].message in capsys.readouterr().err
    assert virft("predict", TINY_NAME, bad, tmp_path / "run") == 2
    assert REFUSED[name].message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    # what is not queried is not refused
    assert virft("predict", TINY_NAME, bad, tmp_path / "run", "--limit", 3, "--max-completion-tokens", 2) == 0


@pytest.mark.parametrize("name", ["missing weights", "adapters of unknown names"])
def test_a_broken_checkpoint_ends_every_command(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_broken(BROKEN[name], tmp_path / "model")
    data = save_questions(tmp_path / "data", REFUSED["thin image"]._replace(size=(64, 48)))
    before = files(tmp_path)
    commands = [
        ("grpo", f"data.train={data}", f"run.dir={tmp_path / 'run'}", f"model.path={folder}"),
        ("sft", f"data.train={data}", f"run.dir={tmp_path / 'run'}", f"model.path={folder}"),
        ("predict", folder, data, tmp_path / "run"),
        ("ask", folder, next(data.rglob("*.png")), "fox"),
    ]
    if BROKEN[name].has_adapters:
        commands.append(("merge", folder, tmp_path / "run"))
    for command in commands:
        assert virft(*command) == 2
        assert BROKEN[name].message in capsys.readouterr().err
    assert files(tmp_path) == before


def test_a_model_without_its_stop_token_answers_as_before(tmp_path: Path) -> None:
    folder = forget_end_of_turn(Path(shutil.copytree(tiny_folder(), tmp_path / "m")))
    data = save_questions(tmp_path / "data", REFUSED["thin image"]._replace(size=(64, 48)))
    texts = []
    for name, model in (("whole", TINY_NAME), ("without", folder)):
        assert virft("predict", model, data, tmp_path / name, "--max-completion-tokens", 60) == 0
        lines = (tmp_path / name / "predictions.jsonl").read_text().splitlines()
        texts.append([json.loads(line)["text"] for line in lines])
    assert texts[0] == texts[1]
    assert all(text.endswith("</answer>") for text in texts[1])


@pytest.mark.parametrize(("verb", "freeze"), [("grpo", "true"), ("sft", "false")])
def test_a_full_training_may_start_from_adapters(tmp_path: Path, verb: str, freeze: str) -> None:
    data = save_questions(tmp_path / "data", REFUSED["thin image"]._replace(size=(64, 48)))
    adapters = save_adapters(tmp_path / "adapters")
    config = write_config(tmp_path, data)
    settings = (f"model.path={adapters}", "model.train=full", f"model.freeze_vision={freeze}", f"{verb}.steps=1")
    assert virft(verb, config, *settings) == 0
    assert len(log(tmp_path / "run")) == 1
    merged, trained = load_model(str(adapters)), load_model(str(tmp_path / "run" / "model"))
    merged.merge_adapters()
    changed = {
        name.split(".")[1]
        for (name, before), after in zip(merged.model.named_parameters(), trained.model.parameters(), strict=True)
        if not before.equal(after)
    }
    # an answer of no boxes may leave GRPO without a gradient; SFT always has one
    assert "visual" not in changed or freeze == "false"
    if verb == "sft":
        assert changed >= {"language_model", "visual"}
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("thin image", "note: 1 image(s) with an aspect ratio above 200, which Qwen-VL models refuse ("),
        ("placeholder", "note: 1 question(s) with an image placeholder, which models that use it refuse (bad, "),
        ("long question", None),
    ],
)
def test_check_notes_samples_that_models_refuse(
    tmp_path: Path, name: str, note: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = save_questions(tmp_path / "bad", REFUSED[name])
    assert virft("check", bad) == 0
    printed = capsys.readouterr().out
    assert "note: " not in printed if note is None else note in printed
    assert virft("check", bad, "--model", TINY_NAME) == 2
    assert REFUSED[name].message in capsys.readouterr().err
    good = save_questions(tmp_path / "good", REFUSED[name]._replace(size=(64, 48), question=None))
    assert virft("check", good, "--model", TINY_NAME) == 0
    assert capsys.readouterr().out.endswith("\nvirft-tiny accepts every prompt\n")
