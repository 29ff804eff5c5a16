"""Detection: every box of one named class, or "No Objects"."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from virft.geometry.boxes import CROWD_FRAC, covered_frac, intersection_over_union, reaches
from virft.metrics.calibration import calibration_metrics
from virft.metrics.detection import answer_metrics, detection_metrics, find_hits
from virft.metrics.measurement import Measurement, ratio
from virft.rewards.detection import (
    Matching,
    detection_rewards,
    iou_threshold_at,
    match_best,
    match_like_paper,
    pair_boxes,
    paper_detection_rewards,
)
from virft.rewards.options import RewardOptions
from virft.tasks.box_answers import (
    AREAS_SCHEMA,
    BOX_METRICS,
    BOX_SCHEMA,
    HUGE,
    OUTLINES_SCHEMA,
    WHOLE_IMAGE,
    RelativeBox,
    blind_boxes,
    box_to_record,
    count_boxes,
    describe_list,
    format_box,
    format_corners,
    grid,
    list_lines,
    mean_box,
    outlines_to_record,
    parse_areas,
    parse_outlines,
    shifted,
    shrink_box,
    size_counts,
    usable_outlines,
    use_full_width_digits,
    write_list,
)
from virft.tasks.task import (
    AT_MOST_1_FRAC,
    CORRECT,
    HALF_RIGHT,
    TRUNCATED_FRAC,
    UNREADABLE_FRAC,
    WELL_FORMED_FRAC,
    BlindAnswers,
    ClassAnnotation,
    Descriptions,
    MarkedBox,
    Metric,
    ParsedTarget,
    Probes,
    RolloutMetrics,
    TargetFormat,
    Task,
    TaskBoxes,
    TaskMasks,
    TaskReward,
    constant_probes,
)
from virft.text.answers import read_detection, render_detection
from virft.text.labels import names_another
from virft.text.prompts import PromptTexts
from virft.text.records import bool_of, list_of, parse_box
from virft.types import (
    Answer,
    Box,
    BoxPairs,
    Detection,
    Detections,
    ImageSize,
    InvalidElement,
    JoinedPrediction,
    Reading,
    RewardContext,
    Sample,
    Target,
)

if TYPE_CHECKING:
    # NumPy stays unloaded: the command line imports the tasks for their names.
    from virft.metrics.bootstrap import Statistic

# --- data ---

_BOXES = {"type": "array", "items": BOX_SCHEMA}


def _to_record(sample: Sample) -> dict[str, Any]:
    record: dict[str, Any] = {"boxes": [list(box.xyxy) for box in _boxes(_target_of(sample))]}
    if sample.outlines:
        record["outlines"] = outlines_to_record(sample.outlines)
    if sample.areas:
        record["areas"] = list(sample.areas)
    if crowd := _target_of(sample).crowd:
        record["crowd"] = [list(box.xyxy) for box in crowd]
    if not sample.exhaustive:
        record["exhaustive"] = False
    return record


def _from_record(record: dict[str, Any], size: ImageSize, where: str) -> ParsedTarget:
    boxes = list_of(record["boxes"], "target.boxes", where=where)
    items = [parse_box(item, size, where=where) for item in boxes]
    target = _detections(items)
    # Most records have no optional keys, and scoring reads datasets of 400,000 samples.
    if len(record) == 1:
        return ParsedTarget(target)
    crowd = list_of(record.get("crowd", []), "crowd", where=where)
    return ParsedTarget(
        replace(target, crowd=tuple(parse_box(box, size, where=where) for box in crowd)),
        {
            "outlines": parse_outlines(record, items, size, where=where),
            "areas": parse_areas(record, len(boxes), where=where),
            "exhaustive": bool_of(record.get("exhaustive", True), "target.exhaustive", where=where),
        },
    )


def _from_annotation(found: ClassAnnotation) -> ParsedTarget:
    fields = {
        "outlines": usable_outlines(found.boxes, found.outlines),
        "areas": found.areas,
        "exhaustive": found.is_exhaustive,
    }
    return ParsedTarget(replace(_detections(found.boxes), crowd=found.crowd), fields)


def _detections(boxes: Sequence[Box], *, confidence: float = 1.0) -> Detections:
    return Detections(items=tuple(Detection(box=box, confidence=confidence) for box in boxes))


def _boxes(found: Detections) -> tuple[Box, ...]:
    return tuple(item.box for item in found.items)


def _target_of(sample: Sample) -> Detections:
    assert isinstance(sample.target, Detections)
    return sample.target


def _count(target: Detections) -> dict[str, int]:
    return {**size_counts(_boxes(target)), "absent": int(not target.items)}


def _move(target: Detections, move: Callable[[Box], Box]) -> Detections:
    items = tuple(replace(item, box=move(item.box)) for item in target.items)
    return replace(target, items=items, crowd=tuple(map(move, target.crowd)))


def _fault(answer: Detections) -> str | None:
    return answer.invalid[0].reason if answer.invalid else None


# --- rewards ---


def _robust(reading: Reading, target: Detections, context: RewardContext, options: RewardOptions) -> dict[str, float]:
    return detection_rewards(
        _checked(reading, context, options),
        target,
        context,
        iou_threshold=options.iou_threshold,
        iou_threshold_end=options.iou_threshold_end,
        iou_weight=options.weight("iou"),
        confidence_weight=options.weight("confidence"),
    )


def _paper(reading: Reading, target: Detections, context: RewardContext, options: RewardOptions) -> dict[str, float]:
    return paper_detection_rewards(
        _checked(reading, context, options),
        target,
        context,
        iou_threshold=options.iou_threshold,
        iou_threshold_end=options.iou_threshold_end,
    )


def _checked(reading: Reading, context: RewardContext, options: RewardOptions) -> Reading:
    """The reading, with ``check_labels`` without the boxes whose label names another class: they are invalid."""
    if not options.check_labels or not isinstance(reading.answer, Detections):
        return reading
    return replace(reading, answer=_without_other_labels(reading.answer, context.query))


def _without_other_labels(answer: Detections, query: str | None) -> Detections:
    others = [item for item in answer.items if _names_another(item, query)]
    if not others:
        return answer
    invalid = [
        InvalidElement(reason=_other_label(item, query), piece=format_box(item.box), span=item.span) for item in others
    ]
    items = tuple(item for item in answer.items if not _names_another(item, query))
    return replace(answer, items=items, invalid=(*answer.invalid, *invalid))


def _names_another(item: Detection, query: str | None) -> bool:
    return item.label is not None and query is not None and names_another(item.label, query)


def _other_label(item: Detection, query: str | None) -> str:
    return f"label {item.label!r:.40} names another class than {query!r:.40}"


def _match(answer: Detections, target: Detections, context: RewardContext, options: RewardOptions) -> Matching:
    """The matching that the reward is computed from."""
    threshold = iou_threshold_at(options.iou_threshold, options.iou_threshold_end, context)
    if options.preset == "paper":
        return match_like_paper(answer, target, iou_threshold=threshold)
    return match_best(
        answer,
        target,
        iou_threshold=threshold,
        iou_weight=options.weight("iou"),
        confidence_weight=options.weight("confidence"),
    )


def _pair_boxes(reading: Reading, target: Detections, context: RewardContext, options: RewardOptions) -> BoxPairs:
    answer = _checked(reading, context, options).answer
    # The published reward of an answer with an invalid element is 0.
    if not isinstance(answer, Detections) or (options.preset == "paper" and answer.invalid):
        return BoxPairs((), num=len(target.items))
    return pair_boxes(_match(answer, target, context, options), answer, num_targets=len(target.items))


def _explain(answer: Detections, target: Detections, context: RewardContext, options: RewardOptions) -> list[str]:
    """Each predicted box with its match, then invalid elements and targets that were not found."""
    threshold = iou_threshold_at(options.iou_threshold, options.iou_threshold_end, context)
    if options.check_labels:
        answer = _without_other_labels(answer, context.query)
    matching = _match(answer, target, context, options)
    least = "above" if options.preset == "paper" else "from"
    lines = [f"{answer.num_predicted} predicted, {len(target.items)} to find, hit {least} IoU {threshold:.3g}"]
    for index, item in enumerate(answer.items):
        line = f"{index + 1:>3}  {format_box(item.box):<32}  confidence {item.confidence:<5.3g}"
        found = matching.targets[index]
        if index in matching.dropped:
            is_in_crowd = reaches(covered_frac(item.box.xyxy, [one.xyxy for one in target.crowd]), CROWD_FRAC)
            reason = "in a crowd region, neither right nor wrong" if is_in_crowd else "an exact duplicate, dropped"
            lines.append(f"{line}  {reason}")
        elif found is not None:
            lines.append(f"{line}  target {found + 1}, IoU {matching.ious[index]:.3f}, hit")
        else:
            near = max((intersection_over_union(item.box.xyxy, other.box.xyxy) for other in target.items), default=0.0)
            reason = "its target is taken" if reaches(near, threshold) else "no target"
            lines.append(f"{line}  {reason}, best IoU {near:.3f}, miss")
        if _names_another(item, context.query):
            lines.append(f"     {_other_label(item, context.query)}; reward.check_labels is off, so it costs nothing")
    lines += [f"invalid: {element.reason}: {element.piece!r}" for element in answer.invalid]
    taken = set(matching.targets)
    lines += [
        f"target {index + 1} {format_box(item.box)} not found"
        for index, item in enumerate(target.items)
        if index not in taken
    ]
    if not answer.num_predicted:
        lines.append("the answer says: no objects")
    if answer.num_clipped:
        lines.append(f"{answer.num_clipped} clipped to the image")
    return lines


# --- metrics ---


def measure_detection(pairs: Sequence[tuple[Reading, Detections]]) -> Measurement:
    """Return precision, recall and F1 at IoU 0.5, habits that they hide, and the calibration of confidences."""
    found, calibrated = detection_metrics(pairs), calibration_metrics(pairs)
    return Measurement(
        values={**found.values, **calibrated.values},
        counts={**found.counts, **calibrated.counts},
    )


def score_detections(answer: Detections, target: Detections) -> float:
    """Return F1 at IoU 0.5; 1 for "No Objects" if there are none.

    >>> score_detections(Detections(), Detections())
    1.0
    """
    found = find_hits(answer, target)
    num_boxes = answer.num_predicted - found.num_ignored + len(target.items)
    return 2 * sum(found.hits) / num_boxes if num_boxes else 1.0


def _ratios(measured: Measurement) -> dict[str, tuple[float, float]]:
    hits, boxes, targets = (measured.counts[name] for name in ("num_hits", "num_boxes", "num_targets"))
    return {"precision": (hits, boxes), "recall": (hits, targets), "f1": (2 * hits, boxes + targets)}


def _measure_dataset(joined: Sequence[JoinedPrediction], source: Mapping[str, Any]) -> Measurement:
    """Average precision (of an LVIS dataset, LVIS's), labels of other classes, and tables of AP and F1 by class."""
    from virft.metrics.box_questions import box_scores

    precise = box_scores(joined, frequency=source.get("frequency"))
    by_class: dict[str, list[tuple[Reading, Detections]]] = {}
    for one in joined:
        if one.sample.exhaustive:
            by_class.setdefault(one.sample.query, []).append((one.reading, _target_of(one.sample)))
    f1 = {label: detection_metrics(pairs).values["f1"] for label, pairs in sorted(by_class.items())}
    boxes = [(one.sample.query, item) for one in joined for item in _items(one.reading)]
    num_other = sum(item.label is not None and names_another(item.label, query) for query, item in boxes)
    return Measurement(
        values={**precise.values, "other_label_frac": ratio(num_other, len(boxes))},
        counts={"num_other_label": num_other},
        tables={"ap": precise.by_class, "f1": f1},
    )


def _items(reading: Reading) -> tuple[Detection, ...]:
    return reading.answer.items if isinstance(reading.answer, Detections) else ()


def _statistics(joined: Sequence[JoinedPrediction], images: Sequence[str]) -> list[Statistic]:
    """COCO's ``ap`` and ``ap50``, for LVIS datasets too: LVIS's limit of boxes per image has no effect here."""
    from virft.metrics.bootstrap import ap_statistic
    from virft.metrics.box_questions import box_questions, confidences

    return [ap_statistic(box_questions(joined, confidences), images=images)]


_METRICS = (
    Metric(
        name="f1",
        description="2 hits / (predicted boxes + targets), summed over all questions, at IoU 0.5",
        in_table=True,
        in_card=True,
        in_comparison=True,
    ),
    Metric(
        name="ap",
        description="COCO average precision (mAP), IoU 0.5 to 0.95, boxes ranked by their confidence; mean over orders "
        "of the images if confidences are equal",
        in_table=True,
        in_card=True,
        in_comparison=True,
    ),
    Metric(name="ap50", description="average precision at IoU 0.5", in_table=True, in_card=True),
    Metric(name="precision", description="hits / predicted boxes, at IoU 0.5", in_table=True),
    Metric(name="recall", description="hits / targets, at IoU 0.5", in_table=True),
    Metric(
        name="false_positive_rate",
        description="fraction of questions about an absent class with a predicted box",
        better=-1,
        in_table=True,
        in_card=True,
    ),
    Metric(
        name="calibration_error",
        description="expected calibration error: mean gap between confidence and fraction of hits",
        better=-1,
    ),
    UNREADABLE_FRAC,
    AT_MOST_1_FRAC,
    TRUNCATED_FRAC,
    Metric(
        name="duplicates_per_question", description="additional boxes on a target that already has a hit", better=-1
    ),
    WELL_FORMED_FRAC,
    Metric(
        name="other_label_frac",
        description="fraction of predicted boxes whose own label names another class than the question",
        better=-1,
    ),
    *BOX_METRICS,
)

# --- reports ---


def _describe_target(target: Detections) -> str:
    boxes = _boxes(target)
    return f"{count_boxes(len(boxes))}: {'; '.join(map(format_corners, boxes))}" if boxes else "no objects"


def _describe_answer(answer: Detections) -> str:
    boxes = [f"{format_corners(item.box)} (confidence {item.confidence:.2f})" for item in answer.items]
    return describe_list(count_boxes(len(boxes)), boxes, answer.invalid)


def _count_answer(answer: Detections) -> str:
    if not answer.items and not answer.invalid:
        return "no objects"
    boxes = [count_boxes(len(answer.items))] if answer.items else []
    return ", ".join([*boxes, *([f"{len(answer.invalid)} invalid"] if answer.invalid else [])])


def _lines(answer: Detections, size: ImageSize) -> list[str]:
    boxes = [f"{format_box(item.box)}  confidence {item.confidence:.2f}" for item in answer.items]
    return list_lines(count_boxes(len(boxes)), boxes, answer.invalid, size)


def _answer_to_record(answer: Detections) -> dict[str, Any]:
    return {
        "boxes": [box_to_record(item.box) | {"confidence": item.confidence} for item in answer.items],
        "invalid": [{"reason": one.reason, "piece": one.piece} for one in answer.invalid],
    }


def _mark(answer: Detections, target: Detections | None) -> tuple[MarkedBox, ...]:
    found = find_hits(answer, Detections() if target is None else target)
    return tuple(
        MarkedBox(item.box, item.confidence, f"{item.confidence:.2f}", hit, ignored)
        for item, hit, ignored in zip(answer.items, found.hits, found.ignored, strict=True)
    )


def _to_answer(found: Sequence[Detection]) -> Answer:
    return Detections(items=tuple(found))


# --- audit ---


def _probes(samples: Sequence[Sample]) -> Probes:
    """Constant boxes with several confidences, and texts that a lenient parser or reward could accept."""
    boxes = ((box, sample.target_size) for sample in samples for box in _boxes(_target_of(sample)))
    usual = mean_box(boxes) or WHOLE_IMAGE
    constant: dict[str, Sequence[RelativeBox]] = {
        "whole image": [WHOLE_IMAGE],
        "mean box of the data": [usual],
        "2 x 2 grid": grid(2),
        "4 x 4 grid": grid(4),
        "10 x 10 grid": grid(10),
        "one box 20 times": [usual] * 20,
        "one box shifted 10 times": shifted(usual, 10),
    }
    texts = {"always No Objects": "No Objects", "always []": "[]"}
    for name, found in constant.items():
        for confidence in (0.0, 0.5, 1.0):
            texts[f"{name}, confidence {confidence:g}"] = write_list(found, confidence)
    texts["mean box, no confidence"] = write_list([usual], None)
    for written in ("NaN", "1e999", "-5.5", "True"):
        texts[f"mean box, confidence {written}"] = write_list([usual], written)
    texts["huge numbers"] = write_list([HUGE], 1.0)
    texts["digits of another script"] = use_full_width_digits(write_list([usual], 1.0))
    texts["No Objects and a box"] = "No Objects " + write_list([usual], 1.0)
    texts["swapped corners"] = write_list([(1000, 1000, 0, 0)], 1.0)
    return constant_probes(write_list([usual], 0.5), texts)


_HIT_IOU = 0.5
"""The IoU from which the headline F1 counts a hit."""


def _blind_answers(samples: Sequence[Sample]) -> BlindAnswers:
    """One box for every question, or "No Objects"."""
    # Samples whose objects are not all labelled are not part of F1, which the best constant box maximises.
    boxes = blind_boxes(
        [sample for sample in samples if sample.exhaustive],
        boxes_of=lambda sample: _boxes(_target_of(sample)),
        answer=lambda box: _detections([box]),
        hit_iou=_HIT_IOU,
        by_query=True,
    )
    return {**boxes, "No Objects": lambda sample: Detections()}


def _oracle(samples: Sequence[Sample]) -> Iterator[Mapping[str, Target]]:
    """Half right: every other box of the dataset, at IoU 0.7 with confidence 0.7."""
    number = 0
    for sample in samples:
        boxes = _boxes(_target_of(sample))
        shrunk = [shrink_box(box, 0.7) for box in boxes]
        every_other = [box for i, box in enumerate(shrunk, number) if i % 2 == 0]
        number += len(boxes)
        yield {
            CORRECT: _detections(boxes),
            "boxes at IoU 0.7": _detections(shrunk, confidence=0.7),
            HALF_RIGHT: _detections(every_other, confidence=0.7),
        }


DETECTION = Task(
    name="detection",
    target_type=Detections,
    query_hint="a class name such as fox",
    prompts=PromptTexts(
        short="Detect {query}.",
        request="Find every object of the category '{query}' in this image and give a box for each.",
        schema=(
            "The answer is a list with one entry per object, "
            "[{'Position': [x1, y1, x2, y2], 'Confidence': number}, ...]: the left, top, right and bottom edge of "
            "the box as {coordinates}, and how "
            "sure you are of it, from 0 to 1 with two decimals. "
            "If there is no such object, the answer is No Objects."
        ),
    ),
    example="[{'Position': [100, 200, 300, 400], 'Confidence': 0.9}] or No Objects",
    read=read_detection,
    render=render_detection,
    fault_of=_fault,
    target_format=TargetFormat(
        required=frozenset({"boxes"}),
        optional=frozenset({"crowd"}),
        for_metrics=frozenset({"outlines", "areas", "exhaustive"}),
        properties={"boxes": _BOXES, "outlines": OUTLINES_SCHEMA, "areas": AREAS_SCHEMA, "crowd": _BOXES},
        to_record=_to_record,
        from_record=_from_record,
    ),
    class_of=lambda sample: sample.query,
    count_target=_count,
    absent=Detections(),
    from_annotation=_from_annotation,
    allows_crop=True,
    allows_flip=True,
    rewards={
        "robust": TaskReward(
            bounds={"iou": (0.0, 1.0), "confidence": (-1.0, 1.0)},
            compute=_robust,
            uses_threshold=True,
            secondary=("confidence",),
        ),
        "paper": TaskReward(
            bounds={"iou": (0.0, 1.0), "confidence": (0.0, 1.0)},
            compute=_paper,
            uses_threshold=True,
            secondary=("confidence",),
        ),
    },
    explain=_explain,
    metrics=_METRICS,
    measure_pairs=measure_detection,
    score_answer=score_detections,
    score_description="F1 of the question",
    ratios=_ratios,
    measure_dataset=_measure_dataset,
    statistics=_statistics,
    class_tables=("ap",),
    masks=TaskMasks(pair_boxes=_pair_boxes, by_class=lambda joined: joined),
    rollout_metrics=RolloutMetrics(
        compute=answer_metrics,
        descriptions={
            "boxes_per_answer": "mean number of boxes in a detection answer",
            "duplicate_frac": "fraction of boxes that overlap another box of the same answer (IoU above 0.7)",
        },
    ),
    describe_targets=Descriptions(
        full=_describe_target,
        short=lambda target: count_boxes(len(target.items)) if target.items else "no objects",
        caption=lambda target: count_boxes(len(target.items)) if target.items else "absent",
    ),
    describe_answers=Descriptions(
        full=_describe_answer,
        short=_count_answer,
        caption=lambda answer: "" if answer.items else "invalid boxes" if answer.invalid else "no objects",
    ),
    answer_lines=_lines,
    answer_to_record=_answer_to_record,
    boxes=TaskBoxes(of_target=_boxes, of_answer=_mark, to_answer=_to_answer, move=_move),
    probes=_probes,
    blind_answers=_blind_answers,
    oracle=_oracle,
)
