"""As much of vLLM's public interface as virft uses. It answers every prompt with its number of requests so far.

Imported as ``vllm`` it stands in for the real one; ``calls`` of the engine say what was asked of it, in order.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any


class SamplingParams:
    """Keeps what it is given."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings


class LLM:
    """An engine without a model."""

    def __init__(self, **settings: Any) -> None:
        if settings["dtype"] == "bfloat16":
            raise ValueError("not enough memory")
        self.settings = settings
        self.calls: list[Any] = []
        self.llm_engine = SimpleNamespace(reset_encoder_cache=lambda: self.calls.append("reset_encoder_cache"))

    def generate(self, prompts: list[Any], params: list[SamplingParams], *, use_tqdm: bool) -> list[Any]:
        """Token 7 and an end token 3; of several answers the last one comes first."""
        if os.environ.get("FAKE_VLLM_DIES"):
            os._exit(9)
        self.calls.append(("generate", prompts, params))
        return [self._output(prompt, one.settings) for prompt, one in zip(prompts, params, strict=True)]

    def _output(self, prompt: Any, settings: dict[str, Any]) -> Any:
        images = iter(prompt["multi_modal_data"]["image"]["image_grid_thw"].prod(-1).tolist())
        ids = [t for i in prompt["prompt_token_ids"] for t in ([i] * (next(images) // 4) if i == 9 else [i])]

        def answer(index: int) -> Any:
            logprobs = [{token: SimpleNamespace(logprob=value)} for token, value in ((7 + index, -0.5), (3, -0.25))]
            return SimpleNamespace(index=index, token_ids=[7 + index, 3], logprobs=logprobs)

        outputs = [answer(index) for index in reversed(range(settings["n"]))]
        return SimpleNamespace(prompt_token_ids=ids, outputs=outputs)

    def collective_rpc(self, method: str, *, kwargs: dict[str, Any]) -> None:
        """Takes weights one by one."""
        self.calls.append((method, {name: weight.tolist() for name, weight in kwargs["weights_iterator"]}))

    def reset_mm_cache(self) -> None:
        """Remembers that it was asked."""
        self.calls.append("reset_mm_cache")

    def reset_prefix_cache(self) -> bool:
        """Remembers that it was asked."""
        self.calls.append("reset_prefix_cache")
        return True

    def sleep(self, level: int) -> None:
        """Remembers that it was asked."""
        self.calls.append(f"sleep {level}")

    def wake_up(self) -> None:
        """Remembers that it was asked."""
        self.calls.append("wake_up")
