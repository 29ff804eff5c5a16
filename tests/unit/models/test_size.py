"""The size of a model is read from its files or its name, without loading it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from virft.models.load import load_model
from virft.models.size import ModelSize, read_model_size


def save(path: Path, tree: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))


def save_weights(path: Path, *shapes: list[int]) -> None:
    """A safetensors file of empty data: the header alone."""
    header = {f"w{number}": {"dtype": "BF16", "shape": shape} for number, shape in enumerate(shapes)}
    data = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(data)) + data)


def test_built_in_model_has_the_parameters_that_are_loaded() -> None:
    loaded = sum(weight.numel() for weight in load_model("virft-tiny").model.parameters())
    assert read_model_size("virft-tiny") == ModelSize(num_parameters=loaded, max_pixels=112 * 112)


def test_folder_is_counted_by_the_shapes_in_its_files(tmp_path: Path) -> None:
    save_weights(tmp_path / "one" / "model.safetensors", [3, 4], [5])
    assert read_model_size(str(tmp_path / "one")).num_parameters == 17  # 3 * 4 + 5
    save_weights(tmp_path / "two" / "a.safetensors", [3, 4])
    save_weights(tmp_path / "two" / "b.safetensors", [2, 2])
    save(
        tmp_path / "two" / "model.safetensors.index.json", {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    )
    assert read_model_size(str(tmp_path / "two")).num_parameters == 16  # 3 * 4 + 2 * 2


def test_folder_without_its_weights_is_counted_by_its_index(tmp_path: Path) -> None:
    save(tmp_path / "config.json", {"model_type": "qwen2_vl", "torch_dtype": "bfloat16"})
    save(
        tmp_path / "model.safetensors.index.json",
        {"metadata": {"total_size": 4000}, "weight_map": {"x": "a.safetensors"}},
    )
    assert read_model_size(str(tmp_path)).num_parameters == 2000  # bfloat16: 2 bytes each


def test_adapters_have_the_size_of_their_base(tmp_path: Path) -> None:
    save_weights(tmp_path / "base" / "model.safetensors", [10, 10])
    save(tmp_path / "adapters" / "adapter_config.json", {"base_model_name_or_path": str(tmp_path / "base")})
    assert read_model_size(str(tmp_path / "adapters")).num_parameters == 100
    save(tmp_path / "circle" / "adapter_config.json", {"base_model_name_or_path": str(tmp_path / "circle")})
    assert read_model_size(str(tmp_path / "circle")).num_parameters is None


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [
        ("someone/Model-2B-Instruct", 2_000_000_000),
        ("someone/model-2.2b", 2_200_000_000),
        ("someone/SmolVLM-256M-Instruct", 256_000_000),
        ("someone/Model-30B-A3B-Instruct", 30_000_000_000),
        ("7B/model", None),
        ("someone/model-4bit", None),
        ("someone/Model2.5-VL", None),
    ],
)
def test_hub_id_is_read_by_the_size_in_its_name(name: str, num_parameters: int | None) -> None:
    assert read_model_size(name).num_parameters == num_parameters


def test_image_size_is_that_of_families_that_resize_to_an_area(tmp_path: Path) -> None:
    save(tmp_path / "q" / "config.json", {"model_type": "qwen2_5_vl"})
    save(tmp_path / "q" / "preprocessor_config.json", {"size": {"shortest_edge": 3136, "longest_edge": 2000000}})
    assert read_model_size(str(tmp_path / "q")).max_pixels == 2_000_000
    save(tmp_path / "s" / "config.json", {"model_type": "smolvlm"})
    save(tmp_path / "s" / "preprocessor_config.json", {"size": {"longest_edge": 2048}})
    assert read_model_size(str(tmp_path / "s")).max_pixels is None


@pytest.mark.parametrize("content", [b"", b"\x01", struct.pack("<Q", 2**40), struct.pack("<Q", 4) + b"null", b"x" * 99])
def test_corrupt_file_has_no_size(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "config.json").write_bytes(content)
    assert read_model_size(str(tmp_path)) == ModelSize(None, None)


def test_no_torch_is_imported() -> None:
    code = "import sys, virft.recipes.fitting, virft.recipes.first_config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
