"""Names of settings in other trainers and in earlier versions, with the settings of virft that correspond to them.

TRL and transformers (also used by VLM-R1 and Visual-RFT), verl and EasyR1, ms-swift, LLaMA-Factory. A dotted name, such
as ``rollout.n``, also matches at the end of a longer one (``worker.rollout.n``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class OtherName(NamedTuple):
    """The counterpart of a name: settings, and how to convert the value."""

    keys: tuple[str, ...]
    """Dotted keys of virft; two if GRPO and SFT have a setting each; empty without a counterpart."""
    note: str = ""
    """Value to write, conversion of the unit, or the reason why there is no counterpart."""


def _both(name: str, note: str = "") -> OtherName:
    return OtherName((f"grpo.{name}", f"sft.{name}"), note)


def _one(key: str, note: str = "") -> OtherName:
    return OtherName((key,), note)


def _none(note: str) -> OtherName:
    return OtherName((), note)


_RATE = _both("learning_rate")
_EPOCHS = _both(
    "steps",
    "steps = epochs x training samples / samples per step (grpo.prompts_per_step, sft.samples_per_step)",
)
_BATCH = OtherName(
    ("grpo.prompts_per_step", "sft.samples_per_step"),
    "both count prompts over all processes, not completions",
)
_PER_DEVICE = OtherName(
    ("grpo.prompts_per_step", "sft.samples_per_step"),
    "samples_per_step = batch per device x gradient accumulation x processes, and prompts_per_step is that / "
    "grpo.group_size",
)
_ACCUMULATION = _both(
    "microbatch_tokens",
    "gradients are accumulated automatically: the batch size is grpo.prompts_per_step, and microbatch_tokens bounds "
    "memory",
)
_GROUP = _one("grpo.group_size")
_KL = _one("grpo.kl_coef", "0 disables the KL penalty and loads no reference model")
_CLIP = _one("grpo.clip_range", "it needs grpo.updates_per_batch above 1")
_UPDATES = _one("grpo.updates_per_batch")
_LOSS = _one("grpo.loss", "grpo -> sequence_mean, dapo -> token_mean, dr_grpo -> constant_length")
_SCHEDULE = _both("schedule", "linear, cosine or constant; warm-up is warmup_steps")
_WARMUP_RATIO = _both("warmup_steps", "warmup_steps = warmup_ratio x steps")
_PRECISION = _one("model.dtype", '"auto", "bfloat16" or "float32"')
_ATTENTION = _none("virft chooses the attention implementation itself")
_COMPLETION = _one("sampling.max_completion_tokens", "in tokens")
_PROMPT_LENGTH = _none("prompts are never truncated; model.max_pixels bounds their image tokens")
_VLLM = _one("sampling.engine", 'sampling.engine = "vllm"')
_VLLM_MEMORY = _one("sampling.vllm_gpu_memory")
_SHARDED_VLLM = _one("sampling.vllm_tensor_parallel")
_REWARD = _one("reward.preset", 'or reward.extra = ["file.py:function"] for your own function')
_MODEL = _one("model.path")
_DATA = _one("data.train", "a folder that `virft build` made")
_VALIDATION = _one("data.validation", "a folder that `virft build` made")
_VALIDATE = _one("data.validate_every", "in steps; it needs data.validation")
_SAVE = _one("run.save_every", "in steps")
_LIMIT = _one("run.keep_checkpoints")
_DIR = _one("run.dir")
_TRACKERS = _one("run.trackers", 'a list, such as ["wandb"]')
_LORA = _one("model.train", 'model.train = "lora" or "full"')
_RANK = _one("model.lora_rank", 'it needs model.train = "lora"')
_MODULES = _none("LoRA adapts every linear layer of the language model")
_DROPOUT = _none("LoRA has no dropout, so that sampler and policy have equal log-probs")
_FOUR_BITS = _one("model.load_in_4bit", 'load_in_4bit = true; it needs model.train = "lora"')
_FREEZE = _one("model.freeze_vision")
_MAX_PIXELS = _one("model.max_pixels", "the area in pixels: width x height")
_MIN_PIXELS = _one("model.min_pixels", "the area in pixels: width x height")
_PARALLEL = _one("parallel.strategy", '"zero2" or "zero3"')
_FSDP = _one("parallel.strategy", 'parallel.strategy = "fsdp2"')
_OFFLOAD = _one("parallel.offload_optimizer", 'it needs parallel.strategy = "zero2" or "zero3"')
_PROCESSES = _none("the number of processes is set by `accelerate launch --num_processes N`")
_RESUME = _none("add --resume to the command line")
_TOP = _none("completions are sampled from the whole distribution: top-k and top-p are always off")
_FILTER = _one("grpo.refill_rounds", "additional sampling rounds; 0 disables dynamic sampling")
_WEIGHTS = _one("reward.weights", "a table by part, such as {iou = 1.0, format = 0.5}")

OTHER_NAMES: Mapping[str, OtherName] = {
    # optimizer and length of training
    "lr": _RATE,
    "optim.lr": _RATE,
    "vit_lr": _both("vision_lr_scale", "a multiple of learning_rate; it needs model.freeze_vision = false"),
    "aligner_lr": _both("projector_lr_scale", "a multiple of learning_rate; it needs model.freeze_vision = false"),
    "lr_scheduler_type": _SCHEDULE,
    "lr_scheduler": _SCHEDULE,
    "lr_warmup_steps": _both("warmup_steps"),
    "warmup_ratio": _WARMUP_RATIO,
    "lr_warmup_ratio": _WARMUP_RATIO,
    "optim": _both("optimizer", "adamw or adamw_8bit"),
    "wd": _both("weight_decay"),
    "max_norm": _both("max_grad_norm"),
    "grad_clip": _both("max_grad_norm"),
    "clip_grad": _both("max_grad_norm"),
    "max_steps": _both("steps"),
    "num_steps": _both("steps"),
    "iterations": _both("steps"),
    "max_iters": _both("steps"),
    "total_training_steps": _both("steps"),
    "epochs": _EPOCHS,
    "num_epochs": _EPOCHS,
    "num_train_epochs": _EPOCHS,
    "total_epochs": _EPOCHS,
    "total_episodes": _EPOCHS,
    # batch
    "batch_size": _BATCH,
    "train_batch_size": _BATCH,
    "global_batch_size": _BATCH,
    "rollout_batch_size": _BATCH,
    "generation_batch_size": _one(
        "grpo.prompts_per_step", "prompts_per_step = generation_batch_size / grpo.group_size"
    ),
    "per_device_train_batch_size": _PER_DEVICE,
    "per_device_batch_size": _PER_DEVICE,
    "gradient_accumulation_steps": OtherName(
        ("grpo.prompts_per_step", "sft.samples_per_step"),
        "a factor of the batch size there; virft accumulates gradients automatically, and microbatch_tokens bounds "
        "memory",
    ),
    "micro_batch_size": _ACCUMULATION,
    "ppo_micro_batch_size_per_gpu": _ACCUMULATION,
    "micro_batch_size_per_device_for_update": _ACCUMULATION,
    # GRPO
    "num_generations": _GROUP,
    "num_return_sequences": _GROUP,
    "rollout.n": _GROUP,
    "beta": _KL,
    "kl_beta": _KL,
    "kl_coeff": _KL,
    "kl_loss_coef": _KL,
    "use_kl_loss": _KL,
    "disable_kl": _KL,
    "epsilon": _CLIP,
    "epsilon_high": _one("grpo.clip_range", "the clipping range is symmetric; it needs grpo.updates_per_batch above 1"),
    "clip_ratio": _CLIP,
    "cliprange": _CLIP,
    "num_iterations": _UPDATES,
    "ppo_epochs": _UPDATES,
    "steps_per_generation": _UPDATES,
    "ppo_mini_batch_size": _one("grpo.prompts_per_step", "each of grpo.updates_per_batch uses all completions"),
    "kl_loss_type": _none("the only estimator is k3 (low_var_kl)"),
    "kl_penalty": _none("the only estimator is k3 (low_var_kl)"),
    "sync_ref_model": _none("the reference is the initial model of the run"),
    "loss_type": _LOSS,
    "loss_agg_mode": _LOSS,
    "scale_rewards": _one("grpo.scale_by_std", "true or false"),
    "norm_adv_by_std_in_grpo": _one("grpo.scale_by_std", "true or false"),
    "mask_truncated_completions": _one("grpo.mask_truncated"),
    "overlong_filter": _one("grpo.mask_truncated"),
    "soft_cache_length": _one("reward.overlong_tokens"),
    "overlong_buffer": _one("reward.overlong_tokens"),
    "dynamic_sample": _FILTER,
    "max_resample_times": _FILTER,
    "online_filtering": _FILTER,
    "filter_groups": _FILTER,
    "entropy_coeff": _none("there is no entropy bonus; monitors.min_entropy_ratio warns of entropy collapse"),
    "adv_estimator": _none("`virft grpo` trains with GRPO, `virft sft` with supervised fine-tuning"),
    "rlhf_type": _none("`virft grpo` trains with GRPO, `virft sft` with supervised fine-tuning"),
    "stage": _none("`virft grpo` trains with GRPO, `virft sft` with supervised fine-tuning"),
    # sampling
    "max_completion_length": _COMPLETION,
    "max_response_length": _COMPLETION,
    "response_length": _COMPLETION,
    "max_new_tokens": _COMPLETION,
    "max_tokens": _COMPLETION,
    "max_prompt_length": _PROMPT_LENGTH,
    "max_length": _PROMPT_LENGTH,
    "max_seq_length": _PROMPT_LENGTH,
    "cutoff_len": _PROMPT_LENGTH,
    "top_p": _TOP,
    "top_k": _TOP,
    "use_vllm": _VLLM,
    "rollout.name": _VLLM,
    "vllm_gpu_memory_utilization": _VLLM_MEMORY,
    "gpu_memory_utilization": _VLLM_MEMORY,
    "vllm_importance_sampling_cap": _one("sampling.importance_cap"),
    "tensor_parallel_size": _SHARDED_VLLM,
    "vllm_tensor_parallel_size": _SHARDED_VLLM,
    "tensor_model_parallel_size": _SHARDED_VLLM,
    # reward and prompt
    "reward_funcs": _REWARD,
    "reward_function": _REWARD,
    "reward_fn": _REWARD,
    "score_function": _REWARD,
    "external_plugins": _one("reward.extra", '["file.py:function"]'),
    "reward_weights": _WEIGHTS,
    "system": _one("prompt.template", "a text file with {query}"),
    "system_prompt": _one("prompt.template", "a text file with {query}"),
    "format_prompt": _one("prompt.template", "a text file with {query}"),
    "enable_thinking": _one("prompt.thinking"),
    # model
    "model": _MODEL,
    "model_name": _MODEL,
    "model_path": _MODEL,
    "model_id": _MODEL,
    "model_name_or_path": _MODEL,
    "pretrained": _MODEL,
    "bf16": _PRECISION,
    "fp16": _one("model.dtype", '"bfloat16" or "float32"; float16 is not available'),
    "torch_dtype": _PRECISION,
    "allow_tf32": _one("model.tf32"),
    "precision": _PRECISION,
    "attn_implementation": _ATTENTION,
    "attn_impl": _ATTENTION,
    "flash_attn": _ATTENTION,
    "torch_compile": _one("model.compile"),
    "use_peft": _LORA,
    "use_lora": _LORA,
    "peft_config": _LORA,
    "finetuning_type": _LORA,
    "train_type": _LORA,
    "tuner_type": _LORA,
    "lora_r": _RANK,
    "r": _RANK,
    "lora_target": _MODULES,
    "lora_target_modules": _MODULES,
    "target_modules": _MODULES,
    "lora_dropout": _DROPOUT,
    "quantization_bit": _FOUR_BITS,
    "quant_bits": _FOUR_BITS,
    "use_4bit": _FOUR_BITS,
    "freeze_vision_modules": _FREEZE,
    "freeze_vision_tower": _FREEZE,
    "freeze_vit": _FREEZE,
    "freeze_aligner": _one("model.freeze_vision", "vision tower and projector are frozen together"),
    "freeze_multi_modal_projector": _one("model.freeze_vision", "vision tower and projector are frozen together"),
    "image_max_pixels": _MAX_PIXELS,
    "image_min_pixels": _MIN_PIXELS,
    "max_anyres_num": _one("model.max_pixels", "the number of tiles times their area: 448 x 448 for InternVL"),
    "image_size": _one("model.max_pixels", "the area in pixels: width x height"),
    "imgsz": _one("model.max_pixels", "the area in pixels: width x height"),
    "enable_gradient_checkpointing": _one("model.gradient_checkpointing"),
    # data
    "data": _DATA,
    "dataset": _DATA,
    "dataset_name": _DATA,
    "dataset_path": _DATA,
    "train_files": _DATA,
    "train_data": _DATA,
    "data_file_paths": _DATA,
    "image_folders": _DATA,
    "val": _VALIDATION,
    "val_files": _VALIDATION,
    "val_dataset": _VALIDATION,
    "eval_dataset": _VALIDATION,
    "val_split_ratio": _one("data.validation", "hold images out with `virft build ... --validation-frac F`"),
    "val_size": _one("data.validation", "hold images out with `virft build ... --validation-frac F`"),
    "eval_steps": _VALIDATE,
    "val_freq": _VALIDATE,
    "test_freq": _VALIDATE,
    "eval_strategy": _VALIDATE,
    "evaluation_strategy": _VALIDATE,
    "fliplr": _one("augment.horizontal_flip", "true or false"),
    # run
    "output_dir": _DIR,
    "save_dir": _DIR,
    "run_name": _DIR,
    "experiment_name": _DIR,
    "save_checkpoint_path": _DIR,
    "default_local_dir": _DIR,
    "save_steps": _SAVE,
    "save_freq": _SAVE,
    "save_strategy": _SAVE,
    "save_total_limit": _LIMIT,
    "save_limit": _LIMIT,
    "max_ckpt_to_keep": _LIMIT,
    "logging_steps": _one("run.log_every", "in steps"),
    "log_completions": _one("run.tracker_images_every", "run.dir/rollouts.jsonl has completions of every step"),
    "load_best_model_at_end": _one("run.keep_best", "the best model is saved in run.dir/best"),
    "early_stopping_patience": _one("run.patience", "in validations"),
    "report_to": _TRACKERS,
    "logger": _TRACKERS,
    "trainer.project_name": _TRACKERS,
    "resume_from_checkpoint": _RESUME,
    "resume": _RESUME,
    "data_seed": _one("seed"),
    "random_seed": _one("seed"),
    "push_to_hub": _none("`virft push RUN owner/name` uploads a finished run"),
    # several devices
    "deepspeed": _PARALLEL,
    "deepspeed_config": _PARALLEL,
    "fsdp": _FSDP,
    "fsdp_config": _FSDP,
    "enable_full_shard": _FSDP,
    "optimizer_offload": _OFFLOAD,
    "n_gpus_per_node": _PROCESSES,
    "num_processes": _PROCESSES,
    "nproc_per_node": _PROCESSES,
    "nnodes": _PROCESSES,
    "device": _none("virft uses the accelerator if there is one; CUDA_VISIBLE_DEVICES selects it"),
    # earlier versions of virft
    "zoom": _one("augment.resized_crop"),
    "mirror": _one("augment.horizontal_flip"),
    "tones": _one("augment.colour_jitter"),
    "max_equal_steps": _one("monitors.max_zero_std_steps"),
}
"""Name elsewhere -> counterpart here. A name that is a setting of virft in some section needs no entry."""

OTHER_SECTIONS: Mapping[str, str] = {"guards": "monitors"}
"""Section names of earlier versions, suggested for an unknown section."""


def find_other_name(key: str) -> OtherName | None:
    """Return the counterpart of a dotted key of another trainer; None if it is not known.

    >>> find_other_name("worker.rollout.n").keys, find_other_name("steps")
    (('grpo.group_size',), None)
    """
    parts = key.removeprefix("--").replace("-", "_").split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts)))
    return next((OTHER_NAMES[end] for end in ends if end in OTHER_NAMES), None)


def other_names_of(key: str) -> Sequence[str]:
    """Return what other trainers call a setting.

    >>> other_names_of("sampling.importance_cap")
    ('vllm_importance_sampling_cap',)
    """
    return tuple(name for name, other in OTHER_NAMES.items() if key in other.keys)
