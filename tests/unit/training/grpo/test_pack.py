"""Groups become rows: what goes together, what each token weighs, and that the split does not matter."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from group_factories import encode, group
from virft.config.schema import LossKind
from virft.training.grpo.loss import policy_loss
from virft.training.grpo.pack import Microbatch, WeightedDemonstration, pack_step
from virft.types import FinishReason, RolloutGroup

KINDS: tuple[LossKind, ...] = ("sequence_mean", "token_mean", "constant_length")


def pack(
    *groups: RolloutGroup,
    loss: LossKind = "sequence_mean",
    microbatch_tokens: int = 1000,
    drop_equal: bool = False,
    scale_by_std: bool = False,
) -> list[Microbatch]:
    return pack_step(
        groups,
        encode(*groups),
        loss=loss,
        max_completion_tokens=10,
        scale_by_std=scale_by_std,
        drop_equal=drop_equal,
        microbatch_tokens=microbatch_tokens,
    )


def test_a_row_holds_prompt_and_completions_of_each_group() -> None:
    (batch,) = pack(group([0.0, 1.0], [2, 1]), group([1.0, 0.0], [1, 1], prompt_length=2, id="b"))
    assert batch.row.token_ids.tolist() == [1, 2, 3, 10, 11, 10, 1, 2, 10, 10]
    assert batch.row.targets.tolist() == [10, 11, 10, 10, 10]
    assert batch.prompts == (0, 1)


def test_every_token_carries_the_advantage_of_its_completion() -> None:
    (batch,) = pack(group([0.0, 1.0], [2, 1]))
    # mean 0.5: -0.5 for both tokens of the first, 0.5 for the one of the second
    assert batch.advantages.tolist() == [-0.5, -0.5, 0.5]


def test_sampler_logprobs_stand_in_the_order_of_the_targets() -> None:
    (batch,) = pack(group([0.0, 1.0], [2, 1]))
    assert batch.sampler_logprobs.tolist() == pytest.approx([-1.0, -1.1, -2.0])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("sequence_mean", [1 / 4, 1 / 4, 1 / 2]),  # 2 completions: 1 / (2 x 2 tokens), 1 / (2 x 1 token)
        ("token_mean", [1 / 3, 1 / 3, 1 / 3]),  # 3 tokens
        ("constant_length", [1 / 20, 1 / 20, 1 / 20]),  # 2 completions x 10 tokens at most
    ],
)
def test_the_loss_kind_decides_what_a_token_weighs(loss: LossKind, expected: list[float]) -> None:
    (batch,) = pack(group([0.0, 1.0], [2, 1]), loss=loss)
    assert batch.weights.tolist() == pytest.approx(expected)


def test_dropped_groups_still_count_in_the_denominator() -> None:
    batches = pack(group([1.0, 1.0], [3, 3]), group([0.0, 1.0], [2, 1], id="b"), drop_equal=True)
    (batch,) = batches
    assert batch.prompts == (1,)
    # 4 completions in the step: 1 / (4 x 2), 1 / (4 x 1)
    assert batch.weights.tolist() == pytest.approx([1 / 8, 1 / 8, 1 / 4])


def test_a_step_of_equal_groups_has_no_rows() -> None:
    assert pack(group([1.0, 1.0]), group([0.0, 0.0], id="b"), drop_equal=True) == []


def test_groups_with_zero_reward_variance_stay_if_the_kl_term_needs_them() -> None:
    (batch,) = pack(group([1.0, 1.0]), drop_equal=False)
    assert batch.advantages.tolist() == [0.0] * 4


def test_groups_that_do_not_fit_together_get_rows_of_their_own() -> None:
    # each group is 3 + 2 + 2 = 7 tokens; two are 14
    groups = [group([0.0, 1.0], id=str(i)) for i in range(3)]
    assert [batch.prompts for batch in pack(*groups, microbatch_tokens=14)] == [(0, 1), (2,)]
    assert [batch.prompts for batch in pack(*groups, microbatch_tokens=13)] == [(0,), (1,), (2,)]


def test_a_group_too_large_for_a_row_is_split_and_each_row_has_the_prompt() -> None:
    # 3 + 4 + 4 = 11 fits into 11, the third completion does not
    batches = pack(group([0.0, 1.0, 2.0], [4, 4, 4]), microbatch_tokens=11)
    assert [batch.row.token_ids.tolist() for batch in batches] == [
        [1, 2, 3, 10, 11, 12, 13, 10, 11, 12, 13],
        [1, 2, 3, 10, 11, 12, 13],
    ]
    # the advantages are those of the whole group: mean 1
    assert [batch.advantages.tolist() for batch in batches] == [[-1.0] * 4 + [0.0] * 4, [1.0] * 4]


def test_a_single_completion_may_be_longer_than_the_limit() -> None:
    batches = pack(group([0.0, 1.0], [4, 4]), microbatch_tokens=1)
    assert [len(batch.row.token_ids) for batch in batches] == [7, 7]


GROUPS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.floats(-2, 2), st.integers(1, 10)), min_size=2, max_size=5),
        st.integers(1, 6),
    ),
    min_size=1,
    max_size=4,
).map(
    lambda specs: [
        group([r for r, _ in rows], [n for _, n in rows], prompt_length=length, id=str(i))
        for i, (rows, length) in enumerate(specs)
    ]
)


@given(groups=GROUPS, limit=st.integers(1, 80), kind=st.sampled_from(("sequence_mean", "token_mean")))
def test_the_weights_of_a_step_add_up_to_1(groups: list[RolloutGroup], limit: int, kind: LossKind) -> None:
    total = sum(batch.weights.double().sum().item() for batch in pack(*groups, loss=kind, microbatch_tokens=limit))
    assert total == pytest.approx(1.0, abs=1e-6)


@given(groups=GROUPS)
def test_constant_length_weights_add_up_to_the_mean_share_of_the_longest_length(groups: list[RolloutGroup]) -> None:
    lengths = [len(one.token_ids) for each in groups for one in each.completions]
    (batch,) = pack(*groups, loss="constant_length")
    assert batch.weights.double().sum().item() == pytest.approx(math.fsum(lengths) / len(lengths) / 10, abs=1e-6)


def step_loss(batches: list[Microbatch]) -> float:
    """Of a policy whose log-probs are a fixed function of the sampler's; with ratio, clipping and KL."""
    total = 0.0
    for batch in batches:
        sampler = batch.sampler_logprobs.double()
        result = policy_loss(
            sampler + torch.sin(7 * sampler),
            advantages=batch.advantages.double(),
            weights=batch.weights.double(),
            old_logprobs=sampler,
            reference_logprobs=sampler + 0.3 * torch.cos(5 * sampler),
            kl_coef=0.1,
        )
        total += result.loss.item()
    return total


@given(groups=GROUPS, limit=st.integers(1, 80), kind=st.sampled_from(KINDS), scale=st.booleans())
def test_the_loss_of_a_step_does_not_depend_on_the_microbatches(
    groups: list[RolloutGroup], limit: int, kind: LossKind, scale: bool
) -> None:
    whole = step_loss(pack(*groups, loss=kind, scale_by_std=scale))
    split = step_loss(pack(*groups, loss=kind, scale_by_std=scale, microbatch_tokens=limit))
    assert split == pytest.approx(whole, rel=1e-6, abs=1e-6)


@given(groups=GROUPS, kind=st.sampled_from(KINDS), limit=st.integers(1, 80), drop_equal=st.booleans(), data=st.data())
def test_the_loss_of_a_step_does_not_depend_on_the_order_of_groups(
    groups: list[RolloutGroup], kind: LossKind, limit: int, drop_equal: bool, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(groups))
    first = step_loss(pack(*groups, loss=kind, microbatch_tokens=limit, drop_equal=drop_equal))
    second = step_loss(pack(*shuffled, loss=kind, microbatch_tokens=limit, drop_equal=drop_equal))
    assert second == pytest.approx(first, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # 1 / (2 completions x 1 token) for the one that is whole; the other, of 2 tokens, weighs nothing
        ("sequence_mean", [0.0, 0.0, 0.5]),
        ("token_mean", [0.0, 0.0, 1 / 3]),
        ("constant_length", [0.0, 0.0, 1 / 20]),
    ],
)
def test_completions_that_were_cut_may_weigh_nothing(loss: LossKind, expected: list[float]) -> None:
    whole = group([0.0, 1.0], [2, 1])
    cut = tuple(
        replace(one, finish_reason=FinishReason.LENGTH if place == 0 else FinishReason.STOP)
        for place, one in enumerate(whole.completions)
    )
    (batch,) = pack_step(
        [replace(whole, completions=cut)],
        encode(whole),
        loss=loss,
        max_completion_tokens=10,
        scale_by_std=False,
        drop_equal=False,
        microbatch_tokens=64,
        mask_truncated=True,
    )
    assert batch.weights.tolist() == pytest.approx(expected)
    # the one that is whole is still better than the mean of both
    assert batch.advantages.tolist() == [-0.5, -0.5, 0.5]


DEMONSTRATIONS = [
    [WeightedDemonstration((90, 91, 92), (0.5, 0.0, 0.5), True), WeightedDemonstration((93,), (-0.1,), False)],
    [WeightedDemonstration((94, 95), (0.25, 0.25), True)],
]


@pytest.mark.parametrize("drop_equal", [False, True])
@pytest.mark.parametrize("microbatch_tokens", [1, 5, 7, 9, 12, 1000])
def test_each_demonstration_is_in_exactly_one_row(microbatch_tokens: int, drop_equal: bool) -> None:
    groups = (group([1.0, 1.0], [2, 1]), group([1.0, 0.0], [1, 3], id="b"))
    batches = pack_step(
        groups,
        encode(*groups),
        loss="sequence_mean",
        max_completion_tokens=10,
        scale_by_std=False,
        drop_equal=drop_equal,
        microbatch_tokens=microbatch_tokens,
        demonstrations=DEMONSTRATIONS,
    )
    tokens: list[int] = []
    weights: list[float] = []
    for batch in batches:
        # entries of completions and of demonstrations are all targets of the row, and no other
        assert len(batch.sampled(batch.row.targets)) == len(batch.weights) == len(batch.sampler_logprobs)
        if (found := batch.demonstrations) is not None:
            assert sorted(batch.sampled(torch.arange(len(batch.row.targets))).tolist() + found.index.tolist()) == list(
                range(len(batch.row.targets))
            )
            tokens += batch.row.targets[found.index].tolist()
            weights += found.weights.tolist()
    assert tokens == [90, 91, 92, 93, 94, 95]
    assert weights == pytest.approx([0.5, 0.0, 0.5, -0.1, 0.25, 0.25])
    sampled = sum(len(batch.weights) for batch in batches)
    assert sampled == (4 if drop_equal else 7)


def test_the_cross_entropy_is_that_of_targets_in_the_loss() -> None:
    one = group([1.0, 0.0])
    (batch,) = pack_step(
        [one],
        encode(one),
        loss="token_mean",
        max_completion_tokens=10,
        scale_by_std=False,
        drop_equal=True,
        microbatch_tokens=1000,
        demonstrations=DEMONSTRATIONS[:1],
    )
    assert batch.demonstrations is not None
    assert batch.demonstrations.in_cross_entropy.tolist() == [True, False, True, False]


def test_a_row_without_demonstrations_selects_nothing() -> None:
    (batch,) = pack(group([0.0, 1.0]))
    values = torch.randn(4)
    assert batch.demonstrations is None
    assert batch.sampled(values) is values
