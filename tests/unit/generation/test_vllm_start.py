"""The place of vLLM engines: in which process, on which devices, for which training trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from virft.config.schema import SamplingConfig
from virft.errors import ConfigError, ModelError
from virft.generation import vllm_start
from virft.generation.training_process import TrainingProcess
from virft.generation.vllm_start import assign_servers, check_placement, engine_is_served, start_vllm
from virft.generation.vllm_wire import ServerAddress
from virft.models.load import LoadedModel, load_model
from virft.models.policy import TokenRules


@pytest.fixture
def loaded() -> LoadedModel:
    return load_model("virft-tiny")


@pytest.fixture(autouse=True)
def with_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that vLLM is installed."""
    monkeypatch.setattr(vllm_start, "find_spec", lambda name: ModuleSpec(name, None))


def sampling(**changes: Any) -> SamplingConfig:
    return SamplingConfig(**{"engine": "vllm"} | changes)


def test_the_mode_follows_the_device_and_the_servers() -> None:
    assert engine_is_served(sampling(), on_cpu=True)
    assert engine_is_served(sampling(vllm_mode="server"), on_cpu=True)
    assert engine_is_served(sampling(vllm_mode="server"), on_cpu=False)
    assert engine_is_served(sampling(vllm_devices=(1,)), on_cpu=False)
    assert engine_is_served(sampling(vllm_servers=1), on_cpu=False)
    assert not engine_is_served(sampling(), on_cpu=False)
    assert not engine_is_served(sampling(vllm_mode="colocated"), on_cpu=False)


def test_no_engine_sleeps_on_a_cpu() -> None:
    with pytest.raises(ConfigError, match=r'vllm_mode is "colocated" on a CPU.* cannot sleep .*expected "server" or'):
        engine_is_served(sampling(vllm_mode="colocated"), on_cpu=True)


def test_without_vllm_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_start, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'"vllm", which is not installed; pip install -e "\.\[vllm\]"'):
        engine_is_served(sampling(), on_cpu=True)


def test_a_family_without_vllm_support_is_refused(loaded: LoadedModel) -> None:
    loaded.family = replace(loaded.family, on_vllm=False)
    with pytest.raises(ConfigError, match="does not take image features of qwen2_vl; expected"):
        start_vllm(loaded, TokenRules(), sampling(), dtype="float32", on_cpu=True)


@pytest.mark.parametrize("num_processes", range(1, 6))
@pytest.mark.parametrize("num_servers", range(1, 6))
def test_servers_are_assigned_evenly(num_processes: int, num_servers: int) -> None:
    found = assign_servers(num_processes, num_servers)
    assert {server for own in found for server in own} == set(range(num_servers))
    sharers = [sum(server in own for own in found) for server in range(num_servers)]
    loads = sharers if num_servers <= num_processes else [len(own) for own in found]
    assert max(loads) - min(loads) <= 1
    assert all(found)


def of_two(rank: int = 0) -> TrainingProcess:
    return TrainingProcess(rank=rank, count=2, local_rank=rank, local_count=2)


@pytest.mark.parametrize(
    ("changes", "on_cpu", "message"),
    [
        ({"vllm_devices": (2, 3)}, False, ""),
        ({"vllm_devices": (2, 3), "vllm_tensor_parallel": 2}, False, ""),
        ({"vllm_tensor_parallel": 2}, False, ""),
        ({"vllm_servers": 1}, True, ""),
        ({"vllm_devices": (1, 2)}, False, "vllm_devices has 1; expected from 2 to 3, as the machine has 4 GPUs and 2"),
        ({"vllm_devices": (4,)}, False, "vllm_devices has 4; expected from 2 to 3"),
        ({"vllm_devices": (1,)}, True, "vllm_devices lists GPUs, and there is none; expected sampling.vllm_servers"),
        ({"vllm_tensor_parallel": 3}, False, "vllm_tensor_parallel is 3 with 2 processes.*expected a divisor of 2"),
        ({"vllm_tensor_parallel": 2, "vllm_mode": "server"}, False, "is 2 for a vLLM server on the GPU of a training"),
    ],
)
def test_engines_that_do_not_fit_are_refused(changes: dict[str, Any], on_cpu: bool, message: str) -> None:
    if not message:
        check_placement(sampling(**changes), of_two(), on_cpu=on_cpu, num_devices=4)
        return
    with pytest.raises(ConfigError, match=message):
        check_placement(sampling(**changes), of_two(), on_cpu=on_cpu, num_devices=4)


class NoServer:
    """In place of a server process; ``made`` lists all."""

    made: list[NoServer]
    failure: str | None = None

    def __init__(
        self, settings: Any, *, num_members: int, label: str, timeout_s: float, devices: str | None = None
    ) -> None:
        assert timeout_s == 90
        self.num_members, self.label, self.devices = num_members, label, devices
        self.address = ServerAddress(name=label, folder=Path("none"))
        self.is_closed = False
        self.made.append(self)

    def wait_until_ready(self) -> None:
        if self.failure is not None:
            raise ModelError(self.failure)

    def describe_end(self) -> str:
        return "was killed"

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[NoServer]:
    """Return the servers that were started."""
    monkeypatch.setattr(vllm_start, "ServerProcess", NoServer)
    monkeypatch.setattr(NoServer, "made", [], raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    return NoServer.made


def test_a_shared_server_is_started_by_the_first_of_its_processes(
    loaded: LoadedModel, made: list[NoServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "8,9,10,11")
    shared = sampling(vllm_devices=(2, 3), vllm_tensor_parallel=2, vllm_timeout_minutes=1.5)
    parts: list[Any] = []
    for rank in range(2):

        def union(items: Sequence[Any]) -> list[Any]:
            parts.extend(items)
            return list(parts)

        start_vllm(
            loaded, TokenRules(), shared, dtype="float32", on_cpu=False, trainer=replace(of_two(rank), union=union)
        )
        assert len(made) == 1, "the process of rank 0 has started it"
    assert [(one.label, one.num_members, one.devices) for one in made] == [("vLLM server 1 of 1", 2, "10,11")]


def test_a_server_of_its_own_is_on_the_gpu_of_its_process(loaded: LoadedModel, made: list[NoServer]) -> None:
    own = sampling(vllm_mode="server", vllm_timeout_minutes=1.5)
    # what the other process, and one of another machine, report
    others = [(0, {0: ServerAddress(name="first", folder=Path("a"))}, None), (2, {0: "of another machine"}, None)]
    place = replace(of_two(1), union=lambda items: [*others, *items])
    start_vllm(loaded, TokenRules(), own, dtype="float32", on_cpu=False, trainer=place)
    assert [(one.label, one.devices) for one in made] == [("vLLM server 2 of 2", "1")]


def test_a_server_that_does_not_start_fails_all_processes(
    loaded: LoadedModel, made: list[NoServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = sampling(vllm_timeout_minutes=1.5)
    place = replace(of_two(), union=lambda items: [*items, (0, {}, "server 2 does not start")])
    with pytest.raises(ModelError, match="server 2 does not start"):
        start_vllm(loaded, TokenRules(), own, dtype="float32", on_cpu=True, trainer=place)
    assert [one.is_closed for one in made] == [True]
    monkeypatch.setattr(NoServer, "failure", "server 1 does not start")
    with pytest.raises(ModelError, match="server 1 does not start"):
        start_vllm(loaded, TokenRules(), own, dtype="float32", on_cpu=True, trainer=place)
