"""``virft init`` writes a config that resolves to what a config without its fitted lines resolves to."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from factories import detections, sample, save_image
from virft.cli.main import main
from virft.config.schema import Config, Method
from virft.data.store_writer import StoreWriter
from virft.errors import ConfigError
from virft.recipes.first_config import describe_gaps, find_datasets, first_config
from virft.recipes.fitting import load_fitted_config
from virft.tasks.counting import Count


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """The folder of a build with a split, of 16 training images."""
    for part in ("train", "validation", "test"):
        folder = tmp_path / "mine" / part
        folder.mkdir(parents=True)
        card = {"schema_version": 2, "num_samples": 20, "num_images": 16, "counts": {"detection": {}}}
        (folder / "card.json").write_text(json.dumps(card))
    return tmp_path / "mine"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(build: Path, model: str, memory: float | None, method: Method = "grpo") -> Config:
    """The config of ``virft init``, read from its file."""
    path = build / "mine.toml"
    found = first_config(find_datasets(build), model=model, run_dir="r", memory_gib=memory, method=method)
    path.write_text(found.text)
    config = load_fitted_config(path, method=method).config
    assert config == found.config
    return config


@pytest.mark.parametrize("method", ["grpo", "sft"])
@pytest.mark.parametrize(("model", "memory"), [("virft-tiny", None), ("o/Qwen-2B", 24), ("o/m-7B", 24), ("o/m", None)])
def test_text_resolves_to_what_a_config_without_the_fitted_lines_gets(
    build: Path, model: str, memory: float | None, method: Method
) -> None:
    config = written(build, model, memory, method)
    lines = (build / "mine.toml").read_text().splitlines()
    assert any("# fitted: " in line for line in lines)
    (build / "bare.toml").write_text("\n".join(line for line in lines if "# fitted: " not in line))
    assert load_fitted_config(build / "bare.toml", method=method).config == config


def test_file_is_short_and_each_choice_has_a_reason(build: Path) -> None:
    text = first_config(find_datasets(build), model="virft-tiny", run_dir="runs/mine").text
    lines = text.splitlines()
    assert len(lines) <= 22
    assert lines[1:4] == [
        f'data.train = "{build / "train"}"',
        f'data.validation = "{build / "validation"}"',
        'run.dir = "runs/mine"',
    ]
    assert all("  # " in line for line in lines[4:])


@pytest.mark.parametrize(
    ("model", "memory", "chosen"),
    [
        ("o/m-2B", 24.0, ("lora", False, False)),  # 2B x 2 bytes = 3.7 GiB: under a quarter of 21.6
        ("o/m-3B", 24.0, ("lora", False, True)),  # 5.6 GiB
        ("o/m-8B", 24.0, ("lora", True, True)),  # 14.9 GiB: over 65 % of 21.6
        ("o/m-2B", 80.0, ("full", False, True)),  # 20 bytes each, 37 GiB: under 60 % of 72
        ("o/m-7B", 80.0, ("lora", False, False)),
        ("o/m-2B", None, ("lora", False, False)),
        ("virft-tiny", None, ("full", False, False)),
    ],
)
def test_training_is_chosen_by_size_and_memory(
    build: Path, model: str, memory: float | None, chosen: tuple[str, bool, bool]
) -> None:
    config = written(build, model, memory).model
    assert (config.train, config.load_in_4bit, config.gradient_checkpointing) == chosen
    assert config.dtype == ("auto" if model == "virft-tiny" else "bfloat16")


def test_model_that_fits_in_no_way_is_refused(build: Path) -> None:
    with pytest.raises(ConfigError, match="72B parameters do not fit into 24 GiB: the weights alone take 40 GiB"):
        first_config(find_datasets(build), model="o/m-72B", run_dir="r", memory_gib=24)


def test_datasets_are_found_in_and_next_to_the_folder(build: Path, tmp_path: Path) -> None:
    both = (build / "train", build / "validation")
    assert find_datasets(build) == both
    assert find_datasets(build / "train") == both
    assert find_datasets(build / "test") == (build / "test", None)
    assert find_datasets(build, build / "test") == (build / "train", build / "test")
    with pytest.raises(ConfigError, match="holds no dataset; expected a folder that `virft build` made"):
        find_datasets(tmp_path)
    with pytest.raises(ConfigError, match="does not exist; expected"):
        find_datasets(tmp_path / "none")


def test_missing_negatives_and_validation_data_are_named(build: Path) -> None:
    assert describe_gaps(find_datasets(build)) == []
    card = build / "test" / "card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"negatives_frac": 0.0}))
    negatives, validation = describe_gaps(find_datasets(build / "test"))
    assert 'answer "no objects"; build with --negatives-frac 0.2' in negatives
    assert "--validation-frac 0.2" in validation


def test_the_missing_answer_about_absent_classes_is_that_of_the_task(tmp_path: Path) -> None:
    for name in ("fox", "hen"):
        with StoreWriter(tmp_path / name) as writer:
            image = writer.add_image_file("a.png", save_image(tmp_path / f"{name}.png"))
            writer.add(sample(Count(2), task="counting", query=name, image=image))
            if name == "hen":
                writer.add(sample(detections((10, 10, 20, 20)), id="b", image=image))
            writer.finish(source={}, seed=0)
    assert 'teaches the model to answer "0"; build' in describe_gaps(find_datasets(tmp_path / "fox"))[0]
    assert 'to answer "0" or "no objects"; build' in describe_gaps(find_datasets(tmp_path / "hen"))[0]


def test_file_that_exists_is_not_replaced_unless_that_is_requested(
    build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.toml"
    arguments = ["init", str(out), "--data", str(build), "--model", "virft-tiny"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith(f"next: virft train {out} --dry-run\n")
    assert 'grpo.demonstrations = "loss"' in out.read_text()
    out.write_text("mine")
    assert main(arguments) == 2
    assert f"{out}: exists; replace it with --overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main([*arguments, "--overwrite", "--method", "sft", "--run-dir", "runs/x"]) == 0
    assert 'run.dir = "runs/x"' in out.read_text()
    assert "sft.learning_rate" in out.read_text()
    capsys.readouterr()
    assert main([*arguments, "--overwrite", "--method", "grpo"]) == 0
    assert "grpo.demonstrations" not in out.read_text()
    assert capsys.readouterr().out.endswith(f"next: virft grpo {out} --dry-run\n")


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ([], "--data DIR, --model MODEL missing"),
        (["--model", "o/m-2B"], "--data DIR, --memory GIB missing"),
        (["--model", "o/m-2B", "--lora"], "--data DIR missing"),
    ],
)
def test_without_a_terminal_all_missing_options_are_listed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    missing: str,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["init", str(tmp_path / "a.toml"), *options]) == 2
    those = "these options" if "," in missing else "this option"
    assert f"init: {missing}; expected {those}, or a terminal" in capsys.readouterr().err
    assert not (tmp_path / "a.toml").exists()


def test_on_a_terminal_missing_options_are_prompted_for(
    build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = f"{tmp_path / 'none'}\n{build}\no/m-2B\nlots\n24\n"
    monkeypatch.setattr("sys.stdin", _Terminal(answers))
    assert main(["init", str(tmp_path / "a.toml")]) == 0
    text = (tmp_path / "a.toml").read_text()
    assert f'data.train = "{build / "train"}"' in text
    assert 'run.dir = "runs/a"' in text
    assert 'model.train = "lora"' in text
    printed = capsys.readouterr().out
    assert "none: does not exist; expected" in printed
    assert "'lots'; expected a number of GiB above 0, such as 24" in printed
    assert printed.endswith(f"next: virft plan {tmp_path / 'a.toml'} --memory 24 --method grpo\n")
