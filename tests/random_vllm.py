"""A fake ``vllm`` module for whole runs: random tokens that follow from the seed of a request, without a model.

Weights are read and dropped. Each batch takes ``SLOW_S`` seconds if the environment has it.
"""

from __future__ import annotations

import os
import random
import time
from types import SimpleNamespace
from typing import Any

FIRST, LAST = 10, 200
"""Ids of the tokens that are sampled."""


class SamplingParams:
    """Stores its arguments."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings


class LLM:
    """An engine without a model."""

    def __init__(self, **settings: Any) -> None:
        self.llm_engine = SimpleNamespace(reset_encoder_cache=lambda: None)

    def generate(self, prompts: list[Any], params: list[SamplingParams], *, use_tqdm: bool) -> list[Any]:
        """Return random tokens, and the prompts with their image tokens expanded."""
        time.sleep(float(os.environ.get("SLOW_S", "0")))
        return [self._output(prompt, one.settings) for prompt, one in zip(prompts, params, strict=True)]

    def _output(self, prompt: Any, settings: dict[str, Any]) -> Any:
        image = prompt["multi_modal_data"]["image"]
        placeholder = int(os.environ["FAKE_PLACEHOLDER"])
        (grid,) = image["image_grid_thw"].prod(-1).tolist()
        ids = [t for i in prompt["prompt_token_ids"] for t in ([i] * (grid // 4) if i == placeholder else [i])]

        def output(index: int) -> Any:
            rng = random.Random(settings["seed"] + index)
            tokens = [rng.randint(FIRST, LAST) for _ in range(settings["max_tokens"])]
            logprobs = [{token: SimpleNamespace(logprob=-5.0)} for token in tokens]
            return SimpleNamespace(index=index, token_ids=tokens, logprobs=logprobs)

        return SimpleNamespace(prompt_token_ids=ids, outputs=[output(i) for i in range(settings["n"])])

    def collective_rpc(self, method: str, *, kwargs: dict[str, Any]) -> None:
        """Read the weights."""
        for _ in kwargs["weights_iterator"]:
            pass

    def reset_mm_cache(self) -> None:
        """Do nothing."""

    def reset_prefix_cache(self) -> bool:
        """Do nothing."""
        return True
