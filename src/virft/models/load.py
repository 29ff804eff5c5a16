"""A model folder or hub id, loaded: weights, tokenizer, image processor, family; and saved again."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from virft.errors import ModelError
from virft.models.attention import SHARED_PROMPT
from virft.models.families import Family, family_of
from virft.models.tiny import TINY_NAME, tiny_folder

_WEIGHTS = ("*.safetensors", "*.bin")
_COMPANIONS = (
    "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*",
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "virft_card.json",
)  # fmt: skip
CARD = "virft_card.json"
"""Facts about how a model wants to be asked: ``prompt_template``, ``thinking``."""


@dataclass(kw_only=True, slots=True)
class LoadedModel:
    """A model with everything needed to ask it. ``adapters`` is set under LoRA; ``model`` holds its layers too."""

    model: Any
    tokenizer: Any
    image_processor: Any
    family: Family
    folder: Path | None
    adapters: PeftModel | None = None
    card: dict[str, Any]

    def freeze_vision(self) -> None:
        """No gradient for the vision tower and its projector."""
        self.model.get_submodule(self.family.vision_module).requires_grad_(False)

    def add_lora(self, rank: int, alpha: float) -> None:
        """Adapters in every linear layer of the language model, float32; everything else is frozen.

        The pattern is anchored at the language model: by suffix alone it would hit vision towers too.
        """
        target = re.escape(self.family.language_module) + r"\..*_proj"
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=target, bias="none")
        self.adapters = get_peft_model(self.model, config)

    @contextlib.contextmanager
    def adapters_disabled(self) -> Iterator[None]:
        """The base model, for as long as the block runs."""
        assert self.adapters is not None
        with self.adapters.disable_adapter():
            yield

    def save(self, folder: Path) -> None:
        """An ordinary Hugging Face folder: weights (or PEFT adapters), tokenizer and processor files."""
        folder.mkdir(parents=True, exist_ok=True)
        (self.adapters or self.model).save_pretrained(folder)
        if self.folder is None:
            self.tokenizer.save_pretrained(folder)
            self.image_processor.save_pretrained(folder)
            (folder / CARD).write_text(json.dumps(self.card, indent=2, sort_keys=True) + "\n")
            return
        for pattern in _COMPANIONS:
            for file in sorted(self.folder.glob(pattern)):
                shutil.copyfile(file, folder / file.name)


def load_model(
    path: str, *, dtype: torch.dtype = torch.float32, pixels: tuple[int | None, int | None] = (None, None)
) -> LoadedModel:
    """``virft-tiny``, a folder, or a hub id. ``pixels``: smallest and largest image area; None keeps the model's own.

    Raises ``ModelError`` for a folder that is missing or incomplete, and for a type of model without a family.
    """
    folder = tiny_folder() if path == TINY_NAME else Path(path)
    is_folder = folder.is_dir()
    if is_folder:
        _check_folder(folder, path)
    elif path == TINY_NAME or path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ModelError(
            f"{path}: there is no such folder; expected {TINY_NAME}, a model folder, or a hub id owner/name"
        )
    source = str(folder) if is_folder else path
    adapter = is_folder and (folder / "adapter_config.json").exists()
    if adapter:
        base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        loaded = load_model(base, dtype=dtype, pixels=pixels)
        loaded.adapters = PeftModel.from_pretrained(loaded.model, source)
        return loaded
    config = AutoConfig.from_pretrained(source)
    family = family_of(config.model_type)
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype)
    return _finish(
        model,
        AutoTokenizer.from_pretrained(source),
        _image_processor(source, pixels),
        family,
        folder if is_folder else None,
    )


def wrap_model(model: Any, tokenizer: Any, image_processor: Any) -> LoadedModel:
    """A model made in memory, as the tests make them."""
    return _finish(model, tokenizer, image_processor, family_of(model.config.model_type), None)


def _finish(model: Any, tokenizer: Any, image_processor: Any, family: Family, folder: Path | None) -> LoadedModel:
    prepare_attention(model, family)
    card = {}
    if folder is not None and (folder / CARD).exists():
        card = json.loads((folder / CARD).read_text())
    return LoadedModel(
        model=model, tokenizer=tokenizer, image_processor=image_processor, family=family, folder=folder, card=card
    )


def prepare_attention(model: Any, family: Family) -> None:
    """Our attention functions, each in its own part of the model, and the patch embedding as a matrix product."""
    parts = {"": "sdpa", "text_config": SHARED_PROMPT}
    if family.vision_attention is not None:
        parts["vision_config"] = family.vision_attention
    model.set_attn_implementation(parts)
    for module in model.get_submodule(family.vision_module).modules():
        projection = getattr(module, "proj", None)
        if isinstance(projection, nn.Conv3d) and projection.stride == projection.kernel_size:
            _as_matrix_product(module, projection)


def _as_matrix_product(module: nn.Module, projection: nn.Conv3d) -> None:
    """A convolution whose stride is its kernel is one matrix product; as that it is several times faster on a CPU."""

    def forward(patches: torch.Tensor) -> torch.Tensor:
        return F.linear(patches.to(projection.weight.dtype), projection.weight.flatten(1), projection.bias)

    module.forward = forward


def _image_processor(source: str, pixels: tuple[int | None, int | None]) -> Any:
    """The PIL image processor: the one of torchvision makes slightly other pixels."""
    processor = AutoImageProcessor.from_pretrained(source, backend="pil")
    low, high = pixels
    if low is not None or high is not None:
        size = dict(processor.size)
        size["shortest_edge"] = low if low is not None else size["shortest_edge"]
        size["longest_edge"] = high if high is not None else size["longest_edge"]
        processor.size = type(processor.size)(**size) if not isinstance(processor.size, dict) else size
    return processor


def _check_folder(folder: Path, path: str) -> None:
    if (folder / "adapter_config.json").exists():
        return
    if not (folder / "config.json").exists():
        raise ModelError(f"{path}: no config.json in this folder; expected a Hugging Face model folder")
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        raise ModelError(f"{path}: no weights in this folder; expected *.safetensors or *.bin beside config.json")
