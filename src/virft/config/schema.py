"""Settings of a run as one tree of dataclasses. Each field states its default, unit, limits and source.

``settings()`` lists them as data; ``docs/config.md`` and ``--dry-run`` print that list.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, NamedTuple, get_type_hints

from virft.config import vllm_memory
from virft.config.setting import Setting, default_of, format_value, setting_field
from virft.errors import ConfigError

_PAPER = "Visual-RFT code"


class _Section:
    """Checks its own values, so that the limits hold for a tree built in Python as for a file."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for setting in settings_of(type(self)):
            setting.check(getattr(self, setting.key.rpartition(".")[2]))


Method = Literal["grpo", "sft"]
"""Training methods: GRPO, and supervised fine-tuning."""
DtypeName = Literal["float32", "bfloat16"]
Dtype = Literal["auto", "float32", "bfloat16"]
"""A precision; "auto" is resolved by ``virft.models.precision``."""
Strategy = Literal["ddp", "fsdp2", "zero2", "zero3"]
OptimizerName = Literal["adamw", "adamw_8bit"]
Schedule = Literal["linear", "constant", "cosine"]
LossKind = Literal["sequence_mean", "token_mean", "constant_length"]
DemonstrationMode = Literal["off", "group", "loss"]
SFTTargets = Literal["labels", "curated", "rejection"]
NUM_NEAR_RIGHT = 5
"""Near-right answers of a target with boxes (``grpo.near_right``)."""
MonitorName = Literal[
    "kl",
    "length",
    "entropy",
    "zero_std",
    "unreadable",
    "at_most_1",
    "truncated",
    "accuracy",
    "collapse",
    "boxes",
    "reward_hacking",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(_Section):
    """``[model]``: the model, the precision, and the weights that are trained."""

    path: str = setting_field(
        "virft-tiny",
        help="`virft-tiny` or `virft-photo` (parts of virft), a run folder (its best model), a model folder, or a "
        "Hugging Face hub id.",
    )
    dtype: Dtype = setting_field(
        "auto",
        help="Precision of forward and backward passes. `auto`: bfloat16 on a GPU that supports it, else float32. "
        "Trained weights and optimizer states are always float32.",
    )
    tf32: bool = setting_field(
        True,
        help="Multiply float32 matrices in TF32 on a GPU: inputs rounded to 10 bits after the binary point, several "
        "times faster. No effect on a CPU.",
    )
    train: Literal["full", "lora"] = setting_field(
        "full", help="`full` trains all weights that are not frozen; `lora` trains adapters in the language model."
    )
    freeze_vision: bool = setting_field(
        True,
        help="Freeze the vision tower and the projector. In V-Triune, training the tower made detection collapse.",
        source="V-Triune",
    )
    feature_cache_gib: float = setting_field(
        2.0,
        help="Size of the cache of image features, which a frozen tower computes once per image: in main memory, in "
        "every process. An image has 1 to 5 MiB. The least recently used are computed again if they do not fit.",
        unit="GiB",
        above=0,
    )
    lora_rank: int = setting_field(32, help="Rank of the LoRA adapters.", at_least=1)
    lora_alpha: int = setting_field(
        64, help="LoRA scaling: adapters are multiplied by lora_alpha / lora_rank.", at_least=1
    )
    load_in_4bit: bool = setting_field(
        False,
        help="Store the frozen weights of the language model in 4 bits under LoRA adapters (QLoRA, NF4). Needs "
        "the extra `quant`.",
        source="QLoRA",
    )
    gradient_checkpointing: bool = setting_field(
        False,
        help="Store only the input of each layer and recompute its activations in the backward pass: much less memory, "
        "about a third more time per optimizer step, the same gradients.",
    )
    compile: bool = setting_field(
        False,
        help="Compile the layers of the language model with torch.compile: the first step takes up to half a minute "
        "longer; after that, policy and reference forward passes are faster in bfloat16. Does not change sampling. "
        "Needs a C++ compiler.",
    )
    min_pixels: int | None = setting_field(
        None,
        help="Minimum area of a resized image; smaller images are enlarged. Not set: the model's own.",
        unit="pixels",
        at_least=1,
    )
    max_pixels: int | None = setting_field(
        None,
        help="Maximum area of a resized image; larger images are shrunk (the paper: 401408). Not set: the model's own.",
        unit="pixels",
        at_least=1,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(_Section):
    """``[data]``: training and validation datasets, folders made by ``virft build``."""

    train: str | None = setting_field(
        None, help="Training dataset. Not set: the tables `[mixture.NAME]` are required.", unit="folder"
    )
    validation: str | None = setting_field(
        None,
        help="Validation dataset, scored during training; never use the test set. Not set: no validation.",
        unit="folder",
    )
    validate_every: int = setting_field(
        0,
        help="Validate every N steps. 0: only before the first and after the last step.",
        unit="steps",
        at_least=0,
    )
    exclude: str | None = setting_field(
        None,
        help="Samples of the training data that are not trained on: a `suspects.jsonl` of `virft check --suspects`, "
        "or a text file with one sample id per line. Not set: all are.",
        unit="file",
    )
    num_workers: int | None = setting_field(
        None,
        help="Threads that decode, augment and resize the images of the next step while this one is sampled, in every "
        "process. 0: images are read when their step begins. Not set: up to 4 with a GPU, 0 on a CPU.",
        unit="threads",
        at_least=0,
        at_most=64,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureConfig(_Section):
    """``[mixture.NAME]``: one of several training datasets, in place of ``data.train``; logs call it NAME."""

    data: str = setting_field(help="Training dataset; each sample has its own task.", unit="folder")
    weight: float = setting_field(
        1.0,
        help="Fraction of training samples from this dataset: weight / sum of the weights of all datasets.",
        above=0,
    )
    thinking: bool | None = setting_field(
        None, help="Overrides `prompt.thinking` for this dataset. Not set: as `prompt.thinking`."
    )
    preset: Literal["robust", "paper"] | None = setting_field(
        None, help="Overrides `reward.preset` for this dataset. Not set: as `reward.preset`."
    )
    validation: str | None = setting_field(
        None,
        help="Validation dataset, prompted like this one; never use the test set. Not set: no validation on it.",
        unit="folder",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig(_Section):
    """``[augment]``: data augmentation, drawn anew at each use of a sample. Boxes are transformed with the image."""

    resized_crop: float = setting_field(
        0.0,
        help="Random resized crop (detection): remove at most this fraction of width and height; no target box is cut. "
        "0 disables it.",
        unit="fraction",
        at_least=0,
        at_most=0.9,
    )
    horizontal_flip: bool = setting_field(
        False,
        help="Flip half of the images horizontally. Referring expressions and classes that name a side (left, right) "
        "are never flipped.",
    )
    colour_jitter: float = setting_field(
        0.0,
        help="Colour jitter: change saturation and contrast by at most this fraction, brightness by a quarter of it. "
        "0 disables it.",
        unit="fraction",
        at_least=0,
        at_most=1,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptConfig(_Section):
    """``[prompt]``: prompt template, thinking mode and zoom calls."""

    template: str = setting_field(
        "auto",
        help="`paper`, `short`, `auto` (the template in the model card, else `paper`), or a text file with `{query}`.",
    )
    thinking: bool = setting_field(
        False,
        help="Prompt for a `<think>` block before the answer. It hurts plain perception and helps reasoning.",
        source="Perception-R1",
    )
    zoom_calls: bool = setting_field(
        False,
        help="Offer a zoom call in the prompt: a completion may first request a region of the image, gets it enlarged "
        "as a second image, and then answers, see docs/zoom.md.",
        source="DeepEyes (arXiv 2505.14362)",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig(_Section):
    """``[sampling]``: sampling of rollout completions. Top-k and top-p are always off."""

    temperature: float = setting_field(
        1.0,
        help="Sampling temperature; log-probs of policy and reference are computed at the same one.",
        source=_PAPER,
        above=0,
        at_most=10,
    )
    max_completion_tokens: int = setting_field(
        256,
        help="Maximum length of a completion; longer ones are truncated and counted in `truncated_frac`.",
        unit="tokens",
        source=_PAPER,
        at_least=1,
    )
    prompts_per_batch: int | None = setting_field(
        None,
        help="Prompts that are sampled concurrently: fewer need less memory for the KV cache. The others wait, and "
        "each takes the place of a prompt whose completions have all ended. Not set: all prompts of a step.",
        unit="prompts",
        at_least=1,
    )
    engine: Literal["builtin", "vllm"] = setting_field(
        "builtin", help="`builtin` samples with the policy itself; `vllm` needs the extra `vllm`, see docs/vllm.md."
    )
    weights: Literal["auto", "exact", "merged"] = setting_field(
        "auto",
        help="Weights that the built-in sampler decodes with. `exact`: those of the policy, so that log-probs of "
        "sampler and policy differ by rounding alone; `merged`: one copy of base and adapters per sampling batch, in "
        "the compute precision, which halves the GPU kernels of a token; importance weights correct for its rounding. "
        "`auto`: `merged` for LoRA in bfloat16 on a GPU, else `exact`.",
    )
    cuda_graph: bool = setting_field(
        False,
        help="On a GPU, the built-in sampler replays each decode step as one CUDA graph over a static KV cache. "
        "Completions are the same. Not with quantized weights. No effect on a CPU. Off by default, because it has not "
        "run on a GPU yet.",
    )
    vllm_mode: Literal["auto", "colocated", "server"] = setting_field(
        "auto",
        help="`colocated`: vLLM runs in each training process and sleeps during optimizer steps; `server`: in server "
        "processes; `auto`: `server` on a CPU and with `vllm_devices` or `vllm_servers`, else `colocated`.",
    )
    vllm_devices: tuple[int, ...] = setting_field(
        (),
        help="GPUs of each machine for vLLM servers, as indices that PyTorch gives them. The training processes use "
        "the first ones. Empty: a server shares the GPU of the process that starts it.",
        at_least=0,
    )
    vllm_servers: int | None = setting_field(
        None,
        help="vLLM servers of each machine, among which its training processes are divided evenly. Not set: one for "
        "each process, or one for each `vllm_tensor_parallel` of the `vllm_devices`.",
        unit="servers",
        at_least=1,
    )
    vllm_tensor_parallel: int = setting_field(
        1,
        help="Number of GPUs over which each vLLM engine divides the weights of the language model.",
        unit="GPUs",
        at_least=1,
    )
    vllm_timeout_minutes: float = setting_field(
        30.0,
        help="Longest wait for a vLLM server: its start, the completions of a batch, new weights. After it the server "
        "is killed, and its requests go to another one. If twice this time is not below `parallel.timeout_minutes`, "
        "the other processes may stop waiting first.",
        unit="minutes",
        above=0,
    )
    vllm_restarts: int = setting_field(
        3,
        help="Number of times that each lost vLLM server is started again. 0: never.",
        unit="restarts",
        at_least=0,
    )
    vllm_gpu_memory: float = setting_field(
        vllm_memory.DEFAULT_FRAC,
        help="Fraction of the accelerator's memory for vLLM. On a CPU vLLM always takes 1 GiB for its KV cache.",
        unit="fraction",
        source="TRL",
        above=0,
        at_most=vllm_memory.MAX_FRAC,
    )
    max_staleness: int = setting_field(
        0,
        help="Largest number of training steps between the weights that sample a group and those that are trained on "
        "it. 0: on-policy. 1: one step off-policy: a step's groups are sampled with the weights before the update of "
        "the step before, while vLLM in a process of its own can sample during that update; importance weights "
        "correct the loss.",
        unit="steps",
        at_least=0,
        at_most=1,
    )
    importance_cap: float = setting_field(
        2.0,
        help="Maximum importance weight of a token that vLLM, merged weights or older weights sampled: exp(log-prob of "
        "the policy - log-prob of the sampler).",
        source="truncated importance sampling (Yao et al., 2025)",
        at_least=1,
        at_most=100,
    )

    def serves_vllm(self, *, on_cpu: bool) -> bool:
        """True if vLLM runs in server processes, False if it runs in the training processes."""
        if self.vllm_mode == "auto":
            return on_cpu or bool(self.vllm_devices) or self.vllm_servers is not None
        return self.vllm_mode == "server"

    def num_vllm_servers(self, num_processes: int) -> int:
        """Number of vLLM servers of a machine with N training processes."""
        if self.vllm_devices:
            return len(self.vllm_devices) // self.vllm_tensor_parallel
        return self.vllm_servers or num_processes


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardConfig(_Section):
    """``[reward]``: reward functions and their weights."""

    preset: Literal["robust", "paper"] = setting_field(
        "robust", help="`paper`: the published formulas. `robust`: the same idea with known exploits closed."
    )
    weights: Mapping[str, float] = setting_field(
        default_factory=dict,
        help="Weight of each reward part in the total, by name. Parts without an entry have the preset's weight; 0 "
        "disables a part.",
        at_least=0,
    )
    iou_threshold: float = setting_field(
        0.5, help="IoU from which a box matches the ground truth.", unit="IoU", source=_PAPER, at_least=0, at_most=1
    )
    iou_threshold_end: float | None = setting_field(
        None,
        help="Schedule: move the threshold linearly from `iou_threshold` to this over the run. Not set: constant.",
        unit="IoU",
        at_least=0,
        at_most=1,
    )
    check_labels: bool = setting_field(
        False,
        help="Detection: count a predicted box whose own label names another class than the question as a false "
        "positive. `false`: labels in boxes are ignored.",
    )
    overlong_tokens: int = setting_field(
        0,
        help="Length penalty: the part `overlong` falls from 0 to -1 over the last N tokens before "
        "`sampling.max_completion_tokens`; truncated completions have -1. 0 disables it.",
        unit="tokens",
        source="DAPO, soft overlong punishment",
        at_least=0,
    )
    segmenter: str | None = setting_field(
        None,
        help="Folder or hub id of a SAM or SAM 2 model. Adds the reward part `mask`: the IoU of the target's mask and "
        "the mask that this model makes of the predicted box, in detection the sum over matched boxes / max(N, M); "
        "preset `robust`: 0 if the box IoU is below 0.5. It is added to questions whose objects all have a mask "
        "(grounding, detection of one class or several). Not set: no masks.",
        source="SAM-R1 (arXiv 2505.22596)",
    )
    segmenter_cache_gib: float = setting_field(
        4.0,
        help="Size of the cache of the segmenter's image embeddings: in main memory, in every process. An image has "
        "4 MiB (SAM) or 16 MiB (SAM 2). The least recently used are computed again if they do not fit.",
        unit="GiB",
        above=0,
    )
    extra: tuple[str, ...] = setting_field((), help='Custom reward functions, each as "file.py:function".')


@dataclass(frozen=True, kw_only=True, slots=True)
class GRPOConfig(_Section):
    """``[grpo]``: hyperparameters of GRPO."""

    steps: int = setting_field(200, help="Training steps.", unit="steps", source=_PAPER, at_least=1)
    prompts_per_step: int = setting_field(
        16,
        help="Batch size: prompts per step, over all processes. Each gets `group_size` completions.",
        unit="prompts",
        source=_PAPER,
        at_least=1,
    )
    group_size: int = setting_field(
        8,
        help="Completions per prompt (G); advantages are relative to their mean reward.",
        unit="completions",
        source=_PAPER,
        at_least=2,
    )
    learning_rate: float = setting_field(
        1e-6,
        help="Peak learning rate of AdamW.",
        source=_PAPER,
        above=0,
        at_most=1,
    )
    name_lr_scale: float = setting_field(
        1.0,
        help="Learning-rate multiplier for the input embeddings of class-name tokens: rows that pre-training hardly "
        "used need larger steps. With tied embeddings it applies to the output layer too.",
        above=0,
        at_most=1000,
    )
    vision_lr_scale: float = setting_field(
        1.0,
        help="Learning-rate multiplier for the vision tower; usually below 1.",
        above=0,
        at_most=1000,
    )
    projector_lr_scale: float = setting_field(
        1.0,
        help="Learning-rate multiplier for the projector between vision tower and language model.",
        above=0,
        at_most=1000,
    )
    optimizer: OptimizerName = setting_field(
        "adamw",
        help="`adamw_8bit` stores the optimizer states in 8 bits: 2 bytes per trained weight instead of 8. Needs "
        "the extra `quant`.",
    )
    schedule: Schedule = setting_field(
        "linear", help="Learning-rate schedule after warm-up; `linear` and `cosine` decay to 0.", source=_PAPER
    )
    warmup_steps: int = setting_field(
        0, help="Linear warm-up of the learning rate from 0. 0 disables it.", unit="steps", at_least=0
    )
    weight_decay: float = setting_field(
        0.0, help="AdamW weight decay (decoupled). 0 disables it.", source=_PAPER, at_least=0, at_most=1
    )
    max_grad_norm: float = setting_field(
        1.0, help="Gradient clipping: larger global norms are scaled down to this.", source=_PAPER, above=0
    )
    kl_coef: float = setting_field(
        0.04,
        help="Coefficient of the KL penalty against the reference model (the paper's beta). 0: no KL penalty, no "
        "reference model.",
        source=_PAPER,
        at_least=0,
    )
    kl_coef_end: float | None = setting_field(
        None, help="Schedule: move the coefficient linearly from `kl_coef` to this. Not set: constant.", at_least=0
    )
    loss: LossKind = setting_field(
        "sequence_mean",
        help="Aggregation of token losses. `sequence_mean`: mean over the tokens of a completion, then over "
        "completions (GRPO); `token_mean`: mean over all tokens (DAPO); `constant_length`: sum over tokens / "
        "max_completion_tokens (Dr. GRPO).",
        source=_PAPER,
    )
    scale_by_std: bool = setting_field(
        True,
        help="Divide advantages by the reward standard deviation of the group. false: subtract only the mean "
        "(Dr. GRPO).",
        source=_PAPER,
    )
    mask_truncated: bool = setting_field(
        False,
        help="Exclude truncated completions from the loss; they still count in the mean reward of their group.",
        source="DAPO, overlong filtering",
    )
    refill_rounds: int = setting_field(
        0,
        help="Dynamic sampling: replace groups without reward variance, whose advantages are all 0, by groups of other "
        "samples, in at most N additional sampling rounds per step. 0 disables it.",
        unit="rounds",
        source="DAPO, dynamic sampling",
        at_least=0,
        at_most=10,
    )
    warm_start_steps: int = setting_field(
        0,
        help="Warm start: take the first N of `steps` as supervised steps on the ground truth, with the learning rate "
        "and the schedule of `[sft]`; nothing is sampled in them. The others are GRPO, from the weights that the warm "
        "start ends with. 0: no warm start.",
        unit="steps",
        at_least=0,
    )
    demonstrations: DemonstrationMode = setting_field(
        "off",
        help="Train on the ground truth of each prompt too, as one more completion in its packed row. `loss`: add "
        "`demonstration_coef` times its cross-entropy to the GRPO loss. `group`: reward it as one more completion of "
        "the group, whose log-probs are weighted by its advantage. `off`: GRPO as in the paper.",
        source="`loss`: CHORD, SRFT; `group`: LUFFY",
    )
    demonstration_coef: float = setting_field(
        0.2,
        help="Coefficient of the cross-entropy of the demonstrations with `demonstrations` = `loss`, a mean over their "
        "tokens in the step.",
        at_least=0,
    )
    demonstration_coef_end: float | None = setting_field(
        None,
        help="Schedule: move the coefficient linearly from `demonstration_coef` to this; the same value: constant.",
        at_least=0,
    )
    demonstration_fade: bool = setting_field(
        False,
        help="Multiply the coefficient of each group by 1 - the mean score (F1, IoU or accuracy) of its completions, "
        "so that solved samples are not demonstrated.",
    )
    demonstration_in_mean: bool = setting_field(
        False,
        help="With `demonstrations` = `group`, count demonstrations in the mean and the standard deviation of the "
        "rewards of their group, which lowers the advantages of its completions. false: these stay as without "
        "demonstrations.",
    )
    near_right: bool = setting_field(
        False,
        help="With `demonstrations` = `group`, add near-right answers to each group about boxes: the target with all "
        "boxes at IoU 0.95, 0.8 and 0.6, with one box missing, and with one box twice, each with its own reward.",
    )
    min_base_score: float = setting_field(
        0.0,
        help="Before training, sample `group_size` completions of each training sample from the base model and exclude "
        "samples whose mean score (F1, IoU or accuracy) is below this. If it is 0 and `max_base_score` is 1, no sample "
        "is excluded and the base model is not evaluated. Ignored by `virft sft`.",
        unit="score",
        at_least=0,
        at_most=1,
    )
    max_base_score: float = setting_field(
        1.0, help="Exclude samples whose mean score is above this too.", unit="score", at_least=0, at_most=1
    )
    updates_per_batch: int = setting_field(
        1,
        help="Optimizer steps on the completions of one step. 1: on-policy; above 1 the later ones are off-policy and "
        "clipped by `clip_range`.",
        unit="updates",
        source=_PAPER,
        at_least=1,
    )
    clip_range: float = setting_field(
        0.2,
        help="PPO clipping (epsilon): the probability ratio is clipped to [1 - epsilon, 1 + epsilon].",
        source="PPO",
        above=0,
        at_most=1,
    )
    microbatch_tokens: int = setting_field(
        4096,
        help="Maximum tokens of one forward and backward pass (gradient accumulation): bounds memory and does not "
        "change the result.",
        unit="tokens",
        at_least=1,
    )

    @property
    def has_reference(self) -> bool:
        """True if any step has a KL penalty, so that a reference model is needed."""
        return self.kl_coef > 0 or bool(self.kl_coef_end)

    @property
    def max_demonstrations(self) -> int:
        """Largest number of demonstrations of a group, near-right answers included."""
        if self.demonstrations == "off":
            return 0
        return 1 + NUM_NEAR_RIGHT if self.near_right else 1

    @property
    def filters(self) -> bool:
        """True if samples are excluded by the score of the base model."""
        return self.min_base_score > 0 or self.max_base_score < 1


WARM_START_KEYS = ("sft.learning_rate", "sft.schedule", "sft.warmup_steps")
"""Settings of ``[sft]`` that the warm start of GRPO uses too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SFTConfig(_Section):
    """``[sft]``: hyperparameters of ``virft sft``; model, data, prompt and augmentation are set in their own tables."""

    steps: int = setting_field(100, help="Training steps.", unit="steps", at_least=1)
    samples_per_step: int = setting_field(
        16, help="Batch size: samples per step, over all processes.", unit="samples", at_least=1
    )
    learning_rate: float = setting_field(1e-5, help="Peak learning rate of AdamW.", above=0, at_most=1)
    name_lr_scale: float = setting_field(1.0, help="As `grpo.name_lr_scale`.", above=0, at_most=1000)
    vision_lr_scale: float = setting_field(1.0, help="As `grpo.vision_lr_scale`.", above=0, at_most=1000)
    projector_lr_scale: float = setting_field(1.0, help="As `grpo.projector_lr_scale`.", above=0, at_most=1000)
    optimizer: OptimizerName = setting_field("adamw", help="As `grpo.optimizer`.")
    schedule: Schedule = setting_field("cosine", help="As `grpo.schedule`.")
    warmup_steps: int = setting_field(
        0, help="Linear warm-up of the learning rate from 0. 0 disables it.", unit="steps", at_least=0
    )
    weight_decay: float = setting_field(0.0, help="As `grpo.weight_decay`.", at_least=0, at_most=1)
    max_grad_norm: float = setting_field(1.0, help="As `grpo.max_grad_norm`.", above=0)
    microbatch_tokens: int = setting_field(4096, help="As `grpo.microbatch_tokens`.", unit="tokens", at_least=1)
    targets: SFTTargets = setting_field(
        "labels",
        help="Training targets. `labels`: the ground truth of all samples. `curated`: the ground truth of the samples "
        "that the base model sometimes solves (difficulty-curated, DC-SFT). `rejection`: the base model's own correct "
        "completions (rejection sampling).",
    )
    base_completions: str | None = setting_field(
        None,
        help="Folder with the `base_completions.jsonl` of the training samples, which `virft compare` and a run with "
        "`grpo.min_base_score` write. `virft compare` sets it itself.",
        unit="folder",
    )
    curated_above: float = setting_field(
        0.0,
        help="Train on samples whose mean score over the base model's completions (F1, IoU or accuracy) is above this.",
        unit="score",
        at_least=0,
        at_most=1,
    )
    rejection_above: float = setting_field(
        0.5,
        help="A completion of the base model is a target if its score is above this. Samples without one are excluded.",
        unit="score",
        at_least=0,
        at_most=1,
    )
    rejection_keep: Literal["best", "distinct"] = setting_field(
        "best",
        help="Targets of a sample: its `best` correct completion, or all `distinct` ones; each step draws one of them.",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelConfig(_Section):
    """``[parallel]``: distributed training. The number of processes (world size) is set by `accelerate launch`."""

    strategy: Strategy = setting_field(
        "ddp",
        help="`ddp`: each process has a full copy of weights and optimizer states. `fsdp2`: both are sharded; all "
        "weights are gathered for sampling. `zero2`, `zero3`: DeepSpeed ZeRO, gradients and optimizer states are "
        "sharded, with `zero3` the weights too. A single process shards nothing.",
    )
    shard_size: int | None = setting_field(
        None,
        help="Hybrid sharding (HSDP): with `fsdp2`, shard over groups of N processes, such as those of one machine; "
        "each group has all weights. Must divide the number of processes. Not set: shard over all processes.",
        unit="processes",
        at_least=1,
    )
    offload_optimizer: bool = setting_field(
        False,
        help="Store gradients and optimizer states in CPU memory and take the optimizer step there (DeepSpeed). It "
        "saves accelerator memory with a single process too.",
    )
    timeout_minutes: float = setting_field(
        60.0,
        help="Longest wait of a process for the others, such as for one that samples longer completions or writes a "
        "model to a slow disk. After it the run ends with an error.",
        unit="minutes",
        above=0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class MonitorsConfig(_Section):
    """``[monitors]``: training-health monitors. Each warning is printed and recorded in `events.jsonl`."""

    nonfinite: Literal["skip", "stop"] = setting_field(
        "skip",
        help="If a reward, the loss or the gradient norm is NaN or infinite: `skip` the optimizer step and continue, "
        "or `stop` the run. The samples are named.",
    )
    nonfinite_steps: int = setting_field(
        3,
        help="After N skipped steps in a row, roll back to the last checkpoint; stop if it happens again.",
        unit="steps",
        at_least=1,
    )
    window: int = setting_field(
        10, help="Length of the moving averages that the checks below compare.", unit="steps", at_least=1
    )
    max_kl: float = setting_field(
        10.0,
        help="Warn if the mean per-token KL exceeds this value. 0 disables the check.",
        unit="nats",
        at_least=0,
    )
    max_length_ratio: float = setting_field(
        4.0,
        help="Warn if completions are longer than this multiple of their mean length in the first `window` steps. 0 "
        "disables the check.",
        unit="ratio",
        at_least=0,
    )
    min_entropy_ratio: float = setting_field(
        0.1,
        help="Entropy collapse: warn if the mean per-token entropy falls below this fraction of its value in the first "
        "`window` steps. 0 disables the check.",
        unit="ratio",
        at_least=0,
        at_most=1,
    )
    max_zero_std_steps: int = setting_field(
        20,
        help="Warn after N steps in a row in which no group had reward variance, so nothing was learned. 0 disables "
        "the check.",
        unit="steps",
        at_least=0,
    )
    max_unreadable_frac: float = setting_field(
        0.5,
        help="Warn if more than this fraction of completions cannot be parsed. 0 disables the check.",
        unit="fraction",
        at_least=0,
        at_most=1,
    )
    max_at_most_1_frac: float = setting_field(
        0.1,
        help="Warn if in more than this fraction of completions all box coordinates are at most 1: the model writes "
        "fractions of the image, which are unreadable. 0 disables the check.",
        unit="fraction",
        at_least=0,
        at_most=1,
    )
    max_truncated_frac: float = setting_field(
        0.5,
        help="Warn if more than this fraction of completions is truncated. 0 disables the check.",
        unit="fraction",
        at_least=0,
        at_most=1,
    )
    min_accuracy_frac: float = setting_field(
        0.1,
        help="Warn if the mean reward rises and less than this fraction of the rise comes from a part that measures "
        "accuracy (`iou`, `giou`, `mask`, `label`, `count`, custom rewards), while that part is in the lower half of "
        "its range. Parts whose IoU threshold rises over the run are not checked. 0 disables the check.",
        unit="fraction",
        at_least=0,
        at_most=1,
    )
    max_common_answer_frac: float = setting_field(
        0.4,
        help="Collapse: warn if the fraction of images with the same answer exceeds the fraction of images with the "
        "same target by more than this, in sampled answers or in validation. 0 disables the check.",
        unit="fraction",
        at_least=0,
        at_most=1,
    )
    max_score_drop: float = setting_field(
        0.05,
        help="Warn if the validation score falls below its best value by more than this while the mean reward (reward "
        "hacking), the number of boxes, or the fraction of duplicate boxes rises. 0 disables the check.",
        unit="score",
        at_least=0,
        at_most=1,
    )
    stop_on: tuple[MonitorName, ...] = setting_field(
        (),
        help="Checks that save a checkpoint and end the run instead of warning. `zero_std` is the check of "
        "`max_zero_std_steps`, `accuracy` that of `min_accuracy_frac`, `collapse` that of `max_common_answer_frac`, "
        "`reward_hacking` and `boxes` are those of `max_score_drop`.",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareConfig(_Section):
    """``[compare]``: systems, tests and budget of ``virft compare``; other verbs do not read it."""

    systems: tuple[str, ...] = setting_field(
        ("sft", "rft"),
        help="Systems to train and compare with the base: `sft`; `curated_sft` (SFT on the samples that the base "
        "sometimes solves); `rejection_sft` (SFT on the base's own correct completions); `rft` (GRPO); `sft_rft` "
        "(GRPO after a warm start, `grpo.warm_start_steps`); `mix` (GRPO with demonstrations, `grpo.demonstrations`); "
        "`sft_mix` (mix after a warm start).",
    )
    tests: tuple[str, ...] = setting_field((), help="Test datasets; they are never used for tuning.")
    seeds: int = setting_field(
        3, help="Training runs per system, with the seeds `seed`, `seed` + 1, ...", unit="runs", at_least=1
    )
    budget: Literal["samples", "tokens", "seconds", "own"] = setting_field(
        "samples",
        help="All systems get the budget of RFT: of samples (and steps), of tokens (prompts and completions), or of "
        "seconds. `own`: SFT trains as `[sft]` says.",
    )
    warm_start_frac: float = setting_field(
        0.5,
        help="Fraction of the steps of `sft_rft` and `sft_mix` that are the warm start; the others are GRPO.",
        above=0,
        at_most=1,
    )
    noise_repeats: int = setting_field(
        0,
        help="Repeat the base model's predictions N times, in other batches. Differences between systems that do not "
        "exceed the largest change of a metric (the repeatability limit) are ties. 0: no limit.",
        unit="repeats",
        at_least=0,
        at_most=100,
    )
    sft_learning_rates: tuple[float, ...] = setting_field(
        (),
        help="Learning rates tried for each SFT system with the first seed; the best on `data.validation` is used. "
        "Empty: `sft.learning_rate`.",
        above=0,
    )
    rft_learning_rates: tuple[float, ...] = setting_field(
        (),
        help="The same for GRPO systems; as many as for SFT, so that none is tuned more. A system with a warm start "
        "tries pairs: the lowest rate of both lists, the second lowest, ... Empty: `grpo.learning_rate`.",
        above=0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig(_Section):
    """``[run]``: run folder, checkpoints, logging."""

    dir: str = setting_field(help="Output folder of this run; an error if it holds another run.", unit="folder")
    save_every: int = setting_field(
        50, help="Save a checkpoint every N steps. 0: only after the last step.", unit="steps", at_least=0
    )
    keep_best: bool = setting_field(True, help="Save the model with the best validation score in `best` of `run.dir`.")
    patience: int = setting_field(
        0,
        help="Early stopping: end the run after N validations in a row without a better score. 0 disables it.",
        unit="validations",
        at_least=0,
    )
    keep_checkpoints: int = setting_field(
        2, help="Number of checkpoints to retain; older ones are deleted.", unit="checkpoints", at_least=1
    )
    log_every: int = setting_field(
        1,
        help="Print a line every N steps. `metrics.jsonl` has every step.",
        unit="steps",
        at_least=1,
    )
    save_dtype: DtypeName = setting_field(
        "float32",
        help="Precision of the weights in the saved models `best` and `model`. bfloat16 halves their size and rounds "
        "the trained weights; checkpoints stay float32, so that resuming is exact.",
    )
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = setting_field(
        (), help="Experiment trackers that receive the metrics too; each is a package that must be installed."
    )
    tracker_images_every: int = setting_field(
        20,
        help="Log images of completions to the trackers every N steps. 0: never.",
        unit="steps",
        at_least=0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(_Section):
    """Settings of a run. ``run.dir`` and the training data, ``data.train`` or ``mixture``, have no default."""

    seed: int = setting_field(
        0,
        help="Random seed of the run: data order, sampling, augmentation, LoRA initialization.",
        at_least=0,
        at_most=2**63 - 1,
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    """Model, precision and trained weights."""
    data: DataConfig = field(default_factory=DataConfig)
    """Training and validation datasets."""
    mixture: Mapping[str, MixtureConfig] = field(default_factory=dict)
    """Several training datasets by name, in place of ``data.train``."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Data augmentation."""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """Prompt template and thinking mode."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Sampling of rollout completions."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """Reward functions and their weights."""
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    """Hyperparameters of GRPO."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """Hyperparameters of SFT."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Distributed training."""
    monitors: MonitorsConfig = field(default_factory=MonitorsConfig)
    """Training-health monitors."""
    compare: CompareConfig = field(default_factory=CompareConfig)
    """Systems, tests and budget of a comparison."""
    run: RunConfig
    """Run folder, checkpoints, logging."""

    def __post_init__(self) -> None:
        _Section.__post_init__(self)
        if conflict := first_conflict(self):
            raise ConfigError(conflict)

    @property
    def prediction_thinking(self) -> bool:
        """Thinking mode of test predictions: that of all datasets of a mixture if they agree, else ``prompt.thinking``.

        The card of the saved model has the same.
        """
        default = self.prompt.thinking
        modes = {default if part.thinking is None else part.thinking for part in self.mixture.values()}
        return modes.pop() if len(modes) == 1 else default


COMPARED_SYSTEMS = ("sft", "curated_sft", "rejection_sft", "rft", "sft_rft", "mix", "sft_mix")
"""Systems of a comparison, next to the base."""
WARM_STARTED = ("sft_rft", "sft_mix")
"""Systems with a warm start (``grpo.warm_start_steps``)."""
MIXED = ("mix", "sft_mix")
"""Systems with demonstrations in their GRPO steps."""

MIXTURE = "mixture.NAME"
"""Section of each dataset of a mixture, whatever its name."""
_MIXTURE_KEY = re.compile(r"mixture\.[A-Za-z0-9_-]+")


@cache
def settings() -> tuple[Setting, ...]:
    """Return every setting in the order of the tree; those of a mixture as ``mixture.NAME.data`` and so on.

    >>> settings()[0].key, settings()[1].key
    ('seed', 'model.path')
    """
    return tuple(setting for section in (Config, *sections().values()) for setting in settings_of(section))


@cache
def sections() -> Mapping[str, type]:
    """Return the dataclass of each section by name, in the order of the tree; last that of ``mixture.NAME``."""
    hints = get_type_hints(Config)
    own = {f.name: hints[f.name] for f in fields(Config) if is_dataclass(hints[f.name])}
    return {**own, MIXTURE: MixtureConfig}


def describe_section(section: type) -> str:
    """Return what a section is for, from the first line of its docstring.

    >>> describe_section(sections()["data"])
    'training and validation datasets, folders made by `virft build`'
    """
    first = (section.__doc__ or "").partition("\n")[0]
    return first.partition("``: ")[2].rstrip(".").replace("``", "`")


def settings_of(section: type) -> tuple[Setting, ...]:
    """Return the settings of one dataclass of the tree, without those of its sections, with full dotted keys."""
    prefix = "" if section is Config else next(f"{name}." for name, kind in sections().items() if kind is section)
    hints = get_type_hints(section)
    return tuple(
        Setting(key=prefix + f.name, kind=hints[f.name], default=default_of(f), **f.metadata)
        for f in fields(section)
        if f.metadata
    )


def setting_at(key: str) -> Setting:
    """Return the setting of a dotted key; ``KeyError`` if there is none.

    >>> setting_at("mixture.coco.weight").key
    'mixture.coco.weight'
    """
    section, _, name = key.rpartition(".")
    general = f"{MIXTURE}.{name}" if _MIXTURE_KEY.fullmatch(section) else key
    return replace({setting.key: setting for setting in settings()}[general], key=key)


def values(config: Config) -> Iterator[tuple[Setting, Any]]:
    """Yield every setting with its value in this tree."""
    parts = {"": config} | {f"{section}.": getattr(config, section) for section in sections() if section != MIXTURE}
    parts |= {f"mixture.{name}.": part for name, part in config.mixture.items()}
    for prefix, part in parts.items():
        for setting in settings_of(type(part)):
            name = setting.key.rpartition(".")[2]
            yield replace(setting, key=prefix + name), getattr(part, name)


class _Rule(NamedTuple):
    """A condition of a tree, and what it means there.

    ``message`` is formatted with the tree as ``c``, and with the value of the condition as ``found``.
    """

    applies: Callable[[Config], object]
    message: str

    def check(self, config: Config) -> str | None:
        """Return the message if the condition holds."""
        found = self.applies(config)
        return self.message.format(c=config, found=found) if found else None


class _Condition(NamedTuple):
    """Condition under which some settings have an effect."""

    needs: str
    """The condition under which they have one, as it is printed."""
    unless: _Rule
    """The opposite, and the reason that is given then."""
    keys: tuple[str, ...]


_CONDITIONS: tuple[_Condition, ...] = (
    _Condition(
        'model.train = "lora"',
        _Rule(lambda c: c.model.train != "lora", 'it needs model.train = "lora", which is "{c.model.train}"'),
        ("model.lora_rank", "model.lora_alpha"),
    ),
    _Condition(
        'model.train = "full"',
        _Rule(lambda c: c.model.train == "lora", 'with model.train = "lora" embeddings are not trained'),
        ("grpo.name_lr_scale", "sft.name_lr_scale"),
    ),
    _Condition(
        'model.train = "full"',
        _Rule(lambda c: c.model.train == "lora", 'with model.train = "lora" adapters are saved, which are small'),
        ("run.save_dtype",),
    ),
    _Condition(
        'model.dtype = "auto" or "float32"',
        _Rule(lambda c: c.model.dtype == "bfloat16", 'it needs model.dtype = "auto" or "float32"'),
        ("model.tf32",),
    ),
    _Condition(
        'sampling.engine = "vllm"',
        _Rule(lambda c: c.sampling.engine == "builtin", 'it needs sampling.engine = "vllm", which is "builtin"'),
        (
            "sampling.vllm_mode",
            "sampling.vllm_gpu_memory",
            "sampling.vllm_devices",
            "sampling.vllm_servers",
            "sampling.vllm_tensor_parallel",
            "sampling.vllm_timeout_minutes",
            "sampling.vllm_restarts",
        ),
    ),
    _Condition(
        'sampling.engine = "vllm", LoRA adapters are merged for sampling, or sampling.max_staleness is above 0',
        _Rule(
            lambda c: c.sampling.engine == "builtin" and not _may_merge(c) and not c.sampling.max_staleness,
            'it needs sampling.engine = "vllm", adapters that are merged for sampling (sampling.weights), or '
            "sampling.max_staleness above 0",
        ),
        ("sampling.importance_cap",),
    ),
    _Condition(
        'model.train = "lora"',
        _Rule(lambda c: c.model.train != "lora", "without adapters, the sampler has nothing to merge"),
        ("sampling.weights",),
    ),
    _Condition(
        'sampling.engine = "builtin"',
        _Rule(lambda c: c.sampling.engine == "vllm", "vLLM makes batches of its own"),
        ("sampling.prompts_per_batch", "sampling.weights", "sampling.cuda_graph"),
    ),
    _Condition(
        "model.freeze_vision = true",
        _Rule(lambda c: not c.model.freeze_vision, "a trained vision tower has no features to cache"),
        ("model.feature_cache_gib",),
    ),
    _Condition(
        "reward.segmenter is set",
        _Rule(lambda c: c.reward.segmenter is None, "it needs reward.segmenter"),
        ("reward.segmenter_cache_gib",),
    ),
    _Condition(
        "model.freeze_vision = false",
        _Rule(lambda c: c.model.freeze_vision, "it needs model.freeze_vision = false"),
        ("grpo.vision_lr_scale", "grpo.projector_lr_scale", "sft.vision_lr_scale", "sft.projector_lr_scale"),
    ),
    _Condition(
        "grpo.updates_per_batch is above 1",
        _Rule(
            lambda c: c.grpo.updates_per_batch == 1,
            "it needs grpo.updates_per_batch above 1 (with one update the ratio is always 1)",
        ),
        ("grpo.clip_range",),
    ),
    _Condition(
        'grpo.demonstrations = "loss"',
        _Rule(
            lambda c: c.grpo.demonstrations != "loss",
            'it needs grpo.demonstrations = "loss", which is "{c.grpo.demonstrations}"',
        ),
        ("grpo.demonstration_coef", "grpo.demonstration_coef_end", "grpo.demonstration_fade"),
    ),
    _Condition(
        'grpo.demonstrations = "group"',
        _Rule(
            lambda c: c.grpo.demonstrations != "group",
            'it needs grpo.demonstrations = "group", which is "{c.grpo.demonstrations}"',
        ),
        ("grpo.demonstration_in_mean", "grpo.near_right"),
    ),
    _Condition(
        'parallel.strategy = "zero2" or "zero3"',
        _Rule(
            lambda c: not _uses_zero(c),
            'it needs parallel.strategy = "zero2" or "zero3", which is "{c.parallel.strategy}"',
        ),
        ("parallel.offload_optimizer",),
    ),
    _Condition(
        'parallel.strategy = "fsdp2"',
        _Rule(
            lambda c: c.parallel.strategy != "fsdp2",
            'it needs parallel.strategy = "fsdp2", which is "{c.parallel.strategy}"',
        ),
        ("parallel.shard_size",),
    ),
    _Condition(
        "run.save_every is above 0",
        _Rule(lambda c: c.run.save_every == 0, "it needs run.save_every above 0"),
        ("run.keep_checkpoints",),
    ),
    _Condition(
        "run.trackers is not empty",
        _Rule(lambda c: not c.run.trackers, "it needs run.trackers"),
        ("run.tracker_images_every",),
    ),
    _Condition(
        'sft.targets = "curated" or "rejection"',
        _Rule(lambda c: c.sft.targets == "labels", 'it needs sft.targets = "curated" or "rejection"'),
        ("sft.base_completions",),
    ),
    _Condition(
        'sft.targets = "curated", or curated_sft in compare.systems',
        _Rule(
            lambda c: c.sft.targets != "curated" and "curated_sft" not in c.compare.systems,
            'it needs sft.targets = "curated", or curated_sft in compare.systems',
        ),
        ("sft.curated_above",),
    ),
    _Condition(
        'sft.targets = "rejection", or rejection_sft in compare.systems',
        _Rule(
            lambda c: c.sft.targets != "rejection" and "rejection_sft" not in c.compare.systems,
            'it needs sft.targets = "rejection", or rejection_sft in compare.systems',
        ),
        ("sft.rejection_above", "sft.rejection_keep"),
    ),
    _Condition(
        'sft_rft or sft_mix in compare.systems, with the budget "samples" or "own"',
        _Rule(
            lambda c: not set(WARM_STARTED) & set(c.compare.systems) or c.compare.budget in ("tokens", "seconds"),
            'it needs sft_rft or sft_mix in compare.systems, with compare.budget = "samples" or "own"',
        ),
        ("compare.warm_start_frac",),
    ),
    _Condition(
        "data.validation is set",
        _Rule(
            lambda c: c.data.validation is None and not any(part.validation for part in c.mixture.values()),
            "it needs data.validation",
        ),
        ("data.validate_every", "run.keep_best", "run.patience"),
    ),
)
"""Conditions, and the settings that change nothing unless they hold."""


def without_effect(config: Config) -> dict[str, str]:
    """Return key -> reason of the settings that change nothing in this tree. Setting such a key is an error."""
    return {key: reason for one in _CONDITIONS if (reason := one.unless.check(config)) for key in one.keys}


def needed_by(key: str) -> str:
    """Return the condition under which a setting has an effect; "" if it always has one.

    >>> needed_by("model.lora_rank"), needed_by("model.path")
    ('model.train = "lora"', '')
    """
    return " and ".join(one.needs for one in _CONDITIONS if key in one.keys)


def _may_merge(config: Config) -> bool:
    """True if the built-in sampler merges adapters on some device."""
    if config.model.train != "lora" or config.sampling.weights == "exact":
        return False
    automatic = config.model.dtype != "float32" and not config.model.load_in_4bit
    return config.sampling.weights == "merged" or automatic


_CONFLICTS = (
    _Rule(
        lambda c: c.grpo.warm_start_steps >= c.grpo.steps,
        "grpo.warm_start_steps is {c.grpo.warm_start_steps} and grpo.steps is {c.grpo.steps}; expected fewer steps of "
        "warm start than steps, or `virft sft`",
    ),
    _Rule(
        lambda c: c.grpo.warm_start_steps and _uses_zero(c),
        'grpo.warm_start_steps with parallel.strategy = "{c.parallel.strategy}"; expected "ddp" or "fsdp2", as '
        "DeepSpeed's optimizer cannot start anew within a run",
    ),
    _Rule(
        lambda c: c.data.train is None and not c.mixture,
        "data.train is missing; expected a folder that `virft build` made, or tables [mixture.NAME] of several",
    ),
    _Rule(
        lambda c: c.mixture and c.data.train is not None,
        'data.train is "{c.data.train}" with a mixture; expected it as data of a table [mixture.NAME]',
    ),
    _Rule(
        lambda c: c.mixture and c.data.validation is not None,
        'data.validation is "{c.data.validation}" with a mixture; expected it as validation of a table [mixture.NAME]',
    ),
    _Rule(
        lambda c: next((name for name in c.mixture if not _MIXTURE_KEY.fullmatch(f"mixture.{name}")), None),
        "mixture.{found}: expected a name of letters, digits, _ and -",
    ),
    _Rule(
        lambda c: c.model.train == "lora" and not c.model.freeze_vision,
        'model.freeze_vision is false with model.train = "lora", which adds adapters to the language model only; '
        'expected freeze_vision = true, or train = "full"',
    ),
    _Rule(
        lambda c: c.model.load_in_4bit and c.model.train != "lora",
        'model.load_in_4bit is true with model.train = "full"; weights of 4 bits cannot be trained, expected "lora"',
    ),
    _Rule(
        lambda c: c.model.load_in_4bit and c.sampling.weights == "merged",
        'sampling.weights is "merged" with model.load_in_4bit = true, whose merged copy needs four times the memory '
        'of its base; expected "exact" or "auto"',
    ),
    _Rule(
        lambda c: c.model.load_in_4bit and c.model.compile,
        "model.compile is true with model.load_in_4bit = true, which is untested; expected one of the two",
    ),
    _Rule(
        lambda c: c.model.load_in_4bit and c.parallel.strategy != "ddp",
        'model.load_in_4bit is true with parallel.strategy = "{c.parallel.strategy}"; expected "ddp", the only '
        "strategy for weights of 4 bits, or load_in_4bit = false",
    ),
    _Rule(
        lambda c: _untested_with_zero(c) if _uses_zero(c) else None,
        '{found} with parallel.strategy = "{c.parallel.strategy}"; expected its default, or the strategy fsdp2',
    ),
    _Rule(
        lambda c: c.sampling.vllm_mode == "colocated" and (c.sampling.vllm_devices or c.sampling.vllm_servers),
        'sampling.vllm_mode is "colocated" with vllm_devices or vllm_servers, which place servers; expected "server" '
        'or "auto"',
    ),
    _Rule(
        lambda c: c.sampling.vllm_devices and c.sampling.vllm_servers,
        "sampling.vllm_servers is {c.sampling.vllm_servers} with sampling.vllm_devices, from whose number that of the "
        "servers follows; expected one of the two",
    ),
    _Rule(
        lambda c: len(set(c.sampling.vllm_devices)) < len(c.sampling.vllm_devices),
        "sampling.vllm_devices lists a GPU twice; expected each once",
    ),
    _Rule(
        lambda c: (
            len(c.sampling.vllm_devices) % c.sampling.vllm_tensor_parallel and f"{len(c.sampling.vllm_devices)} GPUs"
        ),
        "sampling.vllm_devices has {found}; expected a multiple of sampling.vllm_tensor_parallel, which is "
        "{c.sampling.vllm_tensor_parallel}",
    ),
    _Rule(
        lambda c: (c.model.min_pixels or 0) > (c.model.max_pixels or math.inf),
        "model.min_pixels is {c.model.min_pixels}; expected at most model.max_pixels, which is {c.model.max_pixels}",
    ),
    _Rule(
        lambda c: _unsupported_with_zoom(c) if c.prompt.zoom_calls else None,
        "{found}, which is not supported with prompt.zoom_calls = true; expected its default, or zoom_calls = false",
    ),
    _Rule(
        lambda c: c.grpo.min_base_score > c.grpo.max_base_score,
        "grpo.min_base_score is {c.grpo.min_base_score:g}; expected at most grpo.max_base_score, which is "
        "{c.grpo.max_base_score:g}",
    ),
    _Rule(
        lambda c: c.reward.overlong_tokens > c.sampling.max_completion_tokens,
        "reward.overlong_tokens is {c.reward.overlong_tokens}; expected at most sampling.max_completion_tokens, which "
        "is {c.sampling.max_completion_tokens}",
    ),
    _Rule(
        lambda c: c.grpo.warmup_steps >= c.grpo.steps,
        "grpo.warmup_steps is {c.grpo.warmup_steps}; expected less than grpo.steps, which is {c.grpo.steps}",
    ),
    _Rule(
        lambda c: c.sft.targets != "labels" and c.sft.base_completions is None,
        'sft.targets is "{c.sft.targets}" and sft.base_completions is missing; expected the folder of the completions '
        "of the base model for the training samples",
    ),
    _Rule(
        lambda c: c.sft.warmup_steps >= c.sft.steps,
        "sft.warmup_steps is {c.sft.warmup_steps}; expected less than sft.steps, which is {c.sft.steps}",
    ),
    _Rule(
        lambda c: next((repr(name) for name in c.compare.systems if name not in COMPARED_SYSTEMS), None),
        f"compare.systems: {{found}} is none; expected some of {', '.join(COMPARED_SYSTEMS)}",
    ),
    _Rule(
        lambda c: len(set(c.compare.systems)) < len(c.compare.systems),
        "compare.systems lists a system twice; expected each once",
    ),
    _Rule(
        lambda c: _mixed(c) if c.grpo.demonstrations == "off" else None,
        'compare.systems: {found} needs demonstrations, and grpo.demonstrations is "off"; expected "group" or "loss"',
    ),
    _Rule(
        lambda c: (
            c.grpo.demonstrations == "loss"
            and c.grpo.demonstration_coef == 0
            and c.grpo.demonstration_coef_end in (None, 0)
        ),
        "grpo.demonstration_coef is 0 throughout the run, so demonstrations change nothing; expected above 0, or "
        'grpo.demonstrations = "off"',
    ),
    _Rule(
        lambda c: c.grpo.steps < 2 and _warm_started(c),
        "compare.systems: {found} has a warm start before GRPO, and grpo.steps is {c.grpo.steps}; expected at least 2",
    ),
    _Rule(
        lambda c: _uses_zero(c) and _warm_started(c),
        'compare.systems: {found} has a warm start, with parallel.strategy = "{c.parallel.strategy}"; expected "ddp" '
        'or "fsdp2"',
    ),
    _Rule(
        lambda c: c.compare.warm_start_frac == 1,
        "compare.warm_start_frac is 1, which leaves no steps for GRPO; expected a fraction below 1",
    ),
    _Rule(
        lambda c: c.compare.budget in ("tokens", "seconds") and "rft" not in c.compare.systems,
        'compare.budget is "{c.compare.budget}", which is measured on RFT; expected rft in compare.systems',
    ),
    _Rule(
        lambda c: len(c.compare.sft_learning_rates) != len(c.compare.rft_learning_rates) and _num_rates(c.compare),
        "compare: {found[0]} learning rates for SFT and {found[1]} for RFT; expected the same number for both",
    ),
    _Rule(
        lambda c: len(c.compare.sft_learning_rates) > 1 and c.data.validation is None,
        "compare: learning rates are chosen on data.validation, which is not set",
    ),
)
"""Combinations of settings that are refused, in the order in which they are checked."""


def first_conflict(config: Config) -> str | None:
    """Return a message about the first settings that cannot be combined, or that are missing; None without one."""
    return next((message for rule in _CONFLICTS if (message := rule.check(config))), None)


def _uses_zero(config: Config) -> bool:
    return config.parallel.strategy.startswith("zero")


def _untested_with_zero(config: Config) -> str | None:
    """Return what DeepSpeed's optimizer cannot do or was not tested with: it updates flat parts of many weights."""
    if config.model.compile:
        return "model.compile is true"
    for section, part in (("grpo", config.grpo), ("sft", config.sft)):
        if part.optimizer != "adamw":
            return f"{section}.optimizer is {format_value(part.optimizer)}"
        if config.model.train == "full" and part.name_lr_scale != 1:
            return f"{section}.name_lr_scale is {part.name_lr_scale:g}"
    return None


def _unsupported_with_zoom(config: Config) -> str | None:
    """Return the first setting that completions of two turns do not support."""
    if config.sampling.engine == "vllm":
        return 'sampling.engine is "vllm"'
    if config.sampling.max_staleness:
        return f"sampling.max_staleness is {config.sampling.max_staleness}"
    if config.model.compile:
        return "model.compile is true"
    if config.parallel.strategy != "ddp":
        return f"parallel.strategy is {format_value(config.parallel.strategy)}"
    if config.grpo.demonstrations != "off":
        return f"grpo.demonstrations is {format_value(config.grpo.demonstrations)}"
    return None


def _mixed(config: Config) -> str | None:
    """Return the first system of the comparison that needs demonstrations."""
    return next((name for name in config.compare.systems if name in MIXED), None)


def _warm_started(config: Config) -> str | None:
    """Return the first system of the comparison that has a warm start; None without one."""
    return next((name for name in config.compare.systems if name in WARM_STARTED), None)


def _num_rates(compare: CompareConfig) -> tuple[int, int]:
    return len(compare.sft_learning_rates), len(compare.rft_learning_rates)
