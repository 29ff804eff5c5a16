"""A reward function for EasyR1: ``worker.reward.reward_function`` is this file with ``:compute_score`` appended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from virft.integrations.rows import plain_grader, row_of_ground_truth

REWARD_NAME = "virft"
REWARD_TYPE = "batch"


def compute_score(reward_inputs: Sequence[Mapping[str, Any]], **grading: Any) -> list[dict[str, float]]:
    """Return ``overall`` and the parts of each input's reward.

    An input has ``response``, the model's text, and ``ground_truth``, made by
    ``virft.integrations.rows.ground_truth_of``. ``grading``: the arguments of ``virft.integrations.rows.plain_grader``,
    given by ``worker.reward.reward_function_kwargs``.

    Source: EasyR1, ``BatchRewardFunction`` of verl/workers/reward/function.py (commit 46c6c210); ``REWARD_TYPE``
    is read by later versions.

    >>> truth = '{"task": "classification", "target": {"label": "pug"}, "image_size": [4, 3], '
    >>> truth += '"box_space": "relative_1000", "thinking": false}'
    >>> one = {"response": "<answer>Pug</answer>", "response_length": 5, "ground_truth": truth}
    >>> compute_score([one], box_space="relative_1000", thinking=False)
    [{'overall': 2.0, 'label': 1.0, 'format': 1.0}]
    """
    grader = plain_grader(**grading)
    reports = [grader.grade(one["response"], row_of_ground_truth(one["ground_truth"])) for one in reward_inputs]
    return [{"overall": report.total, **report.parts} for report in reports]
