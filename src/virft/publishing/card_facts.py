"""Facts that are known at the start of a run, recorded in its ``card.json``: base model, data, prompting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from virft.config.schema import DtypeName
from virft.data.store import Store
from virft.geometry.boxes import BoxSpace
from virft.models.built_in import BUILT_IN_MODELS, local_folder


def card_facts(
    *, model: str, box_space: BoxSpace, template: str, stores: Mapping[str, Store], dtype: DtypeName, device: str
) -> dict[str, Any]:
    """Return additional facts for a run's card. Folders of this machine appear by their last part only.

    ``model`` as in ``model.path``; ``template``: a built-in's name or the text with ``{query}``; ``stores``: the
    datasets by their name in a mixture; ``dtype``: the resolved ``model.dtype``; ``device``: name of the GPU, or "cpu".
    """
    return {
        "base": base_facts(model),
        "box_space": str(box_space),
        "dtype": dtype,
        "device": device,
        "prompt_template": template,
        "data": [_data_facts(store) for store in stores.values()],
    }


def base_facts(model: str) -> dict[str, str | None]:
    """Return ``name``, ``hub_id`` and ``license`` of the base model, each None if it is unknown.

    For a folder, hub id and licence are those of its own model card: the model that it was trained from.
    """
    folder = local_folder(model)
    if model not in BUILT_IN_MODELS and not folder.is_dir():
        return {"name": model, "hub_id": model, "license": None}
    front = front_matter(folder / "README.md")
    base = front.get("base_model")
    return {
        "name": model if model in BUILT_IN_MODELS else folder.absolute().name,
        "hub_id": base if isinstance(base, str) else None,
        "license": front["license"] if isinstance(front.get("license"), str) else None,
    }


def front_matter(readme: Path) -> dict[str, Any]:
    """Parse the YAML at the head of a model card; empty if the file does not exist or has none."""
    if not readme.is_file():
        return {}
    start, fence, rest = readme.read_text(encoding="utf-8", errors="replace").partition("---\n")
    head, end, _ = rest.partition("\n---")
    if start.strip() or not fence or not end:
        return {}
    try:
        tree = yaml.safe_load(head)
    except (yaml.YAMLError, ValueError, RecursionError):  # a date of month 13, brackets in brackets
        return {}
    return tree if isinstance(tree, dict) else {}


def _data_facts(store: Store) -> dict[str, Any]:
    """Return name, hash, size and tasks of a dataset, and the hub id of its source and its licence, if known."""
    source = store.card.get("source") or {}
    name = source.get("name")
    is_hub_id = source.get("kind") == "visual_rft" and isinstance(name, str) and name.count("/") == 1
    return {
        "name": store.folder.absolute().name,
        "hash": store.hash,
        "num_samples": len(store),
        "tasks": sorted(store.card.get("counts") or {}),
        "hub_id": name if is_hub_id else None,
        "licence": source.get("licence"),
    }
