"""How prompts and packed rows go through a policy in training: where, in which precision, the tower trained or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from virft.models.attention.layout import PackedRow
from virft.models.policy import Policy
from virft.models.renderer import RenderedPrompt
from virft.models.vision import FeatureCache, ImageFeatures


@dataclass(kw_only=True)
class Passes:
    """``cache``: set if the vision tower is frozen, so each image is encoded once a run. ``autocast``: None for off.

    ``encoder``: what encodes images without gradient, if not the policy. ``engine``: what the policy is called through.
    """

    policy: Policy
    engine: Callable[..., Tensor] | None = None
    encoder: Policy | None = None
    cache: FeatureCache | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    autocast: Callable[[], AbstractContextManager[Any]] | None = None

    def precision(self) -> AbstractContextManager[Any]:
        """What the model computes in, as long as the block runs."""
        return self.autocast() if self.autocast is not None else torch.autocast("cpu", enabled=False)

    def logprobs(
        self,
        row: PackedRow,
        prompts: Sequence[RenderedPrompt],
        features: Sequence[ImageFeatures],
        *,
        policy: Policy | None = None,
    ) -> Tensor:
        """Log-probs of a row's completions, of the policy or another one. ``prompts``: those in the row, in order.

        With features made before, or through the tower if that is trained.
        """
        call: Callable[..., Tensor] = policy or self.engine or self.policy
        row = row.to(self.device)
        with self.precision():
            if self.cache is not None:
                return call(row, features=features)
            return call(row, vision=[one.vision.to(self.device) for one in prompts])

    @torch.no_grad()
    def features(self, rendered: Sequence[RenderedPrompt]) -> list[ImageFeatures]:
        """Image features of each prompt, without gradient.

        A view is drawn anew each time, so its features are never kept. What is kept is encoded one prompt at a time:
        the cache is empty after a resume, and features must not depend on what else was missing from it.
        """

        def encode(prompts: Sequence[RenderedPrompt]) -> list[ImageFeatures]:
            with self.precision():
                return (self.encoder or self.policy).encode_images([one.vision.to(self.device) for one in prompts])

        def kept(one: RenderedPrompt, cache: FeatureCache) -> ImageFeatures:
            key = tuple((image.path, image.resized) for image in one.prompt.images)
            return cache.get(key, lambda: encode([one])[0])

        if self.cache is None or any(image.augmentation is not None for one in rendered for image in one.prompt.images):
            return encode(rendered)
        return [kept(one, self.cache) for one in rendered]
