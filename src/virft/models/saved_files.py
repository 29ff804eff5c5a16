"""Corrections in the files of a saved model folder, so that it loads and generates in other programs."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CONFIG, _GENERATION, _ADAPTERS = "config.json", "generation_config.json", "adapter_config.json"
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
PROCESSOR_FILES = (PREPROCESSOR, PROCESSOR)
_ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def correct_files(folder: Path) -> None:
    """Turn the KV cache on, set the stop tokens, and give all files the permissions of the config.

    Stop and padding tokens are those of the base's generation config, else of its configuration.
    """
    if (folder / _CONFIG).exists():
        config = _read(folder / _CONFIG)
        text = config.get("text_config", config)
        # A base saved by a trainer with `use_cache` off would generate slowly, and in some programs wrongly.
        for part in (config, text):
            if "use_cache" in part:
                part["use_cache"] = True
        _write(folder / _CONFIG, config)
        if (folder / _GENERATION).exists():
            generation = _read(folder / _GENERATION)
            ends = {key: text.get(key, config.get(key)) for key in _ENDS if generation.get(key) is None}
            generation |= {key: value for key, value in ends.items() if value is not None} | {"use_cache": True}
            _write(folder / _GENERATION, generation)
    described = next((folder / name for name in (_CONFIG, _ADAPTERS) if (folder / name).exists()), None)
    if described is not None:
        # safetensors writes files that only their owner can read.
        for file in folder.iterdir():
            file.chmod(stat.S_IMODE(described.stat().st_mode))


def pixel_budget(processor: Any) -> dict[str, Any]:
    """Return the settings that determine the size of an image.

    They are ``size``, for InternVL the numbers of tiles, and for Gemma 4 the number of tokens alone.
    """
    names = ("min_patches", "max_patches", "max_soft_tokens")
    counts = {key: getattr(processor, key) for key in names if hasattr(processor, key)}
    if processor.size is None:
        return counts
    return {"size": {key: value for key, value in dict(processor.size).items() if value is not None}, **counts}


def write_pixel_budget(folder: Path, budget: Mapping[str, Any]) -> None:
    """Write a ``pixel_budget`` into the image processor files of a folder."""
    for name in PROCESSOR_FILES:
        if not (folder / name).exists():
            continue
        tree = _read(folder / name)
        part = tree if name == PREPROCESSOR else tree.get("image_processor", {})
        # Qwen's files may have the two areas under other names as well, which override `size`.
        size = budget.get("size", {})
        areas = {"min_pixels": size.get("shortest_edge"), "max_pixels": size.get("longest_edge")}
        if part:
            part |= {**budget, **{key: value for key, value in areas.items() if key in part}}
            _write(folder / name, tree)


def _read(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return tree


def _write(path: Path, tree: dict[str, Any]) -> None:
    """Write JSON in the style of transformers."""
    path.write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n", encoding="utf-8")
