"""Grounding: the one box that a referring expression means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from virft.geometry.boxes import intersection_over_union, reaches
from virft.metrics.grounding import grounding_metrics
from virft.rewards.grounding import giou_reward, paper_giou_reward
from virft.rewards.options import RewardOptions
from virft.tasks.box_answers import (
    BOX_SCHEMA,
    HUGE,
    POLYGONS_SCHEMA,
    WHOLE_IMAGE,
    blind_boxes,
    box_to_record,
    format_box,
    format_corners,
    grid,
    mean_box,
    shrink_box,
    size_counts,
    use_full_width_digits,
    write_pair,
)
from virft.tasks.task import (
    AT_MOST_1_FRAC,
    CORRECT,
    HALF_RIGHT,
    TRUNCATED_FRAC,
    UNREADABLE_FRAC,
    WELL_FORMED_FRAC,
    BlindAnswers,
    Descriptions,
    MarkedBox,
    Metric,
    ParsedTarget,
    Probes,
    TargetFormat,
    Task,
    TaskBoxes,
    TaskMasks,
    TaskReward,
    constant_probes,
    mean_ratios,
)
from virft.text.answers import read_grounding, render_grounding
from virft.text.prompts import PromptTexts
from virft.text.records import parse_box, parse_polygons, rle_of
from virft.types import (
    Answer,
    Box,
    BoxPair,
    BoxPairs,
    Detection,
    ImageSize,
    Reading,
    RewardContext,
    Sample,
    Target,
    Unreadable,
)

HIT_IOU = 0.5
"""A box is drawn as a hit from this IoU with its target."""

_SIDE = {"type": "integer", "minimum": 1}
_COUNTS = [{"type": "string"}, {"type": "array", "items": {"type": "integer", "minimum": 0}}]
_RLE = {
    "type": "object",
    "description": "COCO's run lengths of the upright image; size is [height, width]",
    "properties": {
        "size": {"type": "array", "items": _SIDE, "minItems": 2, "maxItems": 2},
        "counts": {"anyOf": _COUNTS},
    },
    "required": ["size", "counts"],
    "additionalProperties": False,
}


def _to_record(sample: Sample) -> dict[str, Any]:
    record: dict[str, Any] = {"box": list(_box_of(sample).xyxy)}
    if sample.polygons:
        record["polygons"] = [list(polygon) for polygon in sample.polygons]
    if sample.rle is not None:
        record["rle"] = {"size": list(sample.target_size[::-1]), "counts": sample.rle}
    if sample.ignored:
        record["ignored"] = [list(polygon) for polygon in sample.ignored]
    return record


def _from_record(record: dict[str, Any], size: ImageSize, where: str) -> ParsedTarget:
    target = parse_box(record["box"], size, where=where)
    if len(record) == 1:
        return ParsedTarget(target)
    rle = record.get("rle")
    return ParsedTarget(
        target,
        {
            "polygons": parse_polygons(record.get("polygons", []), size, where=where),
            "ignored": parse_polygons(record.get("ignored", []), size, where=where),
            "rle": None if rle is None else rle_of(rle, size, where=where),
        },
    )


def _box_of(sample: Sample) -> Box:
    assert isinstance(sample.target, Box)
    return sample.target


def _robust(reading: Reading, target: Box, context: RewardContext, options: RewardOptions) -> dict[str, float]:
    return {"giou": giou_reward(reading, target, context)}


def _paper(reading: Reading, target: Box, context: RewardContext, options: RewardOptions) -> dict[str, float]:
    return {"giou": paper_giou_reward(reading, target, context)}


def _iou(answer: Box, target: Box) -> float:
    return intersection_over_union(answer.xyxy, target.xyxy)


def _pair_boxes(reading: Reading, target: Box, context: RewardContext, options: RewardOptions) -> BoxPairs:
    if not isinstance(reading.answer, Box):
        return BoxPairs((), num=1)
    return BoxPairs((BoxPair(reading.answer, 0, _iou(reading.answer, target)),), num=1)


def _explain(answer: Box, target: Box, context: RewardContext, options: RewardOptions) -> list[str]:
    return [f"box {format_box(answer)}, target {format_box(target)}, IoU {_iou(answer, target):.3f}"]


def _mark(answer: Box, target: Box | None) -> tuple[MarkedBox, ...]:
    return (MarkedBox(answer, is_hit=target is not None and reaches(_iou(answer, target), HIT_IOU)),)


def _to_answer(found: Sequence[Detection]) -> Answer:
    return found[0].box if found else Unreadable(reason="no box")


def _move(target: Box, move: Callable[[Box], Box]) -> Box:
    return move(target)


def _lines(answer: Box, size: ImageSize) -> list[str]:
    return [f"answer: 1 box, in pixels of {size.width} x {size.height}", f"  {format_box(answer)}"]


def _full(box: Box) -> str:
    return f"1 box: {format_corners(box)}"


def _probes(samples: Sequence[Sample]) -> Probes:
    """The mean box of the dataset, other constant boxes, and texts that a lenient parser could accept."""
    usual = mean_box((_box_of(sample), sample.target_size) for sample in samples) or WHOLE_IMAGE
    constant = {
        "whole image": write_pair(WHOLE_IMAGE),
        "mean box of the data": write_pair(usual),
        "middle of the image": write_pair((250, 250, 750, 750)),
        "several boxes": ", ".join(write_pair(box) for box in (usual, WHOLE_IMAGE)),
        "4 x 4 grid": str([[*box] for box in grid(4)]),
        "a point": "(500,500)",
        "huge numbers": write_pair(HUGE),
        "digits of another script": use_full_width_digits(write_pair(usual)),
        "swapped corners": write_pair((1000, 1000, 0, 0)),
    }
    return constant_probes(write_pair(usual), constant)


def _blind_answers(samples: Sequence[Sample]) -> BlindAnswers:
    return blind_boxes(samples, boxes_of=lambda sample: (_box_of(sample),), answer=lambda box: box, hit_iou=None)


def _oracle(samples: Sequence[Sample]) -> Iterator[Mapping[str, Target]]:
    for sample in samples:
        target = _box_of(sample)
        yield {CORRECT: target, "box at IoU 0.7": shrink_box(target, 0.7), HALF_RIGHT: shrink_box(target, 0.5)}


GROUNDING = Task(
    name="grounding",
    target_type=Box,
    query_hint="an expression",
    prompts=PromptTexts(
        short="Locate {query}.",
        request="Find the one region of this image that fits the description: {query}",
        schema="The answer is one box, (x1,y1),(x2,y2): its top left and bottom right corner as {coordinates}.",
    ),
    example="(100,200),(300,400)",
    read=read_grounding,
    render=render_grounding,
    target_format=TargetFormat(
        required=frozenset({"box"}),
        for_metrics=frozenset({"polygons", "rle", "ignored"}),
        properties={"box": BOX_SCHEMA, "polygons": POLYGONS_SCHEMA, "rle": _RLE, "ignored": POLYGONS_SCHEMA},
        to_record=_to_record,
        from_record=_from_record,
    ),
    count_target=lambda target: size_counts([target]),
    rewards={
        "robust": TaskReward(bounds={"giou": (0.0, 1.0)}, compute=_robust),
        "paper": TaskReward(bounds={"giou": (0.0, 2.0)}, compute=_paper),
    },
    explain=_explain,
    metrics=(
        Metric(
            name="box_miou",
            description="mean IoU of predicted and target box; an unreadable answer counts 0",
            in_table=True,
            in_card=True,
            in_comparison=True,
        ),
        Metric(
            name="accuracy_at_50",
            description="fraction of questions whose predicted box has an IoU of at least 0.5",
            in_table=True,
            in_card=True,
        ),
        Metric(
            name="accuracy_at_75",
            description="fraction of questions whose predicted box has an IoU of at least 0.75",
            in_table=True,
        ),
        Metric(
            name="accuracy_at_90", description="fraction of questions whose predicted box has an IoU of at least 0.9"
        ),
        UNREADABLE_FRAC,
        AT_MOST_1_FRAC,
        TRUNCATED_FRAC,
        WELL_FORMED_FRAC,
    ),
    measure_pairs=grounding_metrics,
    score_answer=_iou,
    score_description="IoU",
    ratios=mean_ratios("box_miou", "accuracy_at_50"),
    masks=TaskMasks(pair_boxes=_pair_boxes),
    describe_targets=Descriptions(full=_full, short=lambda target: "1 box", caption=lambda target: "1 box"),
    describe_answers=Descriptions(full=_full, short=lambda answer: "1 box", caption=lambda answer: ""),
    answer_lines=_lines,
    answer_to_record=lambda answer: {"boxes": [box_to_record(answer)]},
    boxes=TaskBoxes(of_target=lambda target: (target,), of_answer=_mark, to_answer=_to_answer, move=_move),
    probes=_probes,
    blind_answers=_blind_answers,
    oracle=_oracle,
)
