"""Load PEFT adapters into their base model, also those that older versions of transformers saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.tuners import lora
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from virft.errors import ModelError
from virft.models.checkpoint_checks import require_adapter_weights, require_finite_weights, require_float_weights
from virft.models.model_files import explained
from virft.models.sharding import is_partitioned

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
"""PEFT's prefix of every weight in a file of adapters."""
_NAME = ".default"
"""PEFT's name of adapters in the names of their weights in memory, which files do not have."""


def fuse_adapters(model: nn.Module) -> None:
    """Let LoRA layers add their adapters in one product under autocast; other layers are left as they are."""
    for module in model.modules():
        # Exactly this class: quantized layers have another one. The class is changed, not the method of the instance,
        # which sampling replaces for a while.
        if type(module) is lora.Linear:
            module.__class__ = FusedLinear


class FusedLinear(lora.Linear):
    """PEFT's linear layer with LoRA adapters, with fewer copies under autocast.

    PEFT casts a bfloat16 input to the adapters' float32, and autocast casts it back: two copies of each input, one of
    which is saved for the backward. It then multiplies and adds tables as large as the output, which is here part of
    the last product. Formula: W x + b + scaling B A x.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the output [..., out] of an input [..., in]."""
        names = [name for name in self.active_adapters if name in self.lora_A]
        is_plain = not (args or kwargs or self.merged or self.disable_adapters or self.lora_variant)
        is_cast = torch.is_autocast_enabled(x.device.type)
        # ZeRO-3 gathers weights where their own layer is called.
        weights: list[Any] = [self.lora_B[name].weight for name in names]
        if not (is_cast and is_plain and len(names) == 1) or is_partitioned(weights[0]):
            found: Tensor = super().forward(x, *args, **kwargs)
            return found
        (name,) = names
        lines = x.flatten(0, -2)
        inner = self.lora_A[name](self.lora_dropout[name](lines))
        output: Tensor = _AddProduct.apply(  # type: ignore[no-untyped-call]
            self.base_layer(lines), inner, weights[0], self.scaling[name]
        )
        unflattened: Tensor = output.unflatten(0, x.shape[:-1])
        return unflattened


class _AddProduct(torch.autograd.Function):
    """``apply(base [N, out], inner [N, rank], weight [out, rank], scaling)`` returns base + scaling * inner weight^T.

    Autograd's backward of the same product would multiply by ``scaling`` in kernels of their own.
    """

    @staticmethod
    def forward(ctx: Any, base: Tensor, inner: Tensor, weight: Tensor, scaling: float) -> Tensor:
        cast = weight.to(base.dtype)
        ctx.save_for_backward(inner, cast)
        ctx.scaling, ctx.dtype = scaling, weight.dtype
        return torch.addmm(base, inner, cast.t(), alpha=scaling)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        inner, weight = ctx.saved_tensors
        # beta = 0: what is in the first argument does not matter.
        of_inner = torch.addmm(torch.empty_like(inner), gradient, weight, beta=0, alpha=ctx.scaling)
        of_weight = torch.addmm(torch.empty_like(weight), gradient.t(), inner, beta=0, alpha=ctx.scaling)
        return gradient, of_inner, of_weight.to(ctx.dtype), None


def attach_adapters(model: Any, folder: Path, *, path: str, base: str) -> tuple[PeftModel, bool]:
    """Return the model with the adapters of a folder, and True if their weights had names of an older transformers.

    Before version 4.52, transformers had the language model of Qwen2-VL in ``model``, now in ``model.language_model``,
    and its tower in ``visual``, now in ``model.visual``; other families likewise. transformers converts such names in
    the files of whole models; this function applies the same conversion to adapters.

    ``path`` and ``base``: names of the adapters and of the base in messages. Raises ``ModelError`` for adapters that do
    not fit the base, for weights that are quantized or not finite, and for prompt tuning.
    """
    with explained(path, expected="adapters that PEFT wrote for this base"):
        settings: Any = PeftConfig.from_pretrained(str(folder))
        if settings.is_prompt_learning:
            raise ModelError(f"{path}: adapters of type {settings.peft_type.value}; expected LoRA")
        require_float_weights(path, [folder / ADAPTER_WEIGHTS])
        weights = load_file(folder / ADAPTER_WEIGHTS)
        require_finite_weights(path, weights.items())
        mark = f".{PEFT_TYPE_TO_PREFIX_MAPPING[settings.peft_type]}"
        modules = {name: _module_of(name, mark) for name in weights}
        current = _current_names(model, set(modules.values()))
        is_older = any(old != new for old, new in current.items())
        if is_older:
            _convert_settings(settings, {old: current[old] for name, old in modules.items() if mark in name}, model)
            weights = {
                name.replace(_PREFIX + module, _PREFIX + current[module], 1): weights[name]
                for name, module in modules.items()
            }
        # Without a task, PEFT returns a plain `PeftModel`, as `add_lora` makes it.
        settings.inference_mode, settings.task_type = True, None
        adapted = PeftModel(model, settings)
        found: Any = set_peft_model_state_dict(adapted, weights)
    missing = [name for name in found.missing_keys if mark in name and _NAME in name]  # the others are of the base
    require_adapter_weights(path, base, missing, found.unexpected_keys)
    return adapted.eval(), is_older


def _module_of(name: str, mark: str) -> str:
    """Return the module of a weight in a file of adapters, such as ``model.layers.0.self_attn.q_proj``.

    ``mark``: begin of the weight's own name in adapters; without it, the weight is of a module trained as a whole.
    """
    name = name.removeprefix(_PREFIX)
    return name.partition(mark)[0] if mark in name else name.rpartition(".")[0]


def _current_names(model: Any, modules: set[str]) -> dict[str, str]:
    """Return the name of each module in this version of transformers; the same name if the model has no such module."""
    known = {name for name, _ in model.named_modules()}
    renamings = [one for one in get_model_conversion_mapping(model) if isinstance(one, WeightRenaming)]

    def current(module: str) -> str:
        converted: str = module if module in known else rename_source_key(module, renamings, [])[0]
        return converted if converted in known else module

    names = {module: current(module) for module in modules}
    is_unique = len(set(names.values())) == len(names)  # else the file has weights of one module under both names
    return names if is_unique else {module: module for module in modules}


def _convert_settings(settings: Any, adapted: Mapping[str, str], model: Any) -> None:
    """Replace older names of modules in PEFT's settings. ``adapted``: older -> current name of each adapted module."""
    targets = settings.target_modules or ()
    # Last parts of names, such as q_proj, are the same in all versions. A regular expression or a longer name is not.
    if isinstance(targets, str) or isinstance(settings.exclude_modules, str) or any("." in one for one in targets):
        settings.target_modules = set(adapted.values())
        settings.exclude_modules = settings.layers_to_transform = settings.layers_pattern = None
    for key in ("rank_pattern", "alpha_pattern"):
        if pattern := getattr(settings, key, None):
            found = {new: get_pattern_key(pattern, old) for old, new in adapted.items()}
            setattr(settings, key, {new: pattern[match] for new, match in found.items() if match in pattern})
    if settings.modules_to_save:
        settings.modules_to_save = [*_current_names(model, set(settings.modules_to_save)).values()]
