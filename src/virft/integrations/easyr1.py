"""A reward function for EasyR1: ``worker.reward.reward_function`` is this file with ``:compute_score`` behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from virft.geometry.boxes import BoxSpace
from virft.integrations.resizing import QwenResize
from virft.integrations.rows import RowGrader, row_of_ground_truth
from virft.rewards.options import Preset
from virft.tasks.reward import RewardRule

REWARD_NAME = "virft"
REWARD_TYPE = "batch"


def compute_score(
    reward_inputs: Sequence[Mapping[str, Any]],
    *,
    box_space: BoxSpace | str,
    thinking: bool,
    think_opened: bool = False,
    preset: Preset = "robust",
    weights: Mapping[str, float] | None = None,
    iou_threshold: float = 0.5,
    resize: Mapping[str, int] | None = None,
) -> list[dict[str, float]]:
    """``overall`` and the parts of each input's reward.

    An input has ``response``, the model's text, and ``ground_truth``, made by
    ``virft.integrations.rows.ground_truth_of``. The other arguments, given by
    ``worker.reward.reward_function_kwargs``, are those of ``virft.integrations.verl``.

    Source: EasyR1, ``BatchRewardFunction`` of verl/workers/reward/function.py (commit 46c6c210); ``REWARD_TYPE``
    is read by later versions.

    >>> truth = '{"task": "classification", "target": {"label": "pug"}, "image_size": [4, 3], '
    >>> truth += '"box_space": "relative_1000", "thinking": false}'
    >>> asked = {"response": "<answer>Pug</answer>", "response_length": 5, "ground_truth": truth}
    >>> compute_score([asked], box_space="relative_1000", thinking=False)
    [{'overall': 2.0, 'label': 1.0, 'format': 1.0}]
    """
    grader = RowGrader(
        box_space=box_space,
        thinking=thinking,
        think_opened=think_opened,
        rule=RewardRule(preset=preset, weights=weights or {}, iou_threshold=iou_threshold),
        resize=None if resize is None else QwenResize(**resize),
    )
    reports = [grader.grade(one["response"], row_of_ground_truth(one["ground_truth"])) for one in reward_inputs]
    return [{"overall": report.total, **report.parts} for report in reports]
