"""A taskset for verifiers: rows of `virft export --format trl`, with virft's rewards.

verifiers finds a taskset by the name of a top-level module, so a user's program is a module of two lines::

    from virft.integrations.verifiers import NullHarness, VirftTaskset
    __all__ = ["NullHarness", "VirftTaskset"]

Importing this module needs the package verifiers, and neither PyTorch nor transformers.

Source: verifiers 0.4.0, the docstrings of ``verifiers/v1/taskset.py``, ``task.py`` and ``configs/task.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from virft.errors import ConfigError
from virft.integrations.chat_rows import ChatContent, read_exported_rows
from virft.integrations.resizing import QwenResize
from virft.integrations.rows import RowGrader, ground_truth_of, row_of_ground_truth
from virft.integrations.trl import part_means, text_of_completion
from virft.rewards.options import Preset
from virft.tasks.reward import RewardRule
from virft.types import RewardReport

try:
    import verifiers.v1 as vf
    from verifiers.v1.harnesses.null import NullHarness
except ImportError as error:
    raise ImportError(
        f"virft.integrations.verifiers needs the package verifiers, 0.4 or later, which cannot be imported ({error})"
    ) from error

__all__ = ["NullHarness", "VirftTaskset"]


class VirftTaskConfig(vf.TaskConfig):
    """Settings of the reward, ``--env.taskset.task.*``. Box space and thinking are those of the rows' prompts."""

    preset: Preset = "robust"
    """Set of formulas, as ``reward.preset``."""
    weights: dict[str, float] | None = None
    """Weight of each part in the total, as ``reward.weights``; 1 for parts that are not named."""
    iou_threshold: float = 0.5
    """A predicted box is a hit from this IoU with its target on, as ``reward.iou_threshold``."""
    think_opened: bool = False
    """True if the chat template writes the opening think tag, so that completions begin inside the think block."""
    resize: QwenResize | None = None
    """Resizing of the model's image processor; for rows with ``box_space`` "resized_pixels" only."""


class VirftTasksetConfig(vf.TasksetConfig):
    """Settings of the taskset, ``--env.taskset.*``."""

    rows: Path | None = None
    """``rows.jsonl`` of `virft export --format trl`. Required; None only because verifiers needs a default."""
    task: VirftTaskConfig = VirftTaskConfig()
    """Settings of the reward."""


class VirftData(vf.TaskData):
    """One row: ``id``, ``prompt`` with its images as data URLs, and the values that grading needs."""

    ground_truth: str
    """The text of ``virft.integrations.rows.ground_truth_of``."""


class VirftTask(vf.Task[VirftData, vf.State, VirftTaskConfig]):
    """A question of a dataset, rewarded as in ``virft grpo``; several turns are rewarded by the last one."""

    @property
    def key(self) -> str:
        """The id of the row, which is unique in a taskset."""
        return str(self.data.id)

    @property
    def grader(self) -> RowGrader:
        """The grader of this row. Raises ``ConfigError`` for settings that are invalid or have no effect on it."""
        row, config = row_of_ground_truth(self.data.ground_truth), self.config
        return RowGrader(
            box_space=row["box_space"],
            thinking=row["thinking"],
            think_opened=config.think_opened,
            rule=RewardRule(preset=config.preset, weights=config.weights or {}, iou_threshold=config.iou_threshold),
            resize=config.resize,
        )

    def grade(self, trace: vf.Trace) -> RewardReport:
        """Grade the last message of the model, with the thoughts that a server's parser has removed from it."""
        messages = trace.assistant_messages[-1:]
        completion = [message.model_dump() for message in messages] or ""
        text = text_of_completion(completion, think_opened=self.config.think_opened)
        return self.grader.grade(text, row_of_ground_truth(self.data.ground_truth))

    @vf.reward
    async def virft(self, trace: vf.Trace) -> float:
        """Return the total reward."""
        return self.grade(trace).total

    @vf.metric
    async def parts(self, trace: vf.Trace) -> dict[str, float]:
        """Return the parts of the reward, and ``unreadable_frac``: 1 if the answer cannot be parsed, else 0."""
        return part_means([self.grade(trace)])


class VirftTaskset(vf.Taskset[VirftTask, VirftTasksetConfig]):
    """The rows of a dataset of any of virft's tasks, one question each."""

    def load(self) -> Iterator[VirftTask]:
        """Yield a task for each row.

        Raises ``DataError`` for an invalid row or image, and ``ConfigError`` without ``rows`` and for settings that do
        not fit a row.
        """
        if self.config.rows is None:
            raise ConfigError("env.taskset.rows is not set; expected rows.jsonl of `virft export --format trl`")
        content = ChatContent()
        for where, row in read_exported_rows(self.config.rows):
            data = VirftData(
                id=row["id"],
                prompt=[vf.UserMessage(content=content.of(row, where=where))],
                ground_truth=ground_truth_of(row),
            )
            task = VirftTask(data, self.config.task)
            _ = task.grader  # an error before the first completion
            yield task
