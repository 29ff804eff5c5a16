"""Zoom calls of the tiny random models: tool turns with a second image, and the plain computation of both turns."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import torch

from plain_computation import RULES, device_of, make_groups, plain_logprobs
from tiny_models import IMAGE_TOKEN, VISION_END, VISION_START
from tiny_policies import encode
from virft.models.renderer import RenderedTurn
from virft.models.vision import VisionInputs
from virft.types import Box, ImageRef, ImageSize, Zoom

REFUSED = {"gemma3", "gemma4", "llava_onevision"}
"""Tiny models that ``Renderer.check_zoom`` refuses."""


def calling_prompts(policy, groups, crops, is_call=lambda ids: ids[0] % 2 == 0):
    """Return the encoded prompts of ``make_groups``; tool turns have the images of ``crops``, groups of another seed.

    ``is_call``: from the token ids of a first turn. Tool turns of different completions have different lengths.
    """
    return [
        replace(one, answer_call=answer_call(policy, group, crop, is_call))
        for one, group, crop in zip(encode(policy, groups), groups, crops, strict=True)
    ]


def make_crops(config):
    """Return groups whose images are the enlarged regions of tool turns, one for each group of ``make_groups``."""
    return [*reversed(make_groups(config, seed=7))]


def answer_call(policy, group, crop, is_call):
    prompt, vision, _ = group

    def answer(text, token_ids):
        if not is_call(token_ids):
            return None
        counts = policy.family.num_image_tokens(policy.config, crop[1])
        images = chain.from_iterable([VISION_START, *[IMAGE_TOKEN] * n, VISION_END] for n in counts)
        tool = (7, 8, *images, *(11,) * (1 + token_ids[0] % 3))
        ids = torch.tensor([*prompt, *token_ids, *tool])
        positions = policy.family.prompt_positions(policy.model, ids, VisionInputs.join([vision, crop[1]]))
        size = ImageSize(8, 8)
        return RenderedTurn(
            zoom=Zoom(
                text=text,
                num_tokens=len(token_ids),
                region=Box(x1=0, y1=0, x2=4, y2=4),
                tool_ids=tool,
                image=ImageRef(path="", original=size, resized=size),
            ),
            opened="",
            positions=positions[:, len(prompt) :],
            load_vision=lambda: crop[1],
        )

    return answer


def plain_turns(model, group, crop, completion, *, best=False, rules=RULES):
    """Return log-probs of the sampled tokens of a completion from forward passes of the whole conversation.

    The unmodified model computes each turn with all that is before it, images too, from scratch. ``best``: log-probs of
    the most likely tokens in their place.
    """
    prompt, vision, _ = group
    ids, zoom = [*completion.token_ids], completion.zoom
    if zoom is None:
        return plain_logprobs(model, [(prompt, vision, [ids])], best=best, rules=rules)
    first, second = ids[: zoom.num_tokens], ids[zoom.num_tokens :]
    both = VisionInputs.join([vision, crop[1]]).to(device_of(model))
    return torch.cat(
        [
            plain_logprobs(model, [(prompt, vision, [first])], best=best, rules=rules),
            plain_logprobs(model, [([*prompt, *first, *zoom.tool_ids], both, [second])], best=best, rules=rules),
        ]
    )


def packed_logprobs(policy, groups, crops, batch, *, is_frozen):
    """Return the log-probs of a row of ``pack_step``, with features of a frozen tower, or through the tower."""
    vision = [(groups if member is None else crops)[group][1].to(device_of(policy)) for group, member in batch.images]
    row = batch.row.to(device_of(policy))
    if not is_frozen:
        return policy(row, vision=vision)
    with torch.no_grad():
        features = policy.encode_images(vision)
    return policy(row, features=features)
