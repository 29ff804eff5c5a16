"""What can be said of ZeRO without DeepSpeed; tests/on_deepspeed has the rest."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from virft.errors import ConfigError
from virft.training.zero import ZeroPolicy, require_deepspeed


def test_a_missing_package_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'need deepspeed, which is not installed; expected pip install -e "\.\[deep'):
        require_deepspeed()


def test_gradients_are_sums_over_the_processes_not_means() -> None:
    weight = torch.ones(2, requires_grad=True)
    called = ZeroPolicy(lambda factor: weight * factor, num_processes=4)
    called(3.0).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [12.0, 12.0]  # 3 x 4: each process's part of the mean is a quarter


def test_a_pass_without_gradient_is_left_alone() -> None:
    assert ZeroPolicy(lambda: torch.ones(2), num_processes=4)().tolist() == [1.0, 1.0]
