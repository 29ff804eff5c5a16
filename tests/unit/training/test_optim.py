"""The learning rate is a pure function of the step; only trained weights reach the optimizer."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from virft.config.schema import Schedule
from virft.errors import ConfigError
from virft.training.optim import ScaledRows, learning_rate, make_optimizer, set_learning_rate


def rates(count: int, **options: object) -> list[float]:
    return [learning_rate(step, peak=1.0, num_steps=count, **options) for step in range(count)]  # type: ignore[arg-type]


def test_linear_falls_to_0_behind_the_last_step() -> None:
    assert rates(5, schedule="linear") == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_cosine_is_half_way_down_in_the_middle() -> None:
    # 0.5 (1 + cos(pi k / 4)): 1, 0.854, 0.5, 0.146
    assert rates(4, schedule="cosine") == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_constant_stays() -> None:
    assert rates(3, schedule="constant") == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("schedule", ["linear", "constant", "cosine"])
def test_warm_up_rises_in_even_steps_and_reaches_the_peak_right_after(schedule: Schedule) -> None:
    found = rates(8, schedule=schedule, warmup_steps=3)
    # 3 steps of 1 / 4: the first step learns already
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_warm_up_of_all_but_one_step_is_possible() -> None:
    assert rates(2, schedule="linear", warmup_steps=1) == [0.5, 1.0]


def test_the_optimizer_has_only_parameters_that_require_a_gradient() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    optimizer = make_optimizer(model.parameters(), weight_decay=0.1)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model[1].parameters()]
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_the_rate_is_set_in_every_group() -> None:
    a, b = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [a]}, {"params": [b], "lr": 5.0}], lr=1.0)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_the_update_of_scaled_rows_is_multiplied_and_that_of_others_is_not() -> None:
    model = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 2))
    table = model[0].weight
    assert isinstance(table, nn.Parameter)
    scaled = ScaledRows(table, torch.tensor([1, 3]), 10.0)
    optimizer = make_optimizer(model.parameters(), weight_decay=0.0, scaled_rows=scaled)
    set_learning_rate(optimizer, 0.01)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model(torch.arange(4)).sum().backward()
    optimizer.step()
    # the first step of AdamW has the size of the rate
    moved = [(a - b).abs().amax(-1) for a, b in zip(model.parameters(), before, strict=True)]
    assert moved[0].tolist() == pytest.approx([0.01, 0.1, 0.01, 0.1], rel=1e-3)
    assert moved[1].tolist() == pytest.approx([0.01, 0.01], rel=1e-3)


def test_frozen_embeddings_stay_as_they_are() -> None:
    model = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 2))
    table = model[0].weight
    assert isinstance(table, nn.Parameter)
    table.requires_grad_(False)
    optimizer = make_optimizer(
        model.parameters(), weight_decay=0.0, scaled_rows=ScaledRows(table, torch.tensor([1]), 10.0)
    )
    before = table.clone()
    set_learning_rate(optimizer, 0.01)
    model(torch.arange(4)).sum().backward()
    optimizer.step()
    assert torch.equal(table, before)


def test_parts_have_learning_rates_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    scales = dict(zip(model.parameters(), (1.0, 0.1, 5.0), strict=True))
    optimizer = make_optimizer(model.parameters(), weight_decay=0.0, scale_of=scales.__getitem__)
    set_learning_rate(optimizer, 0.01)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.tensor([[2.0, -2.0], [0.5, -0.5]])
    optimizer.step()
    # the first step of AdamW is the rate against the sign of the gradient: 0.01 x 1, x 0.1, x 5
    moved = [(a - b).detach() for a, b in zip(model.parameters(), before, strict=True)]
    signs = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]])
    for found, size in zip(moved, (0.01, 0.001, 0.05), strict=True):
        torch.testing.assert_close(found, size * signs, rtol=1e-4, atol=1e-8)


def test_equal_rates_make_one_group() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = make_optimizer(model.parameters(), weight_decay=0.0, scale_of=lambda _: 1.0)
    assert [len(group["params"]) for group in optimizer.param_groups] == [4]


def test_states_of_8_bits_take_a_fourth_and_learn_alike() -> None:
    pytest.importorskip("bitsandbytes", reason="needs virft[quant]")
    moved = {}
    for kind in ("adamw", "adamw_8bit"):
        torch.manual_seed(0)
        model = nn.Linear(128, 64, bias=False)
        before = model.weight.detach().clone()
        optimizer = make_optimizer(model.parameters(), weight_decay=0.0, kind=kind)
        set_learning_rate(optimizer, 0.01)
        gradient = torch.randn(64, 128)
        for _ in range(5):
            model.weight.grad = gradient.clone()
            optimizer.step()
            optimizer.zero_grad()
        moved[kind] = model.weight.detach() - before
        state = optimizer.state[model.weight]
    assert state["state1"].dtype == state["state2"].dtype == torch.uint8
    # 5 steps of 0.01 against a gradient that stays
    torch.testing.assert_close(moved["adamw"].abs(), torch.full((64, 128), 0.05), rtol=1e-3, atol=1e-5)
    assert (moved["adamw_8bit"] - moved["adamw"]).abs().mean() < 2e-3
    assert (moved["adamw_8bit"].sign() == moved["adamw"].sign()).all()


def test_states_of_8_bits_need_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(
        ConfigError, match=r'optimizer = "adamw_8bit" needs bitsandbytes.* pip install -e "\.\[quant\]"'
    ):
        make_optimizer(nn.Linear(2, 2).parameters(), weight_decay=0.0, kind="adamw_8bit")
