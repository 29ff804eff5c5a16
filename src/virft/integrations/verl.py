"""A reward function for verl: ``custom_reward_function.path`` is this file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from virft.geometry.boxes import BoxSpace
from virft.integrations.resizing import QwenResize
from virft.integrations.rows import RowGrader, row_of_ground_truth
from virft.rewards.options import Preset
from virft.tasks.reward import RewardRule


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    *,
    box_space: BoxSpace | str,
    thinking: bool,
    think_opened: bool = False,
    preset: Preset = "robust",
    weights: Mapping[str, float] | None = None,
    iou_threshold: float = 0.5,
    resize: Mapping[str, int] | None = None,
    **_: Any,
) -> float:
    """Return the total reward of a completion. ``ground_truth``: made by ``virft.integrations.rows.ground_truth_of``.

    ``box_space`` and ``thinking`` have no default: ``custom_reward_function.reward_kwargs`` gives them, and
    ``resize`` (``unit``, ``min_pixels``, ``max_pixels`` of a ``QwenResize``) for pixels of the resized image.

    Source: verl, docs/preparation/reward_function.rst (June 2025): ``data_source``, ``solution_str``,
    ``ground_truth``, ``extra_info``.

    >>> truth = '{"task": "classification", "target": {"label": "pug"}, "image_size": [4, 3], '
    >>> truth += '"box_space": "relative_1000", "thinking": false}'
    >>> compute_score("dogs", "<answer>Pug</answer>", truth, box_space="relative_1000", thinking=False)
    2.0
    """
    grader = RowGrader(
        box_space=box_space,
        thinking=thinking,
        think_opened=think_opened,
        rule=RewardRule(preset=preset, weights=weights or {}, iou_threshold=iou_threshold),
        resize=None if resize is None else QwenResize(**resize),
    )
    return grader.grade(solution_str, row_of_ground_truth(ground_truth)).total
