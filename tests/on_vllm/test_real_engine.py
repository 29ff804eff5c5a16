"""Real vLLM on a CPU samples as the policy does, before and after training (``make test-vllm``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from run_parts import grpo_trainer_of, load_model_of
from virft.config.schema import Config, DataConfig, GRPOConfig, ModelConfig, RunConfig, SamplingConfig
from virft.data.store import Store
from virft.generation.engine_weights import engine_weights
from virft.generation.generator import EncodedPrompt, GenerationParams
from virft.generation.hf_generator import HFGenerator
from virft.generation.random_streams import StepKey
from virft.generation.training_process import TrainingProcess
from virft.generation.vllm_client import ServedEngine
from virft.generation.vllm_engine import Engine, EngineSettings
from virft.generation.vllm_generator import VLLMGenerator
from virft.generation.vllm_process import ServerProcess
from virft.inference.prompting import make_renderer, resolve_prompting
from virft.models.attention.layout import pack_row
from virft.models.load import LoadedModel, load_model
from virft.models.policy import Policy, make_policy
from virft.types import Completion

pytestmark = pytest.mark.vllm

GREEDY = GenerationParams(max_completion_tokens=64, temperature=0.0)
SAMPLED = GenerationParams(max_completion_tokens=64, temperature=0.8)
KEY = StepKey(seed=0, step=4)
TOLERANCE = 1e-4
"""Nats between two computations of a log-prob in float32; measured: below 1e-5."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Start one engine for all tests, each of which loads its own weights."""
    folder = tmp_path_factory.mktemp("description")
    load_model("virft-tiny").save_description(folder)
    settings = EngineSettings(folder=folder, dtype="float32", on_cpu=True, memory_frac=0.3, sleeps=False)
    server = ServerProcess(settings, num_members=1, label="vLLM server", timeout_s=300)
    server.wait_until_ready()
    made = ServedEngine([server.address], own=[0], started={0: server}, trainer=TrainingProcess(), timeout_s=300)
    yield made
    made.close()


def with_engine(loaded: LoadedModel, policy: Policy, engine: Engine) -> VLLMGenerator:
    return VLLMGenerator(loaded, policy.rules, engine=engine, dtype=torch.float32)


@torch.no_grad()
def encode(loaded: LoadedModel, policy: Policy, data: Path) -> list[EncodedPrompt]:
    render = make_renderer(loaded, resolve_prompting(loaded, template="auto", thinking=False))
    rendered = [render(sample) for sample in Store(str(data))]
    features = policy.encode_images([one.vision for one in rendered])
    return [
        EncodedPrompt(prompt=one.prompt, positions=one.positions, features=made, stream_id=one.prompt.sample_id)
        for one, made in zip(rendered, features, strict=True)
    ]


def drawn_tokens(drawn: Sequence[Sequence[Completion]]) -> list[tuple[int, ...]]:
    return [one.token_ids for group in drawn for one in group]


def test_greedy_completions_equal_those_of_the_built_in_generator(engine: Engine, scenes: Path) -> None:
    loaded = load_model("virft-tiny")
    policy = make_policy(loaded, temperature=1.0)
    encoded = encode(loaded, policy, scenes)
    assert len({one.prompt.images[0].path for one in encoded}) > 4
    ours = HFGenerator(policy, loaded.tokenizer).generate(encoded, 1, GREEDY, KEY)
    theirs = with_engine(loaded, policy, engine).generate(encoded, 1, GREEDY, KEY)
    assert [one.text for (one,) in theirs] == [one.text for (one,) in ours]
    assert drawn_tokens(theirs) == drawn_tokens(ours)
    assert len(set(drawn_tokens(ours))) > 6


def test_more_prompt_tokens_than_an_engine_batch_are_sampled(engine: Engine, scenes: Path) -> None:
    loaded = load_model("virft-tiny")
    policy = make_policy(loaded, temperature=1.0)
    encoded = encode(loaded, policy, scenes)
    assert 16 * sum(len(one.prompt.token_ids) for one in encoded) > 4096
    drawn = with_engine(loaded, policy, engine).generate(encoded, 16, SAMPLED, KEY)
    assert [len(group) for group in drawn] == [16] * len(encoded)
    again = with_engine(loaded, policy, engine).generate(encoded[:2], 16, SAMPLED, KEY)
    assert drawn_tokens(again) == drawn_tokens(drawn[:2])


def test_sampler_logprobs_equal_the_policys_at_the_same_temperature(engine: Engine, scenes: Path) -> None:
    loaded = load_model("virft-tiny")
    policy = make_policy(loaded, temperature=0.8).eval()
    encoded = encode(loaded, policy, scenes)
    drawn = with_engine(loaded, policy, engine).generate(encoded, 6, SAMPLED, KEY)
    assert {len(group) for group in drawn} == {6}
    row = pack_row(
        [one.prompt.token_ids for one in encoded],
        [one.positions for one in encoded],
        [[one.token_ids for one in group] for group in drawn],
    )
    with torch.no_grad():
        scored = policy(row, features=[one.features for one in encoded])
    sampled = torch.tensor([value for group in drawn for one in group for value in one.sampler_logprobs])
    assert sampled.std() > 0.3
    torch.testing.assert_close(sampled, scored, atol=TOLERANCE, rtol=0)


def test_completions_depend_on_the_step_key_alone(engine: Engine, scenes: Path) -> None:
    loaded = load_model("virft-tiny")
    policy = make_policy(loaded, temperature=0.8)
    encoded = encode(loaded, policy, scenes)
    made = with_engine(loaded, policy, engine)
    first = drawn_tokens(made.generate(encoded, 4, SAMPLED, KEY))
    assert drawn_tokens(with_engine(loaded, policy, engine).generate(encoded, 4, SAMPLED, KEY)) == first
    assert drawn_tokens(made.generate(encoded, 4, SAMPLED, replace(KEY, step=5))) != first


def test_a_forbidden_token_is_never_sampled_even_if_it_is_the_likeliest(engine: Engine, scenes: Path) -> None:
    loaded = load_model("virft-tiny")
    policy = make_policy(loaded, temperature=0.8)
    encoded = encode(loaded, policy, scenes)[:4]
    image, video = loaded.model.config.image_token_id, loaded.model.config.video_token_id
    before = HFGenerator(policy, loaded.tokenizer).generate(encoded, 1, GREEDY, KEY)
    end = loaded.model.config.get_text_config().eos_token_id
    with torch.no_grad():
        head = loaded.model.lm_head.weight
        head[[image, video]] = head[end] * 3
    drawn = with_engine(loaded, policy, engine).generate(encoded, 16, SAMPLED, KEY)
    assert {image, video}.isdisjoint(token for one in drawn_tokens(drawn) for token in one)
    # the rest is as if the two did not exist
    theirs = with_engine(loaded, policy, engine).generate(encoded, 1, GREEDY, KEY)
    assert drawn_tokens(theirs) == drawn_tokens(before)


@pytest.mark.parametrize("kind", ["full", "lora", "full with the tower"])
def test_the_engine_has_the_new_weights_after_a_step(
    engine: Engine, scenes: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(
        model=ModelConfig(train="lora" if kind == "lora" else "full", freeze_vision=kind != "full with the tower"),
        data=DataConfig(train=str(scenes)),
        sampling=SamplingConfig(engine="vllm", max_completion_tokens=64),
        grpo=GRPOConfig(kl_coef=0.0, learning_rate=3e-3, schedule="constant", group_size=4),
        run=RunConfig(dir="unused"),
    )
    loaded = load_model_of(config)
    monkeypatch.setattr("virft.recipes.trainers.start_vllm", lambda loaded, rules, sampling, **_: VLLMGenerator(
        loaded, rules, engine=engine, dtype=torch.float32
    ))  # fmt: skip
    trainer = grpo_trainer_of(config, loaded)
    samples = list(Store(str(scenes)))[:6]
    before = {name: weight.clone() for name, weight in engine_weights(loaded, torch.float32, only_trained=False)}
    reports = [trainer.step(number, samples) for number in range(2)]
    after = dict(engine_weights(loaded, torch.float32, only_trained=False))
    assert any((after[name] - before[name]).abs().max() > 1e-3 for name in after)

    for report in reports:
        assert 0 < report.metrics["sampler_gap"] < TOLERANCE
        assert report.warning is None
    policy = trainer.policy.eval()
    encoded = encode(loaded, policy, scenes)
    ours = HFGenerator(policy, loaded.tokenizer).generate(encoded, 1, GREEDY, KEY)
    assert drawn_tokens(trainer.generator.generate(encoded, 1, GREEDY, KEY)) == drawn_tokens(ours)
    untrained = load_model("virft-tiny")
    first = make_policy(untrained, temperature=1.0)
    then = HFGenerator(first, untrained.tokenizer).generate(encode(untrained, first, scenes), 1, GREEDY, KEY)
    assert drawn_tokens(ours) != drawn_tokens(then), "a step that changes no completion proves nothing"
