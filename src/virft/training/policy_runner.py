"""Forward passes of the policy in training: device, precision, sharding and the cache of image features."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from virft.models.attention.layout import PackedRow
from virft.models.policy import Policy
from virft.models.renderer import RenderedPrompt, RenderedTurn
from virft.models.sharding import reduce_gradients_in_backward
from virft.models.vision import FeatureCache, ImageFeatures
from virft.training.runtime import Runtime
from virft.training.step import UPDATE_FLOPS


@dataclass(kw_only=True)
class PolicyRunner:
    """A policy ready to be called by a trainer, which then knows nothing of devices, engines or sharded weights."""

    policy: Policy
    """The policy that is trained; sharded over the ranks if the strategy says so."""
    runtime: Runtime = field(default_factory=Runtime)
    """Ranks, device and precision."""
    engine: Callable[..., Tensor] | None = None
    """DeepSpeed's wrapper, through which the policy is called if a gradient is needed; None: called directly."""
    gathered: Policy | None = None
    """A copy of the policy that holds all weights inside ``gather``, to sample and encode with. None: the policy."""
    gather: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Context in which ``gathered`` holds its weights. A collective operation: every rank must enter it."""
    feature_cache: FeatureCache | None = None
    """Set if the vision tower is frozen: each image is encoded once a run, and no gradient flows into the tower."""
    turn_features: dict[Hashable, ImageFeatures] = field(default_factory=dict)
    """Features of the tool turns of a step, without gradient: made in sampling, and used in the update if the tower is
    frozen. The trainer clears it."""
    count_update: Callable[[PackedRow], int] | None = None
    """Counts the operations of a row's forward and backward pass in the language model; None: they are not counted."""

    def logprobs(
        self,
        row: PackedRow,
        prompts: Sequence[RenderedPrompt | RenderedTurn],
        features: Sequence[ImageFeatures],
        *,
        policy: Policy | None = None,
    ) -> Tensor:
        """Log-probs [N] in nats, float32, of the completion tokens of a packed row.

        ``prompts`` and tool turns are those in the row, in order, with their image ``features``. A frozen tower's
        features are used as they are; a trained tower encodes the images again, with gradient. ``policy``: another one,
        as the reference.
        """
        # Another policy is called directly: the engine belongs to the trained one.
        call: Callable[..., Tensor] = policy or self.engine or self.policy
        row = row.to(self.runtime.device)
        with self.runtime.autocast():
            if self.feature_cache is not None:
                return call(row, features=features)
            return call(row, vision=[one.vision.to(self.runtime.device) for one in prompts])

    def update_flops(self, rows: Iterable[PackedRow]) -> dict[str, float]:
        """Operations of one update on the rows of all ranks, under ``UPDATE_FLOPS``; empty if they are not counted."""
        if self.count_update is None:
            return {}
        return self.runtime.ranks.sum({UPDATE_FLOPS: sum(map(self.count_update, rows))})

    def prepare_backward(self, *, is_last_row: bool) -> None:
        """Prepare the backward pass of a row of a step, of which ``is_last_row`` is the last in this update."""
        if self.runtime.strategy == "fsdp2":
            reduce_gradients_in_backward(self.policy, is_last_row=is_last_row)

    def needs_pixels(self, one: RenderedPrompt) -> bool:
        """False if the image features of a prompt are cached."""
        return self.feature_cache is None or _is_augmented(one) or _key(one) not in self.feature_cache

    @torch.no_grad()
    def encode_images(self, rendered: Sequence[RenderedPrompt]) -> list[ImageFeatures]:
        """Image features of each prompt, without gradient.

        An augmented image is new at each step, so its features are never cached.
        """
        if self.feature_cache is None or any(map(_is_augmented, rendered)):
            return self._encode(rendered)
        # One prompt at a time, although a batch would be faster: the cache is empty after a resume, and the features of
        # an image must not depend, by rounding, on the other images that happened to be missing from the cache.
        return [self._cached(one, self.feature_cache) for one in rendered]

    @torch.no_grad()
    def encode_turns(self, turns: Sequence[RenderedTurn]) -> list[ImageFeatures]:
        """Image features of each tool turn, without gradient: computed once in a step, see ``turn_features``."""
        # An augmentation is part of the key: a sample may occur twice in a step, with two of them.
        keys: list[Hashable] = [(turn.zoom.image, turn.zoom.region) for turn in turns]
        missing = {key: turn for key, turn in zip(keys, turns, strict=True) if key not in self.turn_features}
        # Features that inference mode makes could not be used in the update.
        with torch.inference_mode(False):
            made = self._encode([*missing.values()])
        self.turn_features.update(zip(missing, made, strict=True))
        return [self.turn_features[key] for key in keys]

    def _cached(self, one: RenderedPrompt, cache: FeatureCache) -> ImageFeatures:
        # Pixels are read here if the features were cached when the prompt was loaded, and have been evicted since.
        return cache.get(_key(one), lambda: self._encode([one])[0]).to(self.runtime.device)

    def _encode(self, prompts: Sequence[RenderedPrompt | RenderedTurn]) -> list[ImageFeatures]:
        with self.runtime.autocast():
            policy = self.gathered or self.policy
            return policy.encode_images([one.vision.to(self.runtime.device) for one in prompts])


def _key(one: RenderedPrompt) -> Hashable:
    """Key of the image features of a prompt: its images, and their sizes under the pixel budget."""
    return tuple((image.path, image.resized) for image in one.prompt.images)


def _is_augmented(one: RenderedPrompt) -> bool:
    return any(image.augmentation is not None for image in one.prompt.images)
