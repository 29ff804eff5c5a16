"""Tiny random groups, and the plain computation without prefix sharing as the reference."""

from __future__ import annotations

import copy
from itertools import chain

import torch

from tiny_models import EOS, IMAGE_TOKEN, PATCHES, VISION_END, VISION_START, tiny_model
from virft.models.attention.layout import pack_row
from virft.models.families import family_of
from virft.models.load import prepare_attention
from virft.models.policy import Policy, TokenRules
from virft.models.vision import VisionInputs

RULES = TokenRules(temperature=0.9, forbidden_ids=(IMAGE_TOKEN,))


def make_groups(config, seed=0):
    """Return two groups: images of different sizes, prompts and completions of different lengths.

    Families of ``PATCHES``: one image each, of 16 and 24 patches. All others: one image, and two of different shapes.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: torch.randint(0, 90, (n,), generator=generator).tolist()  # noqa: E731
    num_image_tokens = family_of(config.model_type).num_image_tokens
    groups = []
    for number, (before, after, lengths) in enumerate(((3, 5, (7, 4, 1)), (5, 9, (3, 9, 6, 2)))):
        pixels, per_image = _image_inputs(config, number)
        blank = VisionInputs(pixel_values=torch.zeros(pixels), per_image=per_image)
        images = [[VISION_START, *[IMAGE_TOKEN] * n, VISION_END] for n in num_image_tokens(config, blank)]
        prompt = [*draw(before), *chain.from_iterable(images), *draw(after)]
        completions = [[*draw(n - 1), EOS] for n in lengths]
        vision = VisionInputs(pixel_values=torch.randn(pixels, generator=generator), per_image=per_image)
        groups.append((prompt, vision, completions))
    return groups


def _image_inputs(config, number):
    """Return the shape of the pixels of a group's images, and ``per_image`` of its family."""
    vision = config.vision_config
    if config.model_type in PATCHES:
        patches, grid = ((16, [1, 4, 4]), (24, [1, 4, 6]))[number]
        values = 3 * vision.temporal_patch_size * vision.patch_size**2
        return (patches, values), {"grid_thw": torch.tensor([grid])}
    # 1 x 2 tiles and the whole image; one image in one piece, and 2 x 1 tiles with the whole image
    shape = ((3, 4)[number], 3, 16, 16)
    if config.model_type == "internvl":
        return shape, {"tiles": torch.tensor(([[2, 1]], [[1, 1], [1, 2]])[number])}
    if config.model_type == "gemma3":
        return (number + 1, 3, 16, 16), {"pieces": torch.ones(number + 1, dtype=torch.long)}
    if config.model_type == "gemma4":
        # images of 6 x 3 patches, 2 tokens; of 3 x 6 and 3 x 3 patches; padded to 18
        sides = ([(6, 3)], [(3, 6), (3, 3)])[number]
        places = [torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(1) for rows, columns in sides]
        padded = [torch.cat([one, one.new_full((18 - len(one), 2), -1)]) for one in places]
        return (len(sides), 18, 3 * vision.patch_size**2), {"places": torch.stack(padded)}
    if config.model_type == "llava_onevision":
        # one image of 48 x 12 pixels: the whole and 1 x 3 tiles, partly padding; two images: the whole of each
        pieces, sizes = (([4], [[12, 48]]), ([1, 1], [[20, 30], [30, 10]]))[number]
        return (sum(pieces), 3, 16, 16), {"pieces": torch.tensor(pieces), "size": torch.tensor(sizes)}
    rows, columns = (([1], [2]), ([0, 2], [0, 1]))[number]
    return shape, {"rows": torch.tensor(rows), "columns": torch.tensor(columns)}


def plain_inputs(config, ids, vision):
    """Return the arguments that transformers' own processor makes for ``forward`` and ``generate``."""
    if config.model_type in PATCHES:
        is_image = (ids == IMAGE_TOKEN).int()
        grid = vision.per_image["grid_thw"]
        return {"pixel_values": vision.pixel_values, "image_grid_thw": grid, "mm_token_type_ids": is_image}
    if config.model_type == "internvl":
        return {"pixel_values": vision.pixel_values}
    if config.model_type == "gemma3":
        return {"pixel_values": vision.pixel_values, "token_type_ids": (ids == IMAGE_TOKEN).int()}
    if config.model_type == "gemma4":
        return {"pixel_values": vision.pixel_values, "image_position_ids": vision.per_image["places"]}
    if config.model_type == "llava_onevision":
        sizes = vision.per_image["size"]
        return {"pixel_values": vision.pixel_values, "image_sizes": sizes, "batch_num_images": [len(sizes)]}
    return {"pixel_values": vision.pixel_values[None]}


def plain_logprobs(model, groups, *, best=False, rules=RULES):
    """Return log-probs of each completion from its own forward pass of the unmodified transformers model.

    ``best``: those of the most likely token at each place, whatever the completion has there.
    """
    parts = []
    device = device_of(model)
    for prompt, vision, completions in groups:
        for completion in completions:
            ids = torch.tensor([prompt + completion], device=device)
            out = model(
                input_ids=ids,
                use_cache=False,
                **plain_inputs(model.config, ids, vision.to(device)),
            )
            logits = out.logits[0, len(prompt) - 1 : -1]
            targets = torch.tensor(completion, device=device)
            found = rules.log_distribution(logits)
            parts.append(found.amax(-1) if best else found.gather(-1, targets[:, None])[:, 0])
    return torch.cat(parts)


def shared_logprobs(policy, groups):
    """Return log-probs of all groups from one packed row."""
    positions = [
        policy.family.prompt_positions(policy.model, torch.tensor(prompt), vision) for prompt, vision, _ in groups
    ]
    device = device_of(policy)
    row = pack_row([g[0] for g in groups], positions, [g[2] for g in groups]).to(device)
    return policy(row, vision=[g[1].to(device) for g in groups])


def device_of(model):
    """Return the device of a model's weights."""
    return next(model.parameters()).device


def make_pair(model_type, device="cpu"):
    """Return an unmodified model and a policy around its copy, on a device."""
    return pair_of(tiny_model(model_type), device)


def pair_of(plain, device="cpu"):
    """Return the model with transformers' own attention, and a policy around its copy, on a device."""
    plain.set_attn_implementation("sdpa")
    shared = copy.deepcopy(plain)
    family = family_of(plain.config.model_type)
    prepare_attention(shared, family)
    return plain.to(device), Policy(shared, family, RULES).to(device)
