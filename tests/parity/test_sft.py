"""An SFT step on packed rows equals transformers' own cross-entropy loss, sample by sample, without packing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from factories import sample
from plain_computation import device_of, make_groups, plain_inputs
from tiny_models import MAKERS, tiny_model
from virft.models.families import family_of
from virft.models.load import prepare_attention
from virft.models.policy import Policy, TokenRules
from virft.models.renderer import RenderedPrompt
from virft.models.vision import FeatureCache
from virft.training.distributed import Ranks
from virft.training.policy_runner import PolicyRunner
from virft.training.runtime import Runtime
from virft.training.sft.trainer import SFTTrainer
from virft.types import ImageRef, ImageSize, Prompt

RATE = 0.05


def rendered(policy: Policy, number: int, ids: list[int], vision: Any) -> RenderedPrompt:
    """Return a prompt with an image of its own."""
    size = ImageSize(4, 4)
    return RenderedPrompt(
        prompt=Prompt(
            sample_id=str(number),
            text="",
            token_ids=tuple(ids),
            images=(ImageRef(path=f"{number}.png", original=size, resized=size),),
        ),
        load_vision=lambda: vision,
        positions=policy.family.prompt_positions(policy.model, torch.tensor(ids), vision),
    )


def plain_step(model: Any, questions: list[tuple[list[int], Any, list[int]]]) -> float:
    """Return the token-weighted mean of transformers' own loss of each sample, after one step of SGD."""
    total = 0.0
    num_tokens = sum(len(answer) for _, _, answer in questions)
    for prompt, vision, answer in questions:
        ids = torch.tensor([prompt + answer], device=device_of(model))
        out = model(
            input_ids=ids,
            labels=torch.tensor([[-100] * len(prompt) + answer], device=device_of(model)),
            use_cache=False,
            **plain_inputs(model.config, ids, vision.to(device_of(model))),
        )
        loss = out.loss * len(answer) / num_tokens
        loss.backward()
        total += loss.item()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= RATE * parameter.grad
    return total


@pytest.mark.parametrize("microbatch_tokens", [10_000, 40])
@pytest.mark.parametrize("frozen_vision", [False, True])
@pytest.mark.parametrize("model_type", MAKERS)
def test_an_sft_step_equals_the_plain_cross_entropy_loss(
    model_type: str, frozen_vision: bool, microbatch_tokens: int, device: torch.device, tolerance: float
) -> None:
    plain = tiny_model(model_type)
    plain.set_attn_implementation("sdpa")
    packed = copy.deepcopy(plain)
    family = family_of(plain.config.model_type)
    prepare_attention(packed, family)
    if frozen_vision:
        for model in (plain, packed):
            for parameter in family.vision_parameters(model):
                parameter.requires_grad_(False)
    questions = [
        (ids, vision, answers[0])
        for ids, vision, answers in [*make_groups(plain.config), *make_groups(plain.config, 1)]
    ]
    plain.to(device)
    policy = Policy(packed, family, TokenRules()).to(device)
    prompts = [rendered(policy, number, ids, vision) for number, (ids, vision, _) in enumerate(questions)]
    trainer = SFTTrainer(
        runner=PolicyRunner(
            policy=policy,
            runtime=Runtime(ranks=Ranks(device=device)),
            feature_cache=FeatureCache() if frozen_vision else None,
        ),
        render=lambda one: prompts[int(one.id)],
        target_ids=lambda one, _: questions[int(one.id)][2],
        optimizer=torch.optim.SGD([one for one in packed.parameters() if one.requires_grad], lr=0.0),
        learning_rate_at=lambda step: RATE,
        max_grad_norm=1e9,
        microbatch_tokens=microbatch_tokens,
    )
    before = copy.deepcopy(plain.state_dict())
    report = trainer.step(0, [sample(id=str(number)) for number in range(len(questions))])
    assert report.metrics["loss"] == pytest.approx(plain_step(plain, questions), abs=tolerance)
    moved = 0
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(packed.state_dict()[name], value, atol=tolerance, rtol=0, msg=name)
        moved += not torch.equal(value, before[name])
    assert moved >= 20
    # every token of every row is a prompt's or an answer's
    assert report.metrics["num_tokens"] == sum(len(ids) + len(answer) for ids, _, answer in questions)
