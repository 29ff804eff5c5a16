"""Rows of `virft export --format trl` graded as virft's own trainer grades: what all other trainers are given.

A row says how its question was asked (``box_space``, ``thinking``), and whoever grades must say it too: where the two
differ, boxes would be read wrongly without a word, so that is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from virft.data.samples import expected_targets, sample_from_record
from virft.errors import ConfigError, DataError
from virft.geometry.boxes import BoxSpace
from virft.integrations.resizing import Resize
from virft.tasks import TASKS
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule
from virft.types import RewardContext, RewardReport, Sample

COLUMNS = ("task", "target", "image_size", "box_space", "thinking")
"""What a row must have to be graded. ``image_size``: of the image that the target is about, before any resizing."""

DEFAULT_RULE = RewardRule()


class RowGrader:
    """Completions about rows to rewards.

    ``box_space``: what the numbers in a model's text mean, of which there is no safe default. ``thinking``: whether
    a think block was asked for. ``think_opened``: whether the chat template has written the open think tag already, so
    that completions begin inside of the thought (Qwen3-VL-Thinking). ``resize``: from a picture's size to the size that
    the model saw; pixels of the resized image cannot be read without it, and all else has no use for it.

    >>> RowGrader(box_space="resized_pixels", thinking=False)
    Traceback (most recent call last):
    virft.errors.ConfigError: box_space resized_pixels needs resize, from a picture's size to the size that the model \
saw, such as QwenResize.of(processor.image_processor)
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
        if box_space not in tuple(BoxSpace):
            raise ConfigError(f"box_space: {box_space!r} is not known; expected one of {', '.join(BoxSpace)}")
        if not isinstance(thinking, bool):
            raise ConfigError(f"thinking is {thinking!r}; expected True or False")
        if think_opened and not thinking:
            raise ConfigError("think_opened has no effect: thinking is False; a template that opens a thought needs it")
        space = BoxSpace(box_space)
        if space is BoxSpace.RESIZED_PIXELS and resize is None:
            raise ConfigError(
                f"box_space {space} needs resize, from a picture's size to the size that the model saw, such as "
                "QwenResize.of(processor.image_processor)"
            )
        if space is not BoxSpace.RESIZED_PIXELS and resize is not None:
            raise ConfigError(f"resize has no effect: box_space is {space}; take it out")
        if rule.overlong_tokens:
            raise ConfigError("overlong_tokens has no effect: other trainers do not tell how long a completion is")
        self._grader = Grader(rule=rule, thinking=thinking, box_space=space)
        self._resize = resize
        self._opened = "<think>\n" if think_opened else ""

    @property
    def rule(self) -> RewardRule:
        """What a completion is paid for."""
        return self._grader.rule

    def grade(
        self, text: str, row: Mapping[str, Any], *, context: RewardContext | None = None, picture: Any = None
    ) -> RewardReport:
        """The reward of one completion about a row.

        ``picture``: the image that the target is about, where the caller has it; one of another size is refused.
        ``context``: where the run stands; a threshold that rises needs it. ``DataError`` for a row that cannot be
        graded, or was asked otherwise.
        """
        if context is None and self.rule.iou_threshold_end is not None:
            raise ConfigError("iou_threshold_end has no effect: this trainer does not tell how far the run has come")
        where = f"row {row['id']}" if row.get("id") is not None else "a row"
        self._require_asked_alike(row, where)
        sample = sample_of_row(row, where=where)
        size = sample.target_size
        seen = getattr(picture, "size", size)
        if tuple(seen) != tuple(size):
            raise DataError(
                f"{where}: its picture has {seen[0]} x {seen[1]} pixels; expected {size.width} x {size.height}, which "
                "its boxes were drawn on (the trainer resizes by itself)"
            )
        resized = size if self._resize is None else self._resize(size)
        return self._grader.grade(self._opened + text, sample, resized=resized, context=context or RewardContext())

    def _require_asked_alike(self, row: Mapping[str, Any], where: str) -> None:
        wanted = {"box_space": str(self._grader.box_space), "thinking": self._grader.thinking}
        for name, value in wanted.items():
            if row.get(name) != value:
                raise DataError(
                    f"{where}: was asked with {name} {row.get(name)}, but is graded with {value}; export the rows "
                    "again, or grade as they were asked"
                )


def sample_of_row(row: Mapping[str, Any], *, where: str) -> Sample:
    """The sample that a row is about, without its pictures; checked as a line of ``samples.jsonl`` is.

    Keys whose value is None are left out: in a table all rows have the same keys.
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
        "target": _target_for_rewards(row["task"], target),
    }
    return sample_from_record(record, where=where)


def _target_for_rewards(task: Any, target: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a target that its task's rewards need; the others are for metrics."""
    keys = TASKS[task].target_format if task in TASKS else None
    if keys is None:
        return dict(target)  # refused with the whole row
    names = (*sorted(keys.required), *sorted(keys.optional))
    return {key: target[key] for key in names if target.get(key) is not None}


def ground_truth_of(row: Mapping[str, Any]) -> str:
    """All that grading needs of a row as one JSON text, for trainers that keep what is right in one column.

    >>> ground_truth_of({"task": "classification", "target": {"label": "pug", "aliases": None},
    ...     "image_size": [4, 3], "box_space": "relative_1000", "thinking": False, "prompt": ".."})
    '{"task": "classification", "target": {"label": "pug"}, "image_size": [4, 3], "box_space": "relative_1000", \
"thinking": false}'
    """
    where = f"row {row['id']}" if row.get("id") is not None else "a row"
    sample_of_row(row, where=where)
    kept = {name: row[name] for name in ("id", "query", *COLUMNS) if row.get(name) is not None}
    kept["target"] = _target_for_rewards(row["task"], row["target"])
    return json.dumps(kept | {"image_size": list(row["image_size"])})


def row_of_ground_truth(text: Any) -> dict[str, Any]:
    """The row that ``ground_truth_of`` made the text of; ``DataError`` for any other text."""
    try:
        row = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise DataError(
            f"ground_truth is {text!r:.80}; expected the text of virft.integrations.rows.ground_truth_of(row)"
        )
    return row
