"""``GRPOTrainer.step`` with several updates per batch equals ratio, clipping, KL and gradient clipping written out."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from factories import reading, sample
from literal_grpo import MAX_COMPLETION_TOKENS, REWARDS, literal_loss, plain
from plain_computation import device_of, make_groups, make_pair, plain_logprobs
from virft.config.schema import GRPOConfig
from virft.generation.generator import GenerationParams
from virft.models.renderer import RenderedPrompt
from virft.training.distributed import Ranks
from virft.training.grpo.trainer import GRPOTrainer
from virft.training.optim import learning_rate
from virft.training.policy_runner import PolicyRunner
from virft.training.runtime import Runtime
from virft.types import (
    Completion,
    Detections,
    FinishReason,
    ImageRef,
    ImageSize,
    Prompt,
    RewardReport,
)

RATE, NORM, CLIP, BETA = 0.5, 0.4, 0.1, 0.3


def sampled(groups, model):
    """Return log-probs of a slightly different sampler: ratios around 1, some outside the clip range."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        return [
            [
                plain_logprobs(model, [(p, v, [c])])
                + (0.1 * torch.randn(len(c), generator=generator)).to(device_of(model))
                for c in completions
            ]
            for p, v, completions in groups
        ]


class Replay:
    """A generator that "samples" given completions."""

    def __init__(self, groups, logprobs):
        self._drawn = [
            [
                Completion(
                    token_ids=tuple(tokens),
                    token_ends=(0,) * len(tokens),
                    sampler_logprobs=tuple(chances.tolist()),
                    text=f"{g} {i}",
                    finish_reason=FinishReason.STOP,
                )
                for i, (tokens, chances) in enumerate(zip(completions, logprobs[g], strict=True))
            ]
            for g, (_, _, completions) in enumerate(groups)
        ]

    def generate(self, prompts, group_size, params, key):
        return self._drawn

    def update(self):
        pass


class Table:
    """A grader with given rewards."""

    def grade_group(self, texts, *_, **__):
        places = [map(int, text.split()) for text in texts]
        return [RewardReport(total=REWARDS[g][i], parts={}, reading=reading(Detections())) for g, i in places]


def render(policy, groups, one):
    number = int(one.id)
    ids, vision, _ = groups[number]
    image = ImageRef(path=str(number), original=ImageSize(1, 1), resized=ImageSize(1, 1))
    return RenderedPrompt(
        prompt=Prompt(sample_id=str(number), text="", token_ids=tuple(ids), images=(image,)),
        load_vision=lambda: vision,
        positions=policy.family.prompt_positions(policy.model, torch.tensor(ids), vision),
    )


def trainer_of(policy, groups, logprobs, updates):
    return GRPOTrainer(
        runner=PolicyRunner(policy=policy, runtime=Runtime(ranks=Ranks(device=device_of(policy)))),
        generator=Replay(groups, logprobs),
        render=partial(render, policy, groups),
        grader=Table(),
        # plain descent: Adam would blow differences of 1e-9 up to the size of a step where gradients are near 0
        optimizer=torch.optim.SGD(policy.parameters(), lr=0.0),
        learning_rate_at=partial(learning_rate, peak=RATE, num_steps=4, schedule="linear"),
        config=GRPOConfig(
            steps=4,
            group_size=4,
            kl_coef=BETA,
            loss="sequence_mean",
            scale_by_std=True,
            updates_per_batch=updates,
            clip_range=CLIP,
            max_grad_norm=NORM,
            microbatch_tokens=30,
        ),
        params=GenerationParams(max_completion_tokens=MAX_COMPLETION_TOKENS, temperature=0.9),
        seed=0,
        reference=copy.deepcopy(policy),
    )


@pytest.mark.parametrize("updates", [1, 2, 3])
def test_weights_after_several_updates_equal_the_paper(updates, device, tolerance):
    model, policy = make_pair("qwen2_vl", device)
    groups = make_groups(model.config)
    logprobs = sampled(groups, model)
    reference, start = copy.deepcopy(model), copy.deepcopy(model)
    report = trainer_of(policy, groups, logprobs, updates).step(1, [sample(id="0"), sample(id="1")])

    norms = []
    for _ in range(updates):
        model.zero_grad()
        literal_loss(
            groups,
            REWARDS,
            plain(model),
            kind="sequence_mean",
            kl_coef=BETA,
            reference=plain(reference),
            # with a single update the ratio is 1 by definition
            sampler=logprobs if updates > 1 else None,
            clip_range=CLIP,
        ).backward()
        norms.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm())
        scale = min(1.0, NORM / (norms[-1] + 1e-6))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.75 * RATE * scale * parameter.grad  # step 1 of 4 of a linear schedule

    assert report.metrics["grad_norm"] == pytest.approx(norms[-1].item(), rel=1e-4)
    assert norms[0] > NORM, "the norm must be clipped"
    assert ("clip_frac" in report.metrics) is (updates > 1)
    if updates > 1:
        assert 0.1 < report.metrics["clip_frac"] < 0.9, "some ratios must be clipped"
    moved = 0.0
    for (name, a), b, before in zip(
        model.named_parameters(), policy.model.parameters(), start.parameters(), strict=True
    ):
        torch.testing.assert_close(b, a, atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
        moved = max(moved, (a - before).abs().max().item())
    assert moved > 1e-2
    # the gap is that to the sampler before the first update
    gap = max((plain_logprobs(start, [(p, v, [c])]) - logprobs[g][i]).abs().max().item()
              for g, (p, v, completions) in enumerate(groups) for i, c in enumerate(completions))  # fmt: skip
    assert report.metrics["sampler_gap"] == pytest.approx(gap, abs=tolerance)
