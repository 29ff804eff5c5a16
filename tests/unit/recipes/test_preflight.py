"""A run is refused before torch is imported; a validation set that is trained on is a warning."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from factories import detections, sample, save_image
from runs import virft
from virft.config.schema import Config, DataConfig, GRPOConfig, MixtureConfig, PromptConfig, RewardConfig, RunConfig
from virft.data.store_writer import StoreWriter
from virft.errors import ConfigError, DataError, RunError, VirftError
from virft.recipes.fitting import load_fitted_config
from virft.recipes.preflight import check_run, load_run_config, run_warnings, validation_warning

SIZE = (64, 48)


def build(folder: Path, *seeds: int) -> Path:
    """A dataset of one image for each seed; equal seeds give images of equal content."""
    with StoreWriter(folder) as writer:
        for seed in seeds:
            file = save_image(folder.parent / f"{folder.name}_{seed}.png", SIZE, seed=seed)
            path = writer.add_image_file(file.name, file)
            writer.add(sample(detections((1, 1, 20, 20)), id=f"{seed}", image=path, size=SIZE))
        writer.finish(source={}, seed=0)
    return folder


def config(folder: Path, **more: Any) -> Config:
    train = build(folder / "train", 1, 2, 3)
    return Config(**{"data": DataConfig(train=str(train)), "run": RunConfig(dir=str(folder / "run"))} | more)


def warning_of(settings: Config) -> str | None:
    checked = check_run(settings, "grpo")
    return validation_warning(checked.data, checked.validation)


def with_validation(settings: Config, folder: Path) -> Config:
    return replace(settings, data=replace(settings.data, validation=str(folder)))


def test_other_images_are_a_validation_set(tmp_path: Path) -> None:
    assert warning_of(config(tmp_path)) is None
    assert warning_of(with_validation(config(tmp_path / "b"), build(tmp_path / "other", 4, 5))) is None


def test_the_training_set_as_validation_set_is_a_warning(tmp_path: Path) -> None:
    settings = config(tmp_path)
    found = warning_of(with_validation(settings, tmp_path / "train"))
    assert found is not None and f"the validation set {tmp_path / 'train'} is the training set" in found
    # a copy of it under another name too
    shutil.copytree(tmp_path / "train", tmp_path / "copy")
    found = warning_of(with_validation(settings, tmp_path / "copy"))
    assert found is not None and f"{tmp_path / 'copy'} is the training set" in found


def test_single_training_images_in_the_validation_set_are_counted_by_content(tmp_path: Path) -> None:
    found = warning_of(with_validation(config(tmp_path), build(tmp_path / "other", 3, 4)))
    assert found is not None
    assert found.startswith(f"1 of 2 images of the validation set {tmp_path / 'other'} are training images, such as ")


def test_the_sets_of_a_mixture_are_compared_with_all_of_it(tmp_path: Path) -> None:
    a, b = build(tmp_path / "a", 1, 2), build(tmp_path / "b", 3, 4)
    mixture = {"a": MixtureConfig(data=str(a), validation=str(b)), "b": MixtureConfig(data=str(b))}
    found = warning_of(Config(mixture=mixture, run=RunConfig(dir=str(tmp_path / "run"))))
    assert found is not None and f"{b} is the training set" in found


def test_a_test_set_as_validation_set_is_a_warning_by_its_folder_or_its_card(tmp_path: Path) -> None:
    settings = config(tmp_path, grpo=GRPOConfig(learning_rate=3e-4))
    other = with_validation(settings, build(tmp_path / "other", 4, 5))
    assert list(run_warnings(check_run(other, "grpo"))) == []
    tested = with_validation(settings, build(tmp_path / "test", 4, 5))
    ((event, message),) = run_warnings(check_run(tested, "grpo"))
    assert (event, message.partition(":")[0]) == ("test_data", f"the validation set {tmp_path}/test is a test set")
    card = tmp_path / "other" / "card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"source": {"split": "test"}}))
    assert [event for event, _ in run_warnings(check_run(other, "grpo"))] == ["test_data"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": DataConfig(train="nowhere")}, DataError, "nowhere: does not exist"),
        ({"prompt": PromptConfig(template="nowhere.txt")}, ConfigError, "nowhere.txt"),
        ({"reward": RewardConfig(weights={"iuo": 1.0})}, ConfigError, r"reward\.weights: iuo is no part"),
        ({"reward": RewardConfig(extra=("nowhere.py:f",))}, ConfigError, "there is no Python file"),
    ],
)
def test_what_can_be_refused_is(tmp_path: Path, changes: dict[str, Any], error: type[VirftError], message: str) -> None:
    with pytest.raises(error, match=message):
        check_run(config(tmp_path, **changes), "grpo")


def test_a_missing_validation_set_and_a_used_run_folder_are_refused(tmp_path: Path) -> None:
    settings = config(tmp_path)
    with pytest.raises(DataError, match="nowhere: does not exist"):
        check_run(with_validation(settings, Path("nowhere")), "grpo")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    with pytest.raises(RunError, match="is not empty and holds no run"):
        check_run(settings, "grpo")


def test_a_run_is_refused_without_torch(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('data.train = "nowhere"\nrun.dir = "run"\n')
    code = (
        "import sys; from virft.cli.main import main; status = main(sys.argv[1:]); "
        "print(status, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "grpo", str(file), "--dry-run"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "2 False\n"
    assert done.stderr.startswith("virft: nowhere: does not exist")


def test_settings_alone_are_a_config_and_change_that_of_another_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config; expected a TOML file, KEY=VALUE, or --from RUN"):
        load_run_config(None, method="grpo")
    alone = load_run_config(None, ["data.train=d", "run.dir=x", "grpo.steps=3"], method="grpo")
    assert (alone.config.run.dir, alone.config.grpo.steps) == ("x", 3)
    assert alone.origins["grpo.steps"] == "command line"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text('data.train = "d"\nrun.dir = "first"\n')
    with pytest.raises(ConfigError, match="has no trained model; finish the run with --resume first"):
        load_run_config(None, ["run.dir=x"], method="grpo", from_run=tmp_path / "run")
    (tmp_path / "run" / "model").mkdir()
    loaded = load_run_config(None, ["run.dir=a/x", "grpo.steps=7"], method="grpo", from_run=tmp_path / "run")
    assert (loaded.config.run.dir, loaded.config.grpo.steps) == ("a/x", 7)
    assert loaded.config.model.path == str(tmp_path / "run" / "model")


def test_a_run_from_a_warmed_up_one_has_no_warm_start_unless_it_sets_one(tmp_path: Path) -> None:
    first = tmp_path / "run"
    (first / "model").mkdir(parents=True)
    (first / "config.toml").write_text('data.train = "d"\nrun.dir = "first"\ngrpo = {warm_start_steps = 40}\n')

    def warm_start(*overrides: str, config: Path | None = None) -> int:
        found = load_run_config(config, ["run.dir=x", *overrides], method="train", from_run=first)
        return found.config.grpo.warm_start_steps

    assert warm_start("grpo.steps=10") == 0
    assert warm_start("grpo.steps=10", "grpo.warm_start_steps=3") == 3
    assert warm_start(config=first / "config.toml") == 40


@pytest.mark.parametrize("method", ["train", "compare"])
def test_a_run_is_resumed_by_its_folder_alone(tmp_path: Path, method: Literal["train", "compare"]) -> None:
    (tmp_path / "run").mkdir()
    saved = "compare.toml" if method == "compare" else "config.toml"
    (tmp_path / "run" / saved).write_text('data.train = "d"\nrun.dir = "moved"\ngrpo.steps = 7\n')
    given = [f"run.dir={tmp_path / 'run'}"]
    loaded = load_fitted_config(None, given, method=method, saved=saved).config
    assert (loaded.data.train, loaded.run.dir, loaded.grpo.steps) == ("d", str(tmp_path / "run"), 7)
    keywords = {"run": {"dir": tmp_path / "run"}, "grpo.steps": 9}
    assert load_fitted_config(None, method=method, keywords=keywords, saved=saved).config.grpo.steps == 9
    with pytest.raises(ConfigError, match=r"(data\.train|run\.dir) is missing"):
        load_fitted_config(None, ["seed=1"], method=method, saved=saved)
    with pytest.raises(RunError, match="nowhere: does not exist, so there is nothing to resume"):
        load_fitted_config(None, ["run.dir=nowhere"], method=method, saved=saved)
    with pytest.raises(ConfigError, match=r"to resume without one, name the run: run\.dir=RUN"):
        load_run_config(None, method="train", resume=True)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_questions_that_demand_thinking_are_refused_without_the_setting(tmp_path: Path, part: str) -> None:
    settings = config(tmp_path)
    with StoreWriter(tmp_path / "own") as writer:
        file = save_image(tmp_path / "own.png", SIZE, seed=9)
        path = writer.add_image_file(file.name, file)
        one = sample(detections((1, 1, 20, 20)), id="own", image=path, size=SIZE)
        writer.add(replace(one, question="Find it. Think in <think> </think>."))
        writer.finish(source={}, seed=0)
    asking = replace(settings, data=replace(settings.data, **{part: str(tmp_path / "own")}))
    with pytest.raises(ConfigError, match=r"1 of 1 questions demand <think>, .* set prompt\.thinking = true"):
        check_run(asking, "grpo")
    check_run(replace(asking, prompt=PromptConfig(thinking=True)), "grpo")


def test_demonstrations_with_thinking_need_a_rationale(tmp_path: Path) -> None:
    grpo = GRPOConfig(demonstrations="loss")
    settings = config(tmp_path, grpo=grpo, prompt=PromptConfig(thinking=True))
    with pytest.raises(DataError, match=r"no sample has a rationale, which grpo\.demonstrations needs"):
        check_run(settings, "grpo")
    check_run(replace(settings, prompt=PromptConfig()), "grpo")
    check_run(replace(settings, grpo=GRPOConfig()), "grpo")


def test_near_right_answers_need_boxes_to_move(tmp_path: Path) -> None:
    with_groups = GRPOConfig(demonstrations="group", near_right=True)
    assert check_run(config(tmp_path, grpo=with_groups), "grpo").method == "grpo"
    with StoreWriter(tmp_path / "empty") as writer:
        file = save_image(tmp_path / "e.png", SIZE, seed=9)
        writer.add(sample(detections(), id="e", image=writer.add_image_file(file.name, file), size=SIZE))
        writer.finish(source={}, seed=0)
    empty = replace(config(tmp_path / "b", grpo=with_groups), data=DataConfig(train=str(tmp_path / "empty")))
    with pytest.raises(ConfigError, match=r"no target of the training data has one \(tasks: detection\)"):
        check_run(empty, "grpo")


@pytest.mark.parametrize(("coef", "end", "allowed"), [(0.0, None, False), (0.0, 0.0, False), (0.0, 0.3, True)])
def test_demonstrations_without_any_coefficient_are_refused(
    tmp_path: Path, coef: float, end: float | None, allowed: bool
) -> None:
    train = build(tmp_path / "train", 1)
    overrides = [f"data.train={train}", "model.path=virft-tiny", f"run.dir={tmp_path / 'run'}"]
    overrides += ["grpo.demonstrations=loss", f"grpo.demonstration_coef={coef}"]
    overrides += [] if end is None else [f"grpo.demonstration_coef_end={end}"]
    if allowed:
        assert load_run_config(None, overrides, method="grpo").config.grpo.demonstration_coef_end == end
        return
    with pytest.raises(ConfigError, match=r"grpo\.demonstration_coef is 0 throughout"):
        load_run_config(None, overrides, method="grpo")


def test_grpo_reports_demonstrations_that_its_file_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``virft init`` writes them for ``virft train``."""
    monkeypatch.setattr("virft.recipes.estimate.dry_run_text", lambda *_: "")
    file = tmp_path / "mine.toml"
    file.write_text(
        f'data.train = "{build(tmp_path / "train", 1, 2)}"\nrun.dir = "{tmp_path / "run"}"\n'
        'grpo.demonstrations = "loss"\n'
    )

    def notes(verb: str, *overrides: str) -> bool:
        assert virft(verb, file, *overrides, "--dry-run") == 0
        return f'note: grpo.demonstrations is "loss" ({file})' in capsys.readouterr().out

    assert notes("grpo")
    assert not notes("grpo", "grpo.demonstrations=off")
    assert not notes("grpo", "grpo.demonstrations=loss")
    assert not notes("train")
