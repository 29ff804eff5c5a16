"""A checkpoint holds what is trained, appears whole, and puts everything back."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from virft.errors import RunError
from virft.training.checkpoint import (
    TrainingState,
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    trained_parameters,
)


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
    assert sorted(file.name for file in path.iterdir()) == [
        "manifest.json",
        "optimizer.safetensors",
        "state.json",
        "trained.safetensors",
    ]
    assert list(load_file(path / "trained.safetensors")) == ["embedding.weight"]
    assert list(trained_parameters(Tied())) == ["embedding.weight"]


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, _ = trained(5)
    path = save(tmp_path, *trained(2), 2)
    module, optimizer = trained(0)
    state = load_checkpoint(path, module=module, optimizer=optimizer)
    assert state == TrainingState(num_steps=2)
    advance(module, optimizer, 3)
    assert torch.equal(module.embedding.weight, whole.embedding.weight)
    assert module.head.weight is module.embedding.weight


def test_groups_in_flight_are_a_file_of_the_checkpoint_if_there_are_any(tmp_path: Path) -> None:
    module, optimizer = trained()
    state = TrainingState(num_steps=2, in_flight='{"sample":"ä\u2028"}\n')
    path = save_checkpoint(tmp_path, module=module, optimizer=optimizer, state=state, keep=2)
    assert load_checkpoint(path, module=module, optimizer=optimizer) == state
    (path / "groups_in_flight.jsonl").write_text("{}\n")
    logged: list[str] = []
    assert latest_checkpoint(tmp_path, logged.append) is None
    assert "groups_in_flight.jsonl has 3 bytes; expected" in logged[0]


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


def test_the_unfinished_folder_of_a_crash_is_no_checkpoint(tmp_path: Path) -> None:
    for name in ("step_000004.unfinished", "step_000003.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trained.safetensors").write_text("half")
    assert checkpoints(tmp_path) == []
    save(tmp_path, *trained(), 5)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000005"]


def test_a_folder_that_is_not_there_has_no_checkpoints(tmp_path: Path) -> None:
    assert checkpoints(tmp_path / "none") == []


def test_a_checkpoint_of_other_weights_is_refused_by_name(tmp_path: Path) -> None:
    path = save(tmp_path, *trained(), 5)
    module = Tied()
    module.frozen.requires_grad_(True)
    with pytest.raises(RunError, match=r"step_000005: the trained weights differ .* first is frozen\.bias"):
        load_checkpoint(path, module=module, optimizer=torch.optim.AdamW(module.parameters()))


def damage(path: Path, name: str, content: bytes | None) -> None:
    """What a disk that failed may have left of a file; None: nothing."""
    (path / name).unlink()
    if content is not None:
        (path / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("trained.safetensors", b"", "trained.safetensors has 0 bytes; expected 104"),
        ("trained.safetensors", b"x" * 104, "trained.safetensors has another hash than in manifest.json"),
        ("optimizer.safetensors", None, "optimizer.safetensors is missing"),
        ("state.json", b"{}", "state.json has 2 bytes; expected "),
        ("manifest.json", None, "manifest.json is missing"),
        ("manifest.json", b'{"files": {"trai', "manifest.json cannot be read (JSONDecodeError: "),
        ("manifest.json", b"[]", "manifest.json cannot be read (TypeError: "),
    ],
)
def test_a_corrupt_checkpoint_is_logged_and_renamed_and_the_previous_one_is_used(
    tmp_path: Path, name: str, content: bytes | None, problem: str
) -> None:
    module, optimizer = trained()
    for num_steps in (5, 10):
        save(tmp_path, module, optimizer, num_steps)
    damage(tmp_path / "step_000010", name, content)
    logged: list[str] = []
    assert latest_checkpoint(tmp_path, logged.append) == tmp_path / "step_000005"
    assert len(logged) == 1
    assert logged[0].startswith(f"{tmp_path / 'step_000010'}: {problem}")
    assert logged[0].endswith("; it is renamed, and the previous checkpoint is used")
    # it is not counted among the retained ones, and is deleted with the next save
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000005", "unreadable_step_000010"]
    save(tmp_path, module, optimizer, 7, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000007"]


def test_without_a_valid_checkpoint_the_latest_is_none(tmp_path: Path) -> None:
    path = save(tmp_path, *trained(), 5)
    damage(path, "manifest.json", None)
    assert latest_checkpoint(tmp_path, lambda line: None) is None
    assert latest_checkpoint(tmp_path / "none", lambda line: None) is None


def test_checkpoints_are_in_the_order_of_their_numbers_and_nothing_else_is_one(tmp_path: Path) -> None:
    for name in ("step_1000000", "step_999999", "step_000004.unfinished", "step_last", "step_12", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "step_000003").touch()
    assert [path.name for path in checkpoints(tmp_path)] == ["step_999999", "step_1000000"]


def test_a_full_disk_leaves_the_previous_checkpoint_and_no_half_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    module, optimizer = trained()
    save(tmp_path, module, optimizer, 5)
    for function in ("save_file", "sync", "replace_folder"):
        with monkeypatch.context() as patch:
            patch.setattr(f"virft.training.checkpoint.{function}", full)
            with pytest.raises(OSError, match="No space left"):
                save(tmp_path, module, optimizer, 10)
        assert [path.name for path in tmp_path.iterdir()] == ["step_000005"], function
    assert latest_checkpoint(tmp_path, lambda line: None) is not None


def test_states_that_alias_memory_or_are_no_tensors_are_restored(tmp_path: Path) -> None:
    module, optimizer = trained()
    (state,) = optimizer.state.values()
    # as the states of 8 bits do
    state["map"] = state["same_map"] = torch.arange(4.0)
    state["count"], state["name"] = 3, None
    path = save(tmp_path, module, optimizer, 5)
    again, other = trained(0)
    load_checkpoint(path, module=again, optimizer=other)
    (found,) = other.state.values()
    assert (found["count"], found["name"]) == (3, None)
    assert found["map"].tolist() == found["same_map"].tolist() == [0, 1, 2, 3]
