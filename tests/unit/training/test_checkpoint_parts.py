"""Checkpoints in parts, written in the background: the guarantees of those that one process writes."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from power_cut import watched_disk
from runs import saved_weights
from toy_training import question, toy_trainer
from virft.config.schema import Config, DataConfig, RunConfig
from virft.errors import RunError
from virft.training import checkpoint
from virft.training.checkpoint import (
    CheckpointWriter,
    TrainingState,
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    num_steps_of,
)
from virft.training.loop import LoopSettings, TrainingLoop
from virft.training.run import RUN_SCHEMA_VERSION, RunFolder

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    """A group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    yield
    dist.destroy_process_group()


def trained(steps: int = 2) -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5, bias=False))
    module[0].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW([one for one in module.parameters() if one.requires_grad], lr=0.1)
    return advance(module, optimizer, steps)


def advance(module: nn.Module, optimizer: torch.optim.AdamW, steps: int) -> tuple[nn.Module, torch.optim.AdamW]:
    for _ in range(steps):
        module(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return module, optimizer


def writer_of(folder: Path, keep: int = 2) -> CheckpointWriter:
    return CheckpointWriter(folder, keep=keep, in_background=True)


def save(folder: Path, module: nn.Module, optimizer: Any, *steps: int) -> None:
    with writer_of(folder) as writer:
        for number in steps:
            writer.save(module, optimizer, TrainingState(num_steps=number))


def test_each_process_writes_a_part_of_weights_and_states(tmp_path: Path) -> None:
    save(tmp_path, *trained(), 2)
    files = sorted(str(one.relative_to(tmp_path / "step_000002")) for one in tmp_path.rglob("*") if one.is_file())
    part = "shard-00001-model-00001-of-00001.safetensors"
    assert files == ["manifest.json", f"optimizer/{part}", "state.json", f"trained/{part}"]
    assert list(saved_weights(tmp_path / "step_000002")) == ["0.weight", "1.weight"]


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, _ = trained(5)
    save(tmp_path, *trained(2), 2)
    module, optimizer = trained(0)
    assert load_checkpoint(tmp_path / "step_000002", module=module, optimizer=optimizer).num_steps == 2
    advance(module, optimizer, 3)
    for one, other in zip(module.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_training_continues_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_write = threading.Event()
    write = checkpoint.save

    def slow(*arguments: Any, **named: Any) -> Any:
        assert may_write.wait(20)
        return write(*arguments, **named)

    monkeypatch.setattr(checkpoint, "save", slow)
    module, optimizer = trained(2)
    before = {name: one.detach().clone() for name, one in module.named_parameters() if one.requires_grad}
    with writer_of(tmp_path) as writer:
        writer.save(module, optimizer, TrainingState(num_steps=2))
        advance(module, optimizer, 1)
        assert checkpoints(tmp_path) == []
        assert not writer.has_failed
        may_write.set()
    found = saved_weights(tmp_path / "step_000002")
    assert all(torch.equal(found[name], one) for name, one in before.items())
    assert not any(torch.equal(one, module.get_parameter(name)) for name, one in before.items())


def test_older_checkpoints_are_deleted(tmp_path: Path) -> None:
    save(tmp_path, *trained(), 5, 10, 15)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000010", "step_000015"]


def test_a_checkpoint_of_other_weights_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, *trained(), 5)
    module, _ = trained(0)
    module.requires_grad_(True)
    with pytest.raises(RunError, match=r"step_000005: the trained weights differ .* first is 0\.bias"):
        load_checkpoint(
            tmp_path / "step_000005", module=module, optimizer=torch.optim.AdamW(module.parameters(), lr=0.1)
        )


@pytest.mark.parametrize("part", ["trained", "optimizer"])
def test_a_torn_part_is_found_and_the_previous_checkpoint_is_used(tmp_path: Path, part: str) -> None:
    save(tmp_path, *trained(), 1, 2)
    (file,) = (tmp_path / "step_000002" / part).iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    said: list[str] = []
    assert latest_checkpoint(tmp_path, said.append) == tmp_path / "step_000001"
    assert f"{part}/{file.name} has " in said[0]


@pytest.mark.parametrize("function", ["save", "replace_folder"])
def test_a_full_disk_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    module, optimizer = trained()
    save(tmp_path, module, optimizer, 1)

    def full(*_: Any, **__: Any) -> Any:
        raise FULL

    monkeypatch.setattr(checkpoint, function, full)
    with writer_of(tmp_path) as writer:
        writer.save(module, optimizer, TrainingState(num_steps=2))
        with pytest.raises(OSError, match="No space left on device"):
            writer.wait()
    assert [one.name for one in tmp_path.iterdir()] == ["step_000001"]


def test_a_full_disk_found_in_the_background_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(data=DataConfig(train="d"), run=RunConfig(dir=str(tmp_path / "r")))
    card = {"schema_version": RUN_SCHEMA_VERSION, "data_hash": "0", "trainer": "grpo"}
    monkeypatch.setattr(
        "virft.training.loop.CheckpointWriter",
        lambda *arguments, **named: CheckpointWriter(*arguments, **named | {"in_background": True}),
    )
    write, calls = checkpoint.save, iter(range(1, 99))

    def until_full(*arguments: Any, **named: Any) -> Any:
        if next(calls) == 3:  # weights, states, weights
            raise FULL
        return write(*arguments, **named)

    def train(resume: bool) -> None:
        TrainingLoop(
            trainer=toy_trainer(),
            batch=lambda step: [question("a"), question("b")],
            run_folder=RunFolder.open(config, resume=resume, card=card),
            settings=LoopSettings(num_steps=4, save_every=1, keep_checkpoints=2, log_every=1),
            log=print,
        ).run()

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", until_full)
        with pytest.raises(RunError) as error:
            train(resume=False)
    assert str(error.value) == (
        f"{tmp_path / 'r'}: cannot be written (No space left on device); the last checkpoint is that after step 1; "
        "resume with --resume once this is resolved"
    )
    train(resume=True)
    assert num_steps_of(checkpoints(tmp_path / "r" / "checkpoints")[-1]) == 4


def test_an_error_of_the_run_is_not_replaced_by_one_of_the_last_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise FULL

    monkeypatch.setattr(checkpoint, "save", full)
    module, optimizer = trained()
    with pytest.raises(RunError, match="a fault of the run"), writer_of(tmp_path) as writer:
        writer.save(module, optimizer, TrainingState(num_steps=1))
        raise RunError("a fault of the run")
    assert not [one for one in threading.enumerate() if one.name.startswith("checkpoint")]


def test_whenever_the_power_is_cut_a_saved_step_is_never_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, optimizer = trained(0)
    weights = {}
    (tmp_path / "disk").mkdir()
    with (
        pytest.MonkeyPatch.context() as patch,
        watched_disk(tmp_path / "disk", patch) as cuts,
        writer_of(tmp_path / "disk" / "checkpoints", keep=1) as writer,
    ):
        for number in (1, 2, 3):
            advance(module, optimizer, 1)
            weights[number] = module[0].weight.detach().clone()  # type: ignore[index, union-attr]
            writer.save(module, optimizer, TrainingState(num_steps=number))
    assert len(cuts) > 30
    monkeypatch.setattr(os, "fsync", lambda number: None)
    for state in ("live", "synced", "torn"):
        kept = [0]
        for number, cut in enumerate(cuts):
            place = cut.lay_out(state, tmp_path / f"{state}_{number}") / "checkpoints"
            found = latest_checkpoint(place, lambda line: None)
            if found is not None:
                other, its_optimizer = trained(0)
                load_checkpoint(found, module=other, optimizer=its_optimizer)
                assert torch.equal(other[0].weight, weights[num_steps_of(found)])  # type: ignore[index]
            kept.append(num_steps_of(found) if found is not None else 0)
        assert kept == sorted(kept), state
        assert set(kept) == {0, 1, 2, 3}, state
