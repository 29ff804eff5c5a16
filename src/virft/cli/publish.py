"""Verbs that make a trained model available to others: merge, push. Imports are inside: help needs none of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from virft.cli.output import resolve_model, say
from virft.cli.parsers import Verbs, add_verb
from virft.models.model_folders import RUN_CONFIG

if TYPE_CHECKING:
    from virft.config.schema import DtypeName

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
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="precision of the merged weights; bfloat16 halves their size and rounds them",
    )
    verb.add_argument(
        "--load-in-4bit",
        action=argparse.BooleanOptionalAction,
        help="merge into the base as it is in 4 bits (NF4; needs the extra quant), or into the base as it is (default: "
        "as the adapters were trained)",
    )


def merge(*, adapters: Path, out: Path, dtype: DtypeName = "float32", load_in_4bit: bool | None = None) -> None:
    """Merge adapters into their base and save one model with weights of type ``dtype``.

    The base is rounded as it was in training: to bfloat16, or to 4 bits and from there to plain weights of the same
    values, unless ``load_in_4bit`` says otherwise. Sums are float32. ``adapters``: their folder, or that of a run.
    Raises ``ModelError`` for a folder without adapters, ``RunError`` if ``out`` exists.
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

    from virft.models.load import load_as_trained
    from virft.models.precision import FLOAT32, Precision, find_precision, precision_card, trained_precision
    from virft.publishing.model_card import card_of_model

    trained = trained_precision(folder) or FLOAT32
    base = find_precision(folder, dtype=trained.dtype, in_4bit=load_in_4bit)
    loaded = load_as_trained(str(folder), dtype=base.dtype, in_4bit=base.in_4bit, dequantize=True)
    for note in loaded.notes:
        say(f"note: {note}")
    if base.in_4bit != trained.in_4bit:
        say(f"note: merged into the base in {base}, and trained on it in {trained}: completions differ from the run's")
    elif base.in_4bit:
        say("note: merged into the dequantized weights of the base in 4 bits, on which the adapters were trained")
    loaded.model.to(torch.float32)  # a sum in bfloat16 would lose small changes
    loaded.merge_adapters()
    loaded.card |= precision_card(Precision(trained.dtype))
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
