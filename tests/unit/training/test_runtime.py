"""Processes, device and precision of a run."""

from __future__ import annotations

import pytest
import torch

from virft.config.schema import Strategy
from virft.training import runtime
from virft.training.distributed import Ranks
from virft.training.runtime import Runtime, start_runtime


def test_a_process_that_is_alone_shards_nothing_unless_the_optimizer_is_offloaded() -> None:
    assert start_runtime(strategy="fsdp2").strategy == "ddp"
    assert start_runtime(strategy="zero2", offload_optimizer=True).strategy == "zero2"


def test_several_processes_have_the_configured_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "ranks", lambda timeout: Ranks(index=1, count=2))
    found = start_runtime(strategy="fsdp2")
    assert (found.strategy, found.ranks.index, found.device) == ("fsdp2", 1, torch.device("cpu"))


@pytest.mark.parametrize(
    ("strategy", "is_sharded", "shards_weights"),
    [("ddp", False, False), ("fsdp2", True, True), ("zero2", True, False), ("zero3", True, True)],
)
def test_strategies_differ_in_what_they_shard(strategy: Strategy, is_sharded: bool, shards_weights: bool) -> None:
    found = Runtime(strategy=strategy)
    assert (found.is_sharded, found.shards_weights) == (is_sharded, shards_weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrix_products_have_the_compute_dtype(dtype: torch.dtype) -> None:
    with Runtime(dtype=dtype).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
