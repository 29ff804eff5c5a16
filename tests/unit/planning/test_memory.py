"""Planned memory equals that of the real model, its packing and its activations."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from run_parts import grpo_trainer_of, load_model_of
from tiny_policies import Tokenizer
from tiny_segmenters import KINDS, save_segmenter
from virft.config.schema import (
    Config,
    DataConfig,
    GRPOConfig,
    ModelConfig,
    ParallelConfig,
    RewardConfig,
    RunConfig,
    SamplingConfig,
)
from virft.errors import ConfigError
from virft.generation import slow_sampler
from virft.generation.generator import EncodedPrompt, GenerationParams
from virft.generation.hf_generator import HFGenerator
from virft.generation.random_streams import StepKey
from virft.generation.static_decoding import StaticDecoding
from virft.models.attention.layout import pack_row
from virft.models.policy import make_policy
from virft.models.segmenter import load_segmenter
from virft.models.vision import ImageFeatures
from virft.planning import memory
from virft.planning.live_bytes import LiveBytes
from virft.planning.memory import FitOption, Planner, RowShape
from virft.planning.text import format_warnings
from virft.types import ImageSize, Prompt

IMAGE = ImageSize(112, 112)


def config(**model: Any) -> Config:
    return Config(
        data=DataConfig(train="d"),
        run=RunConfig(dir="r"),
        model=ModelConfig(**model),
        grpo=GRPOConfig(steps=2, prompts_per_step=3, group_size=4),
        sampling=SamplingConfig(max_completion_tokens=10),
    )


LORA = config(train="lora", dtype="bfloat16", lora_rank=4)
FULL = config(dtype="float32")
HALF = config(dtype="bfloat16")


@cache
def planner(settings_name: str) -> Planner:
    return Planner({"lora": LORA, "full": FULL, "half": HALF}[settings_name], image=IMAGE, text_tokens=20)


def test_a_row_has_a_demonstration_next_to_the_completions_and_sampling_has_none() -> None:
    plain = planner("full")
    for name, given, more in (("loss", {}, 1), ("group", {}, 1), ("group", {"near_right": True}, 6)):
        grpo = replace(FULL.grpo, demonstrations=name, **given)
        found = Planner(replace(FULL, grpo=grpo), image=IMAGE, text_tokens=20)
        assert found.group_tokens == plain.group_tokens + more * 10
        assert found.row_shape(10_000) == RowShape(groups=3, completions=4 + more)
        # only the last row of a split group has the demonstration
        assert found.row_shape(plain.group_tokens) == RowShape(groups=1, completions=4)
        assert found._sampling(2) == plain._sampling(2)


@pytest.mark.parametrize(("name", "settings"), [("lora", LORA), ("full", FULL), ("half", HALF)])
def test_planned_weights_equal_those_of_the_loaded_model(name: str, settings: Config) -> None:
    real = load_model_of(settings).model
    shapes = {n: (p.shape, p.dtype, p.requires_grad) for n, p in real.named_parameters()}
    found = planner(name).loaded.model
    assert {n: (p.shape, p.dtype, p.requires_grad) for n, p in found.named_parameters()} == shapes
    held = planner(name).held
    sizes = {True: 0, False: 0}
    for parameter in real.parameters():
        sizes[parameter.requires_grad] += parameter.numel() * parameter.element_size()
    assert sum(size for part, size in held.items() if part.startswith("trained")) == sizes[True]
    assert sum(size for part, size in held.items() if part.startswith("frozen")) == sizes[False]


def test_auto_is_planned_in_bfloat16_for_a_gpu() -> None:
    assert Planner(config(), image=IMAGE, text_tokens=20).config == HALF
    assert Planner(config(), image=IMAGE, text_tokens=20, on_cpu=True).config == FULL


@pytest.mark.parametrize(("name", "settings"), [("full", FULL), ("half", HALF)])
def test_a_planned_reference_equals_that_of_a_trainer(name: str, settings: Config) -> None:
    reference = grpo_trainer_of(settings, load_model_of(settings)).reference
    assert reference is not None
    real = sum(one.nbytes for one in reference.parameters())
    assert planner(name).held["reference model"] == real
    assert name == "full" or real < 0.7 * planner("full").held["reference model"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_of_a_segmenter_and_the_cache_of_its_embeddings_are_counted(kind: str, tmp_path: Path) -> None:
    path = save_segmenter(tmp_path, kind)
    settings = replace(FULL, reward=RewardConfig(segmenter=path))
    planned = Planner(settings, image=IMAGE, text_tokens=20)
    real = load_segmenter(path, device=torch.device("cpu"))
    weights = sum(one.nbytes for one in real.model.parameters())
    assert planned.held == planner("full").held | {"segmenter": weights}
    of_an_image = real.encode(Image.new("RGB", IMAGE)).num_bytes
    embeddings = settings.grpo.steps * planned.prompts_per_step * of_an_image
    assert planned.host == planner("full").host | {"cache of segmenter embeddings": embeddings}
    on_cpu = Planner(settings, image=IMAGE, text_tokens=20, on_cpu=True)
    assert on_cpu.held["segmenter embeddings"] == embeddings
    assert on_cpu.host == {}
    small = replace(settings, reward=replace(settings.reward, segmenter_cache_gib=1e-5))
    assert Planner(small, image=IMAGE, text_tokens=20).host["cache of segmenter embeddings"] == round(1e-5 * 2**30)
    supervised = Planner(settings, image=IMAGE, text_tokens=20, method="sft")
    assert "segmenter" not in supervised.held
    assert "cache of segmenter embeddings" not in supervised.host


def test_planned_adapters_equal_those_of_peft() -> None:
    # rank 4; a layer's q, o: 256 -> 256; k, v: 256 -> 128; gate, up: 256 -> 704; down: 704 -> 256
    a_layer = 4 * (2 * (256 + 256) + 2 * (256 + 128) + 2 * (256 + 704) + (704 + 256))
    assert planner("lora").held["trained weights, float32"] == 4 * 4 * a_layer  # 4 layers, 4 bytes
    assert planner("lora").held["optimizer states"] == 2 * 4 * 4 * a_layer


def test_only_full_training_with_a_kl_term_has_a_reference_model() -> None:
    assert "reference model" not in planner("lora").held
    parameters = sum(p.numel() for p in planner("full").loaded.model.parameters())
    assert planner("full").held["reference model"] == 4 * parameters
    without = replace(FULL, grpo=replace(FULL.grpo, kl_coef=0.0))
    assert "reference model" not in Planner(without, image=IMAGE, text_tokens=20).held


def test_planned_optimizer_states_equal_those_of_adam() -> None:
    trainer = grpo_trainer_of(LORA, load_model_of(LORA))
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    states = [value for state in trainer.optimizer.state.values() for value in state.values() if value.ndim]
    assert sum(x.numel() * x.element_size() for x in states) == planner("lora").held["optimizer states"]


# a prompt of 16 + 20 tokens, a group with 4 x 10 more: 76
@pytest.mark.parametrize(
    ("microbatch_tokens", "groups", "completions"),
    [(10_000, 3, 4), (228, 3, 4), (227, 2, 4), (76, 1, 4), (75, 1, 3), (46, 1, 1), (1, 1, 1)],
)
def test_row_shapes_follow_the_packing_of_a_step(microbatch_tokens: int, groups: int, completions: int) -> None:
    assert planner("lora").prompt.prompt_tokens == 36
    assert planner("lora").row_shape(microbatch_tokens) == RowShape(groups=groups, completions=completions)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("name", "settings"), [("lora", LORA), ("full", FULL)])
def test_planned_activations_equal_those_of_the_real_model(name: str, settings: Config, checkpointing: bool) -> None:
    shape = RowShape(groups=2, completions=4)
    predicted = planner(name).activations(shape, checkpointing)
    loaded = load_model_of(settings)
    if checkpointing:
        loaded.checkpoint_gradients()
    for parameter in loaded.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    policy = make_policy(loaded, temperature=1.0).train()
    row = pack_row([[5] * 36] * 2, [torch.arange(36).expand(3, -1)] * 2, [[[7] * 10] * 4] * 2)
    known = [x for p in loaded.model.parameters() for x in (p, p.grad) if x is not None]
    with LiveBytes([*known, *loaded.model.buffers()]) as live:
        with torch.autocast("cpu", torch.bfloat16, enabled=settings is LORA):
            logprobs = policy(row, features=[])
        saved = live.now
        logprobs.sum().backward()
    # all 4 layers, against 1 and 2 that were counted
    assert predicted.saved == pytest.approx(saved, rel=0.03)
    assert predicted.saved + predicted.temporary == pytest.approx(live.peak, rel=0.03)


@pytest.mark.slow
def test_checkpointing_and_smaller_rows_need_less_memory() -> None:
    def update(option: FitOption) -> int:
        return sum(planner("lora").memory(option).stages["update"].values())

    option = FitOption(gradient_checkpointing=False, microbatch_tokens=228, prompts_per_batch=3)
    assert update(replace(option, gradient_checkpointing=True)) < 0.6 * update(option)
    assert update(replace(option, microbatch_tokens=76)) < 0.6 * update(option)


def test_the_kv_cache_holds_each_prompt_once() -> None:
    # 4 layers x 2 kv heads x 64 numbers, keys and values, 2 bytes; 3 prompts of 36 + 4 x 10 tokens
    memory = planner("lora").memory(FitOption(gradient_checkpointing=False, microbatch_tokens=76, prompts_per_batch=3))
    assert memory.stages["sampling"]["KV cache"] == 3 * 76 * 2 * 4 * 2 * 64 * 2


@pytest.mark.parametrize(("concurrent", "admitted"), [(2, 2), (4, 1)])
def test_prompts_that_take_the_places_of_others_have_a_cache_until_they_are_copied(
    concurrent: int, admitted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in a batch of 5 prompts whose completions all have the largest number of tokens."""
    settings = replace(FULL, grpo=replace(FULL.grpo, prompts_per_step=5))
    planned = Planner(settings, image=IMAGE, text_tokens=20, on_cpu=True)._sampling(concurrent)
    policy = make_policy(load_model_of(settings), temperature=1.0)
    policy.model.generation_config.eos_token_id = 895
    policy.rules = replace(policy.rules, forbidden_ids=(*policy.rules.forbidden_ids, 895))
    positions = torch.arange(36).expand(3, -1)
    prompts = [
        EncodedPrompt(
            prompt=Prompt(sample_id=str(i), text="", token_ids=(5,) * 36, images=()),
            positions=positions,
            features=ImageFeatures(tokens=()),
            stream_id=str(i),
        )
        for i in range(5)
    ]
    before: list[int] = []
    found: list[int] = []
    step, change = StaticDecoding._step, StaticDecoding._replace

    def counted_step(decoding: Any) -> None:
        before.append(live.now)
        step(decoding)

    def counted_change(decoding: Any, places: Any, rows: Any, new: Any) -> bool:
        given = sum(one.untyped_storage().nbytes() for one in (new.distribution, new.start, new.uniforms))
        found.append(live.now - before[-1] - given)
        return change(decoding, places, rows, new)

    monkeypatch.setattr(StaticDecoding, "_step", counted_step)
    monkeypatch.setattr(StaticDecoding, "_replace", counted_change)
    generator = HFGenerator(policy, Tokenizer(), prompts_per_batch=concurrent)
    known = [*policy.parameters(), *policy.buffers(), positions]
    with LiveBytes(known) as live:
        drawn = generator.generate(prompts, 4, GenerationParams(max_completion_tokens=10), StepKey(seed=0, step=0))
    assert {len(one.token_ids) for group in drawn for one in group} == {10}
    # 36 tokens x 4 layers x 2 kv heads x 64 numbers, keys and values, 4 bytes
    expected = admitted * 36 * 4 * 2 * 64 * 2 * 4
    assert planned["KV cache of admitted prompts"] == expected
    assert max(found) == pytest.approx(expected, rel=0.02)
    assert live.peak <= sum(planned.values())
    # between two tokens, no log-probabilities of all rows over the vocabulary are held, float32
    assert before[0] - planned["KV cache"] < concurrent * 4 * 896 * 4


def test_no_prompt_is_admitted_if_none_waits() -> None:
    assert "KV cache of admitted prompts" in planner("full")._sampling(2)
    assert "KV cache of admitted prompts" not in planner("full")._sampling(3)


def test_a_sampler_that_merges_adapters_has_a_copy_of_the_layers_with_adapters() -> None:
    assert planner("lora").on_cpu is False
    # a layer's q, o: 256 x 256; k, v: 256 x 128; gate, up, down: 256 x 704; 4 layers, 2 bytes
    a_layer = 2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 704
    assert planner("lora")._sampling(2)["copies of weights"] == 4 * 2 * a_layer
    exact = Planner(replace(LORA, sampling=replace(LORA.sampling, weights="exact")), image=IMAGE, text_tokens=20)
    # adapters are float32 and cast: 4 x the numbers of rank 4, see `test_planned_adapters_equal_those_of_peft`
    assert 0 < exact._sampling(2)["copies of weights"] < 0.1 * 4 * 2 * a_layer


def test_sft_has_no_sampling_stage() -> None:
    supervised = Planner(LORA, image=IMAGE, text_tokens=20, method="sft")
    memory = supervised.memory(supervised.configured)
    assert set(memory.stages) == {"vision tower", "update"}
    # 4096 tokens hold 16 samples of 36 + 10
    assert supervised.row_shape(4096) == RowShape(groups=16, completions=1)


def test_a_warm_start_is_a_stage_with_more_prompts_in_a_row() -> None:
    # with a trained tower, which saves the activations of each image of a row
    trained = replace(FULL, model=replace(FULL.model, freeze_vision=False))
    warm = Planner(replace(trained, grpo=replace(trained.grpo, warm_start_steps=1)), image=IMAGE, text_tokens=20)
    option = FitOption(gradient_checkpointing=False, microbatch_tokens=138, prompts_per_batch=3)
    # 36 + 4 * 10 tokens a group, 36 + 10 a target
    assert (warm.row_shape(138), warm.supervised_shape(138)) == (
        RowShape(groups=1, completions=4),
        RowShape(groups=3, completions=1),
    )
    stages = warm.memory(option).stages
    assert stages["warm start"]["vision tower"] == pytest.approx(3 * stages["update"]["vision tower"], rel=0.1)
    without = Planner(trained, image=IMAGE, text_tokens=20).memory(option).stages
    assert {name: parts for name, parts in stages.items() if name != "warm start"} == without


def test_4_bit_weights_and_8_bit_states_need_less_memory() -> None:
    # rank 32: no adapter is so small that its states stay in 32 bits
    model = replace(LORA.model, load_in_4bit=True, lora_rank=32)
    small = Planner(
        replace(LORA, model=model, grpo=replace(LORA.grpo, optimizer="adamw_8bit")), image=IMAGE, text_tokens=20
    )
    linear = 4 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 704)
    whole = planner("lora").held["frozen weights, bfloat16"]
    assert small.held["frozen weights, bfloat16"] == whole - 2 * linear
    assert small.held["frozen weights, 4 bits"] == pytest.approx(linear * (0.5 + 1 / 64), rel=0.01)
    assert small.held["optimizer states"] == pytest.approx(8 * planner("lora").held["optimizer states"] / 4, rel=0.02)


def test_an_offloaded_optimizer_needs_no_device_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "BUCKET_ELEMENTS", 1000)
    away = replace(FULL, parallel=ParallelConfig(strategy="zero2", offload_optimizer=True))
    found, whole = Planner(away, image=IMAGE, text_tokens=20), planner("full")
    assert found.held["optimizer states"] == 0 < whole.held["optimizer states"]
    assert {**found.held, "optimizer states": 1} == {**whole.held, "optimizer states": 1}
    trained = sum(size for part, size in whole.held.items() if part.startswith("trained"))
    gradients = [one.memory(one.configured).stages["update"]["gradients"] for one in (found, whole)]
    assert gradients == [4000, trained]


def test_a_real_run_after_a_plan_meets_no_fake_tensors() -> None:
    planner("full").activations(RowShape(groups=1, completions=2), False)
    policy = make_policy(load_model_of(FULL), temperature=1.0)
    row = pack_row([[5] * 36], [torch.arange(36).expand(3, -1)], [[[7] * 10] * 2])
    assert torch.isfinite(policy(row, features=[])).all()


def test_a_trained_qwen_tower_saves_about_what_is_planned() -> None:
    settings = config(freeze_vision=False, dtype="float32")
    loaded = load_model_of(settings)
    tower = loaded.model.get_submodule("model.visual")
    pixels, grid = torch.randn(64, 1176), torch.tensor([[1, 8, 8]])
    with LiveBytes([*tower.parameters(), *tower.buffers(), pixels]) as live:
        features = tower(pixels, grid_thw=grid)
        saved = live.now
    assert features.pooler_output.requires_grad
    planned = Planner(settings, image=IMAGE, text_tokens=20)
    memory = planned.memory(FitOption(gradient_checkpointing=False, microbatch_tokens=76, prompts_per_batch=1))
    assert memory.stages["update"]["vision tower"] == pytest.approx(saved, rel=0.25)


@pytest.mark.slow
def test_copies_of_weights_for_sampling_are_counted() -> None:
    # a layer's q, o: 256 x 256; k, v: 256 x 128; gate, up, down: 256 x 704
    a_layer = 2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 704
    halved = replace(FULL, model=replace(FULL.model, dtype="bfloat16"))  # weights in float32, cast once for a step
    layers_alone = planner("lora")._sampling_copies()
    assert layers_alone == 2 * 4 * a_layer  # one merged copy of each layer with adapters; the head has its dtype
    quantized = replace(LORA, model=replace(LORA.model, load_in_4bit=True))
    unmerged = replace(LORA, sampling=replace(LORA.sampling, weights="exact"))
    with_head_and_adapters = Planner(quantized, image=IMAGE, text_tokens=20, on_cpu=True)
    head = with_head_and_adapters.loaded.model.get_output_embeddings().weight.numel()
    adapters = with_head_and_adapters.held["trained weights, float32"] // 4
    parts = with_head_and_adapters.memory(with_head_and_adapters.configured).stages["sampling"]
    assert parts["copies of weights"] == 2 * (head + adapters)
    expected = {("full", False): 0, ("full", True): 0, ("lora", True): 1, ("cast", False): 1}
    for (name, on_cpu), copied in expected.items():
        settings = {"full": FULL, "lora": unmerged, "cast": halved}[name]
        planned = Planner(settings, image=IMAGE, text_tokens=20, on_cpu=on_cpu)
        numbers = copied * (4 * a_layer + planned.loaded.model.get_output_embeddings().weight.numel())
        if name == "lora":  # adapters are linear layers too, of float32
            numbers += planned.held["trained weights, float32"] // 4
        parts = planned.memory(planned.configured).stages["sampling"]
        assert parts["copies of weights"] == 2 * numbers, (name, on_cpu)


@pytest.mark.slow
def test_tables_of_scores_are_saved_on_a_gpu_in_float32_only() -> None:
    shape = RowShape(groups=1, completions=4)

    def saved(settings: Config, on_cpu: bool) -> int:
        long = replace(settings, sampling=SamplingConfig(max_completion_tokens=600))
        return Planner(long, image=IMAGE, text_tokens=200, on_cpu=on_cpu).activations(shape, False).saved

    prompt = Planner(LORA, image=IMAGE, text_tokens=200).prompt.prompt_tokens
    table = 4 * 600 * 4 * (prompt + 600)  # completions x tokens x heads x what they see
    assert table > 2**22
    assert saved(FULL, False) - saved(FULL, True) > 0.99 * 4 * 4 * table  # of each layer, in float32
    assert abs(saved(LORA, False) - saved(LORA, True)) < 2 * table


PARALLEL = replace(FULL, model=replace(FULL.model, dtype="bfloat16"), grpo=replace(FULL.grpo, prompts_per_step=16))


def of_processes(strategy: Any, num_processes: int, settings: Config = PARALLEL, **parallel: Any) -> Planner:
    chosen = replace(settings, parallel=ParallelConfig(strategy=strategy, **parallel))
    return Planner(chosen, image=IMAGE, text_tokens=20, num_processes=num_processes)


def test_processes_share_prompts_and_sharded_parts() -> None:
    single = replace(PARALLEL, model=replace(PARALLEL.model, dtype="float32"))
    alone = Planner(single, image=IMAGE, text_tokens=20)
    parameters = list(alone.loaded.model.named_parameters())
    tower = 4 * sum(one.numel() for name, one in parameters if name.startswith("model.visual."))
    whole = 4 * sum(one.numel() for _, one in parameters)
    trained = whole - tower
    frozen_weights, trained_weights = "frozen weights, float32", "trained weights, float32"
    copy = "float32 copy of trained weights"

    def held(strategy: Any, size: int | None = None) -> dict[str, int]:
        planner = of_processes(strategy, 8, single, shard_size=size)
        assert planner.prompts_per_step == 2
        return {**planner.held, "gradients": planner._gradient_bytes}

    expected = dict(alone.held) | {"images of a step": alone.held["images of a step"] // 8, "gradients": trained}
    assert alone.held["reference model"] == whole and alone.held[frozen_weights] == tower
    expected["image features"] //= 8
    assert held("ddp") == expected
    assert held("zero2") == expected | {
        "optimizer states": trained // 4,  # two moments of 4 bytes, of eight processes
        copy: trained // 8,
        "gradients": trained // 8 + trained,  # and a bucket of at most 256 MiB
    }
    sharded = {trained_weights: trained // 8, "optimizer states": trained // 4, "reference model": whole // 8}
    assert held("zero3") == expected | sharded | {
        frozen_weights: tower // 8,
        copy: trained // 8,
        "gradients": trained // 8 + trained,
    }
    # a model of this size reduces its gradients after the last row
    assert held("fsdp2") == expected | sharded
    halves = {name: size * 4 for name, size in sharded.items()}
    assert held("fsdp2", 2) == expected | halves
    assert of_processes("fsdp2", 1, single).held == alone.held


def test_large_gradients_are_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_UNREDUCED_BYTES", 1000)
    trained = of_processes("ddp", 8)._gradient_bytes
    assert of_processes("fsdp2", 8)._gradient_bytes == trained // 8
    assert of_processes("fsdp2", 8, shard_size=4)._gradient_bytes == trained // 4


def test_gathered_weights_and_saved_copies_of_sharded_models() -> None:
    alone, sharded = Planner(PARALLEL, image=IMAGE, text_tokens=20), of_processes("fsdp2", 8)
    a_layer = 2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 704
    biases_and_norms = 256 + 2 * 128 + 2 * 256
    root = 2 * 896 * 256 + 256
    # bfloat16; the gradient of the larger part, embeddings and head, in bfloat16 and float32
    assert sharded._gathered_bytes == 2 * (root + 2 * (a_layer + biases_and_norms)) + 6 * (a_layer + biases_and_norms)
    assert root < a_layer
    option = FitOption(gradient_checkpointing=False, microbatch_tokens=76, prompts_per_batch=1)
    whole, own = (one._update(RowShape(groups=1, completions=4), option) for one in (alone, sharded))
    assert whole["activations"] - own["activations"] == 2 * 4 * a_layer
    sampling = sharded._sampling(1)
    head = 896 * 256
    # linear layers in bfloat16, embeddings, norms and biases in float32; nothing has to be cast again
    assert sampling["gathered weights"] == 2 * (4 * a_layer + head) + 4 * (head + 256 + 4 * biases_and_norms)
    assert sampling["copies of weights"] == 0
    assert "gathered weights" not in alone._sampling(1)


def test_vllm_has_its_fraction_of_the_device() -> None:
    for mode in ("colocated", "server"):
        sampling = replace(FULL.sampling, engine="vllm", vllm_mode=mode, vllm_gpu_memory=0.25)
        planned = Planner(replace(FULL, sampling=sampling), image=IMAGE, text_tokens=20, device_memory=1 << 34)
        assert planned.held.get("vLLM", 0) == (1 << 32 if mode == "server" else 0)
        assert planned._sampling(4) == {"vLLM": 1 << 32 if mode == "colocated" else 0}


def test_vllm_on_other_devices_leaves_the_device_to_the_training() -> None:
    sampling = replace(FULL.sampling, engine="vllm", vllm_devices=(2,))
    alone = Planner(replace(FULL, sampling=sampling), image=IMAGE, text_tokens=20, device_memory=1 << 34)
    assert "vLLM" not in alone.held
    assert alone._sampling(4) == {"vLLM": 0}
    sharded = replace(FULL, sampling=sampling, parallel=ParallelConfig(strategy="fsdp2"))
    both = Planner(sharded, image=IMAGE, text_tokens=20, device_memory=1 << 34, num_processes=2)
    largest = max(one.numel() for one in both.loaded.model.parameters())
    assert both._sampling(4) == {"vLLM": 0, "one gathered weight": both._item * largest}


def test_a_number_of_processes_that_a_run_would_refuse_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"grpo\.prompts_per_step is 16 with 17 processes; expected at least one"):
        of_processes("ddp", 17)
    with pytest.raises(ConfigError, match=r"parallel\.shard_size is 3 with 8 processes; expected a divisor of 8"):
        of_processes("fsdp2", 8, shard_size=3)


def test_image_features_take_at_most_the_size_of_their_cache() -> None:
    small = replace(FULL, model=replace(FULL.model, feature_cache_gib=2**-20))
    assert Planner(small, image=IMAGE, text_tokens=20, on_cpu=True).held["image features"] == 1024
    assert Planner(FULL, image=IMAGE, text_tokens=20, on_cpu=True).held["image features"] > 1024


def test_on_a_gpu_features_of_a_step_are_on_the_device_and_their_cache_is_on_the_host() -> None:
    found = Planner(FULL, image=IMAGE, text_tokens=20)
    a_step = found.prompts_per_step * found.prompt.image_tokens * 256 * 4  # hidden size, float32
    memory = found.memory(found.configured)
    assert memory.held["image features"] == a_step
    assert memory.host == {"cache of image features": FULL.grpo.steps * a_step}
    assert memory.peak < sum(memory.held.values()) + sum(memory.host.values()) + max(
        sum(parts.values()) for parts in memory.stages.values()
    )
    assert Planner(FULL, image=IMAGE, text_tokens=20, on_cpu=True).host == {}
    trained = replace(FULL, model=replace(FULL.model, freeze_vision=False))
    assert Planner(trained, image=IMAGE, text_tokens=20).host == {}


def test_a_cuda_graph_reserves_the_temporary_tensors_of_a_decode_step() -> None:
    graphs = replace(FULL, sampling=replace(FULL.sampling, cuda_graph=True))
    found, eager = (Planner(one, image=IMAGE, text_tokens=20)._sampling(2) for one in (graphs, FULL))
    # 2 prompts of 4 completions over a vocabulary of 896: the largest of logits, scores and MLP
    assert found["graph pool"] == found["next-token logits"]
    assert found == eager | {"graph pool": found["graph pool"]}
    assert "graph pool" not in Planner(graphs, image=IMAGE, text_tokens=20, on_cpu=True)._sampling(2)


@pytest.mark.parametrize(
    ("changes", "on_cpu", "processes", "expected"),
    [
        ({}, False, 1, ["engine", "cuda_graph"]),
        ({}, False, 3, ["engine", "cuda_graph"]),
        ({"cuda_graph": True}, False, 1, []),
        ({"engine": "vllm"}, False, 1, []),
        ({}, True, 1, []),
    ],
)
def test_the_text_of_a_plan_warns_of_a_slow_sampler(
    changes: dict[str, Any], on_cpu: bool, processes: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = replace(FULL, sampling=replace(FULL.sampling, **changes))
    planner = Planner(planned, image=IMAGE, text_tokens=20, on_cpu=on_cpu, num_processes=processes)
    assert format_warnings(planner) == "", "a model of this size samples fast enough"
    monkeypatch.setattr(slow_sampler, "MIN_PARAMETERS", 1000)
    warning = format_warnings(planner)
    assert re.findall(r"sampling\.(\w+) =", warning) == expected
    assert warning == "" or warning.startswith("\n\nwarning: the built-in sampler launches")
