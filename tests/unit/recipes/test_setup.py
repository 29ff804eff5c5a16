"""Settings become the arguments of the parts, each where it belongs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from factories import detections, reading, sample, save_image
from group_factories import completion, prompt
from thinking_models import save_thinking_folder
from virft.config.schema import (
    AugmentConfig,
    Config,
    DataConfig,
    GRPOConfig,
    MixtureConfig,
    ModelConfig,
    PromptConfig,
    RewardConfig,
    RunConfig,
    SamplingConfig,
)
from virft.errors import ConfigError, ModelError
from virft.generation.hf_generator import HFGenerator
from virft.inference.prompting import asks_thinking, make_renderer, template_text
from virft.models.load import LoadedModel
from virft.models.policy import Policy, TokenRules, make_policy
from virft.models.renderer import Renderer
from virft.recipes import setup
from virft.recipes.rollout_images import drawn_rollout
from virft.recipes.setup import (
    load_for_training,
    loop_settings,
    make_look_at,
    make_reward_rule,
    make_sft_trainer,
    make_trackers,
    make_trainer,
)
from virft.recipes.train import train
from virft.report.render.images import ANSWER_COLOUR, TARGET_COLOUR
from virft.types import Augmentation, ImageSize, RewardContext, RewardReport, RolloutGroup, Unreadable


def config(**sections: Any) -> Config:
    return Config(**{"data": DataConfig(train="d"), "run": RunConfig(dir="r")} | sections)


@pytest.fixture(scope="module")
def tiny() -> Iterator[LoadedModel]:
    yield load_for_training(config())


def trained(loaded: LoadedModel) -> set[str]:
    return {name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad}


def test_the_vision_tower_is_frozen_unless_asked_for(tiny: LoadedModel) -> None:
    assert not any(name.startswith("model.visual.") for name in trained(tiny))
    assert "model.language_model.layers.0.self_attn.q_proj.weight" in trained(tiny)
    whole = load_for_training(config(model=ModelConfig(freeze_vision=False)))
    assert "model.visual.patch_embed.proj.weight" in trained(whole)


@pytest.mark.parametrize("train", ["full", "lora"])
def test_what_is_trained_is_float32_whatever_the_model_computes_in(train: Any) -> None:
    loaded = load_for_training(config(model=ModelConfig(train=train, dtype="bfloat16")))
    found = {p.dtype for p in loaded.model.parameters() if p.requires_grad}
    assert found == {torch.float32}
    frozen = loaded.model.get_parameter("model.visual.patch_embed.proj.weight").dtype
    assert frozen == (torch.bfloat16 if train == "lora" else torch.float32)


def test_adapters_have_the_rank_that_was_asked_for() -> None:
    loaded = load_for_training(config(model=ModelConfig(train="lora", lora_rank=3, lora_alpha=6)))
    found = {p.shape[0] for name, p in loaded.model.named_parameters() if "lora_A" in name}
    assert found == {3}


def test_adapters_are_drawn_from_the_seed() -> None:
    def drawn(seed: int) -> torch.Tensor:
        model = load_for_training(replace(config(model=ModelConfig(train="lora", lora_rank=2)), seed=seed)).model
        return next(one.detach() for name, one in model.named_parameters() if "lora_A" in name)

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


@pytest.mark.parametrize("wanted", [False, True])
def test_layers_are_checkpointed_when_asked_for(wanted: bool) -> None:
    loaded = load_for_training(config(model=ModelConfig(train="lora", gradient_checkpointing=wanted)))
    assert loaded.model.is_gradient_checkpointing is wanted


def test_image_placeholders_are_never_sampled(tiny: LoadedModel) -> None:
    rules = make_policy(tiny, temperature=0.7).rules
    assert rules.temperature == 0.7
    assert set(rules.forbidden_ids) == {tiny.model.config.image_token_id, tiny.model.config.video_token_id}


def test_the_trainer_follows_the_settings(tiny: LoadedModel) -> None:
    settings = config(
        seed=9,
        grpo=GRPOConfig(steps=10, group_size=3, loss="token_mean", kl_coef=0.0, learning_rate=1e-3, warmup_steps=1),
        sampling=SamplingConfig(temperature=0.8, max_completion_tokens=17, prompts_per_batch=2),
    )
    trainer = make_trainer(settings, tiny)
    assert (trainer.settings.group_size, trainer.settings.loss, trainer.settings.kl_coef) == (3, "token_mean", 0.0)
    assert trainer.settings.prompts_per_batch == 2
    assert (trainer.params.max_completion_tokens, trainer.params.temperature) == (17, 0.8)
    assert trainer.policy.rules.temperature == 0.8
    assert (trainer.num_steps, trainer.seed) == (10, 9)
    assert [trainer.learning_rate_at(step) for step in (0, 1)] == [5e-4, 1e-3]
    assert trainer.autocast is None
    assert trainer.feature_cache is not None
    sizes = sum(p.numel() for group in trainer.optimizer.param_groups for p in group["params"])
    assert sizes == sum(p.numel() for p in tiny.model.parameters() if p.requires_grad)


class NoEngine:
    """Stands where an engine would be started; ``asked`` is what it was started with."""

    def __init__(self, loaded: LoadedModel, rules: TokenRules, **asked: Any) -> None:
        self.rules = rules
        self.asked = asked


def test_an_engine_follows_the_settings(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "start_vllm", NoEngine)
    settings = config(
        sampling=SamplingConfig(
            engine="vllm", vllm_mode="server", vllm_gpu_memory=0.5, importance_cap=3.0, temperature=0.8
        ),
        grpo=GRPOConfig(kl_coef=0.0),
    )
    trainer = make_trainer(settings, tiny)
    assert isinstance(trainer.generator, NoEngine)
    assert trainer.generator.asked == {"dtype": "float32", "mode": "server", "memory_frac": 0.5, "on_cpu": True}
    assert trainer.generator.rules.temperature == 0.8
    assert (trainer.settings.importance_cap, trainer.settings.gap_alarm) == (3.0, 1e-3)


def test_the_built_in_generator_needs_no_importance_weights(tiny: LoadedModel) -> None:
    trainer = make_trainer(config(grpo=GRPOConfig(kl_coef=0.0)), tiny)
    assert isinstance(trainer.generator, HFGenerator)
    assert (trainer.settings.importance_cap, trainer.settings.gap_alarm) == (None, None)


def test_an_engine_that_cannot_run_is_refused_before_anything_else(tmp_path: Path) -> None:
    settings = config(
        data=DataConfig(train=str(tmp_path / "none")), sampling=SamplingConfig(engine="vllm", vllm_mode="colocated")
    )
    with pytest.raises(ConfigError, match=r"^sampling\."):
        train(settings, "grpo", resume=False, say=print)


def test_tower_and_projector_learn_at_rates_of_their_own() -> None:
    settings = config(
        model=ModelConfig(freeze_vision=False),
        grpo=GRPOConfig(kl_coef=0.0, vision_lr_scale=0.1, projector_lr_scale=5.0),
    )
    loaded = load_for_training(settings)
    names = {id(parameter): name for name, parameter in loaded.model.named_parameters()}
    found = {}
    for group in make_trainer(settings, loaded).optimizer.param_groups:
        for parameter in group["params"]:
            found[names[id(parameter)]] = group["lr_scale"]
    assert len(found) == len(names)
    assert found["model.visual.blocks.0.attn.qkv.weight"] == 0.1
    assert found["model.visual.merger.mlp.0.weight"] == 5.0
    assert found["model.language_model.layers.0.self_attn.q_proj.weight"] == 1.0
    assert set(found.values()) == {0.1, 1.0, 5.0}


def test_without_kl_there_is_no_reference(tiny: LoadedModel) -> None:
    trainer = make_trainer(config(grpo=GRPOConfig(kl_coef=0.0)), tiny)
    assert trainer.reference is None
    assert trainer.reference_mode is None


def test_the_reference_of_full_training_is_a_frozen_copy(tiny: LoadedModel) -> None:
    trainer = make_trainer(config(), tiny)
    assert isinstance(trainer.reference, Policy)
    assert not any(p.requires_grad for p in trainer.reference.parameters())
    own = {p.data_ptr() for p in trainer.policy.parameters()}
    assert own.isdisjoint(p.data_ptr() for p in trainer.reference.parameters())


def test_the_reference_of_adapters_is_the_base_without_a_copy() -> None:
    loaded = load_for_training(config(model=ModelConfig(train="lora")))
    trainer = make_trainer(config(model=ModelConfig(train="lora")), loaded)
    assert trainer.reference is None
    assert trainer.reference_mode is not None


def test_features_are_kept_only_while_the_tower_is_frozen() -> None:
    settings = config(model=ModelConfig(freeze_vision=False), grpo=GRPOConfig(kl_coef=0.0))
    assert make_trainer(settings, load_for_training(settings)).feature_cache is None


def test_bfloat16_runs_under_autocast() -> None:
    settings = config(model=ModelConfig(dtype="bfloat16"), grpo=GRPOConfig(kl_coef=0.0))
    trainer = make_trainer(settings, load_for_training(settings))
    assert trainer.autocast is not None
    with trainer.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_a_template_of_auto_is_what_the_models_card_says(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Renderer, "render", lambda self, one, question, thinking: asked.append(question))
    for card, template in (
        ({"prompt_template": "short"}, "auto"),
        ({}, "auto"),
        ({"prompt_template": "short"}, "paper"),
    ):
        loaded = replace(tiny, card=card)
        make_renderer(loaded, template=template, thinking=False)(sample())
    assert asked[0] == "Detect fox."
    # a model without a card is asked in the paper's words
    assert asked[1] == asked[2] != asked[0]
    assert "'fox'" in asked[1]


def test_thinking_reaches_the_question_and_the_reader(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Renderer, "render", lambda self, one, question, thinking: asked.append(question))
    trainer = make_trainer(config(prompt=PromptConfig(thinking=True), grpo=GRPOConfig(kl_coef=0.0)), tiny)
    trainer.render(sample())
    assert asked == ["Detect fox. Think first."]
    assert trainer.grader.thinking


def test_a_set_of_a_mixture_is_asked_and_paid_by_its_own_settings(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Renderer, "render", lambda self, one, question, thinking: asked.append(question))
    mixture = {
        "plain": MixtureConfig(data="a"),
        "hard": MixtureConfig(data="b", thinking=True, preset="paper"),
    }
    settings = config(
        data=DataConfig(), mixture=mixture, reward=RewardConfig(iou_threshold=0.25), grpo=GRPOConfig(kl_coef=0.0)
    )
    trainer = make_trainer(settings, tiny)
    for origin in mixture:
        trainer.render(sample(origin=origin))
    assert asked == ["Detect fox.", "Detect fox. Think first."]

    thought = "<think>It stands left.</think><answer>No Objects</answer>"
    plain, hard = (
        trainer.grader.grade(thought, sample(origin=origin), resized=ImageSize(56, 56), context=RewardContext())
        for origin in mixture
    )
    assert (plain.parts["format"], hard.parts["format"]) == (0.0, 1.0)
    assert (plain.parts["confidence"], hard.parts["confidence"]) == (0.0, 0.0)
    rules = {name: one.rule for name, one in trainer.grader.by_origin.items()}
    assert (rules["plain"].preset, rules["hard"].preset) == ("robust", "paper")
    assert rules["hard"].iou_threshold == 0.25


def test_right_answers_do_not_open_a_thought_that_the_prompt_has_opened(tmp_path: Path) -> None:
    image = save_image(tmp_path / "a.png")
    fox = sample(image=str(image), rationale="red fur")
    whole = "<think>red fur</think><answer>[{'Position':[156,208,469,833],'Confidence':1.0}]</answer>"
    for model, expected in (
        ("virft-tiny", whole),
        (str(save_thinking_folder(tmp_path / "thinking")), whole.removeprefix("<think>")),
    ):
        settings = config(model=ModelConfig(path=model), prompt=PromptConfig(thinking=True))
        loaded = load_for_training(settings)
        trainer = make_sft_trainer(settings, loaded)
        ids = trainer.answer_ids(fox, trainer.render(fox))
        assert ids[-1] == loaded.tokenizer.eos_token_id
        text = loaded.tokenizer.decode(ids[:-1])
        assert text == expected


def test_rewards_follow_the_settings(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def one(reading, target, context):\n    return 1.0\n")
    settings = RewardConfig(
        preset="paper", weights={"format": 0.5}, iou_threshold=0.25, extra=(f"{tmp_path / 'mine.py'}:one",)
    )
    rule = make_reward_rule(config(reward=settings))
    assert (rule.preset, rule.weight("format"), rule.weight("one"), rule.iou_threshold) == ("paper", 0.5, 1.0, 0.25)
    assert [function.__name__ for function in rule.extra] == ["one"]  # type: ignore[attr-defined]


def test_a_reward_that_cannot_be_is_told_with_its_section() -> None:
    with pytest.raises(ConfigError, match=r"^reward\.weights: iuo is no part"):
        make_reward_rule(config(reward=RewardConfig(weights={"iuo": 1.0})))


def test_the_loop_follows_the_settings() -> None:
    settings = config(run=RunConfig(dir="r", save_every=4, keep_checkpoints=5, log_every=6))
    loop = loop_settings(settings, num_steps=7)
    assert loop.num_steps == 7
    assert (loop.save_every, loop.keep_checkpoints, loop.log_every, loop.validate_every) == (4, 5, 6, 0)


def test_only_the_words_that_are_asked_for_learn_faster(tiny: LoadedModel) -> None:
    settings = config(grpo=GRPOConfig(kl_coef=0.0, name_lr_scale=7.0))
    optimizer = make_trainer(settings, tiny, ["panda", "panda"]).optimizer
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


def test_samples_are_seen_through_views_only_if_asked_for() -> None:
    assert make_look_at(config()) is None
    look_at = make_look_at(config(augment=AugmentConfig(colour_jitter=0.5)))
    assert look_at is not None
    augmentation = look_at(sample(), 3, 1).augmentation
    assert augmentation is not None
    assert augmentation.contrast != 1
    assert not augmentation.horizontal_flip


def test_trackers_show_settings_as_plain_values(tmp_path: Path) -> None:
    told: dict[str, Any] = make_trackers(config(run=RunConfig(dir="r", trackers=("wandb",))), tmp_path)._config
    assert (told["grpo.steps"], told["model.freeze_vision"], told["run.trackers"]) == (200, True, "['wandb']")
    assert told["data.validation"] == "not set"
    assert all(isinstance(value, str | int | float | bool) for value in told.values())


def test_a_rollout_is_drawn_as_its_best_and_its_worst_answer_on_what_was_seen(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", (64, 32))
    seen = sample(
        detections((8, 8, 24, 24)),
        image=str(tmp_path / "a.png"),
        size=(64, 32),
        augmentation=Augmentation(crop=(0.0, 0.0, 32.0, 16.0)),
    )
    answers = {"<answer>no</answer>": Unreadable(reason="?"), "<answer>one</answer>": detections((32, 8, 56, 24))}
    group = RolloutGroup(
        sample=seen,
        prompt=prompt(),
        completions=tuple(completion((1,), text=text) for text in answers),
        reports=tuple(
            RewardReport(total=total, parts={}, reading=reading(answer))
            for total, answer in zip((0.0, 1.5), answers.values(), strict=True)
        ),
        policy_step=0,
    )
    best, worst = drawn_rollout(group)
    assert (best.rank, best.reward, best.text, best.question) == ("best", 1.5, "<answer>one</answer>", "fox")
    assert (worst.rank, worst.reward) == ("worst", 0.0)
    # 64 x 32 pixels are shown as 336 x 168: 5.25 each, so left edges are at 8 * 5.25 = 42 and 32 * 5.25 = 168
    assert best.picture.size == worst.picture.size == (336, 168)
    assert best.picture.getpixel((42, 84)) == worst.picture.getpixel((42, 84)) == TARGET_COLOUR
    assert best.picture.getpixel((168, 84)) == ANSWER_COLOUR
    assert worst.picture.getpixel((168, 84)) != ANSWER_COLOUR


def test_how_a_run_asks_goes_with_its_model(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Where is {query}?\n")
    asked = config(prompt=PromptConfig(template=str(tmp_path / "mine.txt"), thinking=True))
    loaded = load_for_training(asked)
    assert (loaded.card["prompt_template"], loaded.card["thinking"]) == ("Where is {query}?", True)
    assert template_text(loaded, "auto") == "Where is {query}?"
    assert [asks_thinking(loaded, told) for told in (None, True, False)] == [True, True, False]
    plain = load_for_training(config())
    assert (plain.card["prompt_template"], plain.card["thinking"]) == ("short", False)


@pytest.mark.parametrize(("own", "expected"), [((True, True), True), ((True, None), False), ((None, None), False)])
def test_sets_of_a_mixture_that_agree_on_thinking_say_so(own: tuple[bool | None, bool | None], expected: bool) -> None:
    mixture = {name: MixtureConfig(data=name, thinking=one) for name, one in zip("ab", own, strict=True)}
    assert load_for_training(config(data=DataConfig(), mixture=mixture)).card["thinking"] is expected


@pytest.mark.parametrize("card", [{"prompt_template": "where?"}, {"prompt_template": 3}, {"thinking": "yes"}])
def test_a_card_that_says_nothing_of_use_is_told(tiny: LoadedModel, card: dict[str, Any]) -> None:
    loaded = replace(tiny, card=card)
    with pytest.raises(ModelError, match=r"^virft_card\.json of the model: (prompt_template|thinking) is .*; expect"):
        make_renderer(loaded, template="auto", thinking=asks_thinking(loaded, None))
