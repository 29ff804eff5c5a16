"""Loss and every gradient of a whole step equal GRPO written out as in the paper, each completion alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from literal_grpo import (
    REWARDS,
    TinyGroup,
    assert_same_gradients,
    literal_loss,
    packed_backward,
    packed_batches,
    plain,
    shared,
)
from plain_computation import make_groups, make_pair, plain_logprobs
from tiny_models import MAKERS, num_adapted, tiny_model
from tiny_policies import adapters, loaded_of
from virft.config.schema import LossKind
from virft.models.load import LoadedModel
from virft.models.policy import Policy
from virft.training.grpo.pack import Microbatch

KINDS: tuple[LossKind, ...] = ("sequence_mean", "token_mean", "constant_length")


def assert_varied(model: torch.nn.Module, groups: list[TinyGroup]) -> None:
    with torch.no_grad():
        assert plain_logprobs(model, groups).std() > 0.3, "log-probs must vary, or equality says nothing"


def nudged(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """A copy with slightly other weights, as a reference is after some training."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator).to(parameter.device)
    return other


def reference_of(policy: Policy, groups: list[TinyGroup]) -> Callable[[Microbatch], Tensor]:
    """Log-probs of a row by another policy."""

    def logprobs(batch: Microbatch) -> Tensor:
        with torch.no_grad():
            return shared(policy, groups, batch)

    return logprobs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", MAKERS)
def test_loss_and_gradients_of_a_step_equal_the_paper(
    model_type: str, kind: LossKind, device: torch.device, tolerance: float
) -> None:
    model, policy = make_pair(model_type, device)
    groups = make_groups(model.config)
    assert_varied(model, groups)
    expected = literal_loss(groups, REWARDS, plain(model), kind=kind, kl_coef=0.0)
    expected.backward()
    batches, _ = packed_batches(policy, groups, REWARDS, kind=kind)
    found = packed_backward(policy, groups, batches)
    assert len(batches) == 1
    assert found == pytest.approx(expected.item(), abs=tolerance)
    assert_same_gradients(model, policy.model, at_least=20, tolerance=tolerance)


@pytest.mark.parametrize("model_type", MAKERS)
def test_a_step_with_a_kl_term_equals_the_paper(model_type: str, device: torch.device, tolerance: float) -> None:
    model, policy = make_pair(model_type, device)
    groups = make_groups(model.config)
    reference = nudged(model, seed=5)
    shared_reference = copy.deepcopy(policy)
    with torch.no_grad():
        for a, b in zip(shared_reference.parameters(), reference.parameters(), strict=True):
            a.copy_(b)
    expected = literal_loss(
        groups, REWARDS, plain(model), kind="sequence_mean", kl_coef=0.5, reference=plain(reference)
    )
    without = literal_loss(groups, REWARDS, plain(model), kind="sequence_mean", kl_coef=0.0)
    assert (expected - without).abs() > 1e-3, "the KL term must count"
    expected.backward()
    batches, _ = packed_batches(policy, groups, REWARDS)
    found = packed_backward(policy, groups, batches, reference=reference_of(shared_reference, groups), kl_coef=0.5)
    assert found == pytest.approx(expected.item(), abs=tolerance)
    assert_same_gradients(model, policy.model, at_least=20, tolerance=tolerance)


# Groups of 14 + 12 = 26 and 22 + 20 = 42 tokens. 45: a row for each; 30: the second, whose completions have 3, 9, 6
# and 2 tokens, in rows of 22 + 3, 22 + 9 and 22 + 6 + 2; 1: every completion in a row of its own.
@pytest.mark.parametrize(("microbatch_tokens", "rows"), [(1000, 1), (45, 2), (30, 4), (1, 7)])
def test_splitting_a_step_into_rows_leaves_the_gradients(
    microbatch_tokens: int, rows: int, device: torch.device, tolerance: float
) -> None:
    model, policy = make_pair("qwen2_vl", device)
    groups = make_groups(model.config)
    expected = literal_loss(groups, REWARDS, plain(model), kind="sequence_mean", kl_coef=0.0)
    expected.backward()
    batches, _ = packed_batches(policy, groups, REWARDS, microbatch_tokens=microbatch_tokens)
    assert len(batches) == rows
    found = packed_backward(policy, groups, batches)
    assert found == pytest.approx(expected.item(), abs=tolerance)
    assert_same_gradients(model, policy.model, at_least=20, tolerance=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_groups_of_zero_reward_variance_leaves_the_gradients(
    kind: LossKind, device: torch.device, tolerance: float
) -> None:
    rewards = ((1.0, 1.0, 1.0), REWARDS[1])
    model, policy = make_pair("qwen2_vl", device)
    groups = make_groups(model.config)
    expected = literal_loss(groups, rewards, plain(model), kind=kind, kl_coef=0.0)
    expected.backward()
    batches, _ = packed_batches(policy, groups, rewards, kind=kind, drop_equal=True)
    assert [batch.prompts for batch in batches] == [(1,)]
    found = packed_backward(policy, groups, batches)
    assert found == pytest.approx(expected.item(), abs=tolerance)
    assert_same_gradients(model, policy.model, at_least=20, tolerance=tolerance)


@pytest.mark.parametrize("model_type", MAKERS)
def test_a_frozen_tower_with_cached_features_equals_the_paper(
    model_type: str, device: torch.device, tolerance: float
) -> None:
    model, policy = make_pair(model_type, device)
    for one in (model, policy.model):
        for parameter in policy.family.vision_parameters(one):
            parameter.requires_grad_(False)
    groups = make_groups(model.config)
    expected = literal_loss(groups, REWARDS, plain(model), kind="sequence_mean", kl_coef=0.0)
    expected.backward()
    batches, features = packed_batches(policy, groups, REWARDS, microbatch_tokens=30)
    found = packed_backward(policy, groups, batches, features=features)
    assert found == pytest.approx(expected.item(), abs=tolerance)
    assert all(p.grad is None for p in policy.family.vision_parameters(policy.model))
    assert_same_gradients(model, policy.model, at_least=15, tolerance=tolerance)


def with_adapters(model: torch.nn.Module, policy: Policy) -> LoadedModel:
    """Adapters of rank 4 in the model; both halves random, so that they matter."""
    loaded = replace(loaded_of(policy), model=model)
    adapters(loaded)
    return loaded


@pytest.mark.parametrize("model_type", MAKERS)
def test_adapters_with_the_base_as_reference_equal_the_paper(
    model_type: str, device: torch.device, tolerance: float
) -> None:
    model, policy = make_pair(model_type, device)
    groups = make_groups(model.config)
    base = plain_logprobs(model, groups).detach()
    adapted, packed = with_adapters(model, policy), with_adapters(policy.model, policy)
    assert (plain_logprobs(model, groups).detach() - base).abs().max() > 0.1, "adapters must matter"

    def without_adapters(group: TinyGroup) -> Tensor:
        with adapted.adapters_disabled():
            return plain_logprobs(model, [group])

    def row_without_adapters(batch: Microbatch) -> Tensor:
        with torch.no_grad(), packed.adapters_disabled():
            return shared(policy, groups, batch, features)

    expected = literal_loss(
        groups, REWARDS, plain(model), kind="sequence_mean", kl_coef=0.5, reference=without_adapters
    )
    expected.backward()
    batches, features = packed_batches(policy, groups, REWARDS)
    found = packed_backward(policy, groups, batches, features=features, reference=row_without_adapters, kl_coef=0.5)
    assert found == pytest.approx(expected.item(), abs=tolerance)
    # 3 layers of 7 matrices, two halves each
    assert_same_gradients(model, policy.model, at_least=2 * num_adapted(model_type), tolerance=tolerance)


def test_the_comparison_fails_for_a_different_model(device: torch.device, tolerance: float) -> None:
    # the same comparison fails for a model of another seed: it can fail
    model, policy = make_pair("qwen2_vl", device)
    groups = make_groups(model.config)
    other = tiny_model("qwen2_vl", seed=1).to(device)
    other.set_attn_implementation("sdpa")
    expected = literal_loss(groups, REWARDS, plain(other), kind="sequence_mean", kl_coef=0.0)
    expected.backward()
    packed_backward(policy, groups, packed_batches(policy, groups, REWARDS)[0])
    with pytest.raises(AssertionError):
        assert_same_gradients(other, policy.model, at_least=1, tolerance=tolerance)
