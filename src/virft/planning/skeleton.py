"""The model of a config with fake tensors: all shapes and dtypes, but no memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForImageTextToText

from virft.config.schema import Config
from virft.errors import ModelError
from virft.models.built_in import BUILT_IN_MODELS, BUILT_IN_NAMES, local_folder
from virft.models.companion_files import read_image_processor
from virft.models.experts import has_wide_experts
from virft.models.families import family_of
from virft.models.hub_files import hub_source
from virft.models.known_models import known_models, nearest_model_id
from virft.models.load import LoadedModel, prepare_attention
from virft.models.model_files import explained, find_base, model_type_of
from virft.models.stored_dtypes import convert_weights, stored_dtypes
from virft.training.trainable import prepare_for_training, weights_dtype

_EXPECTED = f"{BUILT_IN_NAMES}, a folder with the model's config.json, or a hub id owner/name"


def load_skeleton(config: Config, mode: FakeTensorMode) -> LoadedModel:
    """Return the model that ``load_for_training`` would return, with fake tensors of ``mode``. Reads no weights.

    ``model.dtype`` must not be "auto".
    Needs ``config.json`` and the file of the image processor; for a folder of adapters, those of their base, as
    adapters get merged. For a hub id in ``known_models`` they come with the package. Raises ``ModelError`` if they are
    missing, or if experts (MoE) are not in bfloat16.
    """
    path = config.model.path
    with explained(path, expected=_EXPECTED), _files_of(path) as source:
        family = family_of(model_type_of(source))
        settings = AutoConfig.from_pretrained(source, trust_remote_code=False)
        processor = read_image_processor(source, family, (config.model.min_pixels, config.model.max_pixels))
    rope = getattr(settings.get_text_config(), "rope_parameters", None) or {}
    if rope.get("rope_type") == "dynamic":
        # InternVL3: it reads the largest position, a value that fake tensors do not have. Memory is the same.
        rope["rope_type"] = "default"
    # "meta" first and fake tensors at the end: adapters and initialisation in between then take no time either.
    dtype: torch.dtype = getattr(torch, config.model.dtype)
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(settings, dtype=weights_dtype(config.model, dtype))
    prepare_attention(model, family)
    loaded = LoadedModel(model=model, tokenizer=None, image_processor=processor, family=family, folder=None, card={})
    prepare_for_training(loaded, config.model, seed=config.seed, dtype=dtype)
    convert_weights(model, stored_dtypes(model, dtype))
    if has_wide_experts(model):
        raise ModelError(
            f"{path}: memory cannot be planned for experts that are trained or not in bfloat16; expected "
            'model.train = "lora" and model.dtype = "bfloat16"'
        )
    replace_tensors(model, lambda tensor: unfilled(tensor, mode))
    return loaded


def unfilled(like: Tensor, mode: FakeTensorMode) -> Tensor:
    """Return a fake tensor on the CPU with the shape and dtype of ``like``."""
    with mode:
        return torch.empty(like.shape, dtype=like.dtype, device="cpu")


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors of any shape, each counted once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(one): one for one in tensors}.values())


@contextmanager
def _files_of(path: str) -> Iterator[str]:
    """Give the folder or hub id with the configuration of a model, a folder that is removed for a known hub id."""
    folder = local_folder(path)
    source = _base_of(folder, path) if folder.is_dir() else path
    if Path(source).is_dir():
        yield source
    elif (known := known_models().get(source)) is not None:
        with TemporaryDirectory() as made:
            known.write_files(Path(made))
            yield made
    elif source.count("/") != 1 or source.startswith((".", "/", "~")):
        near = nearest_model_id(source)
        guess = f"did you mean {near}? " if near is not None else ""
        raise ModelError(f"{source}: there is no such folder; {guess}expected {_EXPECTED}")
    else:
        yield hub_source(source, expected=_EXPECTED)


def _base_of(folder: Path, path: str) -> str:
    """Folder or hub id of the model, or of the base if the folder has adapters."""
    if not (folder / "adapter_config.json").exists():
        return str(folder)
    base = find_base(folder, path)
    return str(local_folder(base)) if base in BUILT_IN_MODELS else base


def replace_tensors(model: nn.Module, make: Callable[[Tensor], Tensor]) -> None:
    """Replace every parameter and buffer by the result of ``make``, of the same shape. Tied weights stay tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in list(tensors.items()):
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    new = make(tensor)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(new, requires_grad=tensor.requires_grad) if is_parameter else new
                tensors[name] = made[id(tensor)]  # type: ignore[assignment]
