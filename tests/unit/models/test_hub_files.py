"""A hub id is loaded as the folder of its files: all companions of the processor are saved with a trained model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import filter_repo_objects

from broken_models import rewrite
from virft.models import hub_files
from virft.models.load import load_model
from virft.models.tiny import tiny_folder

HUB_ID = "someone/Tiny-VL"
COMPANIONS = ("processor_config.json", "video_preprocessor_config.json", "special_tokens_map.json")
NEVER = ("pytorch_model.bin", "consolidated.safetensors", "onnx/model.safetensors", "modeling_tiny.py", "model.gguf")


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of a hub model; only what was requested is in it."""
    repo = Path(shutil.copytree(tiny_folder(), tmp_path / "repo"))
    for name in COMPANIONS:
        (repo / name).write_text(json.dumps({"processor_class": "Qwen2VLProcessor", "of": name}))
    (repo / "special_tokens_map.json").write_text("{}")
    rewrite(repo / "preprocessor_config.json", processor_class="Qwen2VLProcessor")
    (repo / "onnx").mkdir()
    for name in NEVER:
        (repo / name).write_text("not to be downloaded")
    cache = tmp_path / "cache" / "snapshots" / "abc"

    def download(hub_id: str, *, allow_patterns: list[str], ignore_patterns: list[str], **options: Any) -> str:
        assert hub_id == HUB_ID
        names = [path.relative_to(repo).as_posix() for path in repo.rglob("*") if path.is_file()]
        for name in filter_repo_objects(names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(repo / name, cache / name)
        return str(cache)

    monkeypatch.setattr(hub_files, "_unreachable", lambda: None)
    monkeypatch.setattr(hub_files, "snapshot_download", download)
    return cache


def test_a_model_of_the_hub_is_saved_with_all_files_of_its_processor(snapshot: Path, tmp_path: Path) -> None:
    loaded = load_model(HUB_ID)
    assert loaded.folder == snapshot
    assert not any((snapshot / name).exists() for name in NEVER)
    loaded.save(tmp_path / "saved")
    for name in (*COMPANIONS, "preprocessor_config.json", "chat_template.jinja", "tokenizer.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (snapshot / name).read_bytes()
    # prompt settings of a model of virft come with it
    assert loaded.card["prompt_template"] == "short"


def test_adapters_name_the_hub_id_and_are_merged_with_its_files(snapshot: Path, tmp_path: Path) -> None:
    loaded = load_model(HUB_ID)
    loaded.add_lora(2, 4)
    loaded.save(tmp_path / "adapters")
    config = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == HUB_ID
    again = load_model(str(tmp_path / "adapters"))
    again.merge_adapters()
    again.save(tmp_path / "merged")
    for folder in ("adapters", "merged"):
        for name in COMPANIONS:
            assert (tmp_path / folder / name).read_bytes() == (snapshot / name).read_bytes()
    assert str(tmp_path) not in (tmp_path / "merged" / "config.json").read_text()
