"""The samples that advice evaluates, and the identity of cached completions."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from advice_factories import labelled
from factories import save_coco
from virft.cli.main import main, parse_arguments
from virft.data.store import Store
from virft.errors import ConfigError, ModelError
from virft.recipes.advice.completions import _key, choose_samples, make_request, model_identity


def test_samples_are_chosen_evenly_over_the_classes() -> None:
    names = ["cat"] * 60 + ["dog"] * 30 + ["emu"] * 10
    animals = [labelled(str(i), name) for i, name in enumerate(names)]
    chosen = choose_samples(animals, 20, seed=0)
    assert Counter(one.target.text for one in chosen) == {"cat": 12, "dog": 6, "emu": 2}  # type: ignore[union-attr]
    places = [int(one.id) for one in chosen]
    assert places == sorted(places)
    assert choose_samples(animals, 20, seed=0) == chosen != choose_samples(animals, 20, seed=1)


def test_few_samples_are_all_chosen() -> None:
    animals = [labelled(str(i), "cat") for i in range(3)]
    assert choose_samples(animals, 64, seed=0) == animals


def model_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_model_is_identified_by_the_content_of_its_files(tmp_path: Path) -> None:
    one, copy = model_folder(tmp_path / "one"), model_folder(tmp_path / "copy")
    assert model_identity(str(one)) == model_identity(str(copy))
    (copy / "README.md").write_text("a model card changes nothing")
    assert model_identity(str(one)) == model_identity(str(copy))
    (copy / "model.safetensors").write_bytes(b"Weights")
    assert model_identity(str(one)) != model_identity(str(copy))


def test_a_large_file_is_identified_by_size_and_time(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "one")
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(2**24 + 1)
    before = model_identity(str(folder))
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert model_identity(str(folder)) != before


def test_adapters_are_identified_with_their_base(tmp_path: Path) -> None:
    base, adapters = model_folder(tmp_path / "base"), tmp_path / "adapters"
    adapters.mkdir()
    (adapters / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    (adapters / "adapter_model.safetensors").write_bytes(b"adapters")
    before = model_identity(str(adapters))
    (base / "model.safetensors").write_bytes(b"Weights")
    assert model_identity(str(adapters)) != before


def test_a_model_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        model_identity(str(tmp_path / "none"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    save_coco(tmp_path, {"a.png": [("cat", [10, 10, 20, 30])]})
    command = ["build", "coco", tmp_path / "annotations.json", tmp_path / "images", tmp_path / "data"]
    assert main([str(one) for one in command]) == 0
    return tmp_path / "data"


def test_what_completions_depend_on_is_in_their_key(data: Path) -> None:
    def key(*overrides: str) -> str:
        return _key(make_request(data, "virft-tiny", overrides), Store(data))

    assert key() == key()
    # settings that only matter in training do not change the completions
    assert key() == key("grpo.steps=7", "sft.learning_rate=1e-5", "run.dir=elsewhere")
    different = (
        "seed=1",
        "grpo.group_size=4",
        "prompt.thinking=true",
        "prompt.template=short",
        "sampling.temperature=0.8",
        "sampling.max_completion_tokens=32",
        "reward.preset=paper",
        "model.max_pixels=5000",
    )
    assert len({key(), *map(key, different)}) == len(different) + 1


def test_large_models_are_sampled_in_bfloat16_and_trained_with_lora(data: Path) -> None:
    large = make_request(data, "someone/Model-7B").config.model
    assert (large.train, large.dtype) == ("lora", "bfloat16")
    chosen = make_request(data, "someone/Model-7B", ["model.train=full", "model.dtype=float32"]).config.model
    assert (chosen.train, chosen.dtype) == ("full", "float32")
    tiny = make_request(data, "virft-tiny").config
    assert (tiny.model.train, tiny.model.dtype, tiny.grpo.kl_coef) == ("full", "auto", 0.0)


@pytest.mark.parametrize("words", [["seed=1", "--samples", "4"], ["--samples", "4", "seed=1"]])
def test_settings_may_come_before_and_after_options(words: list[str]) -> None:
    found = parse_arguments(["advise", "data/mine", "virft-tiny", *words])
    assert (found["settings"], found["samples"], found["model"]) == (["seed=1"], 4, "virft-tiny")


def test_an_unknown_setting_is_refused(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean grpo\.group_size"):
        make_request(data, "virft-tiny", ["grpo.group_sise=4"])


@pytest.mark.parametrize("setting", ["data.train=other", "model.path=someone/Model-7B"])
def test_advice_about_another_dataset_or_model_is_refused(tmp_path: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match=r"and the advice is about .*; expected one of the two"):
        make_request(tmp_path, "virft-tiny", [setting])
