"""The shipped shapes of published models give their published sizes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText

from virft.models.families import FAMILIES
from virft.models.known_models import known_model_ids, known_models, nearest_model_id, num_parameters

PUBLISHED_BILLIONS = {
    "Qwen/Qwen2-VL-2B-Instruct": 2.209,
    "Qwen/Qwen2-VL-7B-Instruct": 8.291,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3.755,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8.292,
    "Qwen/Qwen3-VL-2B-Instruct": 2.128,
    "Qwen/Qwen3-VL-4B-Instruct": 4.438,
    "Qwen/Qwen3-VL-8B-Instruct": 8.767,
    "HuggingFaceTB/SmolVLM-Instruct": 2.246,
    "HuggingFaceTB/SmolVLM-500M-Instruct": 0.507,
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": 2.247,
    "OpenGVLab/InternVL3-1B-hf": 0.938,
    "OpenGVLab/InternVL3-2B-hf": 2.089,
    "OpenGVLab/InternVL3-8B-hf": 7.944,
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": 0.894,
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": 8.031,
    "google/gemma-3-4b-it": 4.300,
}
"""Parameters that the model pages state, in billions."""


def test_every_model_has_a_published_size_to_compare_with() -> None:
    assert set(known_model_ids()) == set(PUBLISHED_BILLIONS)


@pytest.mark.parametrize("hub_id", known_model_ids())
def test_shapes_give_the_published_number_of_parameters(hub_id: str, tmp_path: Path) -> None:
    model = known_models()[hub_id]
    model.write_files(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.model_type in FAMILIES
    with torch.device("meta"):
        built = AutoModelForImageTextToText.from_config(config)
    assert sum(one.numel() for one in built.parameters()) == model.num_parameters
    assert model.num_parameters / 1e9 == pytest.approx(PUBLISHED_BILLIONS[hub_id], abs=5e-4)
    assert AutoImageProcessor.from_pretrained(tmp_path, backend="pil") is not None


def test_the_hardware_table_has_a_row_for_every_model() -> None:
    page = (Path(__file__).parents[3] / "docs" / "memory.md").read_text(encoding="utf-8")
    assert [hub_id for hub_id in known_model_ids() if f"| {hub_id} | " not in page] == []


def test_number_of_parameters_by_hub_id() -> None:
    assert num_parameters("google/gemma-3-4b-it") == 4_300_079_472
    assert num_parameters("google/gemma-3-4b") is None


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("Qwen/Qwen2.5-VL-3b-instruct", "Qwen/Qwen2.5-VL-3B-Instruct"),
        ("qwen3-vl-4b", "Qwen/Qwen3-VL-4B-Instruct"),
        ("InternVL3-2B", "OpenGVLab/InternVL3-2B-hf"),
        ("runs/mine/model", None),
    ],
)
def test_nearest_model_of_a_typo(typed: str, meant: str | None) -> None:
    assert nearest_model_id(typed) == meant


def test_importable_without_torch() -> None:
    code = "import sys, virft.models.known_models as k; k.known_models(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
