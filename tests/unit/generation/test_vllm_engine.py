"""Arguments that vLLM gets, with a fake module in its place. Real vLLM: ``tests/on_vllm``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fake_vllm
from virft.generation.vllm_colocated import ColocatedEngine
from virft.generation.vllm_engine import EngineOutput, EngineRequest, EngineSampling, EngineSettings, VLLMEngine

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


def test_a_tensor_parallel_engine_reads_weights_from_files(made: list[fake_vllm.LLM]) -> None:
    engine = VLLMEngine(settings(tensor_parallel=2))
    engine.load_weights([("b", torch.tensor([1.0, 2.0])), ("a", torch.tensor([3.0], dtype=torch.bfloat16))])
    assert made[0].settings["tensor_parallel_size"] == 2
    assert made[0].calls[0] == ("reload_weights", {"b": [1.0, 2.0], "a": [3.0]})


def test_engines_of_several_processes_share_their_group(made: list[fake_vllm.LLM]) -> None:
    VLLMEngine(settings(sleeps=True, rank=5, tensor_parallel=2))
    VLLMEngine(settings(sleeps=True))
    launched, alone = (one.settings for one in made)
    assert launched["distributed_executor_backend"] == "external_launcher"
    assert launched["seed"] == 2
    assert "distributed_executor_backend" not in alone


def test_a_colocated_engine_loads_weights_before_it_has_a_cache_and_loses_both(made: list[fake_vllm.LLM]) -> None:
    engine = ColocatedEngine(settings(sleeps=True))
    for _ in range(2):
        engine.load_weights([("a", torch.tensor([1.0]))])
        engine.generate([request()], SAMPLING)
    calls = [one if isinstance(one, str) else one[0] for one in made[0].calls]
    step = ["wake_up weights", "reload_weights", "reset_mm_cache", "reset_encoder_cache", "reset_prefix_cache",
            "wake_up kv_cache", "generate", "sleep 2"]  # fmt: skip
    assert calls == ["sleep 2", *step, *step]


def test_processes_of_a_tensor_parallel_engine_sample_the_same_batch(made: list[fake_vllm.LLM]) -> None:
    own, others = [request(count=2)], [request(count=3), request(count=1)]
    engine = ColocatedEngine(settings(sleeps=True), gather=lambda requests: [others, requests], place=1)
    outputs = engine.generate(own, SAMPLING)
    assert [one.settings["n"] for one in made[0].calls[1][2]] == [3, 1, 2]
    assert [len(one) for one in outputs] == [2]
