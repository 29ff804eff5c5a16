"""Checks that the files of a model belong together. Each raises ``ModelError`` with what was found and expected."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from virft.errors import ModelError

_NUM_NAMES = 3
"""Names of weights in a message."""
_ADAPTER_MARKS = (".lora_", ".base_layer.", "base_model.model.")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
"""Number of a layer in the name of a weight."""
_PART = 1 << 24
"""Numbers of a weight that are checked in one pass."""
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Data types of safetensors that are no quantized weights."""


def require_plain_weights(path: str, config: Any) -> None:
    """Raise ``ModelError`` for weights that are stored quantized (AWQ, GPTQ, bitsandbytes, FP8)."""
    for part in (config, *(getattr(config, name, None) for name in ("text_config", "vision_config"))):
        found = getattr(part, "quantization_config", None)
        if found is None:
            continue
        settings = found if isinstance(found, Mapping) else found.to_dict()
        method = str(getattr(settings.get("quant_method"), "value", settings.get("quant_method", "unknown")))
        raise ModelError(
            f"{path}: its weights are quantized ({method}), which cannot be trained or merged; expected the model "
            "that it was made from, in float32 or bfloat16 (model.load_in_4bit quantizes it while loading)"
        )


def require_float_weights(path: str, files: Iterable[Path]) -> None:
    """Raise ``ModelError`` for weights that are stored as integers or in 8 bits, whatever the config.json says.

    transformers would convert them without their scales. Reads the headers of the files only.
    """
    for file in files:
        with safe_open(file, "pt") as stored:
            for name in stored.keys():  # noqa: SIM118 (no mapping)
                dtype = stored.get_slice(name).get_dtype()
                if name.endswith((".weight", ".bias")) and dtype not in _FLOATS:
                    raise ModelError(
                        f"{path}: {name} in {file.name} is stored as {dtype}, which is quantized; expected weights in "
                        "float32, float16 or bfloat16"
                    )


def require_finite_weights(path: str, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Raise ``ModelError`` if a weight (name, tensor of any shape and data type) holds NaN or infinity."""
    wrong = [name for name, weight in weights if weight.is_floating_point() and not _is_finite(weight.detach())]
    if wrong:
        raise ModelError(
            f"{path}: {_count(wrong)} with numbers that are not finite (NaN or infinity): {_names(wrong)}; expected "
            "finite weights, such as those of an earlier checkpoint"
        )


def _is_finite(weight: Tensor) -> bool:
    """Return True if all numbers of a tensor of any shape are finite."""
    # A sum is not finite if one term is not. In float32, as float16 ends at 65504; of parts, as a CPU converts a copy.
    return all(bool(part.sum(dtype=torch.float32).isfinite()) for part in weight.flatten().split(_PART))


def require_stop_tokens(path: str, file: Path) -> None:
    """Raise ``ModelError`` if a generation_config.json exists and cannot be read, or names no valid stop tokens."""
    if not file.exists():
        return
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: {file.name} cannot be read ({error}); expected JSON, or no such file") from error
    found = settings.get("eos_token_id") if isinstance(settings, dict) else settings
    ids = found if isinstance(found, list) else [found]
    if not isinstance(settings, dict) or not all(type(one) is int or one is None for one in ids):
        raise ModelError(
            f"{path}: eos_token_id in {file.name} is {found!r:.80}; expected the id of a token, or a list of ids"
        )


def require_all_weights(path: str, found: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise ``ModelError`` if a weight of the model is missing in the files, or has another shape there.

    Also if the files have more layers than the config.json: the model would be cut off without a word.
    ``found``: the loading report of transformers. An output layer that is tied to the embeddings is not in it.
    ``names``: of all weights of the model.
    """
    unused = sorted(found["unexpected_keys"])
    if adapters := [name for name in unused if any(mark in name for mark in _ADAPTER_MARKS)]:
        raise ModelError(
            f"{path}: {_names(adapters)} in the files of a whole model belong to adapters, which would not be applied; "
            "expected merged weights, or adapters with an adapter_config.json"
        )
    if missing := sorted(found["missing_keys"]):
        others = f" ({_names(unused)} in the files belong to no weight of it)" if unused else ""
        raise ModelError(
            f"{path}: its files lack {_count(missing)} of the model: {_names(missing)}{others}; "
            "expected all weights, under the names that transformers writes"
        )
    layers = {_NUMBER.sub("", name) for name in names if _NUMBER.search(name)}
    if beyond := [name for name in unused if _NUMBER.search(name) and _NUMBER.sub("", name) in layers]:
        raise ModelError(
            f"{path}: its files have more layers than its config.json: {_names(beyond)}; "
            "expected a config.json and weights of one and the same model"
        )
    if other := sorted(found["mismatched_keys"]):
        name, stored, expected = other[0]
        raise ModelError(
            f"{path}: {_count(other)} of other shapes than in its config.json: {name} is {list(stored)} in the files "
            f"and {list(expected)} by the config; expected a config.json and weights of one and the same model"
        )


def require_adapter_weights(path: str, base: str, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Raise ``ModelError`` if adapters do not fit their base, by the names in PEFT's loading report."""
    # PEFT puts the name of the adapters into the names of their weights, which files do not have.
    lacking, unused = sorted(name.replace(".default.", ".") for name in missing), sorted(unexpected)
    if not lacking and not unused:
        return
    parts = []
    if unused:
        parts.append(f"{_names(unused)} in its file belong to no layer of the base")
    if lacking:
        parts.append(f"its file lacks {_count(lacking)}: {_names(lacking)}")
    raise ModelError(
        f"{path}: its adapters do not fit the base model {base}: {'; '.join(parts)}; expected adapters that were "
        "trained on this base with a current version of transformers"
    )


def require_fitting_tokenizer(path: str, tokenizer: Any, config: Any) -> None:
    """Raise ``ModelError`` if image placeholders are no token, if there is no chat template, or if a token has no row.

    ``config``: of the model. ``vocab_size`` of its text part is the number of rows of the embeddings.
    """
    # If its files are missing, transformers makes an empty tokenizer without a warning.
    if (placeholder := config.image_token_id) >= len(tokenizer):
        raise ModelError(
            f"{path}: its tokenizer has {len(tokenizer)} tokens, but images are token {placeholder}; "
            "expected the model's own tokenizer files"
        )
    num_rows = int(config.get_text_config().vocab_size)
    beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= num_rows)
    if beyond:
        raise ModelError(
            f"{path}: its tokenizer has {_count(beyond, 'token')} beyond the {num_rows} rows of the embeddings: "
            f"{_names([f'{token} ({number})' for number, token in beyond])}; expected the model's own tokenizer files, "
            "or embeddings that were resized with the tokenizer"
        )
    if tokenizer.chat_template is None:
        raise ModelError(
            f"{path}: has no chat template; expected chat_template.jinja, or chat_template in tokenizer_config.json, "
            "as in the folder of the instruction-tuned model"
        )


def require_same_tokens(path: str, own: Mapping[str, int], of_base: Mapping[str, int]) -> None:
    """Raise ``ModelError`` unless every token of the base has the same id in the tokenizer of its adapters.

    Adapters may have more tokens than their base: published embeddings have rows that no token uses.
    """
    other = sorted((number, token) for token, number in of_base.items() if own.get(token) != number)
    if other:
        found = [f"{token} ({number} in the base, {own.get(token, 'missing')} here)" for number, token in other]
        raise ModelError(
            f"{path}: the tokenizer of its adapters differs from that of their base in {_count(other, 'token')}: "
            f"{_names(found)}; expected a tokenizer with every token of the base, or none: without tokenizer files "
            "next to the adapters, that of the base is used"
        )


def require_equal(path: str, **pairs: tuple[Any, Any]) -> None:
    """Raise ``ModelError`` if a setting of the image processor (first) differs from that of the tower (second)."""
    for name, (found, expected) in pairs.items():
        if found != expected:
            raise ModelError(
                f"{path}: {name} of its image processor is {found}, but {expected} in its vision tower (config.json); "
                "expected the model's own preprocessor_config.json"
            )


def _count(names: Collection[Any], noun: str = "weight") -> str:
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''}"


def _names(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_NUM_NAMES])
    return shown + (", .." if len(names) > _NUM_NAMES else "")
