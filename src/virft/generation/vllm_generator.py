"""Sampling with vLLM, which gets the policy's weights after each step, and the policy's image features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Literal

import torch
from torch import Tensor

from virft.errors import ModelError, SamplerLost
from virft.generation.engine_weights import engine_weights
from virft.generation.generator import EncodedPrompt, GenerationParams, Sampling
from virft.generation.hf_generator import TextDecoder
from virft.generation.random_streams import StepKey
from virft.generation.vllm_engine import Engine, EngineOutput, EngineRequest, EngineSampling
from virft.models.load import LoadedModel
from virft.models.policy import TokenRules
from virft.models.stop_tokens import stop_token_ids
from virft.models.vision import ImageFeatures
from virft.types import Completion


class VLLMGenerator:
    """A ``Generator`` that samples with a vLLM engine.

    The engine gets image features, not images: pixels are those of the policy, and the weights of a trained vision
    tower need not be sent. Weights are sent before the first call of ``generate`` and, after ``update``, before the
    next one; to an engine that sleeps, before each. Equal weights and keys give equal completions.

    If weights are sharded, sending them is a collective operation: all processes must call ``generate`` together.
    """

    def __init__(self, loaded: LoadedModel, rules: TokenRules, *, engine: Engine, dtype: torch.dtype):
        self._loaded = loaded
        self._engine = engine
        self._dtype = dtype
        self._decoder = TextDecoder(loaded.tokenizer)
        self._stop_ids = stop_token_ids(loaded.model)
        self._forbidden = tuple(_text_of(token, loaded.tokenizer) for token in rules.forbidden_ids)
        # The engine starts with dummy weights. Later only those that training changes are outdated.
        self._outdated: Literal["all", "trained", "none"] = "all"
        # An engine that sleeps is in this process, which it would share with the update.
        self._pool = None if engine.sleeps else ThreadPoolExecutor(1, thread_name_prefix="vllm")
        self._running: Future[list[list[EngineOutput]]] | None = None

    @torch.no_grad()
    def generate(
        self,
        prompts: Iterable[EncodedPrompt],
        group_size: int,
        params: GenerationParams,
        key: StepKey,
    ) -> list[list[Completion]]:
        """Sample ``group_size`` completions of each prompt, in the order of the prompts.

        With greedy decoding (``temperature`` 0), log-probs are those at temperature 1.
        """
        prompts = list(prompts)
        outputs: list[list[EngineOutput]] | None = None
        while True:
            # A process that has its completions calls again too: it may share a server with one that has none.
            missing = prompts if outputs is None else []
            lost = None
            try:
                found = self._engine.generate(*self._prepare(missing, group_size, params, key))
                outputs = found if outputs is None else outputs
            except SamplerLost as error:
                lost = error
            if self._engine.sleeps:
                self._outdated = "all"
            if not self._engine.recover(lost):
                return self._completions(prompts, outputs or [])
            self._outdated = "all"

    @torch.no_grad()
    def begin(
        self,
        prompts: Iterable[EncodedPrompt],
        group_size: int,
        params: GenerationParams,
        key: StepKey,
    ) -> Sampling:
        """Send weights and prompts, and return while an engine in another process samples.

        An engine in this process samples before this returns.
        """
        prompts = list(prompts)
        if self._pool is None:
            found = self.generate(prompts, group_size, params, key)
            return lambda: found
        running = self._pool.submit(self._engine.generate, *self._prepare(prompts, group_size, params, key))
        self._running = running
        return lambda: self._completions(prompts, running.result())

    def _completions(
        self, prompts: Sequence[EncodedPrompt], outputs: Sequence[Sequence[EngineOutput]]
    ) -> list[list[Completion]]:
        return [
            [self._completion(output, one.prompt.opened) for output in of_prompt]
            for one, of_prompt in zip(prompts, outputs, strict=True)
        ]

    def update(self) -> None:
        """Declare that the policy's weights have changed; they are sent before the next call of ``generate``."""
        if self._outdated == "none":
            self._outdated = "trained"

    def server_messages(self) -> list[str]:
        """Return a message for each server that was lost, or started again, since the last call."""
        return self._engine.server_messages()

    def close(self) -> None:
        """End the engine."""
        self._engine.close()
        if self._pool is not None:
            self._pool.shutdown()

    def _prepare(
        self, prompts: Sequence[EncodedPrompt], group_size: int, params: GenerationParams, key: StepKey
    ) -> tuple[list[EngineRequest], EngineSampling]:
        """Give the engine the current weights; the arguments of its ``generate``."""
        if self._running is not None:
            # The engine takes one call at a time, and must not change its weights within one.
            wait([self._running])
            self._running = None
        if self._outdated != "none":
            if self._engine.take_back():
                self._outdated = "all"
            # Every process takes part in gathering sharded weights, whether it sends them or not.
            takes_part = self._engine.receives_weights or self._loaded.gathered_copy is not None
            only_trained = self._outdated == "trained"
            self._engine.load_weights(
                engine_weights(self._loaded, self._dtype, only_trained=only_trained) if takes_part else ()
            )
            self._outdated = "none"
        sampling = EngineSampling(
            max_tokens=params.max_completion_tokens,
            temperature=params.temperature,
            stop_ids=tuple(sorted(self._stop_ids)),
            forbidden=self._forbidden,
        )
        return [self._request(one, group_size, key) for one in prompts], sampling

    def _request(self, one: EncodedPrompt, group_size: int, key: StepKey) -> EngineRequest:
        unit = self._loaded.image_processor.patch_size
        sizes = [image.resized for image in one.prompt.images]
        return EngineRequest(
            token_ids=one.prompt.token_ids,
            placeholder_id=self._loaded.family.placeholder_id(self._loaded.model.config),
            image_embeds=_joined(one.features).cpu(),
            grid_thw=torch.tensor([[1, size.height // unit, size.width // unit] for size in sizes]),
            count=group_size,
            seed=key.engine_seed(one.stream_id),
        )

    def _completion(self, output: EngineOutput, opened: str) -> Completion:
        stopped = output.token_ids[-1] in self._stop_ids
        return self._decoder.completion(output.token_ids, output.logprobs, stopped, opened=opened)


def _joined(features: ImageFeatures) -> Tensor:
    """Features of all images in one tensor, as vLLM takes them: [image tokens, hidden * (1 + deepstack layers)]."""
    of_images = [torch.cat(parts, dim=-1) for parts in zip(features.tokens, *features.deep, strict=True)]
    return torch.cat(of_images).detach()


def _text_of(token: int, tokenizer: Any) -> str:
    """The text of a token that vLLM must not sample."""
    text = str(tokenizer.convert_ids_to_tokens(token))
    if list(tokenizer(text, add_special_tokens=False).input_ids) != [token]:
        raise ModelError(
            f"token {token} has no text of its own, by which vLLM could exclude it from sampling; "
            "expected a tokenizer in which it is a special token"
        )
    return text
