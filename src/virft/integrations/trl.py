"""A reward function for TRL's trainers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from virft.errors import ConfigError, describe_type
from virft.geometry.boxes import BoxSpace
from virft.integrations.resizing import QwenResize
from virft.integrations.rows import COLUMNS, RowGrader
from virft.tasks.reward import RewardRule
from virft.types import RewardContext, RewardReport, Unreadable

__all__ = ["BoxSpace", "QwenResize", "RewardRule", "VisualReward"]

_THOUGHTS = ("reasoning_content", "thinking")
"""Keys under which a parser of TRL may store the text of a think block."""


class VisualReward(RowGrader):
    """virft's reward as one of the ``reward_funcs`` of ``GRPOTrainer``: the total reward of each completion.

    The arguments are those of ``RowGrader``. Rows are those of ``virft.integrations.export.trl_dataset``; other columns
    are ignored. The reward is None for a row of another dataset (its ``task`` is None), which TRL leaves to the other
    functions. If the trainer accepts metrics, the means of the parts and the fraction of unreadable answers are logged
    as ``virft/iou`` and so on.

    Source: TRL 1.16, `Using a custom reward function` of the GRPO trainer's page: called with ``prompts``,
    ``completions``, ``completion_ids``, every column of the dataset, ``trainer_state``, ``log_extra``, ``log_metric``.

    >>> reward = VisualReward(box_space=BoxSpace.RELATIVE_1000, thinking=False)
    >>> row = {"task": "grounding", "target": {"box": [0, 0, 50, 50]}, "image_size": [100, 100],
    ...     "box_space": "relative_1000", "thinking": False}
    >>> reward(["Where?"], ["<answer>(0,0),(500,500)</answer>"], **{name: [value] for name, value in row.items()})
    [2.0]
    """

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        *,
        trainer_state: Any = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Return the reward of each completion, a text or a conversation of one message.

        Raises ``ConfigError`` if a column is missing or no list, and ``DataError`` for an invalid row.
        """
        if missing := [name for name in COLUMNS if name not in columns]:
            raise ConfigError(
                f"no column {missing[0]} in the dataset; expected those of virft.integrations.export.trl_dataset, "
                "with remove_unused_columns=False"
            )
        if wrong := next((name for name in COLUMNS if not _is_column(columns[name])), None):
            raise ConfigError(
                f"column {wrong} is {describe_type(columns[wrong])}; expected a list with a value for each completion"
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
        image = images[row.get("target_image") or 0]
        text = text_of_completion(completion, think_opened=self.think_opened)
        return self.grade(text, row, context=context, image=image)


def text_of_completion(completion: Any, *, think_opened: bool = False) -> str:
    """Return the text of a completion as the model wrote it; TRL has it as text or as a conversation.

    The text that a parser removed from a think block is put back: the format reward depends on it. If ``think_opened``,
    the chat template has written the opening tag, so it is no part of the completion. Raises ``ConfigError`` for a
    conversation of several messages.

    >>> text_of_completion([{"role": "assistant", "reasoning_content": "left", "content": "<answer>a</answer>"}])
    '<think>left</think><answer>a</answer>'
    >>> text_of_completion([{"role": "assistant", "thinking": "left", "content": "b"}], think_opened=True)
    'left</think>b'
    """
    if isinstance(completion, str):
        return completion
    if len(completion) != 1:
        raise ConfigError(f"a completion of {len(completion)} messages; expected one, without tool calls")
    (message,) = completion
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part.get("text") or "" for part in content)
    thought = next((message[key] for key in _THOUGHTS if message.get(key)), None)
    if thought is None:
        return content
    return f"{'' if think_opened else '<think>'}{thought}</think>{content}"


def part_means(reports: Sequence[RewardReport]) -> dict[str, float]:
    """Return the mean of each part over the reports that have it, and ``unreadable_frac``; empty without reports."""
    if not reports:
        return {}
    names = dict.fromkeys(name for report in reports for name in report.parts)
    means = {name: fmean(report.parts[name] for report in reports if name in report.parts) for name in names}
    return means | {"unreadable_frac": fmean(isinstance(report.reading.answer, Unreadable) for report in reports)}


def _is_column(values: Any) -> bool:
    return isinstance(values, list | tuple)


def context_of(state: Any) -> RewardContext | None:
    """Return the training progress from the ``trainer_state`` of a Hugging Face trainer; 1 at its last step."""
    if state is None:
        return None
    return RewardContext(step_frac=min(1.0, state.global_step / max(1, state.max_steps - 1)))
