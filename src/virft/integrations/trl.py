"""A reward function for TRL's trainers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from virft.errors import ConfigError
from virft.geometry.boxes import BoxSpace
from virft.integrations.resizing import QwenResize, Resize
from virft.integrations.rows import COLUMNS, DEFAULT_RULE, RowGrader
from virft.tasks.reward import RewardRule
from virft.types import RewardContext, RewardReport, Unreadable

__all__ = ["BoxSpace", "QwenResize", "RewardRule", "VisualReward"]

_THOUGHTS = ("reasoning_content", "thinking")
"""Where a parser of TRL may put what stood in a think block."""


class VisualReward:
    """virft's reward as one of ``reward_funcs`` of ``GRPOTrainer``: total reward of each completion.

    The arguments are those of ``RowGrader``. Rows are those of ``virft.integrations.export.trl_dataset``; other columns
    are ignored. None for a row of another origin (its ``task`` is None), which TRL leaves to the other
    functions. Means of the parts, and the share of unreadable answers, go into the trainer's log as ``virft/iou`` and
    so on, where it takes them.

    Source: TRL 1.16, `Using a custom reward function` of the GRPO trainer's page: called with ``prompts``,
    ``completions``, ``completion_ids``, every column of the data set, ``trainer_state``, ``log_extra``, ``log_metric``.

    >>> reward = VisualReward(box_space=BoxSpace.RELATIVE_1000, thinking=False)
    >>> row = {"task": "grounding", "target": {"box": [0, 0, 50, 50]}, "image_size": [100, 100],
    ...     "box_space": "relative_1000", "thinking": False}
    >>> reward(["Where?"], ["<answer>(0,0),(500,500)</answer>"], **{name: [value] for name, value in row.items()})
    [2.0]
    """

    def __init__(
        self,
        *,
        box_space: BoxSpace | str,
        thinking: bool,
        think_opened: bool = False,
        rule: RewardRule = DEFAULT_RULE,
        resize: Resize | None = None,
    ) -> None:
        self._grader = RowGrader(
            box_space=box_space, thinking=thinking, think_opened=think_opened, rule=rule, resize=resize
        )

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        *,
        trainer_state: Any = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """The reward of each completion, a text or a conversation of one message."""
        if missing := [name for name in COLUMNS if name not in columns]:
            raise ConfigError(
                f"no column {missing[0]} in the data set; expected those of virft.integrations.export.trl_dataset, "
                "kept by remove_unused_columns=False"
            )
        context = context_of(trainer_state)
        reports = [
            self._grade(completion, {name: columns[name][i] for name in columns if _is_column(columns[name])}, context)
            for i, completion in enumerate(completions)
        ]
        if log_metric is not None:
            for name, mean in part_means([report for report in reports if report is not None]).items():
                log_metric(f"virft/{name}", mean)
        return [None if report is None else report.total for report in reports]

    def _grade(self, completion: Any, row: Mapping[str, Any], context: RewardContext | None) -> RewardReport | None:
        if row["task"] is None:
            return None
        images = row.get("images") or [None]
        picture = images[row.get("target_image") or 0]
        return self._grader.grade(text_of_completion(completion), row, context=context, picture=picture)


def text_of_completion(completion: Any) -> str:
    """The text of a completion in either of TRL's shapes, as the model wrote it.

    What a parser took out of a think block goes back in front: whether there was one is part of the form.

    >>> text_of_completion([{"role": "assistant", "reasoning_content": "left", "content": "<answer>a</answer>"}])
    '<think>left</think><answer>a</answer>'
    """
    if isinstance(completion, str):
        return completion
    if len(completion) != 1:
        raise ConfigError(f"a completion of {len(completion)} messages; expected one, without calls of tools")
    (message,) = completion
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part.get("text") or "" for part in content)
    thought = next((message[key] for key in _THOUGHTS if message.get(key)), None)
    return content if thought is None else f"<think>{thought}</think>{content}"


def part_means(reports: Sequence[RewardReport]) -> dict[str, float]:
    """Mean of each part over the reports that have it, and ``unreadable_frac``; nothing of no reports."""
    if not reports:
        return {}
    names = dict.fromkeys(name for report in reports for name in report.parts)
    means = {name: fmean(report.parts[name] for report in reports if name in report.parts) for name in names}
    return means | {"unreadable_frac": fmean(isinstance(report.reading.answer, Unreadable) for report in reports)}


def _is_column(values: Any) -> bool:
    return isinstance(values, list | tuple)


def context_of(state: Any) -> RewardContext | None:
    """How far the run has come, from the ``trainer_state`` of a Hugging Face trainer; 1 at its last step."""
    if state is None:
        return None
    return RewardContext(step_frac=min(1.0, state.global_step / max(1, state.max_steps - 1)))
