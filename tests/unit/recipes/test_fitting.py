"""A verb's config is completed by what fits its model and data; a resumed run keeps its own values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from virft.config.toml_file import dump
from virft.errors import RunError
from virft.recipes.fitting import load_fitted_config, rate_warning, untuned_warnings


def save_card(folder: Path, *, num_samples: int = 20, num_images: int = 16) -> Path:
    folder.mkdir(parents=True)
    card = {"schema_version": 2, "num_samples": num_samples, "num_images": num_images, "counts": {"detection": {}}}
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def save_config(folder: Path, text: str = "") -> Path:
    path = folder / "mine.toml"
    path.write_text(f'data.train = "{folder / "data"}"\nrun.dir = "{folder / "run"}"\n{text}')
    return path


def test_config_of_two_lines_is_fitted_to_model_and_data(tmp_path: Path) -> None:
    save_card(tmp_path / "data")
    loaded = load_fitted_config(save_config(tmp_path))
    assert loaded.config.grpo.learning_rate == 3e-4
    assert loaded.config.augment.horizontal_flip
    assert loaded.origins["augment.horizontal_flip"] == "fitted: 16 images: against overfitting"
    assert loaded.origins["data.train"] == str(tmp_path / "mine.toml")


def test_settings_of_the_command_line_win(tmp_path: Path) -> None:
    save_card(tmp_path / "data")
    loaded = load_fitted_config(save_config(tmp_path), ["grpo.learning_rate=1e-6"])
    assert (loaded.config.grpo.learning_rate, loaded.origins["grpo.learning_rate"]) == (1e-6, "command line")


def test_keywords_of_python_are_fitted_without_a_file(tmp_path: Path) -> None:
    save_card(tmp_path / "data", num_images=5000, num_samples=9000)
    loaded = load_fitted_config(None, keywords={"data.train": tmp_path / "data", "run.dir": "r"}, method="sft")
    assert loaded.config.sft.learning_rate == 3e-4
    assert loaded.config.sft.steps == 1000  # 3 * 9000 / 16 is more than the largest number of steps
    assert not loaded.config.augment.horizontal_flip


def test_samples_of_a_mixture_are_added(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_card(tmp_path / name, num_samples=3000)
    keywords = {"run.dir": "r", "mixture": {name: {"data": tmp_path / name} for name in ("a", "b")}}
    assert load_fitted_config(None, keywords=keywords).config.grpo.steps == 375  # 6000 / 16


def test_missing_data_is_not_an_error_yet(tmp_path: Path) -> None:
    assert load_fitted_config(save_config(tmp_path)).config.grpo.learning_rate == 3e-4


def test_resumed_run_has_the_values_that_it_was_started_with(tmp_path: Path) -> None:
    save_card(tmp_path / "data")
    path = save_config(tmp_path)
    started = load_fitted_config(path, ["grpo.learning_rate=2e-5", "reward.weights.confidence=0.5"]).config
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text(dump(started))
    resumed = load_fitted_config(path, saved="config.toml")
    assert resumed.config == started
    assert resumed.origins["grpo.learning_rate"].startswith("fitted: as when the run in ")
    explicit = load_fitted_config(path, ["grpo.learning_rate=3e-5"], saved="config.toml").config
    assert explicit.grpo.learning_rate == 3e-5


@pytest.mark.parametrize("text", ["nonsense = 1", "= =", ""])
def test_saved_config_that_cannot_be_read_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text(text)
    assert load_fitted_config(save_config(tmp_path), saved="config.toml").config.grpo.learning_rate == 3e-4


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("grpo.learning_rate = 1e-6", "grpo.learning_rate is 1e-06, 300 times below 0.0003, which fits (7.1M "),
        ("grpo.learning_rate = 1e-2", "grpo.learning_rate is 0.01, 33 times above 0.0003, which fits (7.1M "),
        ("grpo.learning_rate = 3e-5", "grpo.learning_rate is 3e-05, 10 times below 0.0003"),
        ("grpo.learning_rate = 1e-4", None),
        ("", None),
        ('model = { path = "o/m-2B", train = "lora" }\ngrpo.learning_rate = 1e-6', "grpo.learning_rate is 1e-06, 10 "),
        ('model = { path = "o/m-2B", train = "lora" }\ngrpo.learning_rate = 5e-6', None),
    ],
)
def test_rate_ten_times_from_what_fits_has_a_warning(tmp_path: Path, text: str, found: str | None) -> None:
    warning = rate_warning(load_fitted_config(save_config(tmp_path, text)).config, "grpo")
    assert warning is None if found is None else warning is not None and warning.startswith(found)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "grpo.learning_rate = 2e-4",
            ["grpo.learning_rate is set and sft.learning_rate is not: SFT is not tuned and "],
        ),
        ("sft.learning_rate = 2e-4", ["sft.learning_rate is set and grpo.learning_rate is not: RFT is not tuned and "]),
        ("grpo.learning_rate = 2e-4\nsft.learning_rate = 2e-4", []),
        ("", []),
        ("grpo.learning_rate = 3e-4", []),  # as `virft init` writes it
        ('grpo.learning_rate = 2e-4\ncompare.systems = ["rft"]', []),
        ("sft.learning_rate = 1e-6\ngrpo.learning_rate = 3e-4", ["sft.learning_rate is 1e-06, 300 times below 0.0003"]),
    ],
)
def test_comparison_with_one_rate_set_is_not_tuned(tmp_path: Path, text: str, found: list[str]) -> None:
    warnings = untuned_warnings(load_fitted_config(save_config(tmp_path, text), method="compare"))
    assert len(warnings) == len(found)
    assert all(warning.startswith(start) for warning, start in zip(warnings, found, strict=True))


def test_lists_of_rates_have_no_warning(tmp_path: Path) -> None:
    text = 'data.validation = "v"\ngrpo.learning_rate = 1e-6\n'
    text += "compare = { sft_learning_rates = [1e-4, 1e-3], rft_learning_rates = [1e-4, 1e-3] }"
    assert untuned_warnings(load_fitted_config(save_config(tmp_path, text), method="compare")) == []


@pytest.mark.parametrize(("exists", "message"), [(False, "does not exist"), (True, r"holds no config\.toml")])
def test_a_folder_alone_without_a_run_has_nothing_to_resume(tmp_path: Path, exists: bool, message: str) -> None:
    folder = tmp_path / "run"
    if exists:
        folder.mkdir()
    with pytest.raises(RunError, match=f"{folder}: {message}, so there is nothing to resume; expected the run.dir"):
        load_fitted_config(None, [f"run.dir={folder}"], saved="config.toml")
    # the settings of a new run start it
    new = load_fitted_config(None, [f"run.dir={folder}", "data.train=d"], saved="config.toml").config
    assert (new.run.dir, new.data.train) == (str(folder), "d")
    mixed = load_fitted_config(None, [f"run.dir={folder}", "mixture.one.data=d"], saved="config.toml").config
    assert mixed.mixture["one"].data == "d"
