"""A vLLM engine that shares the device of the training process, and sleeps while the model trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from virft.errors import SamplerLost
from virft.generation.vllm_engine import EngineOutput, EngineRequest, EngineSampling, EngineSettings, VLLMEngine

Gather = Callable[[Sequence[EngineRequest]], list[Sequence[EngineRequest]]]
"""From the requests of this process to those of all processes of its engine, in the order of their ranks."""


class ColocatedEngine:
    """An ``Engine`` in this process, or a tensor-parallel one in several: each runs the same calls.

    ``gather`` and ``place``: with tensor parallelism, the requests of the processes of the engine, and the place of
    this process among them. All of these processes must call the same methods in the same order.
    """

    sleeps = True
    receives_weights = True

    def __init__(self, settings: EngineSettings, *, gather: Gather | None = None, place: int = 0) -> None:
        self._gather = gather
        self._place = place
        self._engine = VLLMEngine(settings)
        # Until the first rollout the dummy weights would take the memory of image features.
        self._engine.sleep()

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Wake up and load all weights, each of the shape of its parameter, see ``Engine.load_weights``."""
        # The allocator of PyTorch holds blocks of the update, which vLLM could not allocate.
        torch.cuda.empty_cache()
        # Without the KV cache, a gathered weight and its copy have room.
        self._engine.wake_up("weights")
        self._engine.load_weights(weights)
        self._engine.wake_up("kv_cache")

    def generate(self, requests: Sequence[EngineRequest], sampling: EngineSampling) -> list[list[EngineOutput]]:
        """Sample ``count`` completions for each request, in order; then sleep. ``load_weights`` must precede it."""
        of_processes = [requests] if self._gather is None else self._gather(requests)
        outputs = self._engine.generate([one for part in of_processes for one in part], sampling)
        self._engine.sleep()
        first = sum(map(len, of_processes[: self._place]))
        return outputs[first : first + len(requests)]

    def take_back(self) -> bool:
        """Return False: there is no server."""
        return False

    def recover(self, lost: SamplerLost | None) -> bool:
        """Return False: there is no server."""
        return False

    def server_messages(self) -> list[str]:
        """Return no message: there is no server."""
        return []

    def close(self) -> None:
        """End the engine and release its memory."""
        self._engine.close()
