"""A vLLM engine in the current process: requests in, tokens and log-probs out, weights reloaded on demand.

Independent of policies. vLLM is imported when an engine is made, so this module can be imported without it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor

from virft.errors import SamplerLost

CPU_CACHE_BYTES = 1 << 30
"""Bytes of the KV cache on a CPU, where a fraction of all memory would be too much."""

_MAX_IMAGES = 64
"""Largest number of images in a prompt, which vLLM needs for models with deepstack features."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """Settings with which an engine is started."""

    folder: Path
    """Folder with config, tokenizer and processor files. Weights come through ``Engine.load_weights``."""

    dtype: str
    """dtype of weights and computation, "float32" or "bfloat16"."""

    on_cpu: bool
    """Run on a CPU: a KV cache of fixed size, and nothing is compiled."""

    memory_frac: float
    """Fraction of an accelerator's memory that the engine may use."""

    sleeps: bool
    """True if the engine can release that memory between two calls."""

    tensor_parallel: int = 1
    """Number of devices that share the weights of the engine."""

    rank: int | None = None
    """Rank of this process if the engines of several processes share its process group; None if the engine is alone."""

    has_deep_features: bool = False
    """True if later layers of the language model receive image features too (deepstack)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRequest:
    """A prompt, and the number of completions to sample for it."""

    token_ids: tuple[int, ...]
    """Token ids of the prompt, with one ``placeholder_id`` for each image token."""

    placeholder_id: int
    """Id of the image token."""

    image_embeds: Tensor
    """Features of its images, concatenated, on the CPU: [image tokens, hidden]."""

    grid_thw: Tensor
    """Patches of each image along time, height and width: int64 [images, 3]."""

    count: int
    """Number of completions."""

    seed: int
    """Seed of the engine's own random generator for this request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSampling:
    """Sampling parameters of a call, the same for all its requests."""

    max_tokens: int
    """Tokens after which a completion is truncated."""

    temperature: float
    """0: greedy decoding."""

    stop_ids: tuple[int, ...]
    """Stop tokens."""

    forbidden: tuple[str, ...]
    """Texts of tokens that are never sampled; vLLM takes no ids for them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOutput:
    """One sampled completion."""

    token_ids: tuple[int, ...]
    """Token ids, the stop token included if there is one."""

    logprobs: tuple[float, ...]
    """Log-prob of each token, in nats."""


class Engine(Protocol):
    """A vLLM engine, in this process, or in a server process that other processes may use too."""

    @property
    def sleeps(self) -> bool:
        """True if it loses its weights in each call of ``generate``, so that the update has their memory."""
        ...

    @property
    def receives_weights(self) -> bool:
        """False if another process sends the weights; ``load_weights`` must be called nevertheless."""
        ...

    def generate(self, requests: Sequence[EngineRequest], sampling: EngineSampling) -> list[list[EngineOutput]]:
        """Sample ``count`` completions for each request, in order; raises ``SamplerLost`` if no server is left."""
        ...

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load weights by the names that transformers gives them, and clear all caches of the engine.

        Tensors have the shape of the model's parameters. Layers that an engine fuses (q, k, v) must come as a whole.
        ``weights`` is iterated to its end even if they cannot be loaded: making them may be a collective operation.
        """
        ...

    def take_back(self) -> bool:
        """Sample again with servers that have been started again. Returns True if one of them has no weights yet.

        Then ``load_weights`` must send all. A collective operation of all training processes.
        """
        ...

    def recover(self, lost: SamplerLost | None) -> bool:
        """Wait for servers that are being started again, if ``generate`` has raised ``lost`` in any process.

        Returns True if it has: then all weights must be loaded, and ``generate`` called again. Raises ``ModelError`` if
        no server is being started. A collective operation of all training processes, after each ``generate``.
        """
        ...

    def server_messages(self) -> list[str]:
        """Return a message for each server that was lost, or started again, since the last call."""
        ...

    def close(self) -> None:
        """End the engine and release its memory."""
        ...


class VLLMEngine:
    """vLLM in this process. On a CPU vLLM would take over the process's threads: see ``vllm_server``."""

    def __init__(self, settings: EngineSettings) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # read when the engine is made
        from vllm import LLM

        more: dict[str, Any] = {"gpu_memory_utilization": settings.memory_frac}
        if settings.on_cpu:
            # With chunked prefill, vLLM rewinds the random generator of a prompt after each chunk, which a CPU
            # generator does not support.
            more = {"kv_cache_memory_bytes": CPU_CACHE_BYTES, "enable_chunked_prefill": False}
        if settings.rank is not None:
            # Each process runs a worker of its own. The workers of one engine must draw the same random numbers.
            more |= {
                "distributed_executor_backend": "external_launcher",
                "seed": settings.rank // settings.tensor_parallel,
            }
        self._spans_processes = settings.tensor_parallel > 1 and settings.rank is None
        if self._spans_processes:
            # Worker processes get `_load_files` by reference.
            os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
        self._llm: Any = LLM(
            model=str(settings.folder),
            load_format="dummy",
            dtype=settings.dtype,
            tensor_parallel_size=settings.tensor_parallel,
            enforce_eager=settings.on_cpu,
            enable_sleep_mode=settings.sleeps,
            max_model_len=-1,  # as long as memory allows, at most the model's own limit
            enable_prefix_caching=True,
            # Images are passed as features: no vision tower runs here, and none of its output is cached. With a limit
            # of 0 images vLLM does not even build the tower, but then deepstack features are not supported.
            enable_mm_embeds=True,
            limit_mm_per_prompt={"image": _MAX_IMAGES if settings.has_deep_features else 0, "video": 0},
            mm_processor_cache_gb=0,
            # By default log-probs are those of raw logits (before temperature), and the top-k and top-p of the model's
            # own generation config apply.
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
            disable_log_stats=True,
            **more,
        )

    def generate(self, requests: Sequence[EngineRequest], sampling: EngineSampling) -> list[list[EngineOutput]]:
        """Sample ``count`` completions for each request, in order."""
        if not requests:
            return []
        from vllm import SamplingParams

        greedy = sampling.temperature == 0  # vLLM refuses greedy decoding with n > 1
        prompts = [
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
                logprobs=0,  # of the sampled token only
                ignore_eos=True,  # stop tokens are those of stop_ids, no others
                stop_token_ids=list(sampling.stop_ids),
                bad_words=list(sampling.forbidden),
                detokenize=False,
            )
            for one in requests
        ]
        sampled: list[list[EngineOutput]] = []
        for request, result in zip(requests, self._llm.generate(prompts, params, use_tqdm=False), strict=True):
            # Placeholders are expanded by vLLM: with another number of image tokens, positions would be shifted.
            assert list(result.prompt_token_ids) == list(request.token_ids), "vLLM reads another prompt than the policy"
            outputs = [_output(one) for one in sorted(result.outputs, key=lambda one: one.index)]
            sampled.append(outputs * request.count if greedy else outputs)
        return sampled

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load weights by name, each of the shape of its parameter, see ``Engine.load_weights``."""
        if self._spans_processes:
            with tempfile.TemporaryDirectory(prefix="virft-weights-") as folder:
                _write_files(weights, Path(folder))
                self._llm.collective_rpc(_load_files, args=(folder,))
        else:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
        self._llm.reset_mm_cache()
        # Otherwise the scheduler relies on features that the worker has dropped.
        self._llm.llm_engine.reset_encoder_cache()
        # Cached prefixes are keys and values of the old weights.
        assert self._llm.reset_prefix_cache(), "vLLM has not cleared its prefix cache of other weights"

    def sleep(self) -> None:
        """Release the accelerator's memory. Weights are lost: after ``wake_up`` all of them must be loaded."""
        self._llm.sleep(level=2)

    def wake_up(self, part: Literal["weights", "kv_cache"]) -> None:
        """Allocate the memory of the weights, or of the KV cache, again."""
        self._llm.wake_up([part])

    def close(self) -> None:
        """End the engine and release its memory."""
        self._llm = None


def _without_repeats(token_ids: Sequence[int], placeholder: int) -> list[int]:
    """Token ids with one placeholder for each image, as vLLM takes them; it expands them again.

    >>> _without_repeats([5, 9, 9, 9, 6, 9, 7, 7], placeholder=9)
    [5, 9, 6, 9, 7, 7]
    """
    pairs = zip(token_ids, [None, *token_ids[:-1]], strict=True)
    return [token for token, before in pairs if token != placeholder or before != placeholder]


def _output(output: Any) -> EngineOutput:
    ids = tuple(output.token_ids)
    logprobs = tuple(float(of_token[i].logprob) for i, of_token in zip(ids, output.logprobs, strict=True))
    return EngineOutput(token_ids=ids, logprobs=logprobs)


def _write_files(weights: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    """Write one file for each weight, so that no whole copy of the model is in main memory."""
    for number, (name, tensor) in enumerate(weights):
        save_file({name: tensor.contiguous()}, folder / f"{number:06}.safetensors")


def _load_files(worker: Any, folder: str) -> None:
    """Load the weights of ``_write_files`` in a worker process of vLLM."""
    files = sorted(Path(folder).iterdir())
    worker.reload_weights(weights_iterator=(pair for path in files for pair in load_file(path).items()))
