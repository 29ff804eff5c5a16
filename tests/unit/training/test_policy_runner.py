"""Forward passes of a policy for the trainers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from toy_training import ToyPolicy, question, render
from virft.models.vision import FeatureCache
from virft.training.policy_runner import PolicyRunner
from virft.types import ImageSize

PROMPTS = [render(question("a")), render(question("b"))]


def make_runner(policy: Any, **more: Any) -> PolicyRunner:
    return PolicyRunner(policy=policy, **more)


class Row(SimpleNamespace):
    """A row of which a toy policy needs the targets alone."""

    def to(self, device: torch.device) -> Row:
        return self


ROW: Any = Row(targets=torch.tensor([1, 2]))


def test_log_probs_with_gradient_come_through_the_engine_and_those_of_another_policy_do_not() -> None:
    policy, reference, calls = ToyPolicy(), ToyPolicy(), []

    def engine(*given: Any, **named: Any) -> Tensor:
        calls.append(given)
        return policy(*given, **named)

    runner = make_runner(policy, engine=engine)
    assert runner.logprobs(ROW, PROMPTS, []).requires_grad
    assert len(calls) == 1
    other: Any = reference
    runner.logprobs(ROW, PROMPTS, [], policy=other)
    assert len(calls) == 1


def test_images_are_encoded_by_the_gathered_copy_if_there_is_one() -> None:
    policy, gathered = ToyPolicy(), ToyPolicy()
    make_runner(policy, gathered=gathered).encode_images(PROMPTS)
    assert (policy.encoded, gathered.encoded) == (0, 2)


def test_features_of_a_frozen_tower_reach_the_policy_and_those_of_a_trained_one_do_not() -> None:
    seen: list[dict[str, Any]] = []

    def policy(row: Any, **images: Any) -> Tensor:
        seen.append(images)
        return torch.zeros(2)

    for cache in (FeatureCache(), None):
        make_runner(policy, feature_cache=cache).logprobs(ROW, PROMPTS, ["of a", "of b"])  # type: ignore[list-item]
    assert seen[0] == {"features": ["of a", "of b"]}
    assert [len(one) for one in seen[1].values()] == [2]
    assert list(seen[1]) == ["vision"]


def test_the_same_image_in_another_size_is_encoded_again() -> None:
    policy = ToyPolicy()
    runner = make_runner(policy, feature_cache=FeatureCache())
    runner.encode_images(PROMPTS)
    runner.encode_images(PROMPTS)
    assert policy.encoded == 2
    (image,) = PROMPTS[0].prompt.images
    smaller = replace(image, resized=ImageSize(50, 100))
    runner.encode_images([replace(PROMPTS[0], prompt=replace(PROMPTS[0].prompt, images=(smaller,)))])
    assert policy.encoded == 3
