"""Completions with a zoom call equal the plain computation of both turns, images included."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from factories import reading, sample
from group_factories import completion
from literal_grpo import MAX_COMPLETION_TOKENS, assert_same_gradients, literal_loss
from plain_computation import RULES, make_groups, make_pair
from tiny_models import EOS, MAKERS
from tiny_policies import Tokenizer, loaded_of
from virft.errors import ModelError
from virft.evaluation.predict import generate_predictions
from virft.generation import hf_generator
from virft.generation.generator import GenerationParams
from virft.generation.hf_generator import HFGenerator
from virft.generation.random_streams import StepKey
from virft.inference import prompting
from virft.models.load import load_as_trained
from virft.models.policy import TokenRules, make_policy
from virft.models.renderer import RenderedPrompt, Renderer
from virft.models.tiny import tiny_folder
from virft.models.vision import FeatureCache
from virft.training.grpo.loss import policy_loss
from virft.training.grpo.pack import pack_step
from virft.training.grpo.rollout import rendered_turns
from virft.training.policy_runner import PolicyRunner
from virft.training.sft.batch import ZoomCall
from virft.training.sft.trainer import SFTTrainer
from virft.types import Box, Detections, FinishReason, ImageRef, ImageSize, RewardReport, RolloutGroup
from zoom_turns import REFUSED, calling_prompts, make_crops, packed_logprobs, plain_turns

KEY = StepKey(seed=5, step=2)
FAMILIES = sorted(MAKERS.keys() - REFUSED)


def sampled(model_type, temperature=0.9, limit=14, prompts_per_batch=None, device="cpu", **options):
    plain, policy = make_pair(model_type, device)
    policy.model.generation_config.eos_token_id = [EOS, *range(20)]  # so that rows end at different times
    groups, crops = make_groups(policy.config), make_crops(policy.config)
    prompts = calling_prompts(policy, groups, crops, **options)
    generator = HFGenerator(policy, Tokenizer(), prompts_per_batch=prompts_per_batch)
    params = GenerationParams(max_completion_tokens=limit, temperature=temperature)
    drawn = generator.generate(prompts, 6, params, KEY)
    return plain, groups, crops, drawn


@pytest.mark.parametrize("model_type", FAMILIES)
def test_logprobs_of_both_turns_equal_those_of_the_whole_conversation(model_type, device, tolerance):
    plain, groups, crops, drawn = sampled(model_type, device=device)
    num_zooms = [sum(one.zoom is not None for one in group) for group in drawn]
    assert min(num_zooms) >= 1 and sum(num_zooms) < 12, "some completions must call, and some not"
    with torch.no_grad():
        for group, crop, completions in zip(groups, crops, drawn, strict=True):
            for one in completions:
                expected = plain_turns(plain, group, crop, one)
                found = torch.tensor(one.sampler_logprobs, device=device)
                torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
                assert len(one.token_ids) == len(one.token_ends) <= 14


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_greedy_turns_are_those_of_the_whole_conversation(model_type):
    plain, groups, crops, drawn = sampled(model_type, temperature=0.0, is_call=lambda ids: True)
    with torch.no_grad():
        for group, crop, completions in zip(groups, crops, drawn, strict=True):
            assert (zoom := completions[0].zoom) is not None
            found = torch.tensor(completions[0].sampler_logprobs)
            torch.testing.assert_close(found, plain_turns(plain, group, crop, completions[0]), atol=1e-5, rtol=0)
            # every token is the most likely one of the plain computation
            best = plain_turns(plain, group, crop, completions[0], best=True)
            torch.testing.assert_close(found, best, atol=1e-5, rtol=0)
            assert len(completions[0].token_ids) > zoom.num_tokens


def test_batches_and_compaction_do_not_change_completions(monkeypatch):
    _, _, _, expected = sampled("qwen2_5_vl")
    _, _, _, found = sampled("qwen2_5_vl", prompts_per_batch=1)
    monkeypatch.setattr(hf_generator, "_COMPACT_BELOW", 0.0)
    monkeypatch.setattr(hf_generator, "_CHECK_EVERY", {"cpu": 4})  # as on a GPU: rows have ended before the check
    _, _, _, uncompacted = sampled("qwen2_5_vl")
    for other in (found, uncompacted):
        for own, one in zip((c for g in expected for c in g), (c for g in other for c in g), strict=True):
            assert (one.token_ids, one.zoom, one.text) == (own.token_ids, own.zoom, own.text)
            assert one.sampler_logprobs == pytest.approx(own.sampler_logprobs, abs=1e-5)


def test_the_limit_holds_for_both_turns_together():
    _, _, _, drawn = sampled("qwen2_vl", limit=6, is_call=lambda ids: True)
    completions = [one for group in drawn for one in group]
    assert all(len(one.token_ids) <= 6 for one in completions)
    zoomed = [one for one in completions if one.zoom is not None]
    assert {one.finish_reason for one in zoomed} == {FinishReason.STOP, FinishReason.LENGTH}
    # a first turn that is truncated, or leaves no token, is not answered
    assert all(one.zoom.num_tokens < 6 for one in zoomed)
    assert any(one.zoom is None and one.finish_reason is FinishReason.STOP for one in completions)


def test_prompts_without_calls_are_sampled_as_before():
    _, policy = make_pair("qwen2_vl")
    policy.model.generation_config.eos_token_id = [EOS, *range(20)]
    groups, params = make_groups(policy.config), GenerationParams(max_completion_tokens=12, temperature=0.9)
    prompts = calling_prompts(policy, groups, make_crops(policy.config), is_call=lambda ids: False)
    generator = HFGenerator(policy, Tokenizer())
    plain = [replace(one, answer_call=None) for one in prompts]
    assert generator.generate(prompts, 6, params, KEY) == generator.generate(plain, 6, params, KEY)


def rollouts(model_type, device="cpu"):
    plain, policy = make_pair(model_type, device)
    policy.model.generation_config.eos_token_id = [EOS, *range(20)]
    groups, crops = make_groups(policy.config), make_crops(policy.config)
    prompts = calling_prompts(policy, groups, crops, is_call=lambda ids: ids[0] % 4 != 1)
    params = GenerationParams(max_completion_tokens=MAX_COMPLETION_TOKENS, temperature=RULES.temperature)
    drawn = HFGenerator(policy, Tokenizer()).generate(prompts, 4, params, KEY)
    rewards = [[0.2, 1.7, 0.4, 1.1], [1.0, 2.5, 0.3, 0.9]]
    found = [
        RolloutGroup(
            sample=sample(id=str(number)),
            prompt=prompt.prompt,
            completions=tuple(completions),
            reports=tuple(RewardReport(total=r, parts={}, reading=reading(Detections())) for r in own),
            policy_step=0,
        )
        for number, (prompt, completions, own) in enumerate(zip(prompts, drawn, rewards, strict=True))
    ]
    assert 2 <= sum(one.zoom is not None for group in drawn for one in group) < 8
    insertions = [
        [None if turn is None else turn.insertion for turn in rendered_turns(prompt, group)]
        for prompt, group in zip(prompts, drawn, strict=True)
    ]
    return plain, policy, groups, crops, prompts, found, insertions


@pytest.mark.parametrize("is_frozen", [True, False])
@pytest.mark.parametrize("microbatch_tokens", [4096, 60])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_loss_and_gradients_of_two_turns_equal_those_of_each_completion_alone(model_type, microbatch_tokens, is_frozen):
    plain, policy, groups, crops, prompts, found, insertions = rollouts(model_type)
    if is_frozen:
        for model in (plain, policy.model):
            for parameter in policy.family.vision_parameters(model):
                parameter.requires_grad_(False)
    batches = pack_step(
        found,
        prompts,
        loss="token_mean",
        max_completion_tokens=MAX_COMPLETION_TOKENS,
        scale_by_std=True,
        drop_equal=False,
        microbatch_tokens=microbatch_tokens,
        insertions=insertions,
    )
    assert (len(batches) > 1) == (microbatch_tokens == 60)
    total = 0.0
    for batch in batches:
        logprobs = packed_logprobs(policy, groups, crops, batch, is_frozen=is_frozen)
        # the sampler's log-probs are those of the update, token by token, and no tool token is among them
        torch.testing.assert_close(logprobs, batch.sampler_logprobs, atol=1e-5, rtol=0)
        result = policy_loss(logprobs, advantages=batch.advantages, weights=batch.weights)
        result.loss.backward()
        total += result.loss.item()
    completions = {(g, one.token_ids): one for g, group in enumerate(found) for one in group.completions}
    alone = [
        (*group[:2], [list(one.token_ids) for one in own.completions]) for group, own in zip(groups, found, strict=True)
    ]

    def plain_of(group):
        number = next(i for i, one in enumerate(groups) if one[0] == group[0])
        return plain_turns(plain, group, crops[number], completions[number, tuple(group[2][0])])

    expected = literal_loss(alone, [one.rewards for one in found], plain_of, kind="token_mean", kl_coef=0.0)
    expected.backward()
    assert total == pytest.approx(expected.item(), abs=1e-5)
    assert_same_gradients(plain, policy.model, at_least=20)


def test_greedy_turns_of_virft_tiny_are_those_of_two_calls_of_transformers(tmp_path, monkeypatch):
    """From files to texts: chat template, tokens, crop, image processor and positions of the whole conversation."""
    monkeypatch.setattr(prompting, "read_zoom_call", lambda text, **_: Box(x1=20.5, y1=30, x2=90, y2=99))
    noise = torch.randint(0, 256, (120, 200, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    image = Image.fromarray(noise.numpy())
    image.save(tmp_path / "image.png")
    loaded = load_as_trained("virft-tiny", dtype="float32")
    one = sample(image=str(tmp_path / "image.png"), size=(200, 120))
    prompting_ = prompting.resolve_prompting(loaded, template="short", thinking=False, zoom=True)
    policy = make_policy(loaded, temperature=1.0)
    ((found,),) = generate_predictions(
        [[one]],
        render=prompting.make_renderer(loaded, prompting_),
        encode=policy.encode_images,
        generator=HFGenerator(policy, loaded.tokenizer),
        max_completion_tokens=64,
    )
    region = image.crop((20, 30, 90, 99))
    assert found.prediction.zoom_region == Box(x1=20, y1=30, x2=90, y2=99)
    height = found.resized.height  # the region is not as wide as the image, so the height limits it
    region = region.resize((round(height * 70 / 69), height), Image.Resampling.BICUBIC)

    model = AutoModelForImageTextToText.from_pretrained(tiny_folder(), dtype=torch.float32).eval()
    question = [{"type": "image"}, {"type": "text", "text": "Detect fox. Zoom if needed."}]
    chat = [{"role": "user", "content": question}]
    first = answer_of_transformers(model, loaded, chat, [image], 64)
    assert found.prediction.zoom_text == first.removesuffix("<|im_end|>")
    tool = [
        {"type": "text", "text": "<tool_response>"},
        {"type": "image"},
        {"type": "text", "text": "</tool_response>"},
    ]
    chat += [{"role": "assistant", "content": found.prediction.zoom_text}, {"role": "user", "content": tool}]
    second = answer_of_transformers(model, loaded, chat, [image, region], 64 - len(loaded.tokenizer(first).input_ids))
    assert found.prediction.text == second.removesuffix("<|im_end|>")


def answer_of_transformers(model, loaded, chat, images, limit):
    """Return the greedy answer of the unmodified model to a chat, with its end token."""
    text = loaded.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    pixels = loaded.image_processor(images=images, return_tensors="pt")
    for grid in pixels["image_grid_thw"]:
        text = text.replace("<|image_pad|>", "<|filled|>" * (int(grid.prod()) // 4), 1)
    ids = loaded.tokenizer(text.replace("<|filled|>", "<|image_pad|>"), return_tensors="pt").input_ids
    is_image = (ids == model.config.image_token_id).int()
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=is_image, **pixels,
            do_sample=False, max_new_tokens=limit,
        )  # fmt: skip
    return loaded.tokenizer.decode(out[0, ids.shape[1] :])


@pytest.mark.parametrize("model_type", ["gemma3", "gemma4", "llava_onevision"])
def test_other_attention_is_refused_with_the_reason(model_type):
    _, policy = make_pair(model_type)
    with pytest.raises(ModelError, match=f"zoom calls are not supported for models of type '{model_type}', which have"):
        Renderer(loaded_of(policy), lambda path, augmentation: None).check_zoom(thinking=False)


@pytest.mark.parametrize("is_frozen", [True, False])
@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen3_vl", "smolvlm"])
def test_an_sft_step_on_two_turns_equals_that_of_the_whole_conversation(model_type, is_frozen):
    plain, policy = make_pair(model_type)
    policy.rules = TokenRules()
    for model in (plain, policy.model) if is_frozen else ():
        for parameter in policy.family.vision_parameters(model):
            parameter.requires_grad_(False)
    groups, crops = make_groups(policy.config), make_crops(policy.config)
    size = ImageSize(8, 8)
    prompts = [
        RenderedPrompt(
            prompt=replace(one.prompt, images=(ImageRef(path=one.prompt.sample_id, original=size, resized=size),)),
            positions=one.positions,
            load_vision=lambda vision=group[1]: vision,
            answer_call=one.answer_call,
        )
        for one, group in zip(calling_prompts(policy, groups, crops), groups, strict=True)
    ]

    def zoom_call(one, rendered):
        ids = (2, 5, EOS)
        return ZoomCall(ids, rendered.answer_call("", ids)) if one.id == "1" else None

    trainer = SFTTrainer(
        runner=PolicyRunner(policy=policy, feature_cache=FeatureCache() if is_frozen else None),
        render=lambda one: prompts[int(one.id)],
        target_ids=lambda one, _: groups[int(one.id)][2][0],
        zoom_call=zoom_call,
        optimizer=torch.optim.SGD([one for one in policy.model.parameters() if one.requires_grad], lr=0.0),
        learning_rate_at=lambda step: 0.05,
        max_grad_norm=1e9,
        microbatch_tokens=10_000,
    )
    report = trainer.step(0, [sample(id="0"), sample(id="1")])
    call = zoom_call(sample(id="1"), prompts[1])
    targets = (groups[0][2][0], [*call.token_ids, *groups[1][2][0]])
    assert report.metrics["target_tokens"] == sum(map(len, targets)) / 2
    logprobs = [
        plain_turns(plain, group, crop, replace(completion(ids), zoom=zoom), rules=TokenRules())
        for group, crop, ids, zoom in zip(groups, crops, targets, (None, call.turn.zoom), strict=True)
    ]
    loss = -torch.cat(logprobs).mean()
    assert report.metrics["loss"] == pytest.approx(loss.item(), abs=1e-5)
    loss.backward()
    for (name, expected), found in zip(plain.named_parameters(), policy.model.parameters(), strict=True):
        step = 0.0 if expected.grad is None else 0.05 * expected.grad
        torch.testing.assert_close(found, expected - step, atol=1e-5, rtol=0, msg=name)
