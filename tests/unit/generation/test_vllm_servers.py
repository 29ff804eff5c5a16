"""Servers that several processes sample with: batches, weights, losses. Most of them are threads of this process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import torch
from torch import Tensor

import fake_vllm
from virft.errors import ModelError
from virft.generation.vllm_client import ServedEngine, ServerProcess, engine_environment
from virft.generation.vllm_engine import EngineOutput, EngineRequest, EngineSampling, EngineSettings
from virft.generation.vllm_server import EngineServer
from virft.generation.vllm_wire import LOG, ServerAddress

SAMPLING = EngineSampling(max_tokens=5, temperature=0.7, stop_ids=(3,), forbidden=("<pad>",))


def request(seed: int) -> EngineRequest:
    return EngineRequest(
        token_ids=(5, 9, 9, 6),
        placeholder_id=9,
        image_embeds=torch.ones(2, 4),
        grid_thw=torch.tensor([[1, 2, 4]]),
        count=1,
        seed=seed,
    )


class SeedEngine:
    """ "Samples" the seed of each request and the number of its weights; ``batches`` are the seeds of its calls."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.weights: list[dict[str, Tensor]] = []
        self.error: Exception | None = None

    def generate(self, requests: Sequence[EngineRequest], sampling: EngineSampling) -> list[list[EngineOutput]]:
        assert sampling == SAMPLING
        if self.error is not None:
            raise self.error
        self.batches.append([one.seed for one in requests])
        return [[EngineOutput(token_ids=(one.seed, len(self.weights)), logprobs=(-0.5, -0.5))] for one in requests]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        found = {}
        for name, tensor in weights:
            if name == "wrong":
                raise KeyError(name)
            found[name] = tensor
        self.weights.append(found)


class InThread:
    """A server in a thread of this process, in place of ``ServerProcess``."""

    def __init__(self, folder: Path, name: str, num_members: int) -> None:
        own = folder / name
        own.mkdir()
        (own / LOG).write_text(f"the log of {name}\n")
        self.address = ServerAddress(name=name, folder=own)
        self.engine = SeedEngine()
        self.listener = socket.socket(socket.AF_UNIX)
        # a short path: that of a test's folder may be too long for a socket
        with pytest.MonkeyPatch.context() as patched:
            patched.chdir(own)
            self.listener.bind("socket")
        self.listener.listen()
        self.server = EngineServer(self.engine, self.listener, num_members)
        self.is_hung = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        try:
            self.server.serve()
        except Ended:
            for one in (*self.server._clients, self.listener):
                one.close()

    def describe_end(self) -> str:
        return "was killed"

    def close(self) -> None:
        self.listener.close()


class Ended(BaseException):
    """Ends a thread, as a process ends."""


def engine_of(
    servers: Sequence[InThread], own: Sequence[int], *, member: int = 0, starts: bool = True, timeout_s: float = 20.0
) -> ServedEngine:
    started = {i: cast(ServerProcess, servers[i]) for i in own} if starts else {}
    addresses = [one.address for one in servers]
    return ServedEngine(addresses, own=own, started=started, member=member, timeout_s=timeout_s)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with a short path, for sockets."""
    with tempfile.TemporaryDirectory() as found:
        yield Path(found)


def seeds(outputs: list[list[EngineOutput]]) -> list[int]:
    return [one.token_ids[0] for (one,) in outputs]


def versions(outputs: list[list[EngineOutput]]) -> set[int]:
    return {one.token_ids[1] for (one,) in outputs}


@pytest.mark.parametrize("first", [0, 1])
def test_the_batch_of_a_shared_server_does_not_depend_on_who_comes_first(folder: Path, first: int) -> None:
    server = InThread(folder, "one", num_members=2)
    engines = [engine_of([server], [0], member=rank, starts=rank == 0) for rank in range(2)]
    requests = [[request(1), request(2)], [request(3)]]
    for engine in engines:
        engine.load_weights([])
    with ThreadPoolExecutor(2) as pool:
        early = pool.submit(engines[first].generate, requests[first], SAMPLING)
        time.sleep(0.2)
        assert not early.done(), "it waits for the other member"
        late = pool.submit(engines[1 - first].generate, requests[1 - first], SAMPLING)
        found = {first: seeds(early.result()), 1 - first: seeds(late.result())}
    assert found == {0: [1, 2], 1: [3]}
    assert server.engine.batches == [[1, 2, 3]]


def test_a_member_without_requests_takes_part(folder: Path) -> None:
    server = InThread(folder, "one", num_members=2)
    engines = [engine_of([server], [0], member=rank, starts=False) for rank in range(2)]
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(engines[i].generate, part, SAMPLING) for i, part in enumerate(([], [request(7)]))]
    assert [seeds(one.result()) for one in found] == [[], [7]]


def test_a_server_does_not_wait_for_a_member_that_has_ended(folder: Path) -> None:
    server = InThread(folder, "one", num_members=2)
    left, right = (engine_of([server], [0], member=rank, starts=False) for rank in range(2))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(left.generate, [request(1)], SAMPLING)
        right.close()
        assert seeds(waiting.result()) == [1]


def test_weights_arrive_bit_by_bit_once(folder: Path) -> None:
    server = InThread(folder, "one", num_members=1)
    engine = engine_of([server], [0])
    sent = {
        "a": torch.randn(3, 5, dtype=torch.bfloat16).T,  # not contiguous
        "b": torch.tensor([float("nan"), -0.0, 1e-45]),
    }
    engine.load_weights(sent.items())
    (found,) = server.engine.weights
    assert found.keys() == sent.keys()
    for name, tensor in sent.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert found[name].view(torch.uint8).equal(tensor.contiguous().view(torch.uint8))


def test_each_server_of_a_process_gets_a_part_of_its_requests(folder: Path) -> None:
    servers = [InThread(folder, name, num_members=1) for name in ("one", "two")]
    engine = engine_of(servers, [0, 1])
    outputs = engine.generate([request(i) for i in range(5)], SAMPLING)
    assert seeds(outputs) == [0, 1, 2, 3, 4]
    assert [one.engine.batches for one in servers] == [[[0, 2, 4]], [[1, 3]]]


def test_the_requests_of_a_lost_server_go_to_one_of_another_process(folder: Path) -> None:
    servers = [InThread(folder, name, num_members=1) for name in ("one", "two")]
    own, other = (engine_of(servers, [rank], member=rank) for rank in range(2))
    for engine in (own, other):
        engine.load_weights([])
    servers[0].engine.error = Ended()
    for number in range(2):
        assert seeds(own.generate([request(number)], SAMPLING)) == [number]
    (message,) = own.lost_servers()
    assert message == "one is gone and was killed; its log ends so:\nthe log of one"
    assert own.lost_servers() == []
    # its own process samples as before
    assert seeds(other.generate([request(9)], SAMPLING)) == [9]
    assert servers[1].engine.batches == [[0], [1], [9]]


def test_a_guest_waits_for_the_weights_of_its_step(folder: Path) -> None:
    servers = [InThread(folder, name, num_members=1) for name in ("one", "two")]
    own, other = (engine_of(servers, [rank], member=rank) for rank in range(2))
    for engine in (own, other):
        engine.load_weights([])
    servers[0].engine.error = Ended()
    own.load_weights([])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(own.generate, [request(1)], SAMPLING)
        time.sleep(0.3)
        assert not waiting.done()
        other.load_weights([])
        assert versions(waiting.result()) == {2}


def test_a_server_that_hangs_is_replaced_after_the_timeout(folder: Path) -> None:
    servers = [InThread(folder, name, num_members=count) for name, count in (("one", 2), ("two", 1))]
    # the second member of the first server never comes
    engine = engine_of(servers, [0], timeout_s=0.3)
    assert seeds(engine.generate([request(4)], SAMPLING)) == [4]
    (message,) = engine.lost_servers()
    assert message.startswith("one has not answered within 0.005 minutes and was killed; its log ends so:")


def test_without_another_server_the_error_has_the_log(folder: Path) -> None:
    server = InThread(folder, "one", num_members=1)
    engine = engine_of([server], [0])
    server.engine.error = ValueError("out of blocks")
    with pytest.raises(ModelError) as caught:
        engine.generate([request(4)], SAMPLING)
    assert str(caught.value) == (
        "no vLLM server is left to sample with: one failed: ValueError: out of blocks and was killed; "
        "its log ends so:\nthe log of one"
    )


def test_weights_that_cannot_be_loaded_lose_the_server_and_are_iterated_to_the_end(folder: Path) -> None:
    server = InThread(folder, "one", num_members=1)
    engine = engine_of([server], [0])
    made: list[str] = []

    def weights() -> Iterator[tuple[str, Tensor]]:
        for name in ("a", "wrong", "b", "c"):
            made.append(name)
            yield name, torch.ones(1)

    engine.load_weights(weights())
    assert made == ["a", "wrong", "b", "c"], "all processes gather all weights, or the others would wait"
    with pytest.raises(ModelError, match="one failed: KeyError: 'wrong'"):
        engine.generate([request(1)], SAMPLING)


def test_closing_ends_a_call_in_another_thread(folder: Path) -> None:
    servers = [InThread(folder, name, num_members=2) for name in ("one", "two")]
    # the second member of the server never comes
    engine = engine_of(servers, [0], starts=False)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(engine.generate, [request(1)], SAMPLING)
        time.sleep(0.2)
        engine.close()
        assert isinstance(waiting.exception(timeout=5), ModelError)


def test_a_process_that_has_started_no_server_sends_nothing(folder: Path) -> None:
    server = InThread(folder, "one", num_members=2)
    engine = engine_of([server], [0], starts=False)
    assert not engine.receives_weights
    engine.load_weights([("a", torch.ones(1))])
    assert server.engine.weights == []


# Servers in processes of their own, with a fake module as vllm.


@pytest.fixture
def server_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have server processes import the fake module as vllm."""
    shutil.copyfile(fake_vllm.__file__, tmp_path / "vllm.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


def settings(**changes: Any) -> EngineSettings:
    given = EngineSettings(folder=Path("model"), dtype="float32", on_cpu=True, memory_frac=0.3, sleeps=False)
    return replace(given, **changes)


def image_request() -> EngineRequest:
    return replace(request(1), grid_thw=torch.tensor([[1, 2, 4]]), count=2)


@pytest.mark.usefixtures("server_path")
def test_server_processes_sample_die_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    servers = [ServerProcess(settings(), num_members=1, label=f"server {i}", devices="7") for i in range(2)]
    for server in servers:
        server.wait_until_ready(timeout_s=120)
    pids = [server._process.pid for server in servers]
    assert psutil.Process(pids[0]).environ()["CUDA_VISIBLE_DEVICES"] == "7"
    addresses = [server.address for server in servers]
    assert [one.name for one in addresses] == [f"server {i} (process {pid}, GPU 7)" for i, pid in enumerate(pids)]
    engine = ServedEngine(addresses, own=[0, 1], started=dict(enumerate(servers)), member=0, timeout_s=120)
    engine.load_weights([("a", torch.ones(2, dtype=torch.bfloat16))])
    expected = [EngineOutput(token_ids=(7 + i, 3), logprobs=(-0.5, -0.25)) for i in range(2)]
    assert engine.generate([image_request()] * 3, SAMPLING) == [expected] * 3
    os.kill(pids[0], signal.SIGKILL)
    engine.load_weights([("a", torch.zeros(2, dtype=torch.bfloat16))])
    assert engine.generate([image_request()] * 3, SAMPLING) == [expected] * 3
    (message,) = engine.lost_servers()
    assert message.startswith(f"server 0 (process {pids[0]}, GPU 7) is gone and ended with status -9; its log ends so:")
    os.kill(pids[1], signal.SIGSTOP)
    engine.close()
    assert not any(map(psutil.pid_exists, pids)), "one that hangs ends too"
    assert not any(one.folder.exists() for one in addresses)


@pytest.mark.usefixtures("server_path")
def test_an_engine_that_does_not_start_raises_with_its_reason() -> None:
    server = ServerProcess(settings(dtype="bfloat16"), num_members=1, label="server 1 of 1")
    with pytest.raises(
        ModelError, match=r"server 1 of 1 \(process \d+\) does not start: ValueError: not enough memory;"
    ):
        server.wait_until_ready(timeout_s=120)
    assert not psutil.pid_exists(server._process.pid)


KILLED = """
import os, sys, time
from pathlib import Path
from virft.generation.vllm_client import ServerProcess
from virft.generation.vllm_engine import EngineSettings

settings = EngineSettings(folder=Path("m"), dtype="float32", on_cpu=True, memory_frac=0.3, sleeps=False)
server = ServerProcess(settings, num_members=1, label="server")
server.wait_until_ready(timeout_s=120)
print(server._process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.usefixtures("server_path")
def test_a_server_ends_when_its_trainer_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        server = psutil.Process(int(trainer.stdout.readline()))
        trainer.kill()
    server.wait(timeout=20)


def test_the_engine_gets_no_variables_of_the_launcher() -> None:
    ours = {"RANK": "1", "WORLD_SIZE": "2", "PATH": "/bin", "VLLM_LOGGING_LEVEL": "INFO"}
    assert engine_environment(ours, on_cpu=False) == {"PATH": "/bin", "VLLM_LOGGING_LEVEL": "INFO"}
    assert engine_environment({}, on_cpu=True) == {"VLLM_LOGGING_LEVEL": "ERROR", "TORCHDYNAMO_DISABLE": "1"}
    assert engine_environment({}, on_cpu=False, devices="2,3")["CUDA_VISIBLE_DEVICES"] == "2,3"
