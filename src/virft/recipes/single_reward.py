"""The reward of one completion, part by part, as training would give it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from virft.data.images import load_image
from virft.data.samples import sample_from_record
from virft.data.segmented import compare_masks
from virft.errors import ConfigError, DataError
from virft.geometry.boxes import BoxSpace
from virft.report.render.page import html_table
from virft.rewards.extra import ExtraReward
from virft.rewards.options import Preset
from virft.tasks import TASKS
from virft.tasks.explain import explain_reward
from virft.tasks.grader import Grader, SegmentBoxes
from virft.tasks.reward import RewardRule
from virft.tasks.task import Task
from virft.types import Box, Detection, ImageSize, Points, RewardContext, RewardReport, Sample, Target

if TYPE_CHECKING:
    from virft.evaluation.masks import Segmenter

_WHERE = "reward()"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ExplainedReward(RewardReport):
    """The reward of one completion. In a notebook it shows a table of its parts, and how boxes were matched.

    ``weights``: the weight of each part. ``explanation``: the text of ``virft explain``.
    """

    weights: Mapping[str, float]
    explanation: str

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {value:.3f}" for name, value in self.parts.items())
        return f"<Reward {self.total:.3f}: {parts}>"

    def __str__(self) -> str:
        return self.explanation

    def _repr_html_(self) -> str:
        rows = [
            (name, f"{value:.3f}", f"{self.weights[name]:g}", f"{self.weights[name] * value:.3f}")
            for name, value in self.parts.items()
        ]
        table = html_table(["part", "value", "weight", "reward"], [*rows, ("total", "", "", f"{self.total:.3f}")])
        # the first lines of the explanation are the same table as text
        matching = "\n".join(self.explanation.splitlines()[len(self.parts) + 3 :])
        return str(table + Markup("<pre>{}</pre>").format(matching))


def reward(
    text: str,
    target: Any,
    task: str = "detection",
    *,
    image_size: Sequence[int] = (1000, 1000),
    resized: Sequence[int] | None = None,
    box_space: str = "relative_1000",
    thinking: bool = False,
    preset: Preset = "robust",
    weights: Mapping[str, float] | None = None,
    iou_threshold: float | None = None,
    query: str | None = None,
    check_labels: bool = False,
    extra: Iterable[ExtraReward] = (),
    image: Path | str | None = None,
    segmenter: Segmenter | str | None = None,
) -> ExplainedReward:
    """Return the reward that training would give a completion, part by part.

    ``target``, the ground truth, is one of: a noun (``Detections``, ``Label``, ``Box``) or a list of boxes
    [x1, y1, x2, y2], in pixels of the original image (for detection and pointing; an empty list means no objects); one
    such box (grounding); a number (counting); a list of accepted texts (short answers); a text, written like an answer
    (for pointing: like boxes), such as a class name or "[[12, 10, 90, 95]]", in the unit of ``text``; the keys of a
    target in ``samples.jsonl``, for a task without boxes also as JSON text.

    ``image_size``: (width, height) of the original image; its default is for targets with coordinates from 0 to 1000.
    ``resized``: the size that the model saw, for ``box_space`` "resized_pixels". ``preset``, ``weights``,
    ``iou_threshold`` (default: 0.5), ``check_labels``: as the settings ``reward.*``. ``query``: class name that labels
    in boxes are compared with. ``extra``: reward functions of your own. ``image``: the image file, whose size replaces
    ``image_size``. ``segmenter``: a folder as ``reward.segmenter``, or a function from an image and boxes to a mask for
    each box; it needs ``image`` and a target with masks, such as {"box": [..], "polygons": [[..]]}, or of detection
    {"boxes": [[..], ..], "outlines": [[[..]], ..]}.

    Raises ``ConfigError`` for unknown names, impossible settings and a target text that cannot be parsed, and
    ``DataError`` for another invalid target.

    >>> print(reward("<answer>[[100, 100, 500, 500]]</answer>", [[100, 100, 500, 400]]))
    detection, robust
    part            value   weight    total
    iou             0.750    1.000    0.750
    confidence      1.000    1.000    1.000
    format          1.000    1.000    1.000
    total                             2.750
    1 predicted, 1 to find, hit from IoU 0.5
      1  [100.0, 100.0, 500.0, 500.0]      confidence 1      target 1, IoU 0.750, hit
    """
    _check_options(task, box_space, preset, iou_threshold=iou_threshold, needs_query=check_labels and query is None)
    rule = RewardRule(
        preset=preset,
        weights=weights or {},
        iou_threshold=0.5 if iou_threshold is None else iou_threshold,
        check_labels=check_labels,
        uses_masks=segmenter is not None,
        extra=tuple(extra),
    )
    row, space = TASKS[task], BoxSpace(box_space)
    size = ImageSize(*image_size) if image is None else image_size_of(image)
    seen = size if resized is None else ImageSize(*resized)
    if isinstance(target, str):
        target = read_target(target, task, space=space, image_size=size, resized=seen)
    sample = _sample(target, row, size)
    if query is not None:
        sample = replace(sample, query=query)
    grader = Grader(rule=rule, thinking=thinking, box_space=space, segment=_segment(segmenter, image, sample, row))
    reading = grader.read(text, sample, resized=seen)
    (segmented,) = grader.segment_answers(sample, [reading], [RewardContext()])
    context = RewardContext(segmented=segmented)
    report = grader.reward(reading, sample, context)
    return ExplainedReward(
        total=report.total,
        parts=report.parts,
        reading=report.reading,
        weights={name: rule.weight(name) for name in report.parts},
        explanation=explain_reward(rule, sample.task, reading, sample.target, replace(context, query=query)),
    )


def _check_options(
    task: str, box_space: str, preset: Preset, *, iou_threshold: float | None, needs_query: bool
) -> None:
    """Raise ``ConfigError`` for unknown names, and for options that contradict each other or have no effect."""
    if task not in TASKS:
        raise ConfigError(f"task is {task!r}; expected one of {', '.join(TASKS)}")
    if box_space not in tuple(BoxSpace):
        raise ConfigError(f"box_space is {box_space!r}; expected one of {', '.join(BoxSpace)}")
    if needs_query:
        raise ConfigError("check_labels needs query: the class name that labels in boxes are compared with")
    if iou_threshold is not None and preset in TASKS[task].rewards and not TASKS[task].rewards[preset].uses_threshold:
        raise ConfigError(f"iou_threshold has no effect: the reward of {task} does not depend on it; remove it")


def image_size_of(image: Path | str) -> ImageSize:
    """Return the size of an upright image file in pixels; raises ``DataError`` if it cannot be read."""
    return ImageSize(*load_image(image).size)


def _segment(
    segmenter: Segmenter | str | None, image: Path | str | None, sample: Sample, row: Task
) -> SegmentBoxes | None:
    """A function from predicted boxes to their masks; ``ConfigError`` if there is no mask to compare them with."""
    if segmenter is None:
        return None
    if image is None:
        raise ConfigError("segmenter needs image: the file that it segments")
    if row.masks is None or not sample.has_mask:
        raise ConfigError(
            "segmenter needs a target whose objects have masks: of grounding, with polygons or rle, or of detection of "
            "one class or several, with outlines of each object"
        )
    picked = load_image(image)
    if isinstance(segmenter, str):
        # PyTorch stays unloaded without a segmenter.
        from virft.recipes.setup import make_segmenter

        segmenter = make_segmenter(segmenter)
    make_masks = segmenter
    return lambda sample, pairs: compare_masks(sample, pairs, make_masks(picked, [pair.box for pair in pairs]))


def read_target(
    text: str, task: str, *, space: BoxSpace, image_size: ImageSize, resized: ImageSize, where: str = "target"
) -> Target:
    """Parse a target that is written like an answer, or, of a task without boxes, as the JSON object of a target.

    A target with masks is such a JSON object, too, and returned as it is. ``where`` names the text in
    messages. Raises ``ConfigError`` for a text that cannot be parsed, ``DataError`` for an object that is no target.
    """
    row = TASKS[task]
    record = _json_object(text)
    if record is not None and row.boxes is None:
        return row.parse_target(record, image_size, where=where).target
    if record is not None and row.masks is not None and {"polygons", "rle", "outlines"} & record.keys():
        row.parse_target(record, image_size, where=where)
        return record
    reading = row.read_target_text(f"<answer>{text}</answer>", space=space, original=image_size, resized=resized)
    if fault := row.target_fault(reading.answer):
        raise ConfigError(
            f"{where} {text!r:.60}: {fault}; expected an answer of {task}, such as {row.target_example or row.example}"
        )
    return row.to_target(reading.answer)


def _json_object(text: str) -> dict[str, Any] | None:
    """Return a JSON object that is written as a text; None for any other text."""
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _sample(target: Any, task: Task, size: ImageSize) -> Sample:
    """A sample without an image file, checked as a line of ``samples.jsonl`` is."""
    if isinstance(target, task.target_type):
        noun: Any = target
        if isinstance(noun, Points) and noun.items and not noun.objects:
            raise DataError(f"{_WHERE}: target has {len(noun.items)} points and no objects; expected a box for each")
        return Sample(id=_WHERE, task=task.name, images=("",), image_sizes=(size,), query="?", target=noun)
    record = {
        "id": _WHERE,
        "task": task.name,
        "images": [{"path": "image", "width": size.width, "height": size.height}],
        "query": "?",
        "target": _target_record(target, task),
    }
    return sample_from_record(record, where=_WHERE)


def _target_record(target: Any, task: Task) -> Any:
    """The JSON of a target; a plain value becomes the value of the only key that the task's targets must have."""
    required = task.target_format.required
    return {next(iter(required)): _plain(target)} if len(required) == 1 and not isinstance(target, Mapping) else target


def _plain(value: Any) -> Any:
    """Boxes as lists, at any depth; arrays become lists, too."""
    if isinstance(value, Box | Detection):
        return list((value.box if isinstance(value, Detection) else value).xyxy)
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
