"""Corrections in the files of a saved folder: KV cache, stop tokens, permissions, pixel budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from virft.models.load import load_model
from virft.models.saved_files import correct_files, write_pixel_budget
from virft.models.tiny import TINY_NAME


def save(folder: Path, name: str, tree: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(tree))


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def test_the_kv_cache_is_turned_on(tmp_path: Path) -> None:
    save(tmp_path, "config.json", {"use_cache": False, "text_config": {"use_cache": None, "eos_token_id": 7}})
    correct_files(tmp_path)
    config = read(tmp_path, "config.json")
    assert (config["use_cache"], config["text_config"]["use_cache"]) == (True, True)


def test_missing_stop_tokens_come_from_the_configuration(tmp_path: Path) -> None:
    save(tmp_path, "config.json", {"pad_token_id": 3, "text_config": {"eos_token_id": 7, "bos_token_id": 2}})
    save(tmp_path, "generation_config.json", {"eos_token_id": [7, 8], "top_k": 1})
    correct_files(tmp_path)
    # stop tokens and sampling settings of the base are not changed
    assert read(tmp_path, "generation_config.json") == {
        "eos_token_id": [7, 8],
        "bos_token_id": 2,
        "pad_token_id": 3,
        "top_k": 1,
        "use_cache": True,
    }


def test_a_folder_of_adapters_gets_permissions_only(tmp_path: Path) -> None:
    save(tmp_path, "adapter_config.json", {"r": 4})
    (tmp_path / "adapter_model.safetensors").touch(mode=0o600)
    correct_files(tmp_path)
    assert read(tmp_path, "adapter_config.json") == {"r": 4}
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes["adapter_model.safetensors"] == modes["adapter_config.json"]


@pytest.mark.parametrize("lora", [False, True])
def test_a_saved_folder_has_corrected_files(tmp_path: Path, lora: bool) -> None:
    loaded = load_model(TINY_NAME)
    if lora:
        loaded.add_lora(2, 4)
    loaded.model.config.get_text_config().use_cache = False
    loaded.model.generation_config.eos_token_id = None
    loaded.save(tmp_path / "m", readme="hello\n")
    assert (tmp_path / "m" / "README.md").read_text() == "hello\n"
    assert len({path.stat().st_mode for path in (tmp_path / "m").iterdir()}) == 1
    if lora:
        return
    generation = GenerationConfig.from_pretrained(tmp_path / "m")
    # <|im_end|> and <|endoftext|> of virft-tiny; sampling is as transformers has it by default
    assert (generation.eos_token_id, generation.pad_token_id, generation.use_cache) == (882, 883, True)
    assert not generation.do_sample
    assert generation.temperature in (None, 1.0)
    assert load_model(str(tmp_path / "m")).model.config.get_text_config().use_cache is True


def test_the_model_card_of_peft_is_removed(tmp_path: Path) -> None:
    loaded = load_model(TINY_NAME)
    loaded.add_lora(2, 4)
    loaded.save(tmp_path / "a")
    assert not (tmp_path / "a" / "README.md").exists()


def test_adapters_on_merged_ones_are_saved_as_a_full_model(tmp_path: Path) -> None:
    loaded = load_model(TINY_NAME)
    loaded.add_lora(2, 4)
    assert loaded.saves_adapters
    loaded.merge_adapters()
    assert not loaded.saves_adapters
    loaded.add_lora(2, 4)
    assert not loaded.saves_adapters
    with torch.no_grad():
        loaded.save(tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").exists()


def test_a_pixel_budget_is_written_under_the_keys_that_a_file_has(tmp_path: Path) -> None:
    save(tmp_path, "preprocessor_config.json", {"min_pixels": 1, "max_pixels": 9, "patch_size": 14})
    save(tmp_path, "processor_config.json", {"image_processor": {"size": {"longest_edge": 9}}, "processor_class": "P"})
    write_pixel_budget(tmp_path, {"size": {"shortest_edge": 4, "longest_edge": 16}, "max_patches": 6})
    size = {"shortest_edge": 4, "longest_edge": 16}
    assert read(tmp_path, "preprocessor_config.json") == {
        "min_pixels": 4,
        "max_pixels": 16,
        "patch_size": 14,
        "size": size,
        "max_patches": 6,
    }
    assert read(tmp_path, "processor_config.json") == {
        "image_processor": {"size": size, "max_patches": 6},
        "processor_class": "P",
    }


def test_a_file_without_an_image_processor_is_not_changed(tmp_path: Path) -> None:
    save(tmp_path, "processor_config.json", {"processor_class": "P"})
    before = (tmp_path / "processor_config.json").read_bytes()
    write_pixel_budget(tmp_path, {"size": {"longest_edge": 16}})
    assert (tmp_path / "processor_config.json").read_bytes() == before
