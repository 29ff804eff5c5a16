"""Checkpoints and samples that cannot work end a command before it writes anything, with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import virft as virft_package
from broken_models import BROKEN, forget_end_of_turn, make_broken, save_adapters
from factories import detections, sample, save_image
from refused_samples import REFUSED, save_questions
from runs import files, log, virft, write_config
from virft.data.store_writer import StoreWriter
from virft.errors import DataError
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


def save_samples(folder: Path, *rows: tuple[str, tuple[int, int], str | None]) -> Path:
    """Save a dataset of samples of this id, image size and question."""
    with StoreWriter(folder) as writer:
        for number, (name, size, question) in enumerate(rows):
            image = save_image(folder.parent / f"{folder.name}_images" / f"{number}.png", size, seed=number)
            path = writer.add_image_file(image.name, image)
            writer.add(sample(detections((2, 2, 12, 12)), id=name, image=path, size=size, question=question))
        writer.finish(source={"kind": "coco"}, seed=0)
    return folder


GOOD = (64, 48)
THIN, PAD = ("thin", (4100, 20), None), ("pad", GOOD, "<|image_pad|> What is it?")


def test_all_refused_samples_are_named_and_skipped_only_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = save_samples(tmp_path / "d", ("0", GOOD, None), THIN, ("2", GOOD, None), PAD)
    out = tmp_path / "out"
    command = ("predict", TINY_NAME, data, out, "--max-completion-tokens", 2)
    assert virft(*command) == 2
    captured = capsys.readouterr()
    assert "2 of 4 samples cannot be used with this model:\n  thin: " in captured.err
    assert "\n  pad: the question holds 1 image placeholders of its own; expected none\n" in captured.err
    assert "\n--skip-refused predicts the others, and every score says so\n" in captured.err
    assert not out.exists()
    assert virft(*command, "--skip-refused") == 0
    printed = capsys.readouterr().out
    assert " on 2 of 4 questions about 2 images\n" in printed
    named = "not the whole dataset: 2 skipped, as the model refuses the prompt: thin, pad\n"
    assert named in printed
    assert json.loads((out / "card.json").read_text())["settings"]["skipped"] == ["thin", "pad"]
    assert [json.loads(line)["sample_id"] for line in (out / "predictions.jsonl").open()] == ["0", "2"]
    assert virft("score", out, data) == 0
    assert named in capsys.readouterr().out
    tree = json.loads((out / "scores.json").read_text())
    assert all(name.endswith(" (2 of 4)") for name in tree["tasks"]["detection"]["values"])
    assert virft(*command, "--resume", "--skip-refused") == 0
    found = virft_package.evaluate(TINY_NAME, data, skip_refused=True)
    assert found.predictions.skipped == ("thin", "pad")
    with pytest.raises(DataError, match="skip_refused=True predicts the others"):
        virft_package.evaluate(TINY_NAME, data)


def test_a_dataset_without_any_usable_sample_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = save_samples(tmp_path / "d", THIN, PAD)
    assert virft("predict", TINY_NAME, data, tmp_path / "out", "--skip-refused") == 2
    assert "2 of 2 samples cannot be used with this model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_prompts_that_leave_no_room_for_a_completion_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # virft-tiny takes 2048 tokens; the prompt has 21 and 1,900 words of one token
    data = save_samples(tmp_path / "d", ("0", GOOD, None), ("long", GOOD, "fox " * 1900))
    sentence = (
        "than the 2048 tokens that the model takes (max_position_embeddings) on 1 of 2 samples: long (1921 + {});"
    )
    assert virft("check", data, "--model", TINY_NAME) == 0
    assert f"note: prompt and completion can be longer {sentence.format(256)}" in capsys.readouterr().out
    assert virft("check", data, "--model", TINY_NAME, "--max-completion-tokens", 127) == 0
    assert "note: " not in capsys.readouterr().out
    config = write_config(tmp_path, save_samples(tmp_path / "good", ("0", GOOD, None), ("1", GOOD, None)))
    settings = (
        f"data.validation={data}",
        "grpo.steps=1",
        "sampling.max_completion_tokens=128",
        "data.validate_every=9",
    )
    assert virft("grpo", config, *settings, "--dry-run") == 0
    assert f"warning: validation set {data}: prompt and completion can be longer {sentence.format(128)}" in (
        capsys.readouterr().out
    )
    assert virft("doctor", config, *settings) == 0
    assert f"{data}: prompt and completion can be longer {sentence.format(128)}" in capsys.readouterr().out


def test_own_questions_are_compared_with_the_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = save_samples(tmp_path / "pixels", ("0", GOOD, "Give the boxes in absolute pixels."))
    assert virft("predict", TINY_NAME, pixels, tmp_path / "out") == 2
    message = "1 of 1 questions, such as that of sample 0, demand other coordinates than relative_1000, in which "
    assert message + "this model writes boxes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    config = write_config(tmp_path, save_samples(tmp_path / "good", ("0", GOOD, None)))
    assert virft("grpo", config, f"data.validation={pixels}") == 2
    assert message + "this model writes boxes" in capsys.readouterr().err

    think = save_samples(tmp_path / "think", ("0", GOOD, "Write <think> </think> and <answer> </answer>."))
    warning = "warning: 1 of 1 questions demand <think>, such as that of sample 0, but thinking is false for these"
    command = ("predict", TINY_NAME, think, tmp_path / "out", "--max-completion-tokens", 2)
    assert virft(*command) == 0
    assert warning in capsys.readouterr().out
    assert virft("score", tmp_path / "out", think) == 0
    assert warning in capsys.readouterr().out
    card = tmp_path / "out" / "card.json"
    card.write_text(card.read_text().replace('"thinking": false', '"thinking": true'))
    assert virft("score", tmp_path / "out", think) == 0
    assert "warning: " not in capsys.readouterr().out


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
        ("thin image", "note: 1 image(s) with an aspect ratio above 200, which Qwen-VL and GLM models refuse ("),
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
