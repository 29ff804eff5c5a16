"""Model names: check that a folder can be loaded or that a name may be a hub id. Importable without torch."""

from __future__ import annotations

import difflib
from pathlib import Path

from virft.errors import ModelError
from virft.files import nearest_folder
from virft.models.built_in import BUILT_IN_MODELS, BUILT_IN_NAMES, local_folder
from virft.models.known_models import nearest_model_id

EXPECTED = f"{BUILT_IN_NAMES}, a model folder, or a hub id owner/name"
"""What may be the name of a model."""
ADAPTERS = "adapter_config.json"
"""The file that makes a folder one of PEFT adapters."""
CONFIGS = ("config.json", ADAPTERS)
"""Files of which a model folder has one."""
CARD = "virft_card.json"
"""File with facts that transformers does not store: ``prompt_template`` (name of a built-in, or a text with
``{query}``), ``thinking``, and the precision that the model was trained in (``dtype``, ``load_in_4bit``)."""
RUN_CONFIG = "config.toml"
"""The file that makes a folder one of a run."""
_MODELS = ("best", "model")
"""Models in a run folder, the preferred one first."""
_WEIGHTS = "*.safetensors"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def model_of_run(path: str) -> str:
    """Return the model in a run folder, ``best`` if it exists, else ``model``; any other path or name unchanged.

    Raises ``ModelError`` for a run without a model.
    """
    folder = Path(path)
    if not (folder / RUN_CONFIG).is_file():
        return path
    found = next((folder / name for name in _MODELS if (folder / name).is_dir()), None)
    if found is None:
        raise ModelError(f"{path}: this run has saved no model yet; finish it with --resume, or choose another model")
    return str(found)


def find_model_folder(path: str) -> Path | None:
    """Return the folder of a model; None for a hub id ``owner/name``, which no server is queried for.

    Raises ``ModelError`` for a folder that does not exist or is incomplete, before torch is imported.
    """
    folder = local_folder(path)
    if folder.is_dir():
        check_folder(folder, path)
        return folder
    if path in BUILT_IN_MODELS or path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ModelError(f"{path}: there is no such folder; {suggest_model(path)}")
    return None


def suggest_model(path: str) -> str:
    """Return the end of a message about a model that does not exist: the nearest name, or what is allowed.

    >>> suggest_model("virft-tny")
    'did you mean virft-tiny?'
    """
    near = next(iter(difflib.get_close_matches(path, [*BUILT_IN_MODELS], cutoff=0.8)), None) or nearest_model_id(path)
    if near is None and (folder := nearest_folder(Path(path))) is not None:
        near = str(folder)
    return f"expected {EXPECTED}" if near in (None, path) else f"did you mean {near}?"


def check_folder(folder: Path, path: str) -> None:
    """Raise ``ModelError`` unless the folder has a config and weights, or adapters. ``path``: its name in messages."""
    if (folder / ADAPTERS).exists():
        _check_weights(folder, path, "adapter_model.safetensors", config=ADAPTERS, what="adapters")
        return
    if not (folder / "config.json").exists() and any((folder / "model" / name).exists() for name in CONFIGS):
        raise ModelError(f"{path}: no config.json in this folder; did you mean {path.rstrip('/')}/model?")
    if not (folder / "config.json").exists():
        raise ModelError(f"{path}: no config.json in this folder; expected a Hugging Face model folder")
    _check_weights(folder, path, _WEIGHTS, config="config.json", what="weights")


def _check_weights(folder: Path, path: str, pattern: str, *, config: str, what: str) -> None:
    """Raise ``ModelError`` unless there are safetensors: reading a pickle can run arbitrary code."""
    if any(folder.glob(pattern)):
        return
    pickled = sorted(file.name for ending in _PICKLED for file in folder.glob(ending))
    found = f"only pickled {what} ({pickled[0]}), which may run code when they are read" if pickled else f"no {what}"
    raise ModelError(f"{path}: {found} in this folder; expected {pattern} next to {config}")
