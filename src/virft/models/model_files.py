"""Files of a model folder: what they refer to, and errors of libraries that read them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedConfig
from transformers.utils import logging as hf_logging

from virft.errors import ModelError
from virft.models.built_in import BUILT_IN_MODELS
from virft.models.model_folders import ADAPTERS, CONFIGS


def model_type_of(source: str) -> str:
    """Return ``model_type`` in the config.json of a folder or hub id. Raises ``ModelError`` if it has none."""
    # Read before transformers does: it recommends to run the folder's own code for a type that it does not know.
    config = PreTrainedConfig.get_config_dict(source)[0]
    if not config:
        raise ModelError(
            f"{source}: cannot be loaded: it has no config.json; expected a folder with the model's config.json"
        )
    found = config.get("model_type")
    if not isinstance(found, str):
        raise ModelError(f"{source}: config.json has no model_type; expected the config.json of a whole model")
    return found


def find_base(folder: Path, path: str) -> str:
    """Return the base model of a folder of adapters: a name, a hub id or a folder.

    A relative folder is resolved in the current folder, then in the folders above the adapters: the program that wrote
    it ran in one of them. ``path``: name of the adapters in messages. Raises ``ModelError`` if the
    configuration of the adapters names no base, or adapters themselves.
    """
    with explained(path, expected=f"{ADAPTERS} as PEFT writes it"):
        settings = json.loads((folder / ADAPTERS).read_text(encoding="utf-8"))
    base = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"{path}: {ADAPTERS} names no base model (base_model_name_or_path is {base!r:.80}); expected its folder "
            "or hub id"
        )
    if base in BUILT_IN_MODELS or Path(base).is_absolute():
        return base
    places = (Path(base), *(parent / base for parent in folder.absolute().parents))
    found = next((place for place in places if any((place / name).is_file() for name in CONFIGS)), None)
    if found is not None and found.resolve() == folder.resolve():
        raise ModelError(f"{path}: its adapters name their own folder as the base model; expected another model")
    return base if found is None else str(found)


_INVALID = (
    OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, ImportError, RuntimeError,
    RecursionError,
    SafetensorError, StrictDataclassError,
)  # fmt: skip
"""What libraries raise for files that are missing, invalid or made for another program."""


@contextlib.contextmanager
def explained(path: str, *, expected: str) -> Iterator[None]:
    """Raise ``ModelError`` in place of what libraries raise for missing or invalid files and unknown hub ids.

    For calls of transformers and PEFT only.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except _INVALID as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, KeyError):  # its text is the key alone
            reason = f"there is no {reason}"
        if "trust_remote_code" in reason:
            reason = "its files need Python code of their own, which virft never runs"
        raise ModelError(f"{path}: cannot be loaded: {reason:.400}; expected {expected}") from error


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Inside the block, transformers shows no progress bars, which would interrupt the log of a run."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
