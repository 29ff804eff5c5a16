"""Precision in which a model computes, decided here for training and for every verb. Imports torch only for "auto"."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from virft.config.schema import Dtype, DtypeName
from virft.errors import ConfigError, ModelError
from virft.models.model_folders import CARD, RUN_CONFIG

if TYPE_CHECKING:
    import torch


class Precision(NamedTuple):
    """Precision of a model."""

    dtype: DtypeName
    """Precision of products, and of the weights that are not trained."""
    in_4bit: bool = False
    """True if the linear layers of the language model have weights of 4 bits (NF4)."""

    def __str__(self) -> str:
        return f"{self.dtype}, language model in 4 bits" if self.in_4bit else self.dtype


FLOAT32 = Precision("float32")
"""Precision of models that say nothing else."""


def resolve_dtype(dtype: Dtype, device: torch.device | None = None) -> DtypeName:
    """Return a precision unless it is "auto": bfloat16 on a GPU that supports it, else float32.

    ``device``: default is the first GPU, or the CPU if there is none.
    """
    if dtype != "auto":
        return dtype
    import torch

    is_gpu = torch.cuda.is_available() if device is None else device.type == "cuda"
    return "bfloat16" if is_gpu and gpu_supports_bfloat16() else "float32"


def gpu_supports_bfloat16() -> bool:
    """Return True if the GPU multiplies in bfloat16 itself; emulation is slower than float32."""
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def require_4bit_package() -> None:
    """Raise ``ConfigError`` if the package that loads weights in 4 bits is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "model.load_in_4bit needs bitsandbytes, which is not installed; "
            'expected pip install -e ".[quant]" in a clone of virft, or load_in_4bit = false (--no-load-in-4bit)'
        )


def find_precision(
    folder: Path | None, *, dtype: Dtype = "auto", in_4bit: bool | None = None, device: torch.device | None = None
) -> Precision:
    """Return the precision to load a model in: as requested, else as it was trained, else that of ``resolve_dtype``.

    ``folder``: of the model; None if it has none. ``in_4bit`` None: as it was trained, else False. Raises
    ``ModelError`` as ``trained_precision`` does.
    """
    trained = None if folder is None else trained_precision(folder)
    if dtype == "auto" and trained is not None:
        dtype = trained.dtype
    if in_4bit is None:
        in_4bit = trained is not None and trained.in_4bit
    return Precision(resolve_dtype(dtype, device), in_4bit)


def trained_precision(folder: Path) -> Precision | None:
    """Return the precision that a model was trained in, by its card, else by the config of its run; None if unknown.

    Raises ``ModelError`` if the card is invalid.
    """
    card = read_virft_card(folder)
    if "dtype" not in card:
        return _precision_of_run(folder.absolute().parent / RUN_CONFIG)
    dtype, in_4bit = card["dtype"], card.get("load_in_4bit", False)
    if dtype not in get_args(DtypeName):
        raise ModelError(f"{folder / CARD}: dtype is {dtype!r:.80}; expected {' or '.join(get_args(DtypeName))}")
    if not isinstance(in_4bit, bool):
        raise ModelError(f"{folder / CARD}: load_in_4bit is {in_4bit!r:.80}; expected true or false")
    return Precision(dtype, in_4bit)


def precision_card(precision: Precision) -> dict[str, str | bool]:
    """Return the entries of a saved model's card that ``trained_precision`` reads."""
    return {"dtype": precision.dtype, "load_in_4bit": precision.in_4bit}


def read_virft_card(folder: Path) -> dict[str, Any]:
    """Return the card in the folder of a model; empty for most. Raises ``ModelError`` if it is no object of JSON."""
    if not (folder / CARD).exists():
        return {}
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{folder / CARD}: cannot be read ({error}); expected JSON") from error
    if not isinstance(card, dict):
        raise ModelError(f"{folder / CARD}: {card!r:.80} is not an object; expected prompt_template and thinking")
    return card


def _precision_of_run(config: Path) -> Precision | None:
    """Return the precision in the config of a run; None without one, or if it says "auto"."""
    try:
        settings: Any = tomllib.loads(config.read_text(encoding="utf-8")).get("model")
    except (OSError, ValueError):
        return None
    if not isinstance(settings, Mapping) or settings.get("dtype") not in get_args(DtypeName):
        return None
    return Precision(settings["dtype"], settings.get("load_in_4bit") is True)
