"""The expected cost of a run, measured on one group: tokens and seconds."""

from __future__ import annotations

import time

from virft.config.schema import GRPOConfig
from virft.training.grpo.trainer import GRPOTrainer
from virft.training.progress import duration
from virft.types import Sample


def estimate(trainer: GRPOTrainer, sample: Sample, *, num_samples: int) -> str:
    """The expected cost of a run as text, from one group measured now: prompt and completion tokens, steps, seconds.

    ``num_samples`` is the size of the training data: with a filter by the base model's score, one group of each sample
    is added.
    """
    grpo, max_completion_tokens = trainer.config, trainer.params.max_completion_tokens
    began = time.perf_counter()
    (group,) = trainer.rehearse(sample)
    seconds = time.perf_counter() - began
    prompt = len(group.prompt.token_ids)
    image_tokens = group.prompt.token_ids.count(trainer.policy.config.image_token_id)
    completion = sum(len(one.token_ids) for one in group.completions) / len(group.completions)
    prompts = grpo.steps * grpo.prompts_per_step + (num_samples if grpo.filters else 0)
    return (
        f"# {grpo.steps} steps of {grpo.prompts_per_step} prompts x "
        f"{grpo.group_size} completions; one group, measured now: prompt {prompt} tokens "
        f"(of which {image_tokens} image tokens), completions {completion:.0f} tokens on average, {seconds:.1f} s\n"
        f"# expected for the run: {prompts * prompt:,} prompt tokens, "
        f"{prompts * grpo.group_size * completion:,.0f} completion tokens (at most "
        f"{prompts * grpo.group_size * max_completion_tokens:,}), "
        f"at most {duration(prompts * seconds)} (the groups of a step are batched){_additions(grpo, num_samples)}"
    )


def _additions(grpo: GRPOConfig, num_samples: int) -> str:
    """The parts of the cost that are not in steps x prompts."""
    text = ""
    if grpo.filters:
        text += f"; this includes a group of each of {num_samples} samples before the first step "
        text += "(grpo.min_base_score, grpo.max_base_score)"
    if grpo.refill_rounds:
        text += f"; grpo.refill_rounds may sample up to {grpo.refill_rounds} times as much in addition"
    return text
