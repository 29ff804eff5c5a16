"""A policy of one weight per token, and the parts around it: a trainer without a vision-language model."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from factories import detections, sample
from group_factories import completion, prompt
from virft.config.schema import GRPOConfig
from virft.generation.generator import EncodedPrompt, GenerationParams, Sampling
from virft.generation.random_streams import StepKey
from virft.geometry.boxes import BoxSpace
from virft.models.renderer import RenderedPrompt
from virft.models.vision import ImageFeatures, VisionInputs
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule
from virft.training.grpo.trainer import GRPOTrainer, SamplerCorrection
from virft.training.optim import learning_rate
from virft.training.policy_runner import PolicyRunner
from virft.types import Completion, ImageRef, ImageSize, Sample

RIGHT = "<answer>[{'Position':[200,250,800,750],'Confidence':1.0}]</answer>"
WRONG = "<answer>No Objects</answer>"


def question(id: str = "a") -> Sample:
    """Where is the fox? At [200, 250, 800, 750] of a thousand."""
    return sample(detections((20, 25, 80, 75)), id=id, image=f"{id}.png", size=(100, 100))


class ToyPolicy(nn.Module):
    """Token i has probability softmax(weight)[i] at any position; ``encoded`` counts uses of the vision tower."""

    def __init__(self, vocabulary: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vocabulary))
        self.encoded = 0

    def encode_images(self, prompts: Sequence[VisionInputs]) -> list[ImageFeatures]:
        self.encoded += len(prompts)
        return [ImageFeatures(tokens=()) for _ in prompts]

    def forward(self, row: Any, features: Any = None, vision: Any = None) -> Tensor:
        return torch.log_softmax(self.weight, -1)[row.targets]


class ToyGenerator:
    """Token 1 is the ground truth, token 2 "no objects"; ``calls`` are the stream ids of each call.

    ``equal``: true if all completions of a prompt are correct, or the ids of the samples for which that holds.

    ``gaps``: difference between the policy's log-probs of the two tokens and its own, as with another engine.
    """

    def __init__(
        self, policy: ToyPolicy, *, equal: bool | Collection[str] = False, gaps: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        self.calls: list[list[str]] = []
        self.keys: list[StepKey] = []
        self.num_updates = 0
        self._policy = policy
        self._equal = equal
        self._gaps = gaps

    def generate(
        self, prompts: Iterable[EncodedPrompt], group_size: int, params: GenerationParams, key: StepKey
    ) -> list[list[Completion]]:
        prompts = list(prompts)
        self.calls.append([one.stream_id for one in prompts])
        self.keys.append(key)
        chances = torch.log_softmax(self._policy.weight.detach(), -1).tolist()
        right, wrong = (
            completion([t], logprobs=[chances[t] - gap], text=s)
            for t, s, gap in zip((1, 2), (RIGHT, WRONG), self._gaps, strict=True)
        )
        return [[right if g % 2 or self._is_equal(one) else wrong for g in range(group_size)] for one in prompts]

    def _is_equal(self, prompt: EncodedPrompt) -> bool:
        return self._equal if isinstance(self._equal, bool) else prompt.stream_id.partition("/")[2] in self._equal

    def begin(
        self, prompts: Iterable[EncodedPrompt], group_size: int, params: GenerationParams, key: StepKey
    ) -> Sampling:
        found = self.generate(prompts, group_size, params, key)
        return lambda: found

    def update(self) -> None:
        self.num_updates += 1

    def close(self) -> None:
        pass


def render(one: Sample) -> RenderedPrompt:
    """A prompt of three tokens about the sample's image."""
    image = ImageRef(
        path=one.images[0], original=one.target_size, resized=ImageSize(100, 100), augmentation=one.augmentation
    )
    return RenderedPrompt(
        prompt=replace(prompt(sample_id=one.id), images=(image,)),
        load_vision=lambda: VisionInputs(pixel_values=torch.zeros(1), per_image={"grid_thw": torch.zeros(1, 3)}),
        positions=torch.arange(3).expand(3, -1),
    )


def toy_trainer(
    *,
    num_steps: int = 4,
    equal: bool | Collection[str] = False,
    gaps: tuple[float, float] = (0.0, 0.0),
    importance_cap: float | None = None,
    max_gap: float = math.inf,
    feature_cache: Any = None,
    max_staleness: int = 0,
    **settings: Any,
) -> GRPOTrainer:
    """A trainer of a toy policy in groups of 4; ``settings`` override the paper's with kl_coef 0."""
    policy: Any = ToyPolicy()
    correction = None
    if importance_cap is not None:
        correction = SamplerCorrection(importance_cap=importance_cap, max_gap=max_gap)
    defaults: dict[str, Any] = {
        "steps": num_steps,
        "group_size": 4,
        "kl_coef": 0.0,
        "loss": "sequence_mean",
        "scale_by_std": True,
        "updates_per_batch": 1,
        "clip_range": 0.2,
        "max_grad_norm": 1.0,
        "microbatch_tokens": 64,
    }
    return GRPOTrainer(
        runner=PolicyRunner(policy=policy, feature_cache=feature_cache),
        generator=ToyGenerator(policy, equal=equal, gaps=gaps),
        render=render,
        grader=Grader(rule=RewardRule(), thinking=False, box_space=BoxSpace.RELATIVE_1000),
        optimizer=torch.optim.AdamW(policy.parameters(), lr=0.0, weight_decay=0.0),
        learning_rate_at=partial(
            learning_rate, peak=0.1, num_steps=num_steps, schedule=settings.get("schedule", "linear")
        ),
        config=GRPOConfig(**defaults | settings),
        params=GenerationParams(max_completion_tokens=8),
        seed=3,
        correction=correction,
        max_staleness=max_staleness,
    )
