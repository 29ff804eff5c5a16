"""A reward class for ms-swift: a plug-in adds it to ``orms``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from virft.errors import ConfigError
from virft.geometry.boxes import BoxSpace
from virft.integrations.resizing import QwenResize
from virft.integrations.rows import RowGrader, row_of_ground_truth
from virft.integrations.trl import context_of
from virft.tasks.reward import RewardRule

__all__ = ["BoxSpace", "QwenResize", "RewardRule", "make_orm"]


def make_orm(**grading: Any) -> type:
    """Return a class for ``orms``; its objects return the total reward of each completion.

    ``grading``: the arguments of ``RowGrader``. The dataset's column ``ground_truth`` holds the text of
    ``virft.integrations.rows.ground_truth_of`` for each row. Raises ``ConfigError`` as ``RowGrader`` does, and in a
    call without that column.

    Source: ms-swift, docs/source_en/Instruction/GRPO/DeveloperGuide/reward_function.md (commit 1f9e821d) and
    swift/rewards/orm.py (commit 20ec4613): made without arguments, called with ``completions``, the columns of the
    dataset and ``trainer_state``.

    >>> truth = '{"task": "classification", "target": {"label": "pug"}, "image_size": [4, 3], '
    >>> truth += '"box_space": "relative_1000", "thinking": false}'
    >>> orms = {"virft": make_orm(box_space=BoxSpace.RELATIVE_1000, thinking=False)}
    >>> orms["virft"]()(completions=["<answer>Pug</answer>"], ground_truth=[truth])
    [2.0]
    """
    grader = RowGrader(**grading)

    class VisualORM:
        """virft's reward."""

        def __init__(self, args: Any = None, **kwargs: Any) -> None:
            pass

        def __call__(self, completions: Sequence[str], **kwargs: Any) -> list[float]:
            """Return the total reward of each completion; ``ConfigError`` without a column ``ground_truth``."""
            truths = kwargs.get("ground_truth")
            if truths is None:
                raise ConfigError("no column ground_truth in the dataset; expected the texts of ground_truth_of(row)")
            context = context_of(kwargs.get("trainer_state"))
            return [
                grader.grade(text, row_of_ground_truth(truth), context=context).total
                for text, truth in zip(completions, truths, strict=True)
            ]

    return VisualORM
