"""The vLLM engine in the process that asks for it: requests in, tokens and log-probs out, weights loaded anew.

Nothing here knows a policy. vLLM is imported when an engine is made, so this module can be read without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

CPU_CACHE_BYTES = 1 << 30
"""Memory for keys and values on a CPU, where a share of all memory would be too much."""

_MOST_IMAGES = 64
"""Images of a prompt, where vLLM wants to know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """``folder``: config, tokenizer and processor files; weights are given by ``Engine.load_weights``.

    ``dtype``: "float32" or "bfloat16". ``on_cpu``: fixed memory, nothing compiled. ``memory_frac``: share of an
    accelerator's memory. ``sleeps``: whether that memory can be given back in between. ``has_deep_features``: later
    layers receive image features too.
    """

    folder: Path
    dtype: str
    on_cpu: bool
    memory_frac: float
    sleeps: bool
    has_deep_features: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRequest:
    """A prompt to be answered ``count`` times.

    ``token_ids`` hold one ``placeholder_id`` for each image token. ``image_embeds`` [image tokens, values] are the
    features of its images one after the other, ``grid_thw`` [images, 3] their patches along time, height, width.
    """

    token_ids: tuple[int, ...]
    placeholder_id: int
    image_embeds: Tensor
    grid_thw: Tensor
    count: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSampling:
    """``forbidden``: texts of tokens that are never drawn. ``temperature`` 0 takes the likeliest token."""

    max_tokens: int
    temperature: float
    stop_ids: tuple[int, ...]
    forbidden: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineAnswer:
    """Token ids with the end token, if there is one, and the log-prob of each in nats."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class Engine(Protocol):
    """vLLM, in this process or in one of its own."""

    def generate(self, requests: Sequence[EngineRequest], sampling: EngineSampling) -> list[list[EngineAnswer]]:
        """``count`` answers to each request, in order."""
        ...

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Weights by the names that transformers gives them; all parts of a layer at once. Caches are emptied."""
        ...

    def sleep(self) -> None:
        """Give the accelerator's memory back until ``wake_up``."""
        ...

    def wake_up(self) -> None:
        """Take the memory again."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class VLLMEngine:
    """An ``Engine`` in this process. On a CPU vLLM then owns the process's threads: see ``vllm_server``."""

    def __init__(self, settings: EngineSettings) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # read when the engine is made
        from vllm import LLM

        by_device: dict[str, Any] = {"gpu_memory_utilization": settings.memory_frac}
        if settings.on_cpu:
            # A prompt that is read in pieces takes back what its generator drew too early, which a CPU's cannot.
            by_device = {"kv_cache_memory_bytes": CPU_CACHE_BYTES, "enable_chunked_prefill": False}
        self._llm: Any = LLM(
            model=str(settings.folder),
            load_format="dummy",
            dtype=settings.dtype,
            enforce_eager=settings.on_cpu,
            enable_sleep_mode=settings.sleeps,
            max_model_len=-1,  # what the memory allows, at most the model's own
            enable_prefix_caching=True,
            # Images come as features: no encoder runs here, and nothing made by one is kept. With a limit of 0 vLLM
            # makes no encoder either, but then does not know deep features.
            enable_mm_embeds=True,
            limit_mm_per_prompt={"image": _MOST_IMAGES if settings.has_deep_features else 0, "video": 0},
            mm_processor_cache_gb=0,
            # By default log-probs are those of untouched logits, and a model's own top-k and top-p are applied.
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
            disable_log_stats=True,
            **by_device,
        )

    def generate(self, requests: Sequence[EngineRequest], sampling: EngineSampling) -> list[list[EngineAnswer]]:
        """``count`` answers to each request, in order."""
        from vllm import SamplingParams

        greedy = sampling.temperature == 0  # vLLM refuses to take the likeliest token several times
        asked = [
            {
                "prompt_token_ids": _without_repeats(one.token_ids, one.placeholder_id),
                "multi_modal_data": {"image": {"image_embeds": one.image_embeds, "image_grid_thw": one.grid_thw}},
            }
            for one in requests
        ]
        params = [
            SamplingParams(
                n=1 if greedy else one.count,
                seed=one.seed,
                temperature=sampling.temperature,
                top_p=1.0,
                top_k=0,
                max_tokens=sampling.max_tokens,
                logprobs=0,  # that of the drawn token alone
                ignore_eos=True,  # the end tokens are those of stop_ids, no others
                stop_token_ids=list(sampling.stop_ids),
                bad_words=list(sampling.forbidden),
                detokenize=False,
            )
            for one in requests
        ]
        answers: list[list[EngineAnswer]] = []
        for request, output in zip(requests, self._llm.generate(asked, params, use_tqdm=False), strict=True):
            assert list(output.prompt_token_ids) == list(request.token_ids), "vLLM reads another prompt than the policy"
            drawn = [_answer(one) for one in sorted(output.outputs, key=lambda one: one.index)]
            answers.append(drawn * request.count if greedy else drawn)
        return answers

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Weights by the names that transformers gives them; all parts of a layer at once. Caches are emptied."""
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
        self._llm.reset_mm_cache()
        self._llm.llm_engine.reset_encoder_cache()  # else the scheduler relies on features that the worker forgot
        assert self._llm.reset_prefix_cache(), "vLLM kept the cache of other weights"

    def sleep(self) -> None:
        """Give the accelerator's memory back until ``wake_up``; weights wait in main memory."""
        self._llm.sleep(level=1)

    def wake_up(self) -> None:
        """Take the memory again."""
        self._llm.wake_up()

    def close(self) -> None:
        """Let go of everything."""
        self._llm = None


def _without_repeats(token_ids: Sequence[int], placeholder: int) -> list[int]:
    """One placeholder for each image, as vLLM wants them; it expands them again.

    >>> _without_repeats([5, 9, 9, 9, 6, 9, 7, 7], placeholder=9)
    [5, 9, 6, 9, 7, 7]
    """
    pairs = zip(token_ids, [None, *token_ids[:-1]], strict=True)
    return [token for token, before in pairs if token != placeholder or before != placeholder]


def _answer(output: Any) -> EngineAnswer:
    ids = tuple(output.token_ids)
    logprobs = tuple(float(of_token[i].logprob) for i, of_token in zip(ids, output.logprobs, strict=True))
    return EngineAnswer(token_ids=ids, logprobs=logprobs)
