"""Verbs that make a trained model available to others: merge, push. Imports are inside: help needs none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from virft.cli.output import resolve_model, say
from virft.cli.parsers import Verbs, add_verb
from virft.models.model_folders import RUN_CONFIG

_ADAPTERS = "adapter_config.json"


def add_merge(verbs: Verbs) -> None:
    """Add the parser of ``merge``."""
    verb = add_verb(verbs, "merge", "merge LoRA adapters into their base model", merge)
    verb.add_argument(
        "adapters",
        metavar="RUN_OR_ADAPTERS",
        type=Path,
        help="a run folder, of which best is merged if it exists, else model; or a folder of adapters",
    )
    verb.add_argument("out", metavar="OUT", type=Path, help="output folder; must not exist")
    verb.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="data type of the merged weights"
    )


def merge(*, adapters: Path, out: Path, dtype: Literal["float32", "bfloat16"] = "float32") -> None:
    """Merge adapters into their base and save one model with weights of type ``dtype``; float32 changes no prediction.

    ``adapters``: their folder, or that of a run. Raises ``ModelError`` for a folder without adapters, ``RunError`` if
    ``out`` exists.
    """
    from virft.errors import ModelError, RunError

    # A folder without adapters has a message of its own below.
    folder = Path(resolve_model(str(adapters))) if (adapters / RUN_CONFIG).is_file() else adapters
    if not (folder / _ADAPTERS).is_file() and (folder / "config.json").is_file():
        raise ModelError(f"{folder}: holds a whole model, whose weights are merged already; expected adapters of LoRA")
    if not (folder / _ADAPTERS).is_file():
        raise ModelError(f"{folder}: holds no adapters; expected a run, or a folder with {_ADAPTERS}")
    if out.exists():
        raise RunError(f"{out}: already exists; name a new folder")
    import torch

    from virft.models.load import load_model
    from virft.publishing.model_card import card_of_model

    loaded = load_model(str(folder))
    for note in loaded.notes:
        say(f"note: {note}")
    loaded.merge_adapters()
    loaded.model.to(getattr(torch, dtype))
    loaded.save(out, readme=card_of_model(folder, adapters=False))
    say(f"merged model: {out}")


def add_push(verbs: Verbs) -> None:
    """Add the parser of ``push``."""
    verb = add_verb(verbs, "push", "upload a model to the Hub, private by default", push)
    verb.add_argument(
        "model", metavar="RUN_OR_MODEL", type=Path, help="a run folder, or a model folder such as RUN/best"
    )
    verb.add_argument("repo", metavar="REPO", help="owner/name on the Hub")
    verb.add_argument(
        "--public",
        dest="private",
        action="store_false",
        help="make a new repository public; without this option only you and your organization can see it",
    )


def push(*, model: Path, repo: str, private: bool = True) -> None:
    """Upload a model folder, or the model of a run, to the Hugging Face Hub; its card gets the scores of the run."""
    from huggingface_hub import HfApi

    from virft.models.model_folders import check_folder
    from virft.publishing.hub import push_folder
    from virft.publishing.model_card import renew_card

    folder = model / "model" if (model / "config.toml").is_file() else model
    check_folder(folder, str(folder))
    renew_card(folder)
    say(f"pushed: {push_folder(folder, repo, api=HfApi(), private=private)}")
