"""What goes wrong around a step is told with the step and with what is saved."""

from __future__ import annotations

import re

import pytest
import torch

from virft.errors import DataError, RunError
from virft.training.failures import faults_told


def told(error: Exception, *, count: int = 1) -> str:
    with pytest.raises(Exception) as found, faults_told(lambda: 49, lambda: "all is saved", count=count):
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
def test_memory_that_does_not_suffice_names_what_to_lower(error: RuntimeError) -> None:
    said = told(error)
    first = str(error).splitlines()[0]
    assert said.startswith(f"step 50: out of memory ({first}); all is saved. A smaller grpo.microbatch_tokens ")
    assert said.endswith("each may be changed on resume")


def test_a_missing_picture_is_told_with_its_step() -> None:
    assert told(DataError("a.png: no such image")) == "step 50: a.png: no such image; all is saved"


@pytest.mark.parametrize(
    "words",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:2000",
        "Broken pipe",
        "NCCL error: remote process exited or there was a network error",
    ],
)
def test_a_process_that_is_gone_is_told_by_the_others(words: str) -> None:
    assert told(RuntimeError(words), count=2).startswith(f"step 50: another process of the run has ended ({words}); ")
    with pytest.raises(RuntimeError, match=re.escape(words)), faults_told(lambda: 49, str):
        raise RuntimeError(words)


def test_our_own_bugs_pass() -> None:
    with pytest.raises(RuntimeError, match="shape"), faults_told(lambda: 0, str, count=2):
        raise RuntimeError("shape mismatch")
    with pytest.raises(KeyError), faults_told(lambda: 0, str):
        raise KeyError("a")
