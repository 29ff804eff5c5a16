"""Every knob of a run: one tree of dataclasses. Each field states its default, unit, limits, source.

``settings()`` lists them as data; ``docs/config.md`` and ``--dry-run`` print that list.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from virft.errors import ConfigError

_PAPER = "Visual-RFT code"


def _setting(
    default: Any = MISSING,
    *,
    help: str,
    unit: str = "",
    source: str = "",
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    default_factory: Any = MISSING,
) -> Any:
    """A dataclass field that carries what the docs and the checks need to know about it."""
    metadata = {
        "help": help,
        "unit": unit,
        "source": source,
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
    }
    if default_factory is not MISSING:
        return field(default_factory=default_factory, metadata=metadata)
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


class _Section:
    """Checks its own values, so that a tree built in Python is held to the same limits as a file."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for setting in settings_of(type(self)):
            setting.check(getattr(self, setting.key.rpartition(".")[2]))


Method = Literal["grpo", "sft"]
"""Training methods: GRPO, and supervised fine-tuning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(_Section):
    """``[model]``: what is trained, and which of its weights."""

    path: str = _setting("virft-tiny", help="`virft-tiny` (ships with virft), a model folder, or a hub id.")
    dtype: Literal["float32", "bfloat16"] = _setting(
        "float32",
        help="What the model computes in. Weights that are trained and optimizer states are float32 always.",
    )
    train: Literal["full", "lora"] = _setting(
        "full", help="`full` trains every weight that is not frozen; `lora` trains adapters in the language model."
    )
    freeze_vision: bool = _setting(
        True,
        help="Leave the vision tower as it is. Training it collapsed detection in V-Triune.",
        source="V-Triune",
    )
    lora_rank: int = _setting(32, help="Rank of the adapters.", at_least=1)
    lora_alpha: int = _setting(64, help="Adapters are scaled by lora_alpha / lora_rank.", at_least=1)
    load_in_4bit: bool = _setting(
        False,
        help="Keep the language model's frozen weights in 4 bits under adapters (QLoRA, NF4). Needs `virft[quant]`.",
        source="QLoRA",
    )
    gradient_checkpointing: bool = _setting(
        False,
        help="Keep only what enters each layer and compute the rest again in the backward: far less memory, about a "
        "third more time in the update, the same gradients.",
    )
    compile: bool = _setting(
        False,
        help="Have PyTorch compile the language model's layers: the first step waits for it, up to half a minute; from "
        "then on update and reference take less time, in bfloat16. Sampling stays as it is. Needs a C++ compiler.",
    )
    min_pixels: int | None = _setting(
        None, help="Smaller images are enlarged to this. Not set: the model's own.", unit="pixels", at_least=1
    )
    max_pixels: int | None = _setting(
        None,
        help="Larger images are shrunk to this (the paper: 401408). Not set: the model's own.",
        unit="pixels",
        at_least=1,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(_Section):
    """``[data]``: folders that ``virft build`` made."""

    train: str | None = _setting(
        None, help="Data set to train on. Not set only if there are tables `[mixture.NAME]`.", unit="folder"
    )
    validation: str | None = _setting(
        None, help="Data set to score during the run; never the test set. Not set: no scoring.", unit="folder"
    )
    validate_every: int = _setting(
        0,
        help="Score the validation sets so often; 0: before the first and after the last step.",
        unit="steps",
        at_least=0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureConfig(_Section):
    """``[mixture.NAME]``: one of several data sets of a run, in place of ``data.train``; NAME stands in the logs."""

    data: str = _setting(help="Data set to train on; each sample says its task.", unit="folder")
    weight: float = _setting(1.0, help="Share of the questions, against the weights of the other sets.", above=0)
    thinking: bool | None = _setting(None, help="Of this set. Not set: as `prompt.thinking` says.")
    preset: Literal["robust", "paper"] | None = _setting(None, help="Of this set. Not set: as `reward.preset` says.")
    validation: str | None = _setting(
        None, help="Data set to score during the run, asked as this one is; never the test set.", unit="folder"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig(_Section):
    """``[augment]``: another look at the picture each time it is asked about. Boxes move along; meanings stay."""

    zoom: float = _setting(
        0.0,
        help="Detection: enlarge a random part that takes away up to this share of width and height, boxes whole.",
        at_least=0,
        at_most=0.9,
    )
    mirror: bool = _setting(
        False, help="Mirror every other picture; never for expressions, which may say left or right."
    )
    tones: float = _setting(
        0.0,
        help="Change saturation and contrast by up to this share, brightness by a quarter of it.",
        at_least=0,
        at_most=1,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptConfig(_Section):
    """``[prompt]``: how a sample is put to the model."""

    template: str = _setting(
        "auto", help="`paper`, `short`, `auto` (what the model's card says), or a text file with `{query}` in it."
    )
    thinking: bool = _setting(
        False,
        help="Ask for a think block before the answer. It hurts plain perception and helps reasoning.",
        source="Perception-R1",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig(_Section):
    """``[sampling]``: how completions are drawn during training. Top-k and top-p are always off."""

    temperature: float = _setting(
        1.0, help="Divides the logits, in sampling and in scoring alike.", source=_PAPER, above=0, at_most=10
    )
    max_completion_tokens: int = _setting(
        256, help="A longer completion is cut and counted as truncated.", unit="tokens", source=_PAPER, at_least=1
    )
    prompts_per_batch: int | None = _setting(
        None,
        help="Prompts sampled at once; fewer need less memory. Not set: all of a step.",
        unit="prompts",
        at_least=1,
    )
    engine: Literal["builtin", "vllm"] = _setting(
        "builtin", help="`builtin` samples with the policy itself; `vllm` needs `virft[vllm]`, see docs/vllm.md."
    )
    vllm_mode: Literal["auto", "colocated", "server"] = _setting(
        "auto",
        help="`colocated`: in the training process, asleep while it trains; `server`: in a process of its own; "
        "`auto`: `server` on a CPU, else `colocated`.",
    )
    vllm_gpu_memory: float = _setting(
        0.3,
        help="What vLLM takes of the accelerator's memory; on a CPU it takes 1 GiB for its cache whatever this says.",
        unit="share",
        source="TRL",
        above=0,
        at_most=0.95,
    )
    importance_cap: float = _setting(
        2.0,
        help="A token of another engine weighs exp(policy - engine) of its log-probs in the loss, at most this.",
        source="truncated importance sampling (Yao et al., 2025)",
        at_least=1,
        at_most=100,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardConfig(_Section):
    """``[reward]``: what a completion is paid for."""

    preset: Literal["robust", "paper"] = _setting(
        "robust", help="`paper`: the published formulas. `robust`: the same idea with known exploits closed."
    )
    weights: Mapping[str, float] = _setting(
        default_factory=dict,
        help="Part -> weight in the total; parts not named keep the preset's weight. May be 0.",
        at_least=0,
    )
    iou_threshold: float = _setting(
        0.5, help="A box counts as found above this IoU.", source=_PAPER, at_least=0, at_most=1
    )
    iou_threshold_end: float | None = _setting(
        None,
        help="The threshold moves from `iou_threshold` to this over the run. Not set: it stays.",
        at_least=0,
        at_most=1,
    )
    overlong_tokens: int = _setting(
        0,
        help="The part `overlong` falls from 0 to -1 over so many tokens before `sampling.max_completion_tokens`; what "
        "was cut has -1. 0: length is not paid for.",
        unit="tokens",
        source="DAPO, soft overlong punishment",
        at_least=0,
    )
    extra: tuple[str, ...] = _setting((), help='Your own rewards, each as "file.py:function".')


@dataclass(frozen=True, kw_only=True, slots=True)
class GRPOConfig(_Section):
    """``[grpo]``: the algorithm."""

    steps: int = _setting(200, help="Optimizer steps of the run.", unit="steps", source=_PAPER, at_least=1)
    prompts_per_step: int = _setting(
        16, help="Samples (so groups) of one step.", unit="prompts", source=_PAPER, at_least=1
    )
    group_size: int = _setting(8, help="Completions of one prompt (G).", unit="completions", source=_PAPER, at_least=2)
    learning_rate: float = _setting(
        1e-6,
        help="Peak learning rate of AdamW. LoRA wants about 1e-5 to 1e-4.",
        source=_PAPER,
        above=0,
        at_most=1,
    )
    name_lr_scale: float = _setting(
        1.0,
        help="Input embeddings of the words that are asked for (class names) learn so many times as fast: a name the "
        "model has no use for yet has far to go. Where embeddings are tied to the output layer, that learns along.",
        above=0,
        at_most=1000,
    )
    vision_lr_scale: float = _setting(
        1.0,
        help="A vision tower that is trained learns so many times as fast as the language model; less than 1 is usual.",
        above=0,
        at_most=1000,
    )
    projector_lr_scale: float = _setting(
        1.0,
        help="The same of the projector, which carries the tower's features into the language model.",
        above=0,
        at_most=1000,
    )
    optimizer: Literal["adamw", "adamw_8bit"] = _setting(
        "adamw",
        help="`adamw_8bit` keeps its states in 8 bits: 2 bytes for a trained number, not 8. Needs `virft[quant]`.",
    )
    schedule: Literal["linear", "constant", "cosine"] = _setting(
        "linear", help="Path of the learning rate after the warm-up; `linear` and `cosine` end at 0.", source=_PAPER
    )
    warmup_steps: int = _setting(0, help="The learning rate rises from 0 over these.", unit="steps", at_least=0)
    weight_decay: float = _setting(0.0, help="Of AdamW.", source=_PAPER, at_least=0, at_most=1)
    max_grad_norm: float = _setting(1.0, help="Gradients are scaled down to this norm.", source=_PAPER, above=0)
    kl_coef: float = _setting(
        0.04,
        help="Weight of the KL term against the reference (beta). 0 skips the reference.",
        source=_PAPER,
        at_least=0,
    )
    kl_coef_end: float | None = _setting(
        None, help="The weight moves from `kl_coef` to this over the run. Not set: it stays.", at_least=0
    )
    loss: Literal["sequence_mean", "token_mean", "constant_length"] = _setting(
        "sequence_mean",
        help="Mean over a completion's tokens, then completions (paper); over all tokens (DAPO); "
        "sum over tokens / max_completion_tokens (Dr.GRPO).",
        source=_PAPER,
    )
    scale_by_std: bool = _setting(
        True, help="Divide advantages by the group's standard deviation (off: Dr.GRPO).", source=_PAPER
    )
    mask_truncated: bool = _setting(
        False,
        help="A completion that was cut teaches nothing; it still counts in its group's mean.",
        source="DAPO, overlong filtering",
    )
    refill_rounds: int = _setting(
        0,
        help="Groups whose completions are all paid the same teach nothing: other samples take their place, in at most "
        "so many further rounds of sampling a step.",
        unit="rounds",
        source="DAPO, dynamic sampling",
        at_least=0,
        at_most=10,
    )
    min_base_score: float = _setting(
        0.0,
        help="Before the first step each sample is answered `group_size` times by the untrained model; samples whose "
        "mean score (F1, IoU, or right or wrong) is below this are left out. 0 and 1: no sample is, and none is asked. "
        "`virft sft` leaves none out.",
        at_least=0,
        at_most=1,
    )
    max_base_score: float = _setting(1.0, help="Samples above this are left out too.", at_least=0, at_most=1)
    updates_per_batch: int = _setting(
        1, help="Optimizer updates with one step's completions.", unit="updates", source=_PAPER, at_least=1
    )
    clip_range: float = _setting(
        0.2, help="The ratio to the sampler's probability is clipped to 1 +- this.", source="PPO", above=0, at_most=1
    )
    microbatch_tokens: int = _setting(
        4096, help="Row tokens of one forward and backward; bounds memory, not the result.", unit="tokens", at_least=1
    )

    @property
    def has_reference(self) -> bool:
        """Whether a KL term is added in any step, so that a reference is needed."""
        return self.kl_coef > 0 or bool(self.kl_coef_end)

    @property
    def filters(self) -> bool:
        """Whether samples are left out by what the untrained model makes of them."""
        return self.min_base_score > 0 or self.max_base_score < 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SFTConfig(_Section):
    """``[sft]``: supervised fine-tuning by ``virft sft``, with model, data, prompts and views of the other tables."""

    steps: int = _setting(100, help="Optimizer steps of the run.", unit="steps", at_least=1)
    samples_per_step: int = _setting(16, help="Samples with their right answers.", unit="samples", at_least=1)
    learning_rate: float = _setting(
        1e-5, help="Peak learning rate of AdamW. LoRA wants about 1e-4.", above=0, at_most=1
    )
    name_lr_scale: float = _setting(1.0, help="As `grpo.name_lr_scale`.", above=0, at_most=1000)
    vision_lr_scale: float = _setting(1.0, help="As `grpo.vision_lr_scale`.", above=0, at_most=1000)
    projector_lr_scale: float = _setting(1.0, help="As `grpo.projector_lr_scale`.", above=0, at_most=1000)
    optimizer: Literal["adamw", "adamw_8bit"] = _setting("adamw", help="As `grpo.optimizer`.")
    schedule: Literal["linear", "constant", "cosine"] = _setting(
        "cosine", help="Path of the learning rate after the warm-up; `linear` and `cosine` end at 0."
    )
    warmup_steps: int = _setting(0, help="The learning rate rises from 0 over these.", unit="steps", at_least=0)
    weight_decay: float = _setting(0.0, help="Of AdamW.", at_least=0, at_most=1)
    max_grad_norm: float = _setting(1.0, help="Gradients are scaled down to this norm.", above=0)
    microbatch_tokens: int = _setting(
        4096, help="Row tokens of one forward and backward; bounds memory, not the result.", unit="tokens", at_least=1
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelConfig(_Section):
    """``[parallel]``: what several processes share out. How many there are, `accelerate launch` says."""

    strategy: Literal["ddp", "fsdp2", "zero2", "zero3"] = _setting(
        "ddp",
        help="`ddp`: every process has the whole model and its optimizer. `fsdp2`: each keeps a part of both; sampling "
        "still gathers all weights. `zero2`, `zero3`: DeepSpeed's ZeRO; each keeps a part of gradients and optimizer, "
        "with `zero3` of the weights too. One process alone has everything, whatever it says here.",
    )
    offload_optimizer: bool = _setting(
        False,
        help="Gradients and optimizer states lie in main memory, and the step is taken there. By DeepSpeed; helps one "
        "process alone, too.",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardsConfig(_Section):
    """``[guards]``: what a run looks out for. What a guard saw and did is told and stands in `events.jsonl`."""

    nonfinite: Literal["skip", "stop"] = _setting(
        "skip",
        help="Where a reward, the loss or the gradient is not a finite number, the weights stay as they are; the run "
        "goes on with the next step, or stops. The samples are named.",
    )
    nonfinite_steps: int = _setting(
        3,
        help="After so many skipped steps in a row the run goes back to its last checkpoint, and stops if they come "
        "again.",
        unit="steps",
        at_least=1,
    )
    window: int = _setting(10, help="Means are taken over so many steps.", unit="steps", at_least=1)
    max_kl: float = _setting(10.0, help="Mean KL of a token; 0: any.", unit="nats", at_least=0)
    max_length_ratio: float = _setting(
        4.0, help="Mean length of completions, to that of the first steps; 0: any.", at_least=0
    )
    min_entropy_ratio: float = _setting(
        0.1, help="Mean entropy of a token, to that of the first steps; 0: any.", at_least=0, at_most=1
    )
    max_equal_steps: int = _setting(
        20, help="Steps in a row without a group whose rewards differ; 0: any.", unit="steps", at_least=0
    )
    max_unreadable_frac: float = _setting(
        0.5, help="Share of answers that cannot be read; 0: any.", at_least=0, at_most=1
    )
    max_truncated_frac: float = _setting(0.5, help="Share of answers that were cut; 0: any.", at_least=0, at_most=1)
    max_score_drop: float = _setting(
        0.05,
        help="Fall of the validation score below its best while the reward rises (gaming), or boxes or repeated boxes "
        "(boxes); 0: any.",
        at_least=0,
        at_most=1,
    )
    stop_on: tuple[Literal["kl", "length", "entropy", "spread", "unreadable", "truncated", "boxes", "gaming"], ...] = (
        _setting((), help="Guards that end the run, saved; the others warn. `spread` is that of `max_equal_steps`.")
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareConfig(_Section):
    """``[compare]``: what `virft compare` trains and holds side by side; other verbs do not read it."""

    systems: tuple[str, ...] = _setting(
        ("sft", "rft"), help="Beside the base: `sft`, `rft` (GRPO), `sft_rft` (GRPO from the SFT model)."
    )
    tests: tuple[str, ...] = _setting((), help="Data sets to compare on; the tuning never sees them.")
    seeds: int = _setting(3, help="Runs of each system, with `seed` and those after it.", unit="runs", at_least=1)
    budget: Literal["samples", "tokens", "seconds", "own"] = _setting(
        "samples",
        help="What SFT gets as much of as RFT took: samples and steps, tokens of prompts and answers, or seconds. "
        "`own`: as `[sft]` says.",
    )
    sft_learning_rates: tuple[float, ...] = _setting(
        (),
        help="Tried with the first seed; the best on `data.validation` is taken. None: `sft.learning_rate`.",
        above=0,
    )
    rft_learning_rates: tuple[float, ...] = _setting(
        (),
        help="The same for RFT: as many as for SFT, so that none is tuned more. None: `grpo.learning_rate`.",
        above=0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig(_Section):
    """``[run]``: where files go, and how often."""

    dir: str = _setting(help="Folder of this run; refused if it holds another one.", unit="folder")
    save_every: int = _setting(
        50, help="Save a checkpoint so often; 0: only after the last step.", unit="steps", at_least=0
    )
    keep_best: bool = _setting(
        True, help="After a validation better than all before, save the model into `best` of `run.dir`."
    )
    patience: int = _setting(
        0, help="End the run after so many validations that were not better; 0: never.", unit="validations", at_least=0
    )
    keep_checkpoints: int = _setting(2, help="Older checkpoints are deleted.", unit="checkpoints", at_least=1)
    log_every: int = _setting(1, help="Print a line so often. Every step is logged.", unit="steps", at_least=1)
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = _setting(
        (), help="Show the numbers of `metrics.jsonl` in these too; each is a package that must be installed."
    )
    tracker_images_every: int = _setting(
        20, help="Give the trackers drawn answers of the step so often; 0: never.", unit="steps", at_least=0
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(_Section):
    """A whole run. ``run.dir`` and something to train on, ``data.train`` or ``mixture``, have no default."""

    seed: int = _setting(0, help="Seed of everything random in the run.", at_least=0, at_most=2**63 - 1)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    mixture: Mapping[str, MixtureConfig] = field(default_factory=dict)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    guards: GuardsConfig = field(default_factory=GuardsConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    run: RunConfig

    def __post_init__(self) -> None:
        _Section.__post_init__(self)
        if conflict := first_conflict(self):
            raise ConfigError(conflict)


MIXTURE = "mixture.NAME"
"""Section of each set of a mixture, whatever its name."""

REQUIRED: Any = MISSING
"""Default of a setting that has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One knob as data. ``default`` is ``REQUIRED`` where a file must say it."""

    key: str
    kind: Any
    default: Any
    help: str
    unit: str
    source: str
    at_least: float | None
    above: float | None
    at_most: float | None

    @property
    def allowed(self) -> str:
        """What a value may be, in words.

        >>> setting_at("grpo.group_size").allowed
        'an integer of at least 2'
        """
        limits = []
        if self.at_least is not None:
            limits.append(f"of at least {self.at_least:g}")
        if self.above is not None:
            limits.append(f"above {self.above:g}")
        if self.at_most is not None and self.at_most < 2**53:
            limits.append(f"of at most {self.at_most:g}")
        return " ".join([_kind_in_words(self.kind), " and ".join(limits)]).rstrip()

    def takes(self, kind: type) -> bool:
        """Whether a plain value of this kind is among what the setting may be.

        >>> setting_at("model.max_pixels").takes(int), setting_at("reward.extra").takes(str)
        (True, False)
        """
        options = _alternatives(self.kind)
        return kind in options or (kind is str and any(get_origin(option) is Literal for option in options))

    def check(self, value: Any) -> None:
        """Raise ``ConfigError`` unless the value is of this kind and inside the limits."""
        if not _is_kind(value, self.kind) or not all(self._inside(number) for number in _numbers(value)):
            raise ConfigError(f"{self.key} is {shown(value)}; expected {self.allowed}")

    def _inside(self, number: float) -> bool:
        return (
            math.isfinite(number)
            and (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
        )


@cache
def settings() -> tuple[Setting, ...]:
    """Every setting, in the order of the tree; those of a mixture's sets as ``mixture.NAME.data`` and so on.

    >>> settings()[0].key, settings()[1].key
    ('seed', 'model.path')
    """
    return tuple(setting for section in (Config, *sections().values()) for setting in settings_of(section))


@cache
def sections() -> Mapping[str, type]:
    """Section name -> its dataclass, in the order of the tree. A mixture's sets have one each, ``mixture.NAME``."""
    hints = get_type_hints(Config)
    own = {f.name: hints[f.name] for f in fields(Config) if is_dataclass(hints[f.name])}
    return {**own, MIXTURE: MixtureConfig}


def settings_of(section: type) -> tuple[Setting, ...]:
    """The settings that one dataclass of the tree holds itself, with full dotted keys."""
    prefix = "" if section is Config else next(f"{name}." for name, kind in sections().items() if kind is section)
    hints = get_type_hints(section)
    return tuple(
        Setting(key=prefix + f.name, kind=hints[f.name], default=_default(f), **f.metadata)
        for f in fields(section)
        if f.metadata
    )


def setting_at(key: str) -> Setting:
    """The setting of a dotted key; ``KeyError`` if there is none.

    >>> setting_at("mixture.coco.weight").key
    'mixture.coco.weight'
    """
    section, _, name = key.rpartition(".")
    general = f"{MIXTURE}.{name}" if _NAMED_SET.fullmatch(section) else key
    return replace({setting.key: setting for setting in settings()}[general], key=key)


def values(config: Config) -> Iterator[tuple[Setting, Any]]:
    """Every setting with its value in this tree."""
    parts = {"": config} | {f"{section}.": getattr(config, section) for section in sections() if section != MIXTURE}
    parts |= {f"mixture.{name}.": part for name, part in config.mixture.items()}
    for prefix, part in parts.items():
        for setting in settings_of(type(part)):
            name = setting.key.rpartition(".")[2]
            yield replace(setting, key=prefix + name), getattr(part, name)


def without_effect(config: Config) -> dict[str, str]:
    """Key -> why it changes nothing in this tree. Setting such a key by hand is an error."""
    reasons: dict[str, str] = {}
    if config.model.train != "lora":
        for name in ("lora_rank", "lora_alpha"):
            reasons[f"model.{name}"] = f'it needs model.train = "lora", which is "{config.model.train}"'
    else:
        for section in ("grpo", "sft"):
            reasons[f"{section}.name_lr_scale"] = 'with model.train = "lora" embeddings are not trained'
    if config.sampling.engine == "builtin":
        for name in ("vllm_mode", "vllm_gpu_memory", "importance_cap"):
            reasons[f"sampling.{name}"] = 'it needs sampling.engine = "vllm", which is "builtin"'
    else:
        reasons["sampling.prompts_per_batch"] = "vLLM makes batches of its own"
    if config.model.freeze_vision:
        for section in ("grpo", "sft"):
            for name in ("vision_lr_scale", "projector_lr_scale"):
                reasons[f"{section}.{name}"] = "it needs model.freeze_vision = false"
    if config.grpo.updates_per_batch == 1:
        reasons["grpo.clip_range"] = "it needs grpo.updates_per_batch above 1 (with one update the ratio is always 1)"
    if not config.parallel.strategy.startswith("zero"):
        how = shown(config.parallel.strategy)
        reasons["parallel.offload_optimizer"] = f'it needs parallel.strategy = "zero2" or "zero3", which is {how}'
    if config.run.save_every == 0:
        reasons["run.keep_checkpoints"] = "it needs run.save_every above 0"
    if not config.run.trackers:
        reasons["run.tracker_images_every"] = "it needs run.trackers"
    if config.data.validation is None and not any(part.validation for part in config.mixture.values()):
        for key in ("data.validate_every", "run.keep_best", "run.patience"):
            reasons[key] = "it needs data.validation"
    return reasons


def first_conflict(config: Config) -> str | None:
    """Two settings that cannot both hold, or none of two of which one must, as a message; None if there are none."""
    if config.data.train is None and not config.mixture:
        return "data.train is missing; expected a folder that `virft build` made, or tables [mixture.NAME] of several"
    for key in ("train", "validation"):
        if (value := getattr(config.data, key)) is not None and config.mixture:
            wanted = "data" if key == "train" else key
            return f"data.{key} is {shown(value)} beside a mixture; expected it as {wanted} of a table [mixture.NAME]"
    for name in config.mixture:
        if not _NAMED_SET.fullmatch(f"mixture.{name}"):
            return f"mixture.{name}: expected a name of letters, digits, _ and -"
    if config.model.train == "lora" and not config.model.freeze_vision:
        return (
            'model.freeze_vision is false with model.train = "lora", which puts adapters into the language '
            'model only; expected freeze_vision = true, or train = "full"'
        )
    if config.model.load_in_4bit and config.model.train != "lora":
        return 'model.load_in_4bit is true with model.train = "full"; weights of 4 bits cannot be trained: "lora" can'
    if config.model.load_in_4bit and config.model.compile:
        return "model.compile is true with model.load_in_4bit = true, which was never tried; expected one of the two"
    if config.parallel.strategy.startswith("zero") and (odd := _odd_with_zero(config)):
        return f'{odd} with parallel.strategy = "{config.parallel.strategy}"; expected it as it is by default, or fsdp2'
    low, high = config.model.min_pixels, config.model.max_pixels
    if low is not None and high is not None and low > high:
        return f"model.min_pixels is {low}; expected at most model.max_pixels, which is {high}"
    least, most = config.grpo.min_base_score, config.grpo.max_base_score
    if least > most:
        return f"grpo.min_base_score is {least:g}; expected at most grpo.max_base_score, which is {most:g}"
    overlong, room = config.reward.overlong_tokens, config.sampling.max_completion_tokens
    if overlong > room:
        return f"reward.overlong_tokens is {overlong}; expected at most sampling.max_completion_tokens, which is {room}"
    for section, part in (("grpo", config.grpo), ("sft", config.sft)):
        if part.warmup_steps >= part.steps:
            warmup, steps = part.warmup_steps, part.steps
            return f"{section}.warmup_steps is {warmup}; expected less than {section}.steps, which is {steps}"
    return _compare_conflict(config.compare, has_validation=config.data.validation is not None)


def _odd_with_zero(config: Config) -> str | None:
    """What DeepSpeed's optimizer is not tried with, or cannot do: it steps on flat parts of many weights at once."""
    for name in ("load_in_4bit", "compile"):
        if getattr(config.model, name):
            return f"model.{name} is true"
    for section, part in (("grpo", config.grpo), ("sft", config.sft)):
        if part.optimizer != "adamw":
            return f"{section}.optimizer is {shown(part.optimizer)}"
        if config.model.train == "full" and part.name_lr_scale != 1:
            return f"{section}.name_lr_scale is {part.name_lr_scale:g}"
    return None


def _compare_conflict(compare: CompareConfig, *, has_validation: bool) -> str | None:
    for name in compare.systems:
        if name not in SYSTEMS:
            return f"compare.systems: {name!r} is none; expected some of {', '.join(SYSTEMS)}"
    if "sft_rft" in compare.systems and not {"sft", "rft"} <= set(compare.systems):
        return "compare.systems: sft_rft starts from sft and learns as rft does; expected both beside it"
    sft, rft = len(compare.sft_learning_rates), len(compare.rft_learning_rates)
    if sft != rft:
        return f"compare: {sft} learning rates for SFT and {rft} for RFT; expected as many for both"
    if sft > 1 and not has_validation:
        return "compare: learning rates are chosen on data.validation, which is not set"
    return None


SYSTEMS = ("sft", "rft", "sft_rft")

_NAMED_SET = re.compile(r"mixture\.[A-Za-z0-9_-]+")


def _default(f: Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not MISSING else f.default


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _is_kind(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated kind. True is no integer; an integer is no float here."""
    if len(options := _alternatives(kind)) > 1:
        return any(_is_kind(value, option) for option in options)
    origin = get_origin(kind)
    if origin is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if origin is tuple:
        item = get_args(kind)[0]
        return isinstance(value, tuple) and all(_is_kind(one, item) for one in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            isinstance(name, str) and type(number) in (int, float) for name, number in value.items()
        )
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


def _numbers(value: Any) -> list[float]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, tuple):
        return [one for one in value if type(one) in (int, float)]
    return [value] if type(value) in (int, float) else []


_WORDS = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def _kind_in_words(kind: Any) -> str:
    kind = next(option for option in _alternatives(kind) if option is not type(None))
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f'"{name}"' for name in get_args(kind))
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        if names := get_args(item):
            return "a list of " + ", ".join(f'"{name}"' for name in names)
        return "a list of strings" if item is str else "a list of numbers, each"
    if get_origin(kind) is Mapping:
        return "a table of numbers, each"
    return _WORDS[kind]


def shown(value: Any) -> str:
    """A value as a message shows it.

    >>> shown(None), shown(True), shown("lora"), shown(("a.py:f",))
    ('not set', 'true', '"lora"', "['a.py:f']")
    """
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return f'"{value}"' if isinstance(value, str) else str(value)
