"""Load a model folder or hub id (weights, tokenizer, image processor, family), and save it again."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import MethodType
from typing import Any, Literal, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    PreTrainedModel,
)
from transformers.utils import logging as hf_logging

from virft.config.schema import Dtype, DtypeName
from virft.errors import ModelError
from virft.files import UNFINISHED, replace_folder
from virft.models.adapters import attach_adapters, fuse_adapters
from virft.models.attention.compiled_layers import compile_layers
from virft.models.attention.shared_prompt import SHARED_PROMPT
from virft.models.built_in import built_in_name
from virft.models.checkpoint_checks import (
    require_all_weights,
    require_finite_weights,
    require_fitting_tokenizer,
    require_float_weights,
    require_plain_weights,
    require_same_tokens,
    require_stop_tokens,
)
from virft.models.companion_files import (
    NO_CODE,
    copy_companions,
    has_image_processor,
    has_tokenizer,
    read_chat_template,
    read_image_processor,
    read_tokenizer,
    writes_image,
)
from virft.models.experts import expert_weights
from virft.models.families import Family, family_of
from virft.models.hub_files import hub_folder
from virft.models.model_files import (
    explained,
    find_base,
    model_type_of,
    without_progress_bars,
)
from virft.models.model_folders import (
    ADAPTERS,
    CARD,
    EXPECTED,
    check_folder,
    find_model_folder,
    model_of_run,
    suggest_model,
)
from virft.models.precision import FLOAT32, Precision, find_precision, read_virft_card, require_4bit_package
from virft.models.saved_files import PREPROCESSOR, correct_files
from virft.models.sharding import GatheredCopy
from virft.models.stop_tokens import complete_stop_tokens
from virft.models.stored_dtypes import StoredDtype, own_dtype

_OWN_FILES = "the files that were saved with the adapters"
README = "README.md"


@dataclass(kw_only=True, slots=True)
class LoadedModel:
    """A model with its tokenizer, image processor, family and prompt settings."""

    model: Any
    """The model of transformers; with LoRA, its linear layers contain the adapters."""

    tokenizer: Any
    """Tokenizer of transformers, with the chat template of the processor."""

    image_processor: Any
    """Image processor of transformers, PIL backend."""

    family: Family
    """Facts and functions of the model's family."""

    folder: Path | None
    """Folder that it was loaded from, for a hub id that of the local cache; None for a model made in memory."""

    adapter_folders: tuple[Path, ...] = ()
    """Folders of adapters that were loaded. Tokenizer, template and processor in a later one replace earlier ones."""

    adapters: PeftModel | None = None
    """PEFT's wrapper around ``model`` with LoRA, else None."""

    card: dict[str, Any]
    """Facts from ``virft_card.json``; empty for most models."""

    precision: Precision = FLOAT32
    """Precision that it computes in. Trained weights are float32 in any precision."""

    was_merged: bool = False
    """True if adapters were merged after loading, so that the weights are in no folder."""

    gathered_copy: GatheredCopy | None = None
    """Unsharded copy; set where the weights are sharded."""

    notes: tuple[str, ...] = ()
    """What was corrected or ignored in the files of the model, for its user."""

    def merge_adapters(self) -> None:
        """Add the adapters to the weights of the base, and remove them. All weights are trainable afterwards.

        Raises ``ModelError`` if the base has weights of 4 bits.
        """
        assert self.adapters is not None
        if self.precision.in_4bit:
            raise ModelError(
                f"{self.adapter_folders[-1]}: holds adapters, which cannot be merged into weights of 4 bits; "
                "expected a whole model, or load_in_4bit = false"
            )
        self.model = self.adapters.merge_and_unload()
        # PEFT freezes the base of adapters, and leaves it frozen.
        for parameter in self.model.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
        self.adapters, self.was_merged = None, True

    def freeze_vision(self) -> None:
        """Turn gradients off for the vision tower and its projector."""
        for parameter in self.family.vision_parameters(self.model):
            parameter.requires_grad_(False)

    def vision_parts(self) -> dict[nn.Parameter, Literal["vision", "projector"]]:
        """Return the part of each parameter outside the language model; a projector inside the tower is "projector"."""
        return {
            parameter: "projector" if name.startswith(self.family.projector_names) else "vision"
            for name, parameter in self.model.named_parameters()
            if name.startswith(self.family.vision_names)
        }

    def checkpoint_gradients(self) -> None:
        """Turn gradient checkpointing on, in the vision tower too.

        In ``train()``, only the input of each layer is saved, and the layer is computed again in the backward. In
        ``eval()`` nothing changes. Sampling needs ``eval()``: a checkpointed layer writes no KV cache.
        """
        # No random state to restore, as there is no dropout.
        self.model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        # transformers also requires gradients of the embedded tokens, which only reentrant checkpointing needs.
        self.model.disable_input_require_grads()

    def compile_layers(self) -> None:
        """Compile the language model's layers for packed rows; raises ``ConfigError`` on a machine that cannot."""
        compile_layers(self.model.get_submodule(self.family.language_module))

    def add_lora(self, rank: int, alpha: int) -> None:
        """Add LoRA adapters (float32) to every linear layer of the language model, and freeze everything else.

        In a mixture of experts, adapters are in attention only. Source: LoRA (arXiv 2106.09685).
        """
        # Anchored at the language model: suffixes such as "gate_proj" also match layers of vision towers. No dropout,
        # which would make sampler and policy differ.
        # Of MLPs next to experts, PEFT would move the adapters to all experts, by the names of the layers.
        inside = r"\..*\.self_attn\..*_proj" if expert_weights(self.model) else r"\..*_proj"
        target = re.escape(self.family.language_module) + inside
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=target, bias="none")
        self.adapters = get_peft_model(self.model, config)
        fuse_adapters(self.model)

    def add_gathered_copy(
        self,
        device: torch.device,
        *,
        linear_dtype: torch.dtype | None,
        replicate_tower: bool = True,
        stored_dtype: StoredDtype = own_dtype,
    ) -> None:
        """Make the unsharded copy, before the weights are sharded.

        ``linear_dtype``, ``stored_dtype``: see ``GatheredCopy``. ``replicate_tower``: a frozen vision tower is not
        sharded, and serves model and copy; it is converted here.
        """
        frozen = []
        if replicate_tower:
            for name, module in self.model.named_modules():
                if f"{name}.".startswith(self.family.vision_names):
                    module.to(device)
            frozen = [one for one in self.family.vision_parameters(self.model) if not one.requires_grad]
            for one in frozen:
                one.data = one.data.to(stored_dtype(one))
        self.gathered_copy = GatheredCopy(
            self.adapters or self.model, device, shared=frozen, linear_dtype=linear_dtype, stored_dtype=stored_dtype
        )

    def unsharded(self) -> LoadedModel:
        """Return the same model around the unsharded copy; itself if weights are not sharded.

        The copy has weights inside ``gathered`` only.
        """
        if self.gathered_copy is None:
            return self
        adapters: Any = self.gathered_copy.model if self.adapters is not None else None
        return replace(self, model=self.gathered_copy.copy_of(self.model), adapters=adapters, gathered_copy=None)

    @contextlib.contextmanager
    def gathered(self, *, only_vision: bool = False) -> Iterator[LoadedModel]:
        """Inside the block, the unsharded model with all weights, or with those of the vision tower and its projector.

        A collective operation if weights are sharded: every process must enter it.
        """
        if self.gathered_copy is None:
            yield self
            return
        copied = self.unsharded()
        with self.gathered_copy.gathered(self.family.vision_parameters(copied.model) if only_vision else None):
            yield copied

    @contextlib.contextmanager
    def adapters_disabled(self) -> Iterator[None]:
        """Inside the block, the model computes without its adapters: the base model, a free reference."""
        assert self.adapters is not None
        with self.adapters.disable_adapter():
            yield

    @property
    def saves_adapters(self) -> bool:
        """True if ``save`` writes adapters, not a whole model. With merged adapters below, no folder has their base."""
        return self.adapters is not None and not self.was_merged

    def save(self, folder: Path, *, readme: str | None = None, dtype: DtypeName | None = None) -> None:
        """Write a Hugging Face model folder: weights (or PEFT adapters), tokenizer and processor files, model card.

        Atomic: the folder appears complete or not at all, and replaces an existing one. ``readme``: text of the model
        card. ``dtype``: of the weights of a whole model; None retains theirs.
        """
        new = folder.with_name(folder.name + UNFINISHED)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        with without_progress_bars():
            if self.adapters is None:
                _save_weights(self.model, new, dtype)
            elif not self.saves_adapters:
                _save_weights(copy.deepcopy(self.adapters).merge_and_unload(), new, dtype)
            else:
                # Embeddings have no adapters. By default, PEFT queries the hub for the base model to find that out.
                self.adapters.save_pretrained(str(new), save_embedding_layers=False)
        self._save_companions(new)
        correct_files(new)
        (new / README).unlink(missing_ok=True)  # PEFT writes one that names a local folder
        if readme is not None:
            (new / README).write_text(readme, encoding="utf-8")
        replace_folder(new, folder)

    def save_description(self, folder: Path) -> None:
        """Write configuration, tokenizer and processor files, but no weights, into an existing folder.

        Embeddings and output layer are described as untied, even where they are tied here.
        """
        config = copy.deepcopy(self.model.config)
        config.architectures = [type(self.model).__name__]  # transformers sets it in saved models only
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
        copy_companions(
            folder,
            (self.folder, *self.adapter_folders),
            tokenizer=self.tokenizer,
            processor=self.image_processor,
            family=self.family,
        )


def load_model(
    path: str,
    *,
    dtype: torch.dtype = torch.float32,
    pixels: tuple[int | None, int | None] = (None, None),
    in_4bit: bool = False,
    mapped: bool = False,
) -> LoadedModel:
    """Load a model: a built-in one, a folder (of a model or of PEFT adapters), or a hub id ``owner/name``.

    Of a run folder, ``best`` is loaded if it exists, else ``model``.

    ``dtype``: of all weights but those of adapters, which are float32. ``pixels``: smallest and largest image area in
    pixels; None retains the model's own. ``in_4bit``: weights of the language model's linear layers in 4 bits (NF4,
    scales in 8 bits); tower, embeddings and output layer have ``dtype``. ``mapped``: each weight has the dtype of its
    file and is mapped from it, so that the processes of a machine share one copy; the caller converts it to ``dtype``.
    A folder of adapters is loaded in ``dtype`` nevertheless, because adapters are merged in it.

    Raises ``ModelError`` for a folder that is missing or incomplete, for files that do not fit together (weights,
    tokenizer, image processor, adapters and their base), for quantized weights, for adapters of adapters in 4 bits, and
    for a ``model_type`` without a family, and ``ConfigError`` if ``in_4bit`` is set and bitsandbytes is not installed.
    """
    path = model_of_run(path)
    name: Any = str(dtype).removeprefix("torch.")
    return _load(path, _folder_of(path), Precision(name, in_4bit), pixels, mapped=mapped)


def load_as_trained(
    path: str,
    *,
    dtype: Dtype = "auto",
    in_4bit: bool | None = None,
    pixels: tuple[int | None, int | None] = (None, None),
    device: torch.device | None = None,
    dequantize: bool = False,
) -> LoadedModel:
    """Load a model as ``load_model``, in the precision that ``find_precision`` chooses for it.

    ``dtype`` "auto", ``in_4bit`` None: as the model was trained. ``device``: that it will be used on; default is the
    first GPU, or the CPU if there is none. ``dequantize``: make weights of 4 bits plain weights with the same values,
    into which adapters can be merged.
    """
    path = model_of_run(path)
    folder = _folder_of(path)
    precision = find_precision(folder, dtype=dtype, in_4bit=in_4bit, device=device)
    return _load(path, folder, precision, pixels, dequantize=dequantize)


def _folder_of(path: str) -> Path:
    """Return the folder of a model; that of a hub id in the local cache."""
    folder = find_model_folder(path)
    if folder is None:
        with explained(path, expected=suggest_model(path)):
            folder = hub_folder(path, expected=EXPECTED)
        check_folder(folder, path)
    return folder


def _load(
    path: str,
    folder: Path,
    precision: Precision,
    pixels: tuple[int | None, int | None],
    *,
    dequantize: bool = False,
    mapped: bool = False,
) -> LoadedModel:
    if (folder / ADAPTERS).exists():
        return _load_adapted(path, folder, precision, pixels, dequantize=dequantize)
    files = _read_description(path, folder, pixels)
    model, unused = _read_weights(path, folder, files.family, precision, mapped=mapped)
    if precision.in_4bit and dequantize:
        model, precision = _dequantized(model), Precision(precision.dtype)
    loaded = _finish(
        family=files.family,
        model=model,
        tokenizer=files.tokenizer,
        image_processor=files.image_processor,
        folder=folder,
        precision=precision,
    )
    if unused:
        loaded.notes += (f"weights in its files that are not part of the model are not used: {', '.join(unused[:3])}",)
    return loaded


class _Description(NamedTuple):
    """Everything in a model folder except its weights."""

    family: Family
    tokenizer: Any
    image_processor: Any


def _read_description(path: str, folder: Path, pixels: tuple[int | None, int | None]) -> _Description:
    """Read tokenizer and image processor of a model; ``ModelError`` if they do not fit its config.json."""
    source = str(folder)
    with explained(path, expected=EXPECTED):
        model_type = model_type_of(source)
    family = family_of(model_type)
    with explained(path, expected=EXPECTED):
        config = AutoConfig.from_pretrained(source, **NO_CODE)
    require_plain_weights(path, config)
    require_stop_tokens(path, folder / "generation_config.json")
    with explained(path, expected=EXPECTED):
        tokenizer = read_tokenizer(folder)
    require_fitting_tokenizer(path, tokenizer, config)
    with explained(path, expected=EXPECTED):
        processor = read_image_processor(source, family, pixels)
    _check_processor(path, processor, family, config)
    return _Description(family, tokenizer, processor)


def _check_processor(path: str, processor: Any, family: Family, config: Any) -> None:
    """Raise ``ModelError`` if the image processor does not fit the vision tower, or fails at an image."""
    family.check_processor(processor, config, path)
    with explained(path, expected=f"the model's own {PREPROCESSOR}"):
        pixels = family.read_images(processor, [Image.new("RGB", (64, 48), (90, 120, 150))]).pixel_values
    if not pixels.isfinite().all():
        raise ModelError(
            f"{path}: its image processor makes pixels that are not finite (image_mean {processor.image_mean}, "
            f"image_std {processor.image_std}); expected the model's own {PREPROCESSOR}"
        )


def _read_weights(
    path: str, folder: Path, family: Family, precision: Precision, *, mapped: bool
) -> tuple[Any, list[str]]:
    """Return the model, and the names of weights in its files that are not part of it; ``ModelError`` if one lacks."""
    dtype: torch.dtype = getattr(torch, precision.dtype)
    options = {"quantization_config": _four_bits(family, dtype)} if precision.in_4bit else {}
    as_stored = _in_stored_dtypes() if mapped else contextlib.nullcontext()
    with explained(path, expected=EXPECTED), _without_loading_report(), as_stored:
        require_float_weights(path, sorted(folder.glob("model*.safetensors")))
        read: Any = AutoModelForImageTextToText.from_pretrained(
            str(folder),
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with a message of one line
            **NO_CODE,
            **options,
        )
    model, found = read
    require_all_weights(path, found, (name for name, _ in model.named_parameters()))
    require_finite_weights(path, model.named_parameters())
    # By name, in adapters too: package and hub cache are in another folder on the next machine.
    model.name_or_path = model.config.name_or_path = built_in_name(folder) or path
    layers: list[Any] = [one for one in model.modules() if hasattr(one, "support_avx512bf16_for_cpu")]
    for layer in layers:
        # On a CPU bitsandbytes would repack weights for inference at the first sampling, and no gradient could
        # flow through them any more.
        layer.support_avx512bf16_for_cpu = False
    return model, sorted(found["unexpected_keys"])


def _load_adapted(
    path: str,
    folder: Path,
    precision: Precision,
    pixels: tuple[int | None, int | None],
    *,
    dequantize: bool,
) -> LoadedModel:
    """Load adapters and their base, found by ``find_base``."""
    base = find_base(folder, path)
    try:
        base = model_of_run(base)
        loaded = _load(base, _folder_of(base), precision, pixels, dequantize=dequantize)
    except ModelError as error:
        raise ModelError(
            f"{path}: holds adapters, whose base model cannot be loaded: {error}; "
            f"base_model_name_or_path in {folder / ADAPTERS} names the base"
        ) from error
    if loaded.adapters is not None:
        loaded.merge_adapters()
    _use_own_tokenizer(loaded, path, folder)
    loaded.adapters, is_older = attach_adapters(loaded.model, folder, path=path, base=base)
    fuse_adapters(loaded.model)
    if is_older:
        loaded.notes += ("its adapters have names of an older version of transformers, which were converted",)
    loaded.adapter_folders += (folder,)
    with explained(path, expected=_OWN_FILES):
        own = read_image_processor(str(folder), loaded.family, pixels) if has_image_processor(folder) else None
    if own is not None:
        _check_processor(path, own, loaded.family, loaded.model.config)
        loaded.image_processor = own
    loaded.card |= read_virft_card(folder)
    return loaded


def _use_own_tokenizer(loaded: LoadedModel, path: str, folder: Path) -> None:
    """Replace tokenizer and chat template of the base by those in a folder of adapters, which was trained with them.

    Without a tokenizer or a chat template in the folder, that of the base is used; also in place of a template without
    images. Raises ``ModelError`` if the tokenizer lacks a token of the base or gives it another id, or if it has tokens
    beyond the embeddings.
    """
    config, of_base = loaded.model.config, loaded.tokenizer
    with explained(path, expected=_OWN_FILES):
        own = read_tokenizer(folder, config=config) if has_tokenizer(folder) else of_base
        template = own.chat_template if own is not of_base else read_chat_template(folder)
    if isinstance(template, dict):
        template = template.get("default")
    placeholder = str(of_base.convert_ids_to_tokens(loaded.family.placeholder_id(config)))
    if template not in (None, of_base.chat_template):
        if writes_image(own, template, placeholder):
            loaded.notes += ("its adapters have a chat template of their own, which is used",)
        else:
            loaded.notes += ("the chat template of its adapters writes no images; that of the base is used",)
            template = None
    own.chat_template = template or of_base.chat_template
    if own is not of_base:
        require_fitting_tokenizer(path, own, config)
        require_same_tokens(path, own.get_vocab(), of_base.get_vocab())
        if more := sorted(own.get_vocab().keys() - of_base.get_vocab().keys()):
            loaded.notes += (f"the tokenizer of its adapters is used; its base does not have {', '.join(more[:3])}",)
    loaded.tokenizer = own
    loaded.notes += _note_stop_tokens(complete_stop_tokens(loaded.model, own), own)


def _save_weights(model: Any, folder: Path, dtype: DtypeName | None) -> None:
    """Write weights, in ``dtype`` unless it is None, and configuration of a model.

    ``tie_word_embeddings`` is written as it is in memory. Some programs read the flag of the whole configuration,
    others that of the text part, and drop an output layer of its own if the flag is true.
    """
    output = model.get_output_embeddings()
    if output is not None:
        own, embedded = output.weight, model.get_input_embeddings().weight
        is_tied = own is embedded or (own.shape == embedded.shape and own.data_ptr() == embedded.data_ptr() != 0)
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = is_tied
    if dtype is None:
        model.save_pretrained(folder)
        return
    model.save_pretrained(folder, state_dict=_cast(model.state_dict(), getattr(torch, dtype)))
    # transformers writes the dtype of the model in memory
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = json.dumps(config | {"dtype": dtype}, indent=2, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def _cast(state: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return weights of any shape in ``dtype``, integers as they are. Tied weights stay tied."""
    made: dict[tuple[int, torch.Size], torch.Tensor] = {}
    for one in state.values():
        key = (one.data_ptr(), one.shape)
        if key not in made:
            made[key] = one.to(dtype) if one.is_floating_point() else one
    return {name: made[one.data_ptr(), one.shape] for name, one in state.items()}


def _dequantized(model: Any) -> Any:
    """Return a model of 4 bits with plain weights of the same values."""
    with _without_loading_report():
        model = model.dequantize()
    model.requires_grad_(True)
    return model


def _four_bits(family: Family, dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with double quantization, for the language model only. Source: QLoRA (arXiv 2305.14314)."""
    require_4bit_package()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[*(name.rstrip(".") for name in family.vision_names), "lm_head"],
    )


@contextlib.contextmanager
def _in_stored_dtypes() -> Iterator[None]:
    """Inside the block, ``from_pretrained`` leaves each weight in the dtype of its file, mapped from it.

    transformers makes a model in one dtype: with ``dtype="auto"`` weights of another dtype in the same files are
    rounded, and so are numbers that are in no file, such as the scale of Gemma's embeddings.
    """
    plan = PreTrainedModel._get_dtype_plan
    PreTrainedModel._get_dtype_plan = lambda self, dtype: {"*": None}  # type: ignore[method-assign]
    try:
        yield
    finally:
        PreTrainedModel._get_dtype_plan = plan  # type: ignore[method-assign]


@contextlib.contextmanager
def _without_loading_report() -> Iterator[None]:
    """Inside the block, transformers prints neither progress nor its table of missing weights, which we raise."""
    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        with without_progress_bars():
            yield
    finally:
        hf_logging.set_verbosity(level)


def wrap_model(model: Any, tokenizer: Any, image_processor: Any) -> LoadedModel:
    """Return a ``LoadedModel`` around a model made in memory, such as those of the tests."""
    return _finish(
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        family=family_of(model.config.model_type),
        folder=None,
        precision=Precision("bfloat16" if model.dtype == torch.bfloat16 else "float32"),
    )


def _finish(
    *,
    model: Any,
    tokenizer: Any,
    image_processor: Any,
    family: Family,
    folder: Path | None,
    precision: Precision,
) -> LoadedModel:
    prepare_attention(model, family)
    added = [] if tokenizer is None else complete_stop_tokens(model, tokenizer)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        family=family,
        folder=folder,
        card={} if folder is None else read_virft_card(folder),
        precision=precision,
        notes=_note_stop_tokens(added, tokenizer),
    )


def _note_stop_tokens(added: list[int], tokenizer: Any) -> tuple[str, ...]:
    """Return a note about stop tokens that were added to the generation config; nothing without such tokens."""
    if not added:
        return ()
    names = ", ".join(str(tokenizer.convert_ids_to_tokens(token)) for token in added)
    return (f"generation_config.json has no stop token {names}; sampling and saved files use it too",)


def prepare_attention(model: Any, family: Family) -> None:
    """Set virft's attention functions in language model and tower, and make the patch embedding a matrix product."""
    # By sub-config: a single name would reach the tower too, and be saved with the model.
    parts = {"": "sdpa", "text_config": SHARED_PROMPT, "vision_config": family.vision_attention}
    model.set_attn_implementation(parts)
    for module in model.modules():
        projection = getattr(module, "proj", None)
        if isinstance(projection, nn.Conv3d) and projection.stride == projection.kernel_size:
            # A bound method: a deep copy of the model (the reference) must embed patches with its own weights.
            module.forward = MethodType(_embed_patches, module)


def _embed_patches(self: Any, patches: torch.Tensor) -> torch.Tensor:
    """Patch embedding of patches [patches, values] as a matrix product."""
    # A convolution whose stride is its kernel size is the same product, and several times slower on a CPU.
    weight = self.proj.weight
    return F.linear(patches.to(weight.dtype), weight.flatten(1), self.proj.bias)
