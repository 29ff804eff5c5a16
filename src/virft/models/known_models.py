"""The shapes of the most used models, shipped with the package: they can be planned for without network or files.

``known_models.json`` holds, for each hub id, the numbers of its published ``config.json`` and
``preprocessor_config.json`` that decide shapes and image tokens, its number of parameters and its licence. Sources: the
model pages on the Hugging Face hub. Tests compute each number of parameters from the shapes. Importable without torch.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownModel:
    """Published facts about a model."""

    hub_id: str
    """``owner/name`` on the Hugging Face hub."""

    num_parameters: int
    """Parameters, tied ones counted once."""

    license: str | None
    """Licence as its model page names it; None if the page must be read."""

    config: Mapping[str, Any]
    """Content of ``config.json``, as far as it decides shapes."""

    image_processor: Mapping[str, Any]
    """Content of ``preprocessor_config.json``, as far as it decides image sizes."""

    def write_files(self, folder: Path) -> None:
        """Write ``config.json`` and ``preprocessor_config.json`` into an existing folder."""
        for name, content in (("config.json", self.config), ("preprocessor_config.json", self.image_processor)):
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@cache
def known_models() -> Mapping[str, KnownModel]:
    """Return the models by hub id, sorted by family and size."""
    text = Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
    return {hub_id: KnownModel(hub_id=hub_id, **facts) for hub_id, facts in json.loads(text).items()}


def known_model_ids() -> tuple[str, ...]:
    """Return the hub ids of the models, sorted by family and size."""
    return tuple(known_models())


def num_parameters(model_id: str) -> int | None:
    """Return the number of parameters of a model by its hub id; None if the model is not one of these.

    >>> num_parameters("Qwen/Qwen2.5-VL-3B-Instruct")
    3754622976
    >>> num_parameters("someone/else")
    """
    found = known_models().get(model_id)
    return None if found is None else found.num_parameters


def nearest_model_id(name: str) -> str | None:
    """Return the hub id that resembles ``name`` most, with or without its owner; None if none does.

    >>> nearest_model_id("qwen2.5-vl-3b-instruct")
    'Qwen/Qwen2.5-VL-3B-Instruct'
    >>> nearest_model_id("Qwen/Qwen2.5-VL-3B")
    'Qwen/Qwen2.5-VL-3B-Instruct'
    >>> nearest_model_id("photo.jpg")
    """
    ids: dict[str, str] = {}
    for hub_id in known_models():
        owner, _, model = hub_id.lower().partition("/")
        short = model.removesuffix("-hf").removesuffix("-it").removesuffix("-instruct")
        ids |= dict.fromkeys((f"{owner}/{model}", f"{owner}/{short}", model, short), hub_id)
    close = difflib.get_close_matches(name.lower(), list(ids), n=1, cutoff=0.75)
    return ids[close[0]] if close else None
