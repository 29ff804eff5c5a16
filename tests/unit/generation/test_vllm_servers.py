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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import torch
from torch import Tensor

import fake_vllm
from virft.errors import ModelError, SamplerLost
from virft.generation.training_process import TrainingProcess
from virft.generation.vllm_client import Restarts, ServedEngine
from virft.generation.vllm_engine import EngineOutput, EngineRequest, EngineSampling, EngineSettings
from virft.generation.vllm_process import ServerProcess, engine_environment
from virft.generation.vllm_server import EngineServer
from virft.generation.vllm_wire import LOG, ServerAddress, connect, send_weight

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
        self.is_slow = False
        self.failure: str | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        try:
            self.server.serve()
        except (Ended, OSError):  # an error of the operating system: the listener is closed
            for one in (*self.server._clients, self.listener):
                one.close()

    def is_starting(self) -> bool:
        return self.is_slow

    def wait_until_ready(self) -> None:
        if self.failure is not None:
            raise ModelError(self.failure)

    def describe_end(self) -> str:
        return "was killed"

    def close(self) -> None:
        self.listener.close()


class Ended(BaseException):
    """Ends a thread, as a process ends."""


def engine_of(
    servers: Sequence[InThread],
    own: Sequence[int],
    *,
    member: int = 0,
    starts: bool = True,
    timeout_s: float = 20.0,
    union: Callable[[Sequence[Any]], list[Any]] = list,
    restarts: Restarts | None = None,
) -> ServedEngine:
    started = {i: cast(ServerProcess, servers[i]) for i in own} if starts else {}
    addresses = [one.address for one in servers]
    trainer = TrainingProcess(rank=member, local_rank=member, union=union)
    return ServedEngine(addresses, own=own, started=started, trainer=trainer, timeout_s=timeout_s, restarts=restarts)


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
    (message,) = own.server_messages()
    assert message == "one is gone and was killed; its log ends so:\nthe log of one"
    assert own.server_messages() == []
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
    (message,) = engine.server_messages()
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


class Spares:
    """Servers in threads that take the place of lost ones, in order; ``started`` are those that were used."""

    def __init__(self, folder: Path, number: int, *, num_members: int = 1, limit: int = 3) -> None:
        self.spares = [InThread(folder, f"spare {i}", num_members=num_members) for i in range(number)]
        self.started: list[InThread] = []
        self.restarts = Restarts(start=self._start, limit=limit)

    def _start(self, index: int) -> ServerProcess:
        self.started.append(self.spares[len(self.started)])
        return cast(ServerProcess, self.started[-1])


def test_a_server_that_is_started_again_is_taken_back_with_new_weights(folder: Path) -> None:
    servers = [InThread(folder, name, num_members=1) for name in ("one", "two")]
    spares = Spares(folder, 1)
    (spare,) = spares.spares
    spare.is_slow = True
    engine = engine_of(servers, [0, 1], restarts=spares.restarts)
    requests = [request(i) for i in range(4)]
    engine.generate(requests, SAMPLING)
    servers[0].engine.error = Ended()
    assert seeds(engine.generate(requests, SAMPLING)) == [0, 1, 2, 3]
    (message,) = engine.server_messages()
    assert message == "one is gone and was killed and is started again (1 of 3); its log ends so:\nthe log of one"
    # While it starts, the other samples, and nothing waits.
    assert not engine.take_back()
    engine.load_weights([])
    assert seeds(engine.generate(requests, SAMPLING)) == [0, 1, 2, 3]
    assert spare.engine.weights == []
    spare.is_slow = False
    assert engine.take_back()
    assert engine.server_messages() == ["spare 0 was started again and samples from now on"]
    engine.load_weights([("a", torch.ones(1))])
    assert seeds(engine.generate(requests, SAMPLING)) == [0, 1, 2, 3]
    assert [one.keys() for one in spare.engine.weights] == [{"a"}]
    assert spare.engine.batches == [[0, 2]]
    assert not engine.take_back(), "its weights are sent once"


def test_a_server_that_is_lost_before_it_answers_is_not_started_a_second_time(folder: Path) -> None:
    servers = [InThread(folder, name, num_members=1) for name in ("one", "two")]
    spares = Spares(folder, 2)
    engine = engine_of(servers, [0, 1], restarts=spares.restarts)
    requests = [request(i) for i in range(4)]
    engine.generate(requests, SAMPLING)
    servers[0].engine.error = spares.spares[0].engine.error = Ended()
    engine.generate(requests, SAMPLING)
    assert engine.take_back()
    assert seeds(engine.generate(requests, SAMPLING)) == [0, 1, 2, 3]
    assert engine.server_messages()[-1].startswith(
        "spare 0 is gone and was killed, before it answered any request, so it is not started again; its log"
    )
    assert not engine.take_back()
    assert seeds(engine.generate(requests, SAMPLING)) == [0, 1, 2, 3]
    assert len(spares.started) == 1


def test_the_number_of_restarts_is_limited(folder: Path) -> None:
    spares = Spares(folder, 3, limit=2)
    engine = engine_of([InThread(folder, "one", num_members=1)], [0], restarts=spares.restarts)
    current = engine._servers[0]
    for number in range(3):
        assert seeds(engine.generate([request(number)], SAMPLING)) == [number]
        cast(Any, current.process).engine.error = Ended()
        with pytest.raises(SamplerLost) as caught:
            engine.generate([request(number)], SAMPLING)
        if number < 2:
            assert engine.recover(caught.value)
    with pytest.raises(ModelError, match="no vLLM server is left to sample with: spare 1 is gone and was killed; its"):
        engine.recover(caught.value)
    assert len(spares.started) == 2


def test_a_restart_that_fails_ends_the_run_if_no_other_server_is_left(folder: Path) -> None:
    spares = Spares(folder, 1)
    spares.spares[0].failure = "spare 0 does not start: ValueError: not enough memory"
    server = InThread(folder, "one", num_members=1)
    engine = engine_of([server], [0], restarts=spares.restarts)
    engine.generate([request(1)], SAMPLING)
    server.engine.error = Ended()
    for attempt in range(2):
        with pytest.raises(SamplerLost) as caught:
            engine.generate([request(1)], SAMPLING)
        if attempt == 0:
            assert engine.recover(caught.value), "it has waited for the restart"
    with pytest.raises(ModelError, match="no vLLM server is left"):
        engine.recover(caught.value)
    assert engine.server_messages()[-1] == spares.spares[0].failure


class Union:
    """A collective operation of two threads."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=20)
        self.parts: dict[int, Sequence[Any]] = {}

    def of(self, rank: int) -> Callable[[Sequence[Any]], list[Any]]:
        def union(items: Sequence[Any]) -> list[Any]:
            self.parts[rank] = items
            self.barrier.wait()
            found = [*self.parts[0], *self.parts[1]]
            self.barrier.wait()
            return found

        return union


def test_all_members_of_a_shared_server_come_back_to_it(folder: Path) -> None:
    union = Union()
    server = InThread(folder, "one", num_members=2)
    spares = Spares(folder, 1, num_members=2)
    engines = [
        engine_of([server], [0], member=rank, starts=rank == 0, union=union.of(rank), restarts=spares.restarts)
        for rank in range(2)
    ]

    def step(rank: int, *, is_killed: bool) -> list[int]:
        engine = engines[rank]
        engine.load_weights([])
        lost = None
        try:
            found = engine.generate([request(rank)], SAMPLING)
        except SamplerLost as error:
            lost = error
        assert engine.recover(lost) == is_killed
        if is_killed:
            assert engine.take_back() is False, "recover has waited for it, and all weights follow"
            engine.load_weights([])
            found = engine.generate([request(rank)], SAMPLING)
            assert not engine.recover(None)
        return seeds(found)

    with ThreadPoolExecutor(2) as pool:
        assert [*pool.map(lambda rank: step(rank, is_killed=False), range(2))] == [[0], [1]]
        server.engine.error = Ended()
        assert [*pool.map(lambda rank: step(rank, is_killed=True), range(2))] == [[0], [1]]
        assert [*pool.map(lambda rank: step(rank, is_killed=False), range(2))] == [[0], [1]]
    assert spares.spares[0].engine.batches == [[0, 1], [0, 1]]


def test_a_member_comes_back_to_a_server_that_still_runs(folder: Path) -> None:
    union = Union()
    server = InThread(folder, "one", num_members=2)
    engines = [engine_of([server], [0], member=rank, starts=rank == 0, union=union.of(rank)) for rank in range(2)]
    connection = engines[1]._servers[0].connection
    assert connection is not None
    connection.close()

    with ThreadPoolExecutor(2) as pool:
        assert seeds(pool.submit(engines[0].generate, [request(0)], SAMPLING).result()) == [0]
        with pytest.raises(SamplerLost):
            engines[1].generate([request(1)], SAMPLING)
        assert [*pool.map(lambda engine: engine.take_back(), engines)] == [False, False]
        found = [pool.submit(engines[rank].generate, [request(rank)], SAMPLING) for rank in range(2)]
        assert [seeds(one.result()) for one in found] == [[0], [1]]
    assert server.engine.batches == [[0], [0, 1]]


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
    servers = [
        ServerProcess(settings(), num_members=1, label=f"server {i}", timeout_s=120, devices="7") for i in range(2)
    ]
    for server in servers:
        server.wait_until_ready()
    pids = [server._process.pid for server in servers]
    assert psutil.Process(pids[0]).environ()["CUDA_VISIBLE_DEVICES"] == "7"
    addresses = [server.address for server in servers]
    assert [one.name for one in addresses] == [f"server {i} (process {pid}, GPU 7)" for i, pid in enumerate(pids)]
    engine = ServedEngine(
        addresses, own=[0, 1], started=dict(enumerate(servers)), trainer=TrainingProcess(), timeout_s=120
    )
    engine.load_weights([("a", torch.ones(2, dtype=torch.bfloat16))])
    expected = [EngineOutput(token_ids=(7 + i, 3), logprobs=(-0.5, -0.25)) for i in range(2)]
    assert engine.generate([image_request()] * 3, SAMPLING) == [expected] * 3
    os.kill(pids[0], signal.SIGKILL)
    engine.load_weights([("a", torch.zeros(2, dtype=torch.bfloat16))])
    assert engine.generate([image_request()] * 3, SAMPLING) == [expected] * 3
    (message,) = engine.server_messages()
    assert message.startswith(f"server 0 (process {pids[0]}, GPU 7) is gone and ended with status -9; its log ends so:")
    os.kill(pids[1], signal.SIGSTOP)
    engine.close()
    assert not any(map(psutil.pid_exists, pids)), "one that hangs ends too"
    assert not any(one.folder.exists() for one in addresses)


@pytest.mark.usefixtures("server_path")
def test_a_killed_server_process_is_started_again() -> None:
    def start(index: int) -> ServerProcess:
        return ServerProcess(settings(), num_members=1, label=f"server {index}", timeout_s=120)

    first = start(0)
    first.wait_until_ready()
    engine = ServedEngine(
        [first.address],
        own=[0],
        started={0: first},
        trainer=TrainingProcess(),
        timeout_s=120,
        restarts=Restarts(start=start, limit=1),
    )
    engine.load_weights([])
    before = engine.generate([image_request()], SAMPLING)
    os.kill(first._process.pid, signal.SIGKILL)
    with pytest.raises(SamplerLost) as caught:
        engine.generate([image_request()], SAMPLING)
    assert engine.recover(caught.value)
    second = engine._servers[0].process
    assert second is not None
    engine.load_weights([])
    assert engine.generate([image_request()], SAMPLING) == before
    assert [line.splitlines()[0] for line in engine.server_messages()] == [
        f"server 0 (process {first._process.pid}) is gone and ended with status -9 and is started again (1 of 1); "
        "its log ends so:",
        f"server 0 (process {second._process.pid}) was started again and samples from now on",
    ]
    engine.close()
    assert not psutil.pid_exists(second._process.pid)
    assert not first.address.folder.exists()


@pytest.mark.usefixtures("server_path")
def test_an_engine_that_does_not_start_raises_with_its_reason() -> None:
    server = ServerProcess(settings(dtype="bfloat16"), num_members=1, label="server 1 of 1", timeout_s=120)
    with pytest.raises(
        ModelError, match=r"server 1 of 1 \(process \d+\) does not start: ValueError: not enough memory;"
    ):
        server.wait_until_ready()
    assert not psutil.pid_exists(server._process.pid)


KILLED = """
import os, sys, time
from pathlib import Path
from virft.generation.vllm_engine import EngineSettings
from virft.generation.vllm_process import ServerProcess

settings = EngineSettings(folder=Path("m"), dtype="float32", on_cpu=True, memory_frac=0.3, sleeps=False)
server = ServerProcess(settings, num_members=1, label="server", timeout_s=120)
server.wait_until_ready()
print(server._process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.usefixtures("server_path")
@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_server_ends_when_its_trainer_is_killed(is_stopped: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        server = psutil.Process(int(trainer.stdout.readline()))
        if is_stopped:
            server.suspend()
        trainer.kill()
    server.wait(timeout=20)


def test_a_server_that_stops_while_weights_are_sent_is_waited_for_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[tuple[int, int]] = []
    write = os.write

    def counted(fd: int, data: Any) -> int:
        sent = write(fd, data)
        writes.append((len(data), sent))
        return sent

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()  # and read nothing
        connection = connect(folder / "s", timeout_s=0.2)
        monkeypatch.setattr(os, "write", counted)
        with pytest.raises(BlockingIOError, match=r"not sent within 0\.2 s"):
            send_weight(connection, "weight", torch.zeros(1_000_000))
    _name, _length, (size, sent) = writes
    assert 0 < sent < size == 4_000_000


def test_a_server_does_not_import_the_policy() -> None:
    # PEFT and transformers take seconds, in which a server that is started again does not sample.
    program = "import sys, virft.generation.vllm_server; print({'peft', 'transformers', 'vllm'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_the_engine_gets_no_variables_of_the_launcher() -> None:
    ours = {"RANK": "1", "WORLD_SIZE": "2", "PATH": "/bin", "VLLM_LOGGING_LEVEL": "INFO"}
    assert engine_environment(ours, on_cpu=False) == {"PATH": "/bin", "VLLM_LOGGING_LEVEL": "INFO"}
    assert engine_environment({}, on_cpu=True) == {"VLLM_LOGGING_LEVEL": "ERROR", "TORCHDYNAMO_DISABLE": "1"}
    assert engine_environment({}, on_cpu=False, devices="2,3")["CUDA_VISIBLE_DEVICES"] == "2,3"
