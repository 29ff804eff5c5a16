"""Arguments that vLLM gets, with a fake module in its place. Real vLLM: ``tests/on_vllm``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import fake_vllm
from virft.errors import ModelError
from virft.generation.vllm_engine import EngineOutput, EngineRequest, EngineSampling, EngineSettings, VLLMEngine
from virft.generation.vllm_server import ServedEngine, engine_environment

SAMPLING = EngineSampling(max_tokens=5, temperature=0.7, stop_ids=(3,), forbidden=("<pad>",))


def settings(**changes: Any) -> EngineSettings:
    defaults = {"folder": Path("model"), "dtype": "float32", "on_cpu": True, "memory_frac": 0.3, "sleeps": False}
    return EngineSettings(**defaults | changes)


def request(*, count: int = 2) -> EngineRequest:
    """Two images of 8 and 4 patches, so of 2 tokens and of 1."""
    return EngineRequest(
        token_ids=(5, 9, 9, 6, 9, 8),
        placeholder_id=9,
        image_embeds=torch.ones(3, 4),
        grid_thw=torch.tensor([[1, 2, 4], [1, 2, 2]]),
        count=count,
        seed=11,
    )


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[fake_vllm.LLM]:
    """Return the engines that were made with the fake module."""
    engines: list[fake_vllm.LLM] = []

    class Recorded(fake_vllm.LLM):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            engines.append(self)

    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setitem(sys.modules, "vllm", fake_vllm)
    monkeypatch.setattr(fake_vllm, "LLM", Recorded)
    return engines


def test_sampling_parameters_are_those_of_the_policy(made: list[fake_vllm.LLM]) -> None:
    VLLMEngine(settings()).generate([request()], SAMPLING)
    assert made[0].settings["logprobs_mode"] == "processed_logprobs"
    assert made[0].settings["generation_config"] == "vllm"  # not the model's own top-k
    ((_, (prompt,), (params,)),) = made[0].calls
    assert prompt["prompt_token_ids"] == [5, 9, 6, 9, 8]
    assert params.settings == {
        "n": 2, "seed": 11, "temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_tokens": 5, "logprobs": 0,
        "ignore_eos": True, "stop_token_ids": [3], "bad_words": ["<pad>"], "detokenize": False,
    }  # fmt: skip


def test_completions_are_in_order_with_their_logprobs(made: list[fake_vllm.LLM]) -> None:
    (outputs,) = VLLMEngine(settings()).generate([request(count=2)], SAMPLING)
    assert outputs == [
        EngineOutput(token_ids=(7, 3), logprobs=(-0.5, -0.25)),
        EngineOutput(token_ids=(8, 3), logprobs=(-0.5, -0.25)),
    ]


def test_a_greedy_completion_is_computed_once(made: list[fake_vllm.LLM]) -> None:
    greedy = EngineSampling(max_tokens=5, temperature=0.0, stop_ids=(3,), forbidden=())
    (outputs,) = VLLMEngine(settings()).generate([request(count=3)], greedy)
    assert [one.token_ids for one in outputs] == [(7, 3)] * 3
    assert made[0].calls[0][2][0].settings["n"] == 1


def test_another_prompt_in_vllm_is_an_assertion_error(made: list[fake_vllm.LLM]) -> None:
    odd = EngineRequest(
        token_ids=(5, 9, 8),  # one token for an image of two
        placeholder_id=9,
        image_embeds=torch.ones(2, 4),
        grid_thw=torch.tensor([[1, 2, 4]]),
        count=1,
        seed=0,
    )
    with pytest.raises(AssertionError, match="another prompt"):
        VLLMEngine(settings()).generate([odd], SAMPLING)


def test_new_weights_clear_every_cache(made: list[fake_vllm.LLM]) -> None:
    VLLMEngine(settings()).load_weights([("a", torch.tensor([1.0, 2.0]))])
    assert made[0].calls == [
        ("reload_weights", {"a": [1.0, 2.0]}),
        "reset_mm_cache",
        "reset_encoder_cache",
        "reset_prefix_cache",
    ]


def test_memory_is_fixed_on_a_cpu_and_a_fraction_on_a_gpu(made: list[fake_vllm.LLM]) -> None:
    VLLMEngine(settings())
    VLLMEngine(settings(on_cpu=False, sleeps=True))
    on_cpu, elsewhere = (one.settings for one in made)
    assert on_cpu["kv_cache_memory_bytes"] == 1 << 30
    assert on_cpu["enforce_eager"]
    assert "gpu_memory_utilization" not in on_cpu
    assert elsewhere["gpu_memory_utilization"] == 0.3
    assert elsewhere["enable_sleep_mode"]
    assert not elsewhere["enforce_eager"]


def test_a_vision_tower_is_built_for_deepstack_features_only(made: list[fake_vllm.LLM]) -> None:
    VLLMEngine(settings())
    VLLMEngine(settings(has_deep_features=True))
    assert [one.settings["limit_mm_per_prompt"] for one in made] == [
        {"image": 0, "video": 0},
        {"image": 64, "video": 0},
    ]


def test_sleep_retains_the_weights(made: list[fake_vllm.LLM]) -> None:
    engine = VLLMEngine(settings())
    engine.sleep()
    engine.wake_up()
    assert made[0].calls == ["sleep 1", "wake_up"]


@pytest.fixture
def server_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the server process import the fake module as vllm."""
    shutil.copyfile(fake_vllm.__file__, tmp_path / "vllm.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


@pytest.mark.usefixtures("server_path")
def test_a_served_engine_gives_the_same_completions(made: list[fake_vllm.LLM], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(start(*a, **k)) or started[-1])
    served = ServedEngine(settings())
    assert started[0].poll() is None
    tied = torch.ones(2, dtype=torch.bfloat16)
    served.load_weights([("a", tied), ("b", tied)])
    outputs = served.generate([request()], SAMPLING)
    served.sleep()
    served.wake_up()
    assert outputs == VLLMEngine(settings()).generate([request()], SAMPLING)
    served.close()
    assert started[0].returncode == 0


@pytest.mark.usefixtures("server_path")
def test_an_engine_that_does_not_start_raises_with_its_reason() -> None:
    with pytest.raises(ModelError, match="vLLM: ValueError: not enough memory; its log ends so"):
        ServedEngine(settings(dtype="bfloat16"))


@pytest.mark.usefixtures("server_path")
def test_an_engine_that_dies_raises_with_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VLLM_DIES", "1")
    served = ServedEngine(settings())
    with pytest.raises(ModelError, match="the vLLM engine ended with status 9"):
        served.generate([request()], SAMPLING)
    served.close()


@pytest.mark.usefixtures("server_path")
def test_an_engine_that_samples_in_a_thread_ends_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VLLM_SLEEPS", "300")
    engine = ServedEngine(settings())
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(engine.generate, [request()], SAMPLING)
        while not engine._is_busy:
            time.sleep(0.01)
        began = time.monotonic()
        engine.close()
        assert time.monotonic() - began < 9, "the engine was not waited for"
        assert running.exception() is not None


def test_the_engine_gets_no_variables_of_the_launcher() -> None:
    ours = {"RANK": "1", "WORLD_SIZE": "2", "PATH": "/bin", "VLLM_LOGGING_LEVEL": "INFO"}
    assert engine_environment(ours, on_cpu=False) == {"PATH": "/bin", "VLLM_LOGGING_LEVEL": "INFO"}
    assert engine_environment({}, on_cpu=True) == {"VLLM_LOGGING_LEVEL": "ERROR", "TORCHDYNAMO_DISABLE": "1"}
