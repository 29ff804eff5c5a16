"""Rows of several samples, none padded."""

from __future__ import annotations

import torch

from virft.models.renderer import RenderedPrompt
from virft.models.vision import VisionInputs
from virft.training.sft.batch import pack_targets
from virft.types import Prompt


def prompt(*token_ids: int) -> RenderedPrompt:
    return RenderedPrompt(
        prompt=Prompt(sample_id="a", text="", token_ids=token_ids, images=()),
        load_vision=lambda: VisionInputs(
            pixel_values=torch.zeros(0, 4), per_image={"grid_thw": torch.zeros(0, 3, dtype=torch.long)}
        ),
        positions=torch.arange(len(token_ids)).expand(3, -1),
    )


def test_samples_stand_one_after_the_other() -> None:
    (one,) = pack_targets([prompt(1, 2), prompt(3)], [[7, 8], [9]], microbatch_tokens=100)
    assert one.members == (0, 1)
    assert one.row.token_ids.tolist() == [1, 2, 7, 8, 3, 9]
    # the prompt's last token predicts the first of the answer
    assert one.row.logit_index.tolist() == [1, 2, 4]
    assert one.row.targets.tolist() == [7, 8, 9]
    assert one.row.positions[0].tolist() == [0, 1, 2, 3, 0, 1]


def test_a_row_holds_as_many_samples_as_fit_and_at_least_one() -> None:
    prompts, answers = [prompt(1, 2), prompt(3), prompt(4, 5, 6, 7)], [[7, 8], [9], [9]]
    rows = pack_targets(prompts, answers, microbatch_tokens=5)
    # 4 tokens, and 2 more would be 6; the last has 5
    assert [one.members for one in rows] == [(0,), (1,), (2,)]
    assert [one.members for one in pack_targets(prompts, answers, microbatch_tokens=6)] == [(0, 1), (2,)]
    assert [one.members for one in pack_targets(prompts, answers, microbatch_tokens=1)] == [(0,), (1,), (2,)]
