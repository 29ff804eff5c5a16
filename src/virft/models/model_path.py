"""Paths and names of models: those that can be loaded, and the model of a run folder. Importable without torch."""

from __future__ import annotations

import difflib
from pathlib import Path

from virft.errors import ModelError
from virft.files import nearest_folder
from virft.models.known_models import nearest_model_id
from virft.models.tiny import TINY_NAME

EXPECTED_MODEL = f"{TINY_NAME}, a model folder, or a hub id owner/name"
"""The models that can be loaded."""

_CONFIG, _MODELS = "config.toml", ("best", "model")
"""Files of a run folder: its config, and its models, the preferred one first."""


def model_of_run(path: str) -> str:
    """Return the model in a run folder, ``best`` if it exists, else ``model``; any other path or name unchanged.

    Raises ``ModelError`` for a run without a model.
    """
    folder = Path(path)
    if not (folder / _CONFIG).is_file():
        return path
    found = next((folder / name for name in _MODELS if (folder / name).is_dir()), None)
    if found is None:
        raise ModelError(f"{path}: this run has saved no model yet; finish it with --resume, or choose another model")
    return str(found)


def check_model_path(path: str) -> None:
    """Raise ``ModelError`` for a text that is neither a folder nor a name of a model. The hub is not queried."""
    if path == TINY_NAME or Path(path).is_dir():
        return
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ModelError(f"{path}: there is no such folder; {suggest_model(path)}")


def suggest_model(path: str) -> str:
    """Return the end of a message about a model that does not exist: the nearest name, or what is allowed.

    >>> suggest_model("virft-tny")
    'did you mean virft-tiny?'
    """
    near = next(iter(difflib.get_close_matches(path, [TINY_NAME], cutoff=0.8)), None) or nearest_model_id(path)
    if near is None and (folder := nearest_folder(Path(path))) is not None:
        near = str(folder)
    return f"expected {EXPECTED_MODEL}" if near in (None, path) else f"did you mean {near}?"
