"""A fake ``vllm`` module: the part of its public interface that virft uses, without a model.

Its outputs are fixed tokens. ``calls`` of an engine lists the calls of its methods, in order.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class SamplingParams:
    """Stores its arguments."""

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
        """Return tokens 7, 8, .. and a stop token 3; of several outputs the last one comes first."""
        self.calls.append(("generate", prompts, params))
        return [self._output(prompt, one.settings) for prompt, one in zip(prompts, params, strict=True)]

    def _output(self, prompt: Any, settings: dict[str, Any]) -> Any:
        images = iter(prompt["multi_modal_data"]["image"]["image_grid_thw"].prod(-1).tolist())
        ids = [t for i in prompt["prompt_token_ids"] for t in ([i] * (next(images) // 4) if i == 9 else [i])]

        def output(index: int) -> Any:
            logprobs = [{token: SimpleNamespace(logprob=value)} for token, value in ((7 + index, -0.5), (3, -0.25))]
            return SimpleNamespace(index=index, token_ids=[7 + index, 3], logprobs=logprobs)

        outputs = [output(index) for index in reversed(range(settings["n"]))]
        return SimpleNamespace(prompt_token_ids=ids, outputs=outputs)

    def collective_rpc(self, method: Any, *, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> None:
        """Record the weights, one by one, in the one worker that there is."""
        if callable(method):
            method(self, *args)
        else:
            getattr(self, method)(**kwargs or {})

    def reload_weights(self, *, weights_iterator: Any) -> None:
        """Record the weights."""
        self.calls.append(("reload_weights", {name: weight.tolist() for name, weight in weights_iterator}))

    def reset_mm_cache(self) -> None:
        """Record the call."""
        self.calls.append("reset_mm_cache")

    def reset_prefix_cache(self) -> bool:
        """Record the call."""
        self.calls.append("reset_prefix_cache")
        return True

    def sleep(self, level: int) -> None:
        """Record the call."""
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        """Record the call."""
        self.calls.append(f"wake_up {' '.join(tags)}")
