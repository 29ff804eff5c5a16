"""A reward function for verl: ``custom_reward_function.path`` is this file."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

from virft.integrations.rows import plain_grader, row_of_ground_truth


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    **keywords: Any,
) -> float:
    """Return the total reward of a completion. ``ground_truth``: made by ``virft.integrations.rows.ground_truth_of``.

    ``keywords``: those of ``virft.integrations.rows.plain_grader``, given by ``custom_reward_function.reward_kwargs``.
    ``box_space`` and ``thinking`` are required. Other keywords, which verl may pass, are ignored.

    Source: verl, docs/preparation/reward_function.rst (June 2025): ``data_source``, ``solution_str``,
    ``ground_truth``, ``extra_info``.

    >>> truth = '{"task": "classification", "target": {"label": "pug"}, "image_size": [4, 3], '
    >>> truth += '"box_space": "relative_1000", "thinking": false}'
    >>> compute_score("dogs", "<answer>Pug</answer>", truth, box_space="relative_1000", thinking=False)
    2.0
    """
    known = signature(plain_grader).parameters
    grader = plain_grader(**{name: value for name, value in keywords.items() if name in known})
    return grader.grade(solution_str, row_of_ground_truth(ground_truth)).total
