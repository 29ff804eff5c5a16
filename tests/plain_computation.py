"""Tiny random groups and the plain computation that the group-shared one must equal."""

from __future__ import annotations

import copy

import torch

from tiny_models import EOS, IMAGE_TOKEN, VISION_END, VISION_START, tiny_model
from virft.models.families import family_of
from virft.models.layout import pack_row
from virft.models.load import prepare_attention
from virft.models.logprobs import Policy, TokenRules
from virft.models.vision import VisionInputs

RULES = TokenRules(temperature=0.9, forbidden_ids=(IMAGE_TOKEN,))


def make_groups(config, seed=0):
    """Two groups: images of different sizes (16 and 24 patches), prompts and completions of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: torch.randint(0, 90, (n,), generator=generator).tolist()  # noqa: E731
    patch = config.vision_config.patch_size
    values = 3 * config.vision_config.temporal_patch_size * patch * patch
    groups = []
    for grid, before, after, lengths in (((4, 4), 3, 5, (7, 4, 1)), ((4, 6), 5, 9, (3, 9, 6, 2))):
        count = grid[0] * grid[1] // 4
        prompt = [*draw(before), VISION_START, *[IMAGE_TOKEN] * count, VISION_END, *draw(after)]
        completions = [[*draw(n - 1), EOS] for n in lengths]
        pixels = torch.randn(grid[0] * grid[1], values, generator=generator)
        vision = VisionInputs(pixel_values=pixels, grid_thw=torch.tensor([[1, *grid]]))
        groups.append((prompt, vision, completions))
    return groups


def plain_logprobs(model, groups):
    """Each completion in its own forward of the untouched model, as transformers computes it by itself."""
    parts = []
    for prompt, vision, completions in groups:
        for completion in completions:
            ids = torch.tensor([prompt + completion])
            out = model(
                input_ids=ids,
                pixel_values=vision.pixel_values,
                image_grid_thw=vision.grid_thw,
                mm_token_type_ids=(ids == IMAGE_TOKEN).int(),
                use_cache=False,
            )
            logits = out.logits[0, len(prompt) - 1 : -1]
            parts.append(RULES.log_distribution(logits).gather(-1, torch.tensor(completion)[:, None])[:, 0])
    return torch.cat(parts)


def shared_logprobs(policy, groups):
    """All groups in one packed row."""
    positions = [
        policy.family.prompt_positions(policy.model, torch.tensor(prompt), vision) for prompt, vision, _ in groups
    ]
    row = pack_row([g[0] for g in groups], positions, [g[2] for g in groups])
    return policy(row, vision=[g[1] for g in groups])


def make_pair(model_type):
    """A plain model and a policy around its copy."""
    return pair_of(tiny_model(model_type))


def pair_of(plain):
    """This model, computing as transformers does by itself, and a policy around its copy."""
    plain.set_attn_implementation("sdpa")
    shared = copy.deepcopy(plain)
    family = family_of(plain.config.model_type)
    prepare_attention(shared, family)
    return plain, Policy(shared, family, RULES)
