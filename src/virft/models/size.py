"""Number of parameters and image size of a model, from its files or its name: no weights are loaded, no network.

Importable without torch.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from virft.models.built_in import local_folder
from virft.models.known_models import known_models

_BYTES_OF_DTYPE = {"float32": 4, "float16": 2, "bfloat16": 2}
_SIZE_IN_NAME = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)(b|m)(?![a-z0-9])", re.IGNORECASE)
_LARGEST_HEADER = 2**27


class ModelSize(NamedTuple):
    """Size of a model and of its images."""

    num_parameters: int | None
    """Number of parameters; None if it cannot be found."""

    max_pixels: int | None
    """Largest area in pixels of a resized image, of families that resize to an area (Qwen-VL, GLM); else None."""


def read_model_size(path: str) -> ModelSize:
    """Return the size of a built-in model, of a model folder, or of a hub id.

    Folders: from the headers of the safetensors files. Hub ids: from the models known to virft, else from the size in
    the name, such as 2B, 500M. What cannot be found is None; nothing is raised, because loading the model checks it.

    >>> read_model_size("Qwen/Qwen2.5-VL-3B-Instruct")
    ModelSize(num_parameters=3754622976, max_pixels=12845056)
    >>> read_model_size("someone/Model-500M").num_parameters
    500000000
    """
    folder = local_folder(path)
    if folder.is_dir():
        return _folder_size(folder)
    if (known := known_models().get(path)) is not None:
        return ModelSize(known.num_parameters, _max_pixels(known.config, known.image_processor))
    return ModelSize(_size_in_name(path), _QWEN_MAX_PIXELS if "qwen" in path.lower() else None)


_QWEN_MAX_PIXELS = 12845056
"""Largest image area of published Qwen2-VL and Qwen2.5-VL models. Source: their ``preprocessor_config.json``."""


def _size_in_name(name: str) -> int | None:
    """Return the number of parameters that a name gives; of several, such as 30B-A3B, the first."""
    found = _SIZE_IN_NAME.search(name.rpartition("/")[2])
    return round(float(found[1]) * (1e9 if found[2] in "bB" else 1e6)) if found else None


def _folder_size(folder: Path) -> ModelSize:
    adapters = _read(folder / "adapter_config.json")
    if adapters and (base := adapters.get("base_model_name_or_path")):
        inner = read_model_size(str(base)) if str(base) != str(folder) else ModelSize(None, None)
        return ModelSize(inner.num_parameters, _folder_max_pixels(folder) or inner.max_pixels)
    index = _read(folder / "model.safetensors.index.json")
    if index:
        files = sorted({str(name) for name in index.get("weight_map", {}).values()})
        counts = [_num_in_file(folder / name) for name in files]
        if not counts or None in counts:
            return ModelSize(_num_of_index(folder, index), _folder_max_pixels(folder))
        return ModelSize(sum(count for count in counts if count is not None), _folder_max_pixels(folder))
    return ModelSize(
        _num_in_file(folder / "model.safetensors") or _size_in_name(folder.name), _folder_max_pixels(folder)
    )


def _num_of_index(folder: Path, index: dict[str, Any]) -> int | None:
    """Return total bytes / bytes per weight, for a folder whose weights are not downloaded."""
    config = _read(folder / "config.json")
    width = _BYTES_OF_DTYPE.get(str(config.get("torch_dtype", config.get("dtype"))))
    total = index.get("metadata", {}).get("total_size")
    return round(total / width) if width and isinstance(total, int | float) else _size_in_name(folder.name)


def _num_in_file(path: Path) -> int | None:
    """Return the number of elements of all tensors, from the header of a safetensors file; None without a file."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length <= _LARGEST_HEADER else {}
        return sum(math.prod(one["shape"]) for name, one in header.items() if name != "__metadata__") or None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError):
        return None


def _folder_max_pixels(folder: Path) -> int | None:
    return _max_pixels(_read(folder / "config.json"), _read(folder / "preprocessor_config.json"))


def _max_pixels(config: Mapping[str, Any], processor: Mapping[str, Any]) -> int | None:
    """Return the largest image area of an image processor of Qwen-VL or GLM; None for families without such an area."""
    kind = str(config.get("model_type", ""))
    if not kind.startswith(("qwen", "glm4v")):
        return None
    found = processor.get("max_pixels") or processor.get("size", {}).get("longest_edge")
    if not isinstance(found, int):
        return None
    # GLM counts the pixels of all frames, of which an image has two.
    return found // int(processor.get("temporal_patch_size", 2)) if kind.startswith("glm4v") else found


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one if the file is missing or corrupt."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
