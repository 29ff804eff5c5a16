"""Loss and every gradient of a step with demonstrations equal the formulas written out, each sequence alone."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from plain_computation import device_of, make_groups, plain_logprobs
from process_cases import DEMONSTRATION_REWARD, DEMONSTRATIONS, EQUAL, VARIED, Case, load, outcome
from tiny_models import MAKERS, num_adapted
from virft.training.distributed import Ranks

CPU = torch.device("cpu")
TOLERANCE = 1e-5
COEF = 0.7
LOSS: dict[str, Any] = {"demonstrations": "loss", "demonstration_coef": COEF, "kl_coef": 0.0}
GROUP: dict[str, Any] = {"demonstrations": "group", "kl_coef": 0.0}
IN_MEAN: dict[str, Any] = GROUP | {"demonstration_in_mean": True}
MAX_COMPLETION_TOKENS = 12


def plain_model(case: Case) -> Any:
    """The weights of the case in an unmodified model of transformers, and the same part of them trained."""
    loaded = load(replace(case, checkpointing=False))
    loaded.model.set_attn_implementation("sdpa")
    return loaded


def logprobs(model: Any, group: Any, tokens: Sequence[int]) -> Tensor:
    """Log-probs of one sequence behind the prompt of a group, from a forward pass of its own."""
    prompt, vision, _ = group
    return plain_logprobs(model, [(prompt, vision, [list(tokens)])])


def in_loss(tokens: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """1 for tokens that are in the loss of a demonstration, 0 for its second token."""
    return torch.tensor([float(i != 1) for i in range(len(tokens))], device=device)


def member_advantages(rewards: Sequence[float], mode: str, in_mean: bool) -> tuple[list[float], float]:
    """Advantages of the completions and of the demonstration."""
    members = [*rewards, DEMONSTRATION_REWARD]
    compared = members if in_mean and mode == "group" else rewards
    mean, std = statistics.mean(compared), statistics.stdev(compared)
    own = [(reward - mean) / (std + 1e-4) for reward in rewards]
    demonstrated = (DEMONSTRATION_REWARD - mean) / (statistics.stdev(members) + 1e-4)
    return own, max(0.0, demonstrated)


def literal(case: Case, loaded: Any, reference: Any = None, *, off_policy: bool = False) -> Tensor:
    """The loss of a step. ``off_policy``: the ratios of completions to the log-probs of ``Replay`` are clipped."""
    settings = {"loss": "sequence_mean", "kl_coef": 0.3, "demonstration_in_mean": False} | case.settings
    model, mode, kind = loaded.model, settings["demonstrations"], settings["loss"]
    groups = [*make_groups(model.config), *make_groups(model.config, 1)][: len(case.rewards)]
    num_completions = sum(len(group[2]) for group in groups)
    num_tokens = sum(len(one) for group in groups for one in group[2])
    num_demonstrated = sum(float(in_loss(DEMONSTRATIONS[g]).sum()) for g in range(len(groups)))

    def weight(length: int) -> float:
        if kind == "sequence_mean":
            return 1 / (num_completions * length)
        return 1 / num_tokens if kind == "token_mean" else 1 / (num_completions * MAX_COMPLETION_TOKENS)

    total = torch.zeros((), device=device_of(model))
    for g, group in enumerate(groups):
        rewards = case.rewards[g][: len(group[2])]
        own, demonstrated = member_advantages(rewards, mode, settings["demonstration_in_mean"])
        for i, tokens in enumerate(group[2]):
            if settings.get("mask_truncated") and i == len(group[2]) - 1:
                continue
            found = logprobs(model, group, tokens)
            terms = -own[i] * (found - found.detach()).exp()
            if off_policy:
                ratio = (found + 1 + i).exp()
                clip = settings["clip_range"]
                terms = -torch.min(own[i] * ratio, own[i] * ratio.clip(1 - clip, 1 + clip))
            if reference is not None:
                distance = reference(group, tokens) - found
                terms = terms + settings["kl_coef"] * (distance.exp() - distance - 1)
            total = total + weight(len(tokens)) * terms.sum()
        tokens = DEMONSTRATIONS[g]
        found = logprobs(model, group, tokens)
        if mode == "group":
            ratio = (found - found.detach()).exp()
            total = total - weight(len(tokens)) * demonstrated * (in_loss(tokens, found.device) * ratio).sum()
        else:
            coef = settings.get("demonstration_coef", 0.2) / num_demonstrated
            total = total - coef * (in_loss(tokens, found.device) * found).sum()
    return total


def assert_equals_literal(
    case: Case, device: torch.device = CPU, *, at_least: int = 20, tolerance: float = TOLERANCE, **more: Any
) -> dict[str, Any]:
    """Assert that loss and gradients of the first update equal ``literal``; the outcome."""
    found = outcome(case, "ddp", Ranks(device=device))
    loaded = plain_model(case)
    loaded.model.to(device)
    expected = literal(case, loaded, **more)
    expected.backward()
    assert found["metrics"]["loss"] == pytest.approx(expected.item(), abs=tolerance)
    clear = 0
    parameters = [one for one in loaded.model.parameters() if one.requires_grad]
    for one, gradient in zip(parameters, found["gradients"][0], strict=True):
        if one.grad is None:
            assert gradient.abs().max() == 0
            continue
        torch.testing.assert_close(gradient, one.grad, atol=tolerance, rtol=0)
        clear += bool(one.grad.abs().max() > 100 * tolerance)
    assert clear >= at_least
    return found


@pytest.mark.parametrize("settings", [LOSS, GROUP, IN_MEAN], ids=["loss", "group", "in mean"])
@pytest.mark.parametrize("model_type", MAKERS)
def test_a_step_with_demonstrations_equals_the_formulas(
    model_type: str, settings: dict[str, Any], device: torch.device, tolerance: float
) -> None:
    assert_equals_literal(Case(model_type=model_type, settings=settings), device, tolerance=tolerance)


@pytest.mark.parametrize("settings", [LOSS, GROUP], ids=["loss", "group"])
@pytest.mark.parametrize("model_type", MAKERS)
def test_adapters_with_gradient_checkpointing_equal_the_formulas(
    model_type: str, settings: dict[str, Any], device: torch.device, tolerance: float
) -> None:
    case = Case(model_type=model_type, lora=True, frozen_vision=True, checkpointing=True, settings=settings)
    assert_equals_literal(case, device, at_least=2 * num_adapted(model_type), tolerance=tolerance)


# Groups of 14 + 12 + 5 and 22 + 20 + 3 tokens; 1: each completion and each demonstration in a row of its own.
@pytest.mark.parametrize("microbatch_tokens", [50, 30, 1])
@pytest.mark.parametrize("kind", ["sequence_mean", "token_mean", "constant_length"])
@pytest.mark.parametrize("settings", [LOSS, GROUP], ids=["loss", "group"])
def test_splitting_a_step_into_rows_leaves_the_result(
    settings: dict[str, Any], kind: str, microbatch_tokens: int
) -> None:
    assert_equals_literal(Case(settings=settings | {"loss": kind, "microbatch_tokens": microbatch_tokens}))


@pytest.mark.parametrize("settings", [LOSS, GROUP, IN_MEAN], ids=["loss", "group", "in mean"])
def test_a_demonstration_teaches_in_a_group_with_zero_reward_variance(settings: dict[str, Any]) -> None:
    found = assert_equals_literal(Case(rewards=(EQUAL, VARIED), settings=settings))
    # the demonstrations of both groups, 5 and 3 tokens
    assert found["metrics"]["demonstration_tokens"] == 8


@pytest.mark.parametrize("settings", [LOSS, GROUP], ids=["loss", "group"])
def test_truncated_completions_are_masked_and_demonstrations_are_not(settings: dict[str, Any]) -> None:
    assert_equals_literal(Case(truncated=True, settings=settings | {"mask_truncated": True}))


@pytest.mark.parametrize("settings", [LOSS, GROUP], ids=["loss", "group"])
def test_demonstrations_are_no_part_of_kl(settings: dict[str, Any]) -> None:
    case = Case(settings=settings | {"kl_coef": 0.3})
    other = copy.deepcopy(plain_model(case).model)
    with torch.no_grad():
        for one in other.parameters():
            one += 0.02 * torch.randn(one.shape, generator=torch.Generator().manual_seed(one.numel()))

    def reference(group: Any, tokens: Sequence[int]) -> Tensor:
        with torch.no_grad():
            return logprobs(other, group, tokens)

    found = assert_equals_literal(case, reference=reference)
    without = outcome(replace(case, settings={"kl_coef": 0.3}), "ddp", Ranks())
    assert found["metrics"]["kl"] == pytest.approx(without["metrics"]["kl"], abs=1e-6)


@pytest.mark.parametrize("settings", [LOSS, GROUP], ids=["loss", "group"])
def test_several_updates_equal_the_formulas_and_clip_no_demonstration(settings: dict[str, Any]) -> None:
    case = Case(settings=settings | {"updates_per_batch": 2, "clip_range": 0.1, "microbatch_tokens": 30})
    found = outcome(case, "ddp", Ranks())
    assert 0.1 < found["metrics"]["clip_frac"] < 1
    loaded = plain_model(case)
    parameters = [one for one in loaded.model.parameters() if one.requires_grad]
    for update in range(2):
        literal(case, loaded, off_policy=True).backward()
        for one, gradient in zip(parameters, found["gradients"][update], strict=True):
            torch.testing.assert_close(gradient, one.grad, atol=TOLERANCE, rtol=0)
        with torch.no_grad():
            for one in parameters:
                one -= 0.1 * one.grad
                one.grad = None
    torch.testing.assert_close(found["weights"], [one.detach() for one in parameters], atol=TOLERANCE, rtol=0)


def test_replacements_of_dynamic_sampling_are_not_demonstrated_in_the_cross_entropy() -> None:
    # The first group is replaced by the third; the cross-entropy is that of the first two.
    case = Case(rewards=(EQUAL, VARIED, VARIED[::-1]), settings=LOSS | {"refill_rounds": 1})
    found = outcome(case, "ddp", Ranks())
    assert found["metrics"]["num_refilled"] == 1
    # 5 and 3 tokens
    assert found["metrics"]["demonstration_tokens"] == 8
    loaded = plain_model(case)
    groups = [*make_groups(loaded.model.config), *make_groups(loaded.model.config, 1)]
    num_completions = len(groups[1][2]) + len(groups[2][2])
    expected = torch.zeros(())
    for g in (1, 2):
        own, _ = member_advantages(case.rewards[g][: len(groups[g][2])], "loss", in_mean=False)
        for advantage, tokens in zip(own, groups[g][2], strict=True):
            one = logprobs(loaded.model, groups[g], tokens)
            expected = expected - advantage * (one - one.detach()).exp().mean() / num_completions
    num_demonstrated = sum(in_loss(DEMONSTRATIONS[g]).sum() for g in (0, 1))
    for g in (0, 1):
        one = logprobs(loaded.model, groups[g], DEMONSTRATIONS[g])
        expected = expected - COEF * (in_loss(DEMONSTRATIONS[g]) * one).sum() / num_demonstrated
    expected.backward()
    assert found["metrics"]["loss"] == pytest.approx(expected.item(), abs=TOLERANCE)
    parameters = [one for one in loaded.model.parameters() if one.requires_grad]
    for one, gradient in zip(parameters, found["gradients"][0], strict=True):
        torch.testing.assert_close(gradient, one.grad, atol=TOLERANCE, rtol=0)


def test_a_group_whose_demonstration_has_an_advantage_is_not_replaced() -> None:
    case = Case(rewards=(EQUAL, VARIED, VARIED), settings=GROUP | {"refill_rounds": 1})
    found = outcome(case, "ddp", Ranks())
    assert found["metrics"]["num_refilled"] == 0
    solved = replace(case, rewards=((DEMONSTRATION_REWARD,) * 4, VARIED, VARIED))
    assert outcome(solved, "ddp", Ranks())["metrics"]["num_refilled"] == 1


def test_the_comparison_fails_for_another_coefficient() -> None:
    case = Case(settings=LOSS)
    with pytest.raises(AssertionError):
        found = outcome(case, "ddp", Ranks())
        other = replace(case, settings=LOSS | {"demonstration_coef": 0.5})
        assert found["metrics"]["loss"] == pytest.approx(literal(other, plain_model(other)).item(), abs=TOLERANCE)
