"""Weights and requests that an engine gets from the policy, and when; the engine records its calls."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from broken_models import forget_end_of_turn
from factories import sample, save_image
from virft.errors import ModelError, SamplerLost
from virft.generation.engine_weights import engine_weights
from virft.generation.generator import EncodedPrompt, GenerationParams
from virft.generation.random_streams import StepKey
from virft.generation.vllm_engine import EngineOutput, EngineRequest, EngineSampling
from virft.generation.vllm_generator import VLLMGenerator
from virft.inference.prompting import make_renderer, resolve_prompting
from virft.models.families import FAMILIES
from virft.models.load import LoadedModel, load_model
from virft.models.policy import TokenRules, make_policy
from virft.models.tiny import tiny_folder
from virft.models.vision import ImageFeatures
from virft.types import FinishReason

PARAMS = GenerationParams(max_completion_tokens=4, temperature=0.7)
KEY = StepKey(seed=0, step=3)


class RecordingEngine:
    """Returns fixed tokens; ``calls`` lists the calls of its methods, in order."""

    receives_weights = True

    def __init__(self, *, sleeps: bool = False) -> None:
        self.sleeps = sleeps
        self.calls: list[str] = []
        self.weights: dict[str, Tensor] = {}
        self.requests: list[EngineRequest] = []
        self.sampling: EngineSampling | None = None
        self.tokens: tuple[int, ...] = (40, 41)
        self.is_restarted = False
        self.num_losses = 0

    def generate(self, requests: Sequence[EngineRequest], sampling: EngineSampling) -> list[list[EngineOutput]]:
        self.calls.append("generate")
        if self.num_losses:
            self.num_losses -= 1
            raise SamplerLost("no server")
        self.requests, self.sampling = list(requests), sampling
        return [[EngineOutput(token_ids=self.tokens, logprobs=(-0.5,) * len(self.tokens))] * r.count for r in requests]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.calls.append("load_weights")
        self.weights = dict(weights)

    def take_back(self) -> bool:
        self.calls += ["take_back"] * self.is_restarted
        return self.is_restarted

    def recover(self, lost: SamplerLost | None) -> bool:
        if lost is not None:
            self.calls.append("recover")
        return lost is not None

    def server_messages(self) -> list[str]:
        return []

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def loaded() -> LoadedModel:
    return load_model("virft-tiny")


@pytest.fixture
def encoded(loaded: LoadedModel, tmp_path: Path) -> EncodedPrompt:
    """Return a prompt with an image of 112 x 84 pixels: 8 x 6 patches."""
    path = save_image(tmp_path / "a.png", (112, 84))
    one = sample(image=str(path), size=(112, 84))
    rendered = make_renderer(loaded, resolve_prompting(loaded, template="auto", thinking=False))(one)
    with torch.no_grad():
        (features,) = make_policy(loaded, temperature=0.7).encode_images([rendered.vision])
    return EncodedPrompt(prompt=rendered.prompt, positions=rendered.positions, features=features, stream_id="0/a")


def generator(loaded: LoadedModel, engine: RecordingEngine) -> VLLMGenerator:
    return VLLMGenerator(loaded, make_policy(loaded, temperature=0.7).rules, engine=engine, dtype=torch.float32)


def test_weights_are_sent_before_the_first_sampling_and_once_after_each_step(
    loaded: LoadedModel, encoded: EncodedPrompt
) -> None:
    engine = RecordingEngine()
    made = generator(loaded, engine)
    made.update()
    for _ in range(2):
        made.generate([encoded], 2, PARAMS, KEY)
    made.update()
    made.update()
    made.generate([encoded], 2, PARAMS, KEY)
    made.close()
    assert engine.calls == ["load_weights", "generate", "generate", "load_weights", "generate", "close"]


def test_frozen_weights_are_sent_once(loaded: LoadedModel, encoded: EncodedPrompt) -> None:
    loaded.model.requires_grad_(False)
    loaded.model.lm_head.requires_grad_(True)
    engine = RecordingEngine()
    made = generator(loaded, engine)
    made.generate([encoded], 1, PARAMS, KEY)
    everything = {name for name, _ in loaded.model.named_parameters() if not name.startswith("model.visual.")}
    assert engine.weights.keys() == everything
    with torch.no_grad():
        loaded.model.lm_head.weight.fill_(2.0)
    made.update()
    made.generate([encoded], 1, PARAMS, KEY)
    assert engine.weights.keys() == {"lm_head.weight"}
    assert engine.weights["lm_head.weight"].unique().tolist() == [2.0]


def test_adapters_are_sent_merged_with_the_biases_of_their_layers(loaded: LoadedModel) -> None:
    before = {name: weight.clone() for name, weight in engine_weights(loaded, torch.float32, only_trained=False)}
    loaded.add_lora(rank=4, alpha=8)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    changed = dict(engine_weights(loaded, torch.float32, only_trained=True))
    everything = dict(engine_weights(loaded, torch.float32, only_trained=False))
    assert everything.keys() == before.keys()
    # 4 layers: 7 matrices each, and biases of queries, keys and values
    assert len(changed) == 4 * (7 + 3)
    assert not any("lora" in name or "base_layer" in name for name in changed)
    loaded.merge_adapters()
    merged = dict(loaded.model.named_parameters())
    for name, weight in everything.items():
        torch.testing.assert_close(weight, merged[name].detach(), atol=1e-6, rtol=0)
        if name.endswith("_proj.weight"):
            assert (weight - before[name]).abs().max() > 0.01


def test_weights_are_sent_in_the_dtype_of_the_engine_without_gradient(loaded: LoadedModel) -> None:
    weights = dict(engine_weights(loaded, torch.bfloat16, only_trained=True))
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert not any(weight.requires_grad for weight in weights.values())


def test_a_tied_output_layer_is_sent_under_both_names(loaded: LoadedModel) -> None:
    loaded.model.lm_head.weight = loaded.model.get_input_embeddings().weight
    weights = dict(engine_weights(loaded, torch.float32, only_trained=True))
    assert weights["lm_head.weight"].equal(weights["model.language_model.embed_tokens.weight"])


def test_the_engine_gets_the_prompt_and_rules_of_the_policy(loaded: LoadedModel, encoded: EncodedPrompt) -> None:
    engine = RecordingEngine()
    generator(loaded, engine).generate([encoded], 3, PARAMS, KEY)
    (request,) = engine.requests
    assert request.token_ids == encoded.prompt.token_ids
    assert request.placeholder_id == loaded.model.config.image_token_id
    assert request.grid_thw.tolist() == [[1, 6, 8]]
    assert request.token_ids.count(request.placeholder_id) == len(request.image_embeds) == 6 * 8 // 4
    torch.testing.assert_close(request.image_embeds, encoded.features.tokens[0])
    assert request.count == 3
    assert engine.sampling == EngineSampling(
        max_tokens=4,
        temperature=0.7,
        stop_ids=(loaded.model.config.get_text_config().eos_token_id,),
        forbidden=("<|image_pad|>", "<|video_pad|>"),
    )


def test_the_engine_stops_at_the_end_of_a_turn_and_of_a_text(encoded: EncodedPrompt, tmp_path: Path) -> None:
    folder = forget_end_of_turn(Path(shutil.copytree(tiny_folder(), tmp_path / "m")))
    engine = RecordingEngine()
    generator(load_model(str(folder)), engine).generate([encoded], 1, PARAMS, KEY)
    assert engine.sampling is not None
    assert engine.sampling.stop_ids == (882, 883)


def test_deepstack_features_are_concatenated_to_the_others(loaded: LoadedModel, encoded: EncodedPrompt) -> None:
    features = ImageFeatures(
        tokens=(torch.full((2, 3), 1.0), torch.full((1, 3), 2.0)),
        deep=((torch.full((2, 3), 3.0), torch.full((1, 3), 4.0)),),
    )
    engine = RecordingEngine()
    one = EncodedPrompt(prompt=encoded.prompt, positions=encoded.positions, features=features)
    generator(loaded, engine).generate([one], 1, PARAMS, KEY)
    assert engine.requests[0].image_embeds.tolist() == [[1.0] * 3 + [3.0] * 3] * 2 + [[2.0] * 3 + [4.0] * 3]


def test_seeds_follow_from_step_and_stream_id(loaded: LoadedModel, encoded: EncodedPrompt) -> None:
    engine = RecordingEngine()
    other = replace(encoded, stream_id="1/a")

    def seeds(step: int) -> list[int]:
        generator(loaded, engine).generate([encoded, other], 2, PARAMS, StepKey(seed=0, step=step))
        return [request.seed for request in engine.requests]

    assert seeds(3) == seeds(3)
    assert len({*seeds(3), *seeds(4)}) == 4


def test_an_engine_output_becomes_a_completion(loaded: LoadedModel, encoded: EncodedPrompt) -> None:
    engine = RecordingEngine()
    end = loaded.model.config.get_text_config().eos_token_id
    word = loaded.tokenizer("No Objects", add_special_tokens=False).input_ids
    engine.tokens = (*word, end)
    ((stopped,),) = generator(loaded, engine).generate([encoded], 1, PARAMS, KEY)
    assert stopped.text == "No Objects"
    assert stopped.finish_reason is FinishReason.STOP
    assert stopped.token_ids == engine.tokens
    assert stopped.token_ends[-2:] == (10, 10)
    assert stopped.sampler_logprobs == (-0.5,) * len(engine.tokens)
    engine.tokens = tuple(word)
    ((cut,),) = generator(loaded, engine).generate([encoded], 1, PARAMS, KEY)
    assert cut.finish_reason is FinishReason.LENGTH


def test_an_engine_that_sleeps_gets_all_weights_before_each_sampling(
    loaded: LoadedModel, encoded: EncodedPrompt
) -> None:
    loaded.model.requires_grad_(False)
    engine = RecordingEngine(sleeps=True)
    made = generator(loaded, engine)
    for _ in range(2):
        made.generate([encoded], 1, PARAMS, KEY)
        assert "lm_head.weight" in engine.weights
        made.update()
    assert engine.calls == ["load_weights", "generate"] * 2


def test_a_process_whose_weights_another_one_sends_makes_none(loaded: LoadedModel, encoded: EncodedPrompt) -> None:
    engine = RecordingEngine()
    engine.receives_weights = False
    generator(loaded, engine).generate([encoded], 1, PARAMS, KEY)
    assert engine.calls == ["load_weights", "generate"]
    assert engine.weights == {}


def test_a_server_that_was_started_again_gets_all_weights(loaded: LoadedModel, encoded: EncodedPrompt) -> None:
    loaded.model.requires_grad_(False)
    engine = RecordingEngine()
    made = generator(loaded, engine)
    for is_restarted in (False, True):
        engine.is_restarted, engine.weights = is_restarted, {}
        made.update()
        made.generate([encoded], 1, PARAMS, KEY)
    assert engine.calls == ["load_weights", "generate", "take_back", "load_weights", "generate"]
    assert "lm_head.weight" in engine.weights


def test_without_a_server_it_waits_and_sends_all_weights_again(loaded: LoadedModel, encoded: EncodedPrompt) -> None:
    loaded.model.requires_grad_(False)
    engine = RecordingEngine()
    made = generator(loaded, engine)
    made.generate([encoded], 1, PARAMS, KEY)
    made.update()
    engine.calls, engine.weights, engine.num_losses = [], {}, 2
    assert [len(one) for one in made.generate([encoded], 3, PARAMS, KEY)] == [3]
    lost = ["load_weights", "generate", "recover"]
    assert engine.calls == [*lost, *lost, "load_weights", "generate"]
    assert "lm_head.weight" in engine.weights


def test_a_process_with_completions_calls_again_for_those_without(loaded: LoadedModel, encoded: EncodedPrompt) -> None:
    class OtherLost(RecordingEngine):
        def recover(self, lost: SamplerLost | None) -> bool:
            return self.calls.count("generate") == 1

    engine = OtherLost()
    found = generator(loaded, engine).generate([encoded], 1, PARAMS, KEY)
    assert [len(one) for one in found] == [1]
    assert engine.calls == ["load_weights", "generate", "load_weights", "generate"]
    assert engine.requests == []


class SlowEngine(RecordingEngine):
    """Samples until it may continue."""

    def __init__(self) -> None:
        super().__init__()
        self.may_continue = threading.Event()

    def generate(self, requests: Sequence[EngineRequest], sampling: EngineSampling) -> list[list[EngineOutput]]:
        assert self.may_continue.wait(timeout=60)
        return super().generate(requests, sampling)


def test_an_engine_in_another_process_samples_while_the_policy_changes(
    loaded: LoadedModel, encoded: EncodedPrompt
) -> None:
    engine = SlowEngine()
    made = generator(loaded, engine)
    sampling = made.begin([encoded], 2, PARAMS, KEY)
    made.update()
    assert engine.calls == ["load_weights"]
    engine.may_continue.set()
    assert [len(one) for one in sampling()] == [2]
    assert sampling() == sampling()
    assert engine.calls == ["load_weights", "generate"]
    made.close()


def test_another_call_waits_for_the_one_that_began(loaded: LoadedModel, encoded: EncodedPrompt) -> None:
    engine = SlowEngine()
    made = generator(loaded, engine)
    sampling = made.begin([encoded], 2, PARAMS, KEY)
    made.update()
    threading.Timer(0.2, engine.may_continue.set).start()
    made.generate([encoded], 1, PARAMS, KEY)
    assert engine.calls == ["load_weights", "generate", "load_weights", "generate"]
    assert [len(one) for one in sampling()] == [2]
    made.close()


def test_an_engine_that_sleeps_samples_before_the_update(loaded: LoadedModel, encoded: EncodedPrompt) -> None:
    engine = RecordingEngine(sleeps=True)
    sampling = generator(loaded, engine).begin([encoded], 2, PARAMS, KEY)
    assert engine.calls == ["load_weights", "generate"]
    assert [len(one) for one in sampling()] == [2]


def test_a_forbidden_token_without_a_text_of_its_own_is_refused(loaded: LoadedModel) -> None:
    byte = loaded.tokenizer("é", add_special_tokens=False).input_ids[0]  # a part of a character
    with pytest.raises(ModelError, match=f"token {byte} has no text of its own"):
        VLLMGenerator(loaded, TokenRules(forbidden_ids=(byte,)), engine=RecordingEngine(), dtype=torch.float32)


def test_the_qwen_families_run_on_vllm() -> None:
    assert [name for name, family in FAMILIES.items() if family.on_vllm] == ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]


def test_a_completion_begins_with_the_prefix_that_the_prompt_opened(
    loaded: LoadedModel, encoded: EncodedPrompt
) -> None:
    engine = RecordingEngine()
    engine.tokens = tuple(loaded.tokenizer("a</think>", add_special_tokens=False).input_ids)
    begun = replace(encoded, prompt=replace(encoded.prompt, opened="<think>\n"))
    plain, thinking = generator(loaded, engine).generate([encoded, begun], 2, PARAMS, KEY)
    assert [one.text for one in plain] == ["a</think>"] * 2
    assert [one.text for one in thinking] == ["<think>\na</think>"] * 2
    assert thinking[0].token_ids == plain[0].token_ids
