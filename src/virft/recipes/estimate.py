"""The expected cost of a run, measured on one group: tokens and seconds."""

from __future__ import annotations

import time

from virft.config.schema import Config
from virft.training.grpo.trainer import GRPOTrainer
from virft.training.progress import duration
from virft.types import Sample


def estimate(config: Config, trainer: GRPOTrainer, sample: Sample, *, num_samples: int) -> str:
    """What a run will cost, from one group measured now: prompt and completion tokens, steps, seconds.

    ``num_samples``: of the training data; each is answered once more where the untrained model decides which are kept.
    """
    began = time.perf_counter()
    report = trainer.rehearse(sample)
    seconds = time.perf_counter() - began
    group = report[0]
    prompt = len(group.prompt.token_ids)
    of_images = group.prompt.token_ids.count(trainer.policy.config.image_token_id)
    completion = sum(len(one.token_ids) for one in group.completions) / len(group.completions)
    prompts = config.grpo.steps * config.grpo.prompts_per_step
    further = ""
    if config.grpo.filters:
        prompts += num_samples
        further += f"; a group of each of {num_samples} samples before the first step is among it "
        further += "(grpo.min_base_score, grpo.max_base_score)"
    if config.grpo.refill_rounds:
        further += f"; grpo.refill_rounds may sample up to {config.grpo.refill_rounds} times as much again"
    return (
        f"# {config.grpo.steps} steps of {config.grpo.prompts_per_step} prompts x "
        f"{config.grpo.group_size} completions; one group, measured now: prompt {prompt} tokens "
        f"({of_images} image tokens among them), completions {completion:.0f} tokens on average, {seconds:.1f} s\n"
        f"# expected for the run: {prompts * prompt:,} prompt tokens, "
        f"{prompts * config.grpo.group_size * completion:,.0f} completion tokens (at most "
        f"{prompts * config.grpo.group_size * config.sampling.max_completion_tokens:,}), "
        f"at most {duration(prompts * seconds)} (groups of a step share time){further}"
    )
