"""Settings become the arguments of the trainers, each where it belongs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from factories import detections, sample, save_image
from run_parts import grpo_trainer_of, load_model_of, make_config, sft_trainer_of
from thinking_models import save_thinking_folder
from virft.config.schema import (
    DataConfig,
    GRPOConfig,
    MixtureConfig,
    ModelConfig,
    PromptConfig,
    RewardConfig,
    SamplingConfig,
)
from virft.errors import ConfigError
from virft.generation.hf_generator import HFGenerator
from virft.models.attention.layout import pack_row
from virft.models.load import LoadedModel
from virft.models.operations import group_segments, update_operations
from virft.models.policy import Policy, TokenRules
from virft.models.renderer import Renderer
from virft.recipes import trainers
from virft.recipes.train import run_training
from virft.training.grpo.trainer import SamplerCorrection
from virft.types import Box, Detection, Detections, ImageSize, Label, RewardContext, Sample


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load_model_of(make_config())


class NoEngine:
    """In place of an engine; ``options`` are those that it was started with."""

    def __init__(self, loaded: LoadedModel, rules: TokenRules, sampling: SamplingConfig, **options: Any) -> None:
        self.rules = rules
        self.sampling = sampling
        self.options = options


def test_the_trainer_follows_the_settings(tiny: LoadedModel) -> None:
    settings = make_config(
        seed=9,
        grpo=GRPOConfig(steps=10, group_size=3, loss="token_mean", kl_coef=0.0, learning_rate=1e-3, warmup_steps=1),
        sampling=SamplingConfig(temperature=0.8, max_completion_tokens=17, prompts_per_batch=2),
    )
    trainer = grpo_trainer_of(settings, tiny)
    assert trainer.config == settings.grpo
    assert isinstance(trainer.generator, HFGenerator)
    assert trainer.generator.prompts_per_batch == 2
    assert (trainer.params.max_completion_tokens, trainer.params.temperature) == (17, 0.8)
    assert trainer.policy.rules.temperature == 0.8
    assert trainer.seed == 9
    assert [trainer.learning_rate_at(step) for step in (0, 1)] == [5e-4, 1e-3]
    assert trainer.runner.runtime.autocast_dtype is None
    assert trainer.runner.feature_cache is not None
    sizes = sum(p.numel() for group in trainer.optimizer.param_groups for p in group["params"])
    assert sizes == sum(p.numel() for p in tiny.model.parameters() if p.requires_grad)


@pytest.mark.parametrize("train", ["full", "lora"])
def test_operations_are_counted_for_the_weights_that_are_trained(train: Literal["full", "lora"]) -> None:
    settings = make_config(model=ModelConfig(train=train, lora_rank=3))
    loaded = load_model_of(settings)
    row = pack_row([[5] * 9], [torch.arange(9).expand(3, -1)], [[[6] * 4, [6] * 2]])
    rank = 3 if train == "lora" else None
    expected = update_operations(
        loaded.model.config.text_config, group_segments(9, [4, 2]), num_logits=6, lora_rank=rank
    )
    for trainer in (grpo_trainer_of(settings, loaded), sft_trainer_of(settings, loaded)):
        assert trainer.runner.count_update is not None
        assert trainer.runner.count_update(row) == expected


def test_an_engine_follows_the_settings(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers, "start_vllm", NoEngine)
    settings = make_config(
        sampling=SamplingConfig(
            engine="vllm", vllm_mode="server", vllm_gpu_memory=0.5, importance_cap=3.0, temperature=0.8
        ),
        grpo=GRPOConfig(kl_coef=0.0),
    )
    trainer = grpo_trainer_of(settings, tiny)
    assert isinstance(trainer.generator, NoEngine)
    assert trainer.generator.sampling is settings.sampling
    processes = trainer.generator.options.pop("trainer")
    assert (processes.rank, processes.count) == (0, 1)
    assert trainer.generator.options == {"dtype": "float32", "on_cpu": True}
    assert trainer.generator.rules.temperature == 0.8
    assert trainer.correction == SamplerCorrection(importance_cap=3.0, max_gap=1e-3)


def test_the_built_in_generator_needs_no_correction(tiny: LoadedModel) -> None:
    trainer = grpo_trainer_of(make_config(grpo=GRPOConfig(kl_coef=0.0)), tiny)
    assert isinstance(trainer.generator, HFGenerator)
    assert trainer.correction is None


@pytest.mark.parametrize("weights", ["auto", "exact", "merged"])
def test_merged_adapters_are_corrected_as_another_engine(weights: Literal["auto", "exact", "merged"]) -> None:
    settings = make_config(
        model=ModelConfig(train="lora", dtype="bfloat16"),
        sampling=SamplingConfig(weights=weights, cuda_graph=weights == "merged"),
        grpo=GRPOConfig(kl_coef=0.0),
    )
    trainer = grpo_trainer_of(settings, load_model_of(settings))
    merges = weights == "merged"  # "auto" merges on a GPU only
    assert isinstance(trainer.generator, HFGenerator)
    assert trainer.generator.merges_adapters is merges
    assert trainer.generator.cuda_graph is merges
    assert trainer.correction == (SamplerCorrection(importance_cap=2.0, max_gap=0.05) if merges else None)


def test_an_engine_that_cannot_run_is_refused_before_anything_else(tmp_path: Path) -> None:
    settings = make_config(
        data=DataConfig(train=str(tmp_path / "none")), sampling=SamplingConfig(engine="vllm", vllm_mode="colocated")
    )
    with pytest.raises(ConfigError, match=r"^sampling\."):
        run_training(settings, "grpo", resume=False, log=print)


def test_tower_and_projector_have_learning_rates_of_their_own() -> None:
    settings = make_config(
        model=ModelConfig(freeze_vision=False),
        grpo=GRPOConfig(kl_coef=0.0, vision_lr_scale=0.1, projector_lr_scale=5.0),
    )
    loaded = load_model_of(settings)
    names = {id(parameter): name for name, parameter in loaded.model.named_parameters()}
    found = {}
    for group in grpo_trainer_of(settings, loaded).optimizer.param_groups:
        for parameter in group["params"]:
            found[names[id(parameter)]] = group["lr_scale"]
    assert len(found) == len(names)
    assert found["model.visual.blocks.0.attn.qkv.weight"] == 0.1
    assert found["model.visual.merger.mlp.0.weight"] == 5.0
    assert found["model.language_model.layers.0.self_attn.q_proj.weight"] == 1.0
    assert set(found.values()) == {0.1, 1.0, 5.0}


def test_without_kl_there_is_no_reference(tiny: LoadedModel) -> None:
    trainer = grpo_trainer_of(make_config(grpo=GRPOConfig(kl_coef=0.0)), tiny)
    assert trainer.reference is None
    assert trainer.reference_mode is None


def test_the_reference_of_full_training_is_a_frozen_copy(tiny: LoadedModel) -> None:
    trainer = grpo_trainer_of(make_config(), tiny)
    assert isinstance(trainer.reference, Policy)
    assert not any(p.requires_grad for p in trainer.reference.parameters())
    own = {p.data_ptr() for p in trainer.policy.parameters()}
    assert own.isdisjoint(p.data_ptr() for p in trainer.reference.parameters())


def test_the_reference_of_adapters_is_the_base_without_a_copy() -> None:
    loaded = load_model_of(make_config(model=ModelConfig(train="lora")))
    trainer = grpo_trainer_of(make_config(model=ModelConfig(train="lora")), loaded)
    assert trainer.reference is None
    assert trainer.reference_mode is not None


def test_features_are_cached_only_for_a_frozen_tower() -> None:
    settings = make_config(model=ModelConfig(freeze_vision=False), grpo=GRPOConfig(kl_coef=0.0))
    assert grpo_trainer_of(settings, load_model_of(settings)).runner.feature_cache is None


def test_bfloat16_runs_under_autocast() -> None:
    settings = make_config(model=ModelConfig(dtype="bfloat16"), grpo=GRPOConfig(kl_coef=0.0))
    trainer = grpo_trainer_of(settings, load_model_of(settings))
    with trainer.runner.runtime.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_thinking_reaches_the_prompt_and_the_grader(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[str] = []
    monkeypatch.setattr(Renderer, "render", lambda self, one, question, thinking: prompts.append(question))
    trainer = grpo_trainer_of(make_config(prompt=PromptConfig(thinking=True), grpo=GRPOConfig(kl_coef=0.0)), tiny)
    trainer.render(sample())
    assert prompts == ["Detect fox. Think first."]
    assert trainer.grader.thinking


def test_a_dataset_of_a_mixture_is_prompted_and_rewarded_by_its_own_settings(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []
    monkeypatch.setattr(Renderer, "render", lambda self, one, question, thinking: prompts.append(question))
    mixture = {
        "plain": MixtureConfig(data="a"),
        "hard": MixtureConfig(data="b", thinking=True, preset="paper"),
    }
    settings = make_config(
        data=DataConfig(), mixture=mixture, reward=RewardConfig(iou_threshold=0.25), grpo=GRPOConfig(kl_coef=0.0)
    )
    trainer = grpo_trainer_of(settings, tiny)
    for origin in mixture:
        trainer.render(sample(origin=origin))
    assert prompts == ["Detect fox.", "Detect fox. Think first."]

    thought = "<think>It sits left.</think><answer>No Objects</answer>"
    plain, hard = (
        trainer.grader.grade(thought, sample(origin=origin), resized=ImageSize(56, 56), context=RewardContext())
        for origin in mixture
    )
    assert (plain.parts["format"], hard.parts["format"]) == (0.0, 1.0)
    assert (plain.parts["confidence"], hard.parts["confidence"]) == (0.0, 0.0)
    rules = {name: one.rule for name, one in trainer.grader.by_origin.items()}
    assert (rules["plain"].preset, rules["hard"].preset) == ("robust", "paper")
    assert rules["hard"].iou_threshold == 0.25


def test_targets_do_not_open_a_think_block_that_the_prompt_has_opened(tmp_path: Path) -> None:
    image = save_image(tmp_path / "a.png")
    fox = sample(image=str(image), rationale="red fur")
    whole = "<think>red fur</think><answer>[{'Position':[156,208,469,833],'Confidence':1.0}]</answer>"
    for model, expected in (
        ("virft-tiny", whole),
        (str(save_thinking_folder(tmp_path / "thinking")), whole.removeprefix("<think>")),
    ):
        settings = make_config(model=ModelConfig(path=model), prompt=PromptConfig(thinking=True))
        loaded = load_model_of(settings)
        trainer = sft_trainer_of(settings, loaded)
        ids = trainer.target_ids(fox, trainer.render(fox))
        assert ids[-1] == loaded.tokenizer.eos_token_id
        text = loaded.tokenizer.decode(ids[:-1])
        assert text == expected


def test_the_zoom_call_of_a_sample_with_a_region_requests_exactly_that_region(tmp_path: Path) -> None:
    image = str(save_image(tmp_path / "a.png"))
    settings = make_config(prompt=PromptConfig(zoom_calls=True))
    loaded = load_model_of(settings)
    trainer = sft_trainer_of(settings, loaded)
    plain = sample(Label(text="fox"), task="classification", image=image)
    named = replace(plain, region=Box(x1=8, y1=12, x2=40, y2=36))
    calls = [trainer.zoom_call(one, trainer.render(one)) for one in (plain, named) if trainer.zoom_call is not None]
    assert calls[0] is None
    assert calls[1] is not None
    assert loaded.tokenizer.decode(calls[1].token_ids[:-1]) == "<zoom>[125,250,625,750]</zoom>"
    assert calls[1].turn.zoom.region == named.region


def test_demonstrations_are_the_targets_of_sft_without_loss_on_confidence_digits(tmp_path: Path) -> None:
    image = str(save_image(tmp_path / "a.png"))
    settings = make_config(grpo=GRPOConfig(kl_coef=0.0, demonstrations="loss"))
    loaded = load_model_of(settings)
    trainer, supervised = grpo_trainer_of(settings, loaded), sft_trainer_of(settings, loaded)
    target = detections((10, 10, 30, 40), (0, 0, 9, 9), confidence=0.25)
    for one in (sample(target, image=image), sample(detections(), image=image)):
        rendered = trainer.render(one)
        assert trainer.write_target is not None
        found = trainer.write_target(one, rendered)
        assert found is not None
        assert list(found.token_ids) == list(supervised.target_ids(one, rendered))
        without = [token for token, is_in in zip(found.token_ids, found.in_loss, strict=True) if not is_in]
        # "0.25" of each box, and nothing else
        assert loaded.tokenizer.decode(without) == "0.25" * len(_items(one))
        assert loaded.tokenizer.decode(found.token_ids[:-1]) == found.text
        assert found.in_loss[-1]


def _items(one: Sample) -> tuple[Detection, ...]:
    assert isinstance(one.target, Detections)
    return one.target.items


@pytest.mark.parametrize("opens", [False, True])
def test_only_samples_with_a_rationale_are_demonstrated_with_thinking(tmp_path: Path, opens: bool) -> None:
    image = str(save_image(tmp_path / "a.png"))
    path = str(save_thinking_folder(tmp_path / "thinking")) if opens else "virft-tiny"
    settings = make_config(
        model=ModelConfig(path=path),
        prompt=PromptConfig(thinking=True),
        grpo=GRPOConfig(kl_coef=0.0, demonstrations="group"),
    )
    loaded = load_model_of(settings)
    trainer = grpo_trainer_of(settings, loaded)
    fox = sample(image=image, rationale="red fur")
    rendered = trainer.render(fox)
    assert trainer.write_target is not None
    assert trainer.write_target(sample(image=image), rendered) is None
    found = trainer.write_target(fox, rendered)
    assert found is not None
    # the text that is graded has the tag that the prompt has opened, the tokens have it not
    assert found.text.startswith("<think>red fur</think><answer>")
    assert loaded.tokenizer.decode(found.token_ids).startswith("red fur" if opens else "<think>red fur")


def test_no_demonstration_without_the_setting(tiny: LoadedModel) -> None:
    assert grpo_trainer_of(make_config(grpo=GRPOConfig(kl_coef=0.0)), tiny).write_target is None


def test_only_embeddings_of_class_names_learn_faster(tiny: LoadedModel) -> None:
    settings = make_config(grpo=GRPOConfig(kl_coef=0.0, name_lr_scale=7.0))
    optimizer = grpo_trainer_of(settings, tiny, ["panda", "panda"]).optimizer
    for group in optimizer.param_groups:
        group["lr"] = 1e-4
    table = tiny.model.get_input_embeddings().weight
    before = table.detach().clone()
    table.grad = torch.ones_like(table)
    optimizer.step()
    moved = (before - table.detach()).amax(-1)
    table.grad = None
    with torch.no_grad():
        table.copy_(before)
    name = tiny.tokenizer(" panda", add_special_tokens=False).input_ids
    (digit,) = tiny.tokenizer("7", add_special_tokens=False).input_ids
    assert moved[name].tolist() == pytest.approx([7e-4] * len(name), rel=1e-2)
    assert moved[digit].item() == pytest.approx(1e-4, rel=1e-2)
