"""A model folder or hub id, loaded: weights, tokenizer, image processor, family; and saved again."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import MethodType
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BitsAndBytesConfig,
)
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging as hf_logging

from virft.errors import ConfigError, ModelError
from virft.files import UNFINISHED, replace_folder
from virft.models.attention.compiled_layers import compile_layers
from virft.models.attention.shared_prompt import SHARED_PROMPT
from virft.models.families import Family, family_of
from virft.models.saved_files import PROCESSOR_FILES, pixel_budget, settle_files, settle_pixels
from virft.models.sharding import WholeCopy
from virft.models.tiny import TINY_NAME, tiny_folder

_WEIGHTS = "*.safetensors"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_NO_CODE = {"trust_remote_code": False}
"""Said outright: left open, transformers may ask at the terminal whether to run a folder's own Python."""
_ADAPTERS = "adapter_config.json"
_COMPANIONS = (
    "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*",
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
)  # fmt: skip
_EXPECTED = f"{TINY_NAME}, a model folder, or a hub id owner/name"
README = "README.md"
CARD = "virft_card.json"
"""How a model wants to be asked: ``prompt_template`` (a built-in's name, or a text with ``{query}``), ``thinking``."""


@dataclass(kw_only=True, slots=True)
class LoadedModel:
    """A model with everything needed to ask it. ``adapters`` is set under LoRA; ``model`` holds its layers too.

    ``was_merged``: adapters were merged into it after loading, so its weights are in no folder. ``copied``: set once
    processes share out its weights.
    """

    model: Any
    tokenizer: Any
    image_processor: Any
    family: Family
    folder: Path | None
    adapters: PeftModel | None = None
    card: dict[str, Any]
    was_merged: bool = False
    copied: WholeCopy | None = None

    def merge_adapters(self) -> None:
        """Make the adapters part of the weights: of what was a base and its change, one model remains."""
        assert self.adapters is not None
        self.model = self.adapters.merge_and_unload()
        self.adapters, self.was_merged = None, True

    def freeze_vision(self) -> None:
        """No gradient for the vision tower and its projector."""
        for parameter in self.family.vision_parameters(self.model):
            parameter.requires_grad_(False)

    def vision_parts(self) -> dict[nn.Parameter, Literal["vision", "projector"]]:
        """Where the parameters belong that are not the language model's; a projector's do, even inside the tower."""
        return {
            parameter: "projector" if name.startswith(self.family.projector_names) else "vision"
            for name, parameter in self.model.named_parameters()
            if name.startswith(self.family.vision_names)
        }

    def checkpoint_gradients(self) -> None:
        """In ``train()``, keep only the input of each layer (the tower's too) and compute it again in the backward.

        In ``eval()`` nothing changes. Sampling is for ``eval()``: a layer that is computed twice cannot write a cache.
        """
        # No dropout, so no random state to bring back.
        self.model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        # transformers also asks for gradients of the embedded tokens, which only the reentrant kind needs.
        self.model.disable_input_require_grads()

    def compile_layers(self) -> None:
        """Compile the language model's layers for packed rows; ``ConfigError`` on a machine that cannot."""
        compile_layers(self.model.get_submodule(self.family.language_module))

    def add_lora(self, rank: int, alpha: int) -> None:
        """Adapters in every linear layer of the language model, float32; everything else is frozen.

        The pattern is anchored at the language model: by suffix alone it would hit vision towers too.
        """
        target = re.escape(self.family.language_module) + r"\..*_proj"
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=target, bias="none")
        self.adapters = get_peft_model(self.model, config)
        if self.folder == tiny_folder():
            # The package's folder is another one on the next machine.
            self.adapters.peft_config["default"].base_model_name_or_path = TINY_NAME

    def add_copy(self, device: torch.device, *, linear_dtype: torch.dtype | None, keep_tower: bool = True) -> None:
        """Prepare for processes to share out the weights: from then on ``whole`` has them all.

        ``keep_tower``: a frozen vision tower is not shared out.
        """
        frozen = []
        if keep_tower:
            for name, module in self.model.named_modules():
                if f"{name}.".startswith(self.family.vision_names):
                    module.to(device)
            frozen = [one for one in self.family.vision_parameters(self.model) if not one.requires_grad]
        self.copied = WholeCopy(self.adapters or self.model, device, shared=frozen, linear_dtype=linear_dtype)

    def copy(self) -> LoadedModel:
        """The same model around the copy, whose weights are there inside ``whole`` alone; itself if there is none."""
        if self.copied is None:
            return self
        adapters: Any = self.copied.model if self.adapters is not None else None
        return replace(self, model=self.copied.copy_of(self.model), adapters=adapters, copied=None)

    @contextlib.contextmanager
    def whole(self) -> Iterator[LoadedModel]:
        """The model with all its weights, for as long as the block runs. Where they are shared out, all must ask."""
        with self.copied.gathered() if self.copied is not None else contextlib.nullcontext():
            yield self.copy()

    @contextlib.contextmanager
    def adapters_disabled(self) -> Iterator[None]:
        """The base model, for as long as the block runs."""
        assert self.adapters is not None
        with self.adapters.disable_adapter():
            yield

    @property
    def saves_adapters(self) -> bool:
        """Whether a saved folder holds adapters. Those on top of merged ones do not: their base is in no folder."""
        return self.adapters is not None and not self.was_merged

    def save(self, folder: Path, *, readme: str | None = None) -> None:
        """An ordinary Hugging Face folder: weights (or PEFT adapters), tokenizer and processor files, and a model card.

        It appears whole or not at all, and replaces what was there.
        """
        new = folder.with_name(folder.name + UNFINISHED)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        with without_progress_bars():
            if self.adapters is None:
                self.model.save_pretrained(new)
            elif not self.saves_adapters:
                copy.deepcopy(self.adapters).merge_and_unload().save_pretrained(new)
            else:
                # Embeddings have no adapters; left to itself, PEFT asks the hub for the base model to find that out.
                self.adapters.save_pretrained(str(new), save_embedding_layers=False)
        self._save_companions(new)
        settle_files(new)
        (new / README).unlink(missing_ok=True)  # PEFT's own names a folder of this machine, and nothing else
        if readme is not None:
            (new / README).write_text(readme, encoding="utf-8")
        replace_folder(new, folder)

    def save_description(self, folder: Path) -> None:
        """All but the weights into an existing folder: the model's configuration, tokenizer and processor files.

        Embeddings and output layer are two there, also where they are one here.
        """
        config = copy.deepcopy(self.model.config)
        config.architectures = [type(self.model).__name__]  # else only a saved model says what it is
        config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
        config.save_pretrained(folder)
        self._save_companions(folder)

    def _save_companions(self, folder: Path) -> None:
        if self.card:
            (folder / CARD).write_text(json.dumps(self.card, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if self.folder is None:
            self.tokenizer.save_pretrained(folder)
            self.image_processor.save_pretrained(folder)
            return
        for pattern in _COMPANIONS:
            for file in sorted(self.folder.glob(pattern)):
                shutil.copyfile(file, folder / file.name)
        wanted = pixel_budget(self.image_processor)
        if pixel_budget(image_processor(str(folder), self.family, (None, None))) != wanted:
            settle_pixels(folder, wanted)


def load_model(
    path: str,
    *,
    dtype: torch.dtype = torch.float32,
    pixels: tuple[int | None, int | None] = (None, None),
    in_4bit: bool = False,
) -> LoadedModel:
    """``virft-tiny``, a folder, or a hub id. ``pixels``: smallest and largest image area; None keeps the model's own.

    ``in_4bit``: the language model's layers get weights of 4 bits (NF4, their scales in 8 bits); tower, embeddings and
    output layer keep ``dtype``. Needs bitsandbytes: ``ConfigError`` without. Not for a folder of adapters.

    Raises ``ModelError`` for a folder that is missing or incomplete, and for a type of model without a family.
    """
    folder = tiny_folder() if path == TINY_NAME else Path(path)
    is_folder = folder.is_dir()
    if is_folder:
        check_folder(folder, path)
    elif path == TINY_NAME or path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ModelError(f"{path}: there is no such folder; expected {_EXPECTED}")
    source = str(folder) if is_folder else path
    with explained(path, expected=_EXPECTED):
        if is_folder and (folder / _ADAPTERS).exists():
            if in_4bit:
                raise ModelError(
                    f"{path}: holds adapters, which cannot be merged into weights of 4 bits; "
                    "expected a whole model, or model.load_in_4bit = false"
                )
            base = json.loads((folder / _ADAPTERS).read_text())["base_model_name_or_path"]
            loaded = load_model(base, dtype=dtype, pixels=pixels)
            loaded.adapters = PeftModel.from_pretrained(loaded.model, source)
            # They were trained with pixels, and asked in a way, that need not be the base's.
            if any((folder / name).exists() for name in PROCESSOR_FILES):
                loaded.image_processor = image_processor(source, loaded.family, pixels)
            loaded.card |= _card_in(folder)
            return loaded
        config = AutoConfig.from_pretrained(source, **_NO_CODE)
        family = family_of(config.model_type)
        tokenizer = AutoTokenizer.from_pretrained(source, **_NO_CODE)
        # The processor's template goes first: some tokenizers bring one that knows no images (LLaVA-OneVision's).
        if isinstance(template := ProcessorMixin.get_processor_dict(source)[0].get("chat_template"), str):
            tokenizer.chat_template = template
        # Without its files transformers makes an empty tokenizer, and says nothing.
        if (placeholder := config.image_token_id) >= len(tokenizer):
            raise ModelError(
                f"{path}: its tokenizer has {len(tokenizer)} tokens, but images are token {placeholder}; "
                "expected the model's own tokenizer files"
            )
        with without_progress_bars():
            further = {"quantization_config": _four_bits(family, dtype)} if in_4bit else {}
            model = AutoModelForImageTextToText.from_pretrained(
                source, dtype=dtype, use_safetensors=True, **_NO_CODE, **further
            )
        layers: list[Any] = [one for one in model.modules() if hasattr(one, "support_avx512bf16_for_cpu")]
        for layer in layers:
            # On a CPU bitsandbytes would repack weights for inference at the first sampling: no gradient goes through.
            layer.support_avx512bf16_for_cpu = False
        return _finish(
            family=family,
            model=model,
            tokenizer=tokenizer,
            image_processor=image_processor(source, family, pixels),
            folder=folder if is_folder else None,
        )


def _four_bits(family: Family, dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with scales in 8 bits, computed with in ``dtype``, for the language model alone. Source: QLoRA."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "model.load_in_4bit needs bitsandbytes, which is not installed; "
            "expected pip install virft[quant], or load_in_4bit = false"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[*(name.rstrip(".") for name in family.vision_names), "lm_head"],
    )


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """No progress bars of transformers, which would stand between the lines of a run."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


@contextlib.contextmanager
def explained(path: str, *, expected: str) -> Iterator[None]:
    """What transformers raises for files that are missing, cut or no JSON, and for hub ids it cannot reach, told."""
    try:
        yield
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path}: cannot be loaded: {reason}; expected {expected}") from error


def wrap_model(model: Any, tokenizer: Any, image_processor: Any) -> LoadedModel:
    """A model made in memory, as the tests make them."""
    return _finish(
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        family=family_of(model.config.model_type),
        folder=None,
    )


def _finish(*, model: Any, tokenizer: Any, image_processor: Any, family: Family, folder: Path | None) -> LoadedModel:
    prepare_attention(model, family)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        family=family,
        folder=folder,
        card={} if folder is None else _card_in(folder),
    )


def _card_in(folder: Path) -> dict[str, Any]:
    """What a folder says of how its model wants to be asked; nothing of most."""
    if not (folder / CARD).exists():
        return {}
    card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    return card


def prepare_attention(model: Any, family: Family) -> None:
    """Our attention functions, each in its own part of the model, and the patch embedding as a matrix product."""
    parts = {"": "sdpa", "text_config": SHARED_PROMPT, "vision_config": family.vision_attention}
    model.set_attn_implementation(parts)
    for module in model.modules():
        projection = getattr(module, "proj", None)
        if isinstance(projection, nn.Conv3d) and projection.stride == projection.kernel_size:
            # A method, so that a copy of the model (the reference) embeds patches with its own weights.
            module.forward = MethodType(_embed_patches, module)


def _embed_patches(self: Any, patches: torch.Tensor) -> torch.Tensor:
    """A convolution whose stride is its kernel is one matrix product; as that it is several times faster on a CPU."""
    weight = self.proj.weight
    return F.linear(patches.to(weight.dtype), weight.flatten(1), self.proj.bias)


def image_processor(source: str, family: Family, pixels: tuple[int | None, int | None]) -> Any:
    """The PIL image processor of a folder or hub id: the one of torchvision makes slightly other pixels.

    ``pixels``: as for ``load_model``.
    """
    processor = AutoImageProcessor.from_pretrained(source, backend="pil", **_NO_CODE)
    if pixels != (None, None):
        family.limit_pixels(processor, *pixels)
    return processor


def check_folder(folder: Path, path: str) -> None:
    """``ModelError`` unless there are a config and weights in the folder, or adapters."""
    if (folder / _ADAPTERS).exists():
        _check_weights(folder, path, "adapter_model.safetensors", beside=_ADAPTERS, what="adapters")
        return
    if not (folder / "config.json").exists():
        raise ModelError(f"{path}: no config.json in this folder; expected a Hugging Face model folder")
    _check_weights(folder, path, _WEIGHTS, beside="config.json", what="weights")


def _check_weights(folder: Path, path: str, pattern: str, *, beside: str, what: str) -> None:
    """``ModelError`` unless there are weights that are data alone: reading a pickle runs what its writer wants."""
    if any(folder.glob(pattern)):
        return
    pickled = sorted(file.name for ending in _PICKLED for file in folder.glob(ending))
    found = f"only pickled {what} ({pickled[0]}), which may run code when they are read" if pickled else f"no {what}"
    raise ModelError(f"{path}: {found} in this folder; expected {pattern} beside {beside}")
