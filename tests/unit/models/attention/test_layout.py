"""A packed row: order of tokens, position ids, tables, and which token predicts which."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from virft.models.attention.layout import PackedRow, pack_row


def positions(length: int, *, largest: int | None = None) -> Tensor:
    """0, 1, 2, .. on all axes; ``largest``: the last one (as after an image, whose axes differ)."""
    made = torch.arange(length).repeat(3, 1)
    if largest is not None:
        made[:, -1] = largest
    return made


def two_groups() -> PackedRow:
    return pack_row(
        [[1, 2, 3], [4, 5]],
        [positions(3, largest=7), positions(2)],
        [[[10, 11], [12]], [[13], [14, 15, 16]]],
    )


def test_each_prompt_is_in_the_row_once_followed_by_its_completions() -> None:
    assert two_groups().token_ids.tolist() == [1, 2, 3, 10, 11, 12, 4, 5, 13, 14, 15, 16]


def test_positions_of_every_completion_continue_from_the_prompt() -> None:
    # the first prompt ends at 7, so its completions begin at 8; the second ends at 1
    assert two_groups().positions[0].tolist() == [0, 1, 7, 8, 9, 8, 0, 1, 2, 2, 3, 4]
    assert two_groups().positions.shape == (3, 12)


def test_the_last_prompt_token_predicts_the_first_of_every_completion() -> None:
    row = two_groups()
    assert row.logit_index.tolist() == [2, 3, 2, 7, 7, 9, 10]
    assert row.targets.tolist() == [10, 11, 12, 13, 14, 15, 16]


def test_an_empty_completion_takes_no_place() -> None:
    row = pack_row([[1, 2]], [positions(2)], [[[], [10]]])
    assert row.token_ids.tolist() == [1, 2, 10]
    assert row.targets.tolist() == [10]


def test_a_row_may_hold_prompts_alone() -> None:
    row = pack_row([[1, 2], [3]], [positions(2), positions(1)], [(), ()])
    assert row.token_ids.tolist() == [1, 2, 3]
    assert row.targets.tolist() == row.logit_index.tolist() == []


def test_a_layout_knows_whether_prompts_are_equally_long() -> None:
    assert not two_groups().layout.equal_prompts
    assert pack_row([[1, 2], [3, 4]], [positions(2)] * 2, [[[5]], [[6]]]).layout.equal_prompts
    assert two_groups().layout.prompt_lengths.tolist() == [3, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_copying_into_the_tables_and_back_is_the_identity(dtype: torch.dtype) -> None:
    layout = two_groups().layout
    values = torch.arange(100, 112)[:, None].to(dtype)
    prompts, completions = layout.to_tables(values)
    assert prompts.view(2, 3)[0].tolist() == [100, 101, 102]
    assert prompts.view(2, 3)[1, :2].tolist() == [106, 107]
    assert completions.view(2, 2, 3)[1, 1].tolist() == [109, 110, 111]
    assert torch.equal(layout.to_row(torch.cat([prompts, completions])), values)


GROUPS = st.lists(st.tuples(st.integers(1, 6), st.lists(st.integers(0, 5), max_size=4)), min_size=1, max_size=4).filter(
    lambda groups: any(length for _, lengths in groups for length in lengths)
)


@given(groups=GROUPS)
def test_each_target_follows_the_token_at_its_logit_index(groups: list[tuple[int, list[int]]]) -> None:
    token = iter(range(1, 1000))
    prompts = [[next(token) for _ in range(length)] for length, _ in groups]
    completions = [[[next(token) for _ in range(n)] for n in lengths] for _, lengths in groups]
    row = pack_row(prompts, [positions(len(prompt)) for prompt in prompts], completions)
    flat = [one for each in completions for one in each]
    assert row.targets.tolist() == [token for one in flat for token in one]
    before = row.token_ids[row.logit_index].tolist()
    expected = [
        [prompt[-1], *one[:-1]] for prompt, each in zip(prompts, completions, strict=True) for one in each if one
    ]
    assert before == [token for one in expected for token in one]
    assert len(row.token_ids) == sum(map(len, prompts)) + sum(map(len, flat))
