"""Failures in a step become errors that name the step and the last checkpoint."""

from __future__ import annotations

import re

import pytest
import torch

from virft.errors import DataError, ModelError, RunError
from virft.training.failures import translate_failures


def translated(error: Exception, *, world_size: int = 1) -> str:
    with (
        pytest.raises(Exception) as found,
        translate_failures(lambda: 49, lambda: "all is saved", world_size=world_size),
    ):
        raise error
    assert type(found.value) in (RunError, DataError)
    assert found.value.__cause__ is error
    return str(found.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_out_of_memory_names_the_settings_to_lower(error: RuntimeError) -> None:
    message = translated(error)
    first = str(error).splitlines()[0]
    assert message.startswith(f"step 50: out of memory ({first}); all is saved. A smaller grpo.microbatch_tokens ")
    assert message.endswith("each may be changed on resume")


def test_a_missing_image_gets_its_step() -> None:
    assert translated(DataError("a.png: no such image")) == "step 50: a.png: no such image; all is saved"


def test_a_lost_sampler_gets_its_step() -> None:
    lost = "no vLLM server is left to sample with: server 1 is gone; its log ends so:\nKilled"
    assert translated(ModelError(lost)) == f"step 50: {lost}\nall is saved"


@pytest.mark.parametrize(
    "message",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:2000",
        "Broken pipe",
        "NCCL error: remote process exited or there was a network error",
    ],
)
def test_a_lost_rank_is_reported_by_the_others(message: str) -> None:
    assert translated(RuntimeError(message), world_size=2).startswith(
        f"step 50: another process of the run has ended ({message}); "
    )
    with pytest.raises(RuntimeError, match=re.escape(message)), translate_failures(lambda: 49, str):
        raise RuntimeError(message)


def test_our_own_bugs_pass() -> None:
    with pytest.raises(RuntimeError, match="shape"), translate_failures(lambda: 0, str, world_size=2):
        raise RuntimeError("shape mismatch")
    with pytest.raises(KeyError), translate_failures(lambda: 0, str):
        raise KeyError("a")
