"""Grade rows of `virft export --format trl` as virft's own trainer does, for all other trainers.

A row records how its prompt was made (``box_space``, ``thinking``), and the grader gets the same values. If the two
differ, boxes would silently be parsed in the wrong unit, so that is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from virft.data.samples import expected_targets, sample_from_record
from virft.errors import ConfigError, DataError
from virft.geometry.boxes import BoxSpace
from virft.integrations.resizing import QwenResize, Resize
from virft.rewards.options import Preset
from virft.tasks import TASKS
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule
from virft.types import RewardContext, RewardReport, Sample

COLUMNS = ("task", "target", "image_size", "box_space", "thinking")
"""Required keys of a row. ``image_size``: (width, height) of the target image before any resizing, in pixels."""

DEFAULT_RULE = RewardRule()


@dataclass(frozen=True, kw_only=True, eq=False)  # compared and hashed by identity, as trainers do with functions
class RowGrader:
    """Compute the rewards of completions about rows. The rewards of TRL and ms-swift have the same arguments.

    Raises ``ConfigError`` for arguments that are unknown, contradict each other or have no effect.

    >>> RowGrader(box_space="resized_pixels", thinking=False)
    Traceback (most recent call last):
    virft.errors.ConfigError: box_space resized_pixels needs resize, from an image's size to the size that the model \
saw, such as QwenResize.of(processor.image_processor)
    """

    box_space: BoxSpace | str
    """Unit of box coordinates in a completion. It has no default, as a wrong one is not noticed."""
    thinking: bool
    """True if the prompt requests a think block."""
    think_opened: bool = False
    """True if the chat template writes the opening think tag, so that completions begin inside the think block."""
    rule: RewardRule = DEFAULT_RULE
    """The reward: preset, weights, thresholds and reward functions of your own."""
    resize: Resize | None = None
    """Function from an image's size to the size that the model saw; for ``box_space`` "resized_pixels" only."""

    def __post_init__(self) -> None:
        if self.box_space not in tuple(BoxSpace):
            raise ConfigError(f"box_space: {self.box_space!r} is not known; expected one of {', '.join(BoxSpace)}")
        if not isinstance(self.thinking, bool):
            raise ConfigError(f"thinking is {self.thinking!r}; expected True or False")
        if self.think_opened and not self.thinking:
            raise ConfigError("think_opened has no effect: thinking is False; a template that opens a thought needs it")
        space = BoxSpace(self.box_space)
        if space is BoxSpace.RESIZED_PIXELS and self.resize is None:
            raise ConfigError(
                f"box_space {space} needs resize, from an image's size to the size that the model saw, such as "
                "QwenResize.of(processor.image_processor)"
            )
        if space is not BoxSpace.RESIZED_PIXELS and self.resize is not None:
            raise ConfigError(f"resize has no effect: box_space is {space}; remove it")
        if self.rule.overlong_tokens:
            raise ConfigError("overlong_tokens has no effect: other trainers do not report the length of a completion")

    def grade(
        self, text: str, row: Mapping[str, Any], *, context: RewardContext | None = None, image: Any = None
    ) -> RewardReport:
        """Compute the reward of one completion about a row.

        ``image``: the target image, if the caller has it. ``context``: the training progress; a rising threshold needs
        it. Raises ``DataError`` for an invalid row, a row whose prompt was made in another way, or an image of another
        size, and ``ConfigError`` if a rising threshold gets no ``context``.
        """
        if context is None and self.rule.iou_threshold_end is not None:
            raise ConfigError("iou_threshold_end has no effect: this trainer does not report the training progress")
        where = f"row {row['id']}" if row.get("id") is not None else "a row"
        self._require_same_prompting(row, where)
        sample = sample_of_row(row, where=where)
        size = sample.target_size
        seen = getattr(image, "size", size)
        if tuple(seen) != tuple(size):
            raise DataError(
                f"{where}: its image has {seen[0]} x {seen[1]} pixels; expected {size.width} x {size.height}, the size "
                "that its boxes refer to (the trainer resizes the image itself)"
            )
        resized = size if self.resize is None else self.resize(size)
        written = f"<think>\n{text}" if self.think_opened else text
        grader = Grader(rule=self.rule, thinking=self.thinking, box_space=BoxSpace(self.box_space))
        return grader.grade(written, sample, resized=resized, context=context or RewardContext())

    def _require_same_prompting(self, row: Mapping[str, Any], where: str) -> None:
        expected = {"box_space": str(self.box_space), "thinking": self.thinking}
        for name, value in expected.items():
            if row.get(name) != value:
                raise DataError(
                    f"{where}: its prompt was made with {name} {row.get(name)}, but it is graded with {value}; export "
                    f"the rows again, or grade with {name} {row.get(name)}"
                )


def plain_grader(
    *,
    box_space: BoxSpace | str,
    thinking: bool,
    think_opened: bool = False,
    preset: Preset = "robust",
    weights: Mapping[str, float] | None = None,
    iou_threshold: float = 0.5,
    resize: Mapping[str, int] | None = None,
) -> RowGrader:
    """Make a grader from plain values, as config files of verl and EasyR1 have them.

    ``preset``, ``weights`` and ``iou_threshold`` as the settings ``reward.*``; ``resize``: ``unit``, ``min_pixels`` and
    ``max_pixels`` of a ``QwenResize``. Raises as ``RowGrader`` does.
    """
    return RowGrader(
        box_space=box_space,
        thinking=thinking,
        think_opened=think_opened,
        rule=RewardRule(preset=preset, weights=weights or {}, iou_threshold=iou_threshold),
        resize=None if resize is None else QwenResize(**resize),
    )


def sample_of_row(row: Mapping[str, Any], *, where: str) -> Sample:
    """Return the sample of a row, without its images; checked as a line of ``samples.jsonl`` is.

    Keys whose value is None are ignored: in a table all rows have the same keys. Raises ``DataError`` for an invalid
    row.
    """
    if missing := [name for name in COLUMNS if row.get(name) is None]:
        raise DataError(f"{where}: {missing[0]} is missing; expected {', '.join(COLUMNS)}, as `virft export` writes")
    target, size = row["target"], row["image_size"]
    if not isinstance(target, Mapping):
        raise DataError(f"{where}: target is {target!r:.80}; expected {expected_targets()}")
    if not isinstance(size, Sequence) or len(size) != 2:
        raise DataError(f"{where}: image_size is {size!r:.80}; expected [width, height] in pixels")
    record = {
        "id": str(row.get("id") or "row"),
        "task": row["task"],
        "images": [{"path": "unknown", "width": size[0], "height": size[1]}],
        "query": str(row.get("query") or "unknown"),
        "target": _target_for_rewards(target),
    }
    return sample_from_record(record, where=where)


def _target_for_rewards(target: Mapping[str, Any]) -> dict[str, Any]:
    """Return a target without the keys that only metrics need."""
    formats = [task.target_format for task in TASKS.values()]
    names = [key for one in formats for key in (*sorted(one.required), *sorted(one.optional))]
    return {key: target[key] for key in names if target.get(key) is not None}


def ground_truth_of(row: Mapping[str, Any]) -> str:
    """Return the values of a row that grading needs as one JSON text, for trainers with a single ground-truth column.

    >>> ground_truth_of({"task": "classification", "target": {"label": "pug", "aliases": None},
    ...     "image_size": [4, 3], "box_space": "relative_1000", "thinking": False, "prompt": ".."})
    '{"task": "classification", "target": {"label": "pug"}, "image_size": [4, 3], "box_space": "relative_1000", \
"thinking": false}'
    """
    where = f"row {row['id']}" if row.get("id") is not None else "a row"
    sample_of_row(row, where=where)
    truth = {name: row[name] for name in ("id", "query", *COLUMNS) if row.get(name) is not None}
    truth["target"] = _target_for_rewards(row["target"])
    return json.dumps(truth | {"image_size": list(row["image_size"])})


def row_of_ground_truth(text: Any) -> dict[str, Any]:
    """Parse the text of ``ground_truth_of`` into a row; ``DataError`` for any other text."""
    try:
        row = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise DataError(
            f"ground_truth is {text!r:.80}; expected the text of virft.integrations.rows.ground_truth_of(row)"
        )
    return row
