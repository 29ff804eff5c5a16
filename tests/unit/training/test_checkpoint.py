"""A checkpoint holds what is trained, appears whole, and puts everything back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from virft.errors import RunError
from virft.training.checkpoint import TrainingState, checkpoints, load_checkpoint, save_checkpoint, trained_tensors


class Tied(nn.Module):
    """A frozen layer, a trained one, and a head that shares its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.embedding = nn.Embedding(3, 2)
        self.head = nn.Linear(2, 3, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.frozen(self.embedding(ids)))


def trained(steps: int = 2, seed: int = 0) -> tuple[Tied, torch.optim.AdamW]:
    torch.manual_seed(seed)
    module = Tied()
    optimizer = torch.optim.AdamW([module.embedding.weight], lr=0.1)
    return advance(module, optimizer, steps)


def advance(module: Tied, optimizer: torch.optim.AdamW, steps: int) -> tuple[Tied, torch.optim.AdamW]:
    for _ in range(steps):
        module(torch.tensor([0, 2])).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return module, optimizer


def save(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int, keep: int = 2) -> Path:
    return save_checkpoint(
        folder, module=module, optimizer=optimizer, state=TrainingState(num_steps=num_steps), keep=keep
    )


def test_only_trained_weights_are_saved_and_tied_ones_once(tmp_path: Path) -> None:
    path = save(tmp_path, *trained(), 2)
    assert sorted(file.name for file in path.iterdir()) == ["state.pt", "trained.safetensors"]
    assert list(load_file(path / "trained.safetensors")) == ["embedding.weight"]
    assert list(trained_tensors(Tied())) == ["embedding.weight"]


def test_training_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    whole, _ = trained(5)
    path = save(tmp_path, *trained(2), 2)
    module, optimizer = trained(0)
    state = load_checkpoint(path, module=module, optimizer=optimizer)
    assert state == TrainingState(num_steps=2)
    advance(module, optimizer, 3)
    assert torch.equal(module.embedding.weight, whole.embedding.weight)
    assert module.head.weight is module.embedding.weight


def test_older_checkpoints_are_deleted(tmp_path: Path) -> None:
    module, optimizer = trained()
    for num_steps in (5, 10, 15):
        save(tmp_path, module, optimizer, num_steps, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000010", "step_000015"]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    module, optimizer = trained()
    save(tmp_path, module, optimizer, 5)
    advance(module, optimizer, 1)
    path = save(tmp_path, module, optimizer, 5)
    assert torch.equal(load_file(path / "trained.safetensors")["embedding.weight"], module.embedding.weight)


def test_what_a_crash_left_unfinished_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "trained.safetensors").write_text("half")
    assert checkpoints(tmp_path) == []
    save(tmp_path, *trained(), 5)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000005"]


def test_a_folder_that_is_not_there_has_no_checkpoints(tmp_path: Path) -> None:
    assert checkpoints(tmp_path / "none") == []


def test_a_checkpoint_of_other_weights_is_refused_by_name(tmp_path: Path) -> None:
    path = save(tmp_path, *trained(), 5)
    module = Tied()
    module.frozen.requires_grad_(True)
    with pytest.raises(RunError, match=r"step_000005: the weights that are trained differ .* first is frozen\.bias"):
        load_checkpoint(path, module=module, optimizer=torch.optim.AdamW(module.parameters()))
