"""Multiclass detection: every box of several named classes, each with its label, or "No Objects"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from virft.errors import DataError
from virft.geometry.boxes import XYXY, intersection_over_union, iou_matrix, reaches
from virft.metrics.detection import answer_metrics, find_hits
from virft.metrics.measurement import Measurement
from virft.metrics.multiclass_detection import label_accuracy, multiclass_metrics, split_predictions
from virft.rewards.detection import Matching, iou_threshold_at, match_best, match_like_paper, pair_boxes
from virft.rewards.multiclass_detection import match_by_class, multiclass_rewards, paper_multiclass_rewards
from virft.rewards.options import RewardOptions
from virft.tasks.box_answers import (
    AREAS_SCHEMA,
    BOX_METRICS,
    BOX_SCHEMA,
    HUGE,
    OUTLINES_SCHEMA,
    WHOLE_IMAGE,
    RelativeBox,
    box_in_pixels,
    box_to_record,
    count_boxes,
    describe_list,
    format_box,
    format_corners,
    grid,
    list_lines,
    outlines_to_record,
    parse_areas,
    parse_outlines,
    relative_box,
    shrink_box,
    size_counts,
    usable_outlines,
    use_full_width_digits,
)
from virft.tasks.task import (
    AT_MOST_1_FRAC,
    CORRECT,
    HALF_RIGHT,
    TRUNCATED_FRAC,
    UNREADABLE_FRAC,
    WELL_FORMED_FRAC,
    BlindAnswer,
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
)
from virft.text.answers import quote_label, read_labelled_boxes, render_labelled_boxes
from virft.text.labelled_boxes import split_by_class
from virft.text.labels import normalize_label, normalize_name
from virft.text.prompts import PromptTexts
from virft.text.records import check_keys, list_of, parse_box, text_of
from virft.types import (
    Answer,
    Box,
    BoxPairs,
    Detection,
    Detections,
    ImageSize,
    JoinedPrediction,
    LabelledDetections,
    Reading,
    RewardContext,
    Sample,
    Target,
)

if TYPE_CHECKING:
    # NumPy stays unloaded: the command line imports the tasks for their names.
    from virft.metrics.bootstrap import Statistic

# --- data ---

_LABEL_SCHEMA = {"type": "string", "minLength": 1}
_OBJECTS_SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"box": BOX_SCHEMA, "label": _LABEL_SCHEMA},
        "required": ["box", "label"],
        "additionalProperties": False,
    },
}
_CLASSES_SCHEMA = {"type": "array", "items": _LABEL_SCHEMA, "minItems": 1}


def join_classes(classes: Sequence[str]) -> str:
    """Return the query of a question about these classes.

    >>> join_classes(["cat", "traffic light"])
    'cat, traffic light'
    """
    return ", ".join(classes)


def _to_record(sample: Sample) -> dict[str, Any]:
    target = _target_of(sample)
    record: dict[str, Any] = {"classes": list(target.classes), "labelled_boxes": _objects_to_record(target.items)}
    if sample.outlines:
        record["outlines"] = outlines_to_record(sample.outlines)
    if sample.areas:
        record["areas"] = list(sample.areas)
    if target.crowd:
        record["crowd"] = _objects_to_record(target.crowd)
    if target.incomplete:
        record["incomplete"] = list(target.incomplete)
    return record


def _objects_to_record(items: Sequence[Detection]) -> list[dict[str, Any]]:
    return [{"box": list(item.box.xyxy), "label": item.label} for item in items]


def _from_record(record: dict[str, Any], size: ImageSize, where: str) -> ParsedTarget:
    classes = _parse_classes(record["classes"], where=where)
    objects = _parse_objects(record["labelled_boxes"], "target.labelled_boxes", classes, size, where=where)
    incomplete = list_of(record.get("incomplete", []), "target.incomplete", where=where)
    for name in incomplete:
        _require_listed(name, classes, "target.incomplete", where=where)
    target = LabelledDetections(
        items=objects,
        classes=classes,
        crowd=_parse_objects(record.get("crowd", []), "target.crowd", classes, size, where=where),
        incomplete=tuple(incomplete),
    )
    fields = {
        "outlines": parse_outlines(record, _boxes(target), size, where=where),
        "areas": parse_areas(record, len(objects), where=where),
    }
    return ParsedTarget(target, fields)


def _parse_classes(value: Any, *, where: str) -> tuple[str, ...]:
    classes = tuple(
        text_of(name, "a class name", where=where) for name in list_of(value, "target.classes", where=where)
    )
    if not classes:
        raise DataError(f"{where}: target.classes is empty; expected the class names of the question")
    known: dict[str, str] = {}
    for name in classes:
        if not is_label(name):
            raise DataError(
                f"{where}: class name {name!r:.60} cannot be a label; expected letters or digits on one line"
            )
        if (other := known.setdefault(normalize_name(name), name)) is not name:
            raise DataError(f"{where}: target.classes has {other!r:.60} and {name!r:.60}, which are the same label")
    return classes


def is_label(name: str) -> bool:
    r"""Return whether an answer can name this class: one line of text with letters or digits.

    >>> is_label("C#"), is_label("?"), is_label("a\nb")
    (True, False, False)
    """
    return bool(normalize_name(name)) and name.isprintable()


def _parse_objects(
    value: Any, name: str, classes: Sequence[str], size: ImageSize, *, where: str
) -> tuple[Detection, ...]:
    found = []
    for item in list_of(value, name, where=where):
        check_keys(item, {"box", "label"}, where=where, part=name)
        _require_listed(item["label"], classes, name, where=where)
        found.append(Detection(box=parse_box(item["box"], size, where=where), label=item["label"]))
    return tuple(found)


def _require_listed(label: Any, classes: Sequence[str], name: str, *, where: str) -> None:
    if label not in classes:
        raise DataError(f"{where}: {name} has the label {label!r:.60}; expected one of target.classes")


def _from_annotations(found: Mapping[str, ClassAnnotation]) -> ParsedTarget:
    items = tuple(Detection(box=box, label=label) for label, one in found.items() for box in one.boxes)
    # A class without areas of its own has those of its boxes.
    areas = tuple(area for one in found.values() for area in one.areas or [round(box.area, 3) for box in one.boxes])
    target = LabelledDetections(
        items=items,
        classes=tuple(found),
        crowd=tuple(Detection(box=box, label=label) for label, one in found.items() for box in one.crowd),
        incomplete=tuple(label for label, one in found.items() if not one.is_exhaustive),
    )
    outlines = [own for one in found.values() for own in one.outlines or [()] * len(one.boxes)]
    fields = {
        "outlines": usable_outlines(_boxes(target), outlines),
        "areas": areas if any(one.areas for one in found.values()) else (),
    }
    return ParsedTarget(target, fields)


def _boxes(found: LabelledDetections) -> tuple[Box, ...]:
    return tuple(item.box for item in found.items)


def _labels(found: LabelledDetections) -> tuple[str, ...]:
    return tuple(item.label or "" for item in found.items)


def _target_of(sample: Sample) -> LabelledDetections:
    assert isinstance(sample.target, LabelledDetections)
    return sample.target


def _count(target: LabelledDetections) -> dict[str, int]:
    num_present = len(set(_labels(target)))
    return {
        **size_counts(_boxes(target)),
        "classes": len(target.classes),
        "absent_classes": len(target.classes) - num_present,
    }


def _move(target: LabelledDetections, move: Callable[[Box], Box]) -> LabelledDetections:
    items, crowd = (
        tuple(replace(item, box=move(item.box)) for item in found) for found in (target.items, target.crowd)
    )
    return replace(target, items=items, crowd=crowd)


def _to_target(answer: LabelledDetections) -> LabelledDetections:
    """Return the target of a question about the classes that the answer names; of several spellings the first."""
    names: dict[str, str] = {}
    for item in answer.items:
        names.setdefault(normalize_label(item.label or ""), item.label or "")
    items = tuple(Detection(box=item.box, label=names[normalize_label(item.label or "")]) for item in answer.items)
    return LabelledDetections(items=items, classes=tuple(names.values()))


def _fault(answer: LabelledDetections) -> str | None:
    if answer.invalid:
        return answer.invalid[0].reason
    return None


# --- rewards ---


def _robust(
    reading: Reading, target: LabelledDetections, context: RewardContext, options: RewardOptions
) -> dict[str, float]:
    return multiclass_rewards(
        reading,
        target,
        context,
        iou_threshold=options.iou_threshold,
        iou_threshold_end=options.iou_threshold_end,
        iou_weight=options.weight("iou"),
        confidence_weight=options.weight("confidence"),
    )


def _paper(
    reading: Reading, target: LabelledDetections, context: RewardContext, options: RewardOptions
) -> dict[str, float]:
    return paper_multiclass_rewards(
        reading,
        target,
        context,
        iou_threshold=options.iou_threshold,
        iou_threshold_end=options.iou_threshold_end,
    )


def _match(
    answer: LabelledDetections, target: LabelledDetections, context: RewardContext, options: RewardOptions
) -> Matching:
    """The matching that the reward is computed from."""
    threshold = iou_threshold_at(options.iou_threshold, options.iou_threshold_end, context)
    if options.preset == "paper":
        return match_by_class(answer, target, partial(match_like_paper, iou_threshold=threshold))
    match = partial(
        match_best,
        iou_threshold=threshold,
        iou_weight=options.weight("iou"),
        confidence_weight=options.weight("confidence"),
    )
    return match_by_class(answer, target, match)


def _pair_boxes(
    reading: Reading, target: LabelledDetections, context: RewardContext, options: RewardOptions
) -> BoxPairs:
    answer = reading.answer
    # The published reward of an answer with an invalid element is 0.
    if not isinstance(answer, LabelledDetections) or (options.preset == "paper" and answer.invalid):
        return BoxPairs((), num=len(target.items))
    return pair_boxes(_match(answer, target, context, options), answer, num_targets=len(target.items))


def _explain(
    answer: LabelledDetections, target: LabelledDetections, context: RewardContext, options: RewardOptions
) -> list[str]:
    """Each predicted box with its match, then invalid elements and targets that were not found."""
    matching = _match(answer, target, context, options)
    threshold = iou_threshold_at(options.iou_threshold, options.iou_threshold_end, context)
    least = "above" if options.preset == "paper" else "from"
    listed = {place: part.label for part in split_by_class(answer, target) for place in part.places}
    lines = [
        f"{answer.num_predicted} predicted, {len(target.items)} to find, of {len(target.classes)} classes, "
        f"hit {least} IoU {threshold:.3g}"
    ]
    for index, item in enumerate(answer.items):
        line = f"{index + 1:>3}  {format_box(item.box):<32}  {item.label!s:<16.40}  confidence {item.confidence:<5.3g}"
        found = matching.targets[index]
        if index in matching.dropped:
            lines.append(f"{line}  in a crowd region or an exact duplicate, dropped")
        elif found is not None:
            lines.append(f"{line}  target {found + 1}, IoU {matching.ious[index]:.3f}, hit")
        else:
            lines.append(f"{line}  {_reason(item, listed[index], target)}, miss")
    lines += [f"invalid: {element.reason}: {element.piece!r}" for element in answer.invalid]
    taken = set(matching.targets)
    lines += [
        f"target {index + 1} {format_box(item.box)} {item.label} not found"
        for index, item in enumerate(target.items)
        if index not in taken
    ]
    if not answer.num_predicted:
        lines.append("the answer says: no objects")
    if answer.num_clipped:
        lines.append(f"{answer.num_clipped} clipped to the image")
    return lines


def _reason(item: Detection, label: str | None, target: LabelledDetections) -> str:
    """Reason why a box has no target: its label, or the nearest target of its class and of another one."""
    if label is None:
        return "label is no class of the question"
    near = {True: 0.0, False: 0.0}
    for other in target.items:
        is_same = other.label == label
        near[is_same] = max(near[is_same], intersection_over_union(item.box.xyxy, other.box.xyxy))
    return f"best IoU {near[True]:.3f} with its class, {near[False]:.3f} with others"


# --- metrics ---


def score_labelled_boxes(answer: LabelledDetections, target: LabelledDetections) -> float:
    """Return F1 at IoU 0.5 with class-aware matching; 1 for "No Objects" if there are none.

    >>> score_labelled_boxes(LabelledDetections(), LabelledDetections(classes=("cat",)))
    1.0
    """
    found = [find_hits(part.answer, part.target) for part in split_by_class(answer, target)]
    num_boxes = answer.num_predicted - sum(one.num_ignored for one in found) + len(target.items)
    return 2 * sum(sum(one.hits) for one in found) / num_boxes if num_boxes else 1.0


def _ratios(measured: Measurement) -> dict[str, tuple[float, float]]:
    hits, boxes, targets = (measured.counts[name] for name in ("num_hits", "num_boxes", "num_targets"))
    return {"precision": (hits, boxes), "recall": (hits, targets), "f1": (2 * hits, boxes + targets)}


def _measure_dataset(joined: Sequence[JoinedPrediction], source: Mapping[str, Any]) -> Measurement:
    """Average precision (of an LVIS dataset, LVIS's) with its table by class, and the accuracy of labels."""
    from virft.metrics.box_questions import box_scores

    precise = box_scores(split_predictions(joined), frequency=source.get("frequency"))
    return Measurement(
        values={**precise.values, "label_accuracy": label_accuracy(joined)}, counts={}, tables={"ap": precise.by_class}
    )


def _statistics(joined: Sequence[JoinedPrediction], images: Sequence[str]) -> list[Statistic]:
    """COCO's ``ap`` and ``ap50``, for LVIS datasets too: LVIS's limit of boxes per image has no effect here."""
    from virft.metrics.bootstrap import ap_statistic
    from virft.metrics.box_questions import box_questions, confidences

    return [ap_statistic(box_questions(split_predictions(joined), confidences), images=images)]


_METRICS = (
    Metric(
        name="f1",
        description="2 hits / (predicted boxes + targets), summed over all classes, at IoU 0.5 with the correct label",
        in_table=True,
        in_card=True,
        in_comparison=True,
    ),
    Metric(
        name="ap",
        description="COCO average precision (mAP), IoU 0.5 to 0.95, mean over classes, boxes ranked by their "
        "confidence; mean over orders of the images if confidences are equal",
        in_table=True,
        in_card=True,
        in_comparison=True,
    ),
    Metric(name="ap50", description="average precision at IoU 0.5", in_table=True, in_card=True),
    Metric(name="f1_macro", description="F1 at IoU 0.5, mean over classes", in_table=True, in_card=True),
    Metric(name="precision", description="hits / predicted boxes, at IoU 0.5", in_table=True),
    Metric(name="recall", description="hits / targets, at IoU 0.5", in_table=True),
    Metric(
        name="false_positive_rate",
        description="fraction of the absent classes of the questions that have a predicted box",
        better=-1,
        in_table=True,
        in_card=True,
    ),
    Metric(
        name="label_accuracy",
        description="fraction of the targets with a box at IoU 0.5 of any label whose box has the correct label",
        in_table=True,
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
        name="unlisted_frac",
        description="fraction of predicted boxes whose label is no class of the question",
        better=-1,
    ),
    *BOX_METRICS,
)

# --- reports ---


def _count_labels(found: LabelledDetections) -> str:
    """Return "2 boxes (1 cat, 1 dog)", labels in the order of their first box."""
    if not found.items:
        return f"{len(found.invalid)} invalid" if found.invalid else "no objects"
    counts = ", ".join(f"{number} {label}" for label, number in Counter(_labels(found)).items())
    invalid = f", {len(found.invalid)} invalid" if found.invalid else ""
    return f"{count_boxes(len(found.items))} ({counts}){invalid}"


def _describe_target(target: LabelledDetections) -> str:
    boxes = [f"{item.label} {format_corners(item.box)}" for item in target.items]
    return f"{count_boxes(len(boxes))}: {'; '.join(boxes)}" if boxes else "no objects"


def _describe_answer(answer: LabelledDetections) -> str:
    boxes = [f"{item.label} {format_corners(item.box)} (confidence {item.confidence:.2f})" for item in answer.items]
    return describe_list(count_boxes(len(boxes)), boxes, answer.invalid)


def _lines(answer: LabelledDetections, size: ImageSize) -> list[str]:
    boxes = [f"{format_box(item.box)}  {item.label}  confidence {item.confidence:.2f}" for item in answer.items]
    return list_lines(count_boxes(len(boxes)), boxes, answer.invalid, size)


def _answer_to_record(answer: LabelledDetections) -> dict[str, Any]:
    return {
        "boxes": [
            box_to_record(item.box) | {"label": item.label, "confidence": item.confidence} for item in answer.items
        ],
        "invalid": [{"reason": one.reason, "piece": one.piece} for one in answer.invalid],
    }


def _mark(answer: LabelledDetections, target: LabelledDetections | None) -> tuple[MarkedBox, ...]:
    hits = [False] * len(answer.items)
    ignored = [False] * len(answer.items)
    labels: list[str | None] = [item.label for item in answer.items]
    for part in split_by_class(answer, target or LabelledDetections()):
        found = find_hits(part.answer, part.target)
        for place, is_hit, is_ignored in zip(part.places, found.hits, found.ignored, strict=True):
            hits[place], ignored[place], labels[place] = is_hit, is_ignored, part.label or labels[place]
    return tuple(
        MarkedBox(item.box, item.confidence, f"{label} {item.confidence:.2f}", hit, ignore, label)
        for item, hit, ignore, label in zip(answer.items, hits, ignored, labels, strict=True)
    )


def _to_answer(found: Sequence[Detection]) -> Answer:
    return LabelledDetections(items=tuple(found))


# --- audit ---

_LabelledBox = tuple[str, RelativeBox]


def _write(boxes: Sequence[_LabelledBox], confidence: float | str | None) -> str:
    """Return the content of an answer; ``confidence`` as it is, or none at all."""
    written = "" if confidence is None else f", 'Confidence': {confidence}"
    return (
        "["
        + ", ".join(f"{{'Position': {[*box]}, 'Label': {quote_label(label)}{written}}}" for label, box in boxes)
        + "]"
    )


_ClassBoxes = Mapping[str, Sequence[Sequence[RelativeBox]]]
"""Class -> its boxes in each question that lists it, relative to the image."""


def _by_class(samples: Sequence[Sample]) -> _ClassBoxes:
    """Return the boxes of each class, those with a box in the largest fraction of their questions first."""
    found: dict[str, list[list[RelativeBox]]] = {}
    for sample in samples:
        target = _target_of(sample)
        own: dict[str, list[RelativeBox]] = {label: [] for label in target.classes}
        for item in target.items:
            own[item.label or ""].append(relative_box(item.box, sample.target_size))
        for label, boxes in own.items():
            found.setdefault(label, []).append(boxes)
    order = sorted(found, key=lambda label: (-sum(map(bool, found[label])) / len(found[label]), label))
    return {label: found[label] for label in order}


def _most_frequent(sample: Sample, by_class: _ClassBoxes) -> str:
    """Return the class of the question that most of the questions show."""
    rank = {label: place for place, label in enumerate(by_class)}
    return min(_target_of(sample).classes, key=lambda label: rank.get(label, len(rank)))


def _probes(samples: Sequence[Sample]) -> Probes:
    """Constant boxes with each label, the most frequent one, none or an unknown one, and texts for a lenient parser."""
    by_class = _by_class(samples)
    usual = _mean_box(by_class.values()) or WHOLE_IMAGE
    boxes = {label: _mean_box([found]) or usual for label, found in by_class.items()}

    def every(sample: Sample) -> list[_LabelledBox]:
        return [(label, boxes[label]) for label in _target_of(sample).classes]

    def frequent(sample: Sample) -> _LabelledBox:
        label = _most_frequent(sample, by_class)
        return label, boxes[label]

    def listed(box: RelativeBox) -> Callable[[Sample], list[_LabelledBox]]:
        return lambda sample: [(label, box) for label in _target_of(sample).classes]

    lists: dict[str, Callable[[Sample], Sequence[_LabelledBox]]] = {
        "mean box of every class": every,
        "one box with each label": listed(usual),
        "whole image with each label": listed(WHOLE_IMAGE),
        "mean box of the most frequent class": lambda sample: [frequent(sample)],
        "one box 20 times": lambda sample: [frequent(sample)] * 20,
        "4 x 4 grid of the most frequent class": lambda sample: [(frequent(sample)[0], box) for box in grid(4)],
        "4 x 4 grid with each label": lambda sample: [
            (label, box) for label in _target_of(sample).classes for box in grid(4)
        ],
        "all names in one label": lambda sample: [(join_classes(_target_of(sample).classes), usual)],
        "unknown label": lambda sample: [("object", usual)],
    }
    texts: dict[str, Callable[[Sample], str]] = {
        f"{name}, confidence {confidence:g}": partial(_write_answer, found, confidence)
        for name, found in lists.items()
        for confidence in (0.0, 0.5, 1.0)
    }
    texts |= {
        f"mean box of every class, confidence {written}": partial(_write_answer, every, written)
        for written in ("NaN", "1e999", "-5.5", "True")
    }
    constant = {
        "always No Objects": "No Objects",
        "always []": "[]",
        "a box without a label": f"[{{'Position': {[*usual]}, 'Confidence': 1.0}}]",
    }
    texts |= {name: partial(_same, text) for name, text in constant.items()}
    texts["a list of labels"] = lambda sample: (
        f"[{{'Position': {[*usual]}, 'Label': {[*_target_of(sample).classes]}, 'Confidence': 1.0}}]"
    )
    texts["mean box of every class, no confidence"] = partial(_write_answer, every, None)
    texts["huge numbers"] = partial(_write_answer, listed(HUGE), 1.0)
    texts["digits of another script"] = lambda sample: use_full_width_digits(_write(every(sample), 1.0))
    texts["No Objects and boxes"] = lambda sample: "No Objects " + _write(every(sample), 1.0)
    first = next(iter(by_class))
    return Probes(usual=_write([(first, boxes[first])], 0.5), answers=texts)


def _write_answer(
    boxes_of: Callable[[Sample], Sequence[_LabelledBox]], confidence: float | str | None, sample: Sample
) -> str:
    return _write(boxes_of(sample), confidence)


def _same(text: str, sample: Sample) -> str:
    return text


def _mean_box(classes: Iterable[Sequence[Sequence[RelativeBox]]]) -> RelativeBox | None:
    """Return the mean edges of all boxes of these classes; None without boxes, or if they are empty when rounded."""
    rows = [box for questions in classes for boxes in questions for box in boxes]
    mean = tuple(round(fmean(column)) for column in zip(*rows, strict=True))
    return mean if mean and mean[0] < mean[2] and mean[1] < mean[3] else None


_HIT_IOU = 0.5
"""The IoU from which the headline F1 counts a hit."""


def _blind_answers(samples: Sequence[Sample]) -> BlindAnswers:
    """The best constant box of each class, for all classes, the most frequent one, or those that F1 is best with."""
    # Classes whose objects are not all labelled are not part of F1, which the best constant box maximises.
    by_class = _by_class([sample for sample in samples if not _target_of(sample).incomplete])
    boxes = _best_boxes(by_class)
    chosen = _best_classes(by_class, boxes)

    def always(choose: Callable[[Sample], Iterable[str]]) -> BlindAnswer:
        return lambda sample: _to_answer(
            [
                Detection(box=box_in_pixels(boxes[label], sample.target_size), label=label)
                for label in choose(sample)
                if label in boxes
            ]
        )

    none = {"No Objects": always(lambda sample: ())}
    if not boxes:
        return none
    return {
        "best box of the best classes": always(
            lambda sample: [label for label in _target_of(sample).classes if label in chosen]
        ),
        "best box of every class": always(lambda sample: _target_of(sample).classes),
        "best box of the most frequent class": always(lambda sample: [_most_frequent(sample, by_class)]),
        **none,
    }


def _best_boxes(by_class: _ClassBoxes) -> dict[str, RelativeBox]:
    """Return the constant box of each class that hits a target in most questions (``find_best_box``)."""
    from virft.tasks.constant_box import find_best_box  # NumPy stays unloaded until a baseline is computed

    found = {label: find_best_box(questions, hit_iou=_HIT_IOU) for label, questions in by_class.items()}
    return {label: box for label, box in found.items() if box is not None}


def _best_classes(by_class: _ClassBoxes, boxes: Mapping[str, RelativeBox]) -> frozenset[str]:
    """Return the classes whose constant boxes give the best F1 if they are the answer to every question.

    F1 is a ratio of sums over classes, so the best set are the classes with the highest fractions of hits.
    """
    hits = {label: _count_hits(boxes[label], by_class[label]) for label in boxes}
    order = sorted(boxes, key=lambda label: -hits[label] / len(by_class[label]))
    num_targets = sum(len(found) for questions in by_class.values() for found in questions)
    best, best_f1 = 0, 0.0
    num_hits = num_boxes = 0
    for number, label in enumerate(order, start=1):
        num_hits += hits[label]
        num_boxes += len(by_class[label])
        if (f1 := 2 * num_hits / (num_boxes + num_targets)) > best_f1:
            best, best_f1 = number, f1
    return frozenset(order[:best])


def _count_hits(box: RelativeBox, questions: Sequence[Sequence[RelativeBox]]) -> int:
    ious = (max(iou_matrix([_corners(box)], list(map(_corners, found)))[0], default=0.0) for found in questions)
    return sum(reaches(iou, _HIT_IOU) for iou in ious)


def _corners(box: RelativeBox) -> XYXY:
    return box[0], box[1], box[2], box[3]


def _oracle(samples: Sequence[Sample]) -> Iterator[Mapping[str, Target]]:
    """Half right: every other box of the dataset with its label, at IoU 0.7 with confidence 0.7."""
    number = 0
    for sample in samples:
        items = _target_of(sample).items
        shrunk = [replace(item, box=shrink_box(item.box, 0.7), confidence=0.7) for item in items]
        every_other = [item for i, item in enumerate(shrunk, number) if i % 2 == 0]
        number += len(items)
        yield {
            CORRECT: _to_answer(items),
            "boxes at IoU 0.7": _to_answer(shrunk),
            HALF_RIGHT: _to_answer(every_other),
        }


MULTICLASS_DETECTION = Task(
    name="multiclass_detection",
    target_type=LabelledDetections,
    query_hint="class names such as fox, owl, red deer",
    prompts=PromptTexts(
        short="Detect every {query}.",
        request="Find every object of the categories {query} in this image and give a box and its category for each.",
        schema=(
            "The answer is a list with one entry per object, "
            "[{'Position': [x1, y1, x2, y2], 'Label': category, 'Confidence': number}, ...]: the left, top, right and "
            "bottom edge of the box as {coordinates}, the category as it is written above, and how "
            "sure you are of it, from 0 to 1 with two decimals. "
            "If there is no object of these categories, the answer is No Objects."
        ),
    ),
    example="[{'Position': [100, 200, 300, 400], 'Label': 'fox', 'Confidence': 0.9}] or No Objects",
    read=read_labelled_boxes,
    render=render_labelled_boxes,
    to_target=_to_target,
    fault_of=_fault,
    target_format=TargetFormat(
        required=frozenset({"classes", "labelled_boxes"}),
        optional=frozenset({"crowd"}),
        for_metrics=frozenset({"outlines", "areas", "incomplete"}),
        properties={
            "classes": _CLASSES_SCHEMA,
            "labelled_boxes": _OBJECTS_SCHEMA,
            "outlines": OUTLINES_SCHEMA,
            "areas": AREAS_SCHEMA,
            "crowd": _OBJECTS_SCHEMA,
        },
        to_record=_to_record,
        from_record=_from_record,
    ),
    count_target=_count,
    from_annotations=_from_annotations,
    allows_crop=True,
    allows_flip=True,
    rewards={
        "robust": TaskReward(
            bounds={"iou": (0.0, 1.0), "confidence": (-1.0, 1.0), "class_f1": (0.0, 1.0)},
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
    measure_pairs=multiclass_metrics,
    score_answer=score_labelled_boxes,
    score_description="F1 of the question",
    ratios=_ratios,
    measure_dataset=_measure_dataset,
    statistics=_statistics,
    class_tables=("ap",),
    masks=TaskMasks(pair_boxes=_pair_boxes, by_class=split_predictions),
    rollout_metrics=RolloutMetrics(
        compute=lambda answers: answer_metrics([Detections(items=answer.items) for answer in answers]),
        descriptions={
            "boxes_per_answer": "mean number of boxes in a detection answer",
            "duplicate_frac": "fraction of boxes that overlap another box of the same answer (IoU above 0.7)",
        },
    ),
    describe_targets=Descriptions(full=_describe_target, short=_count_labels, caption=_count_labels),
    describe_answers=Descriptions(
        full=_describe_answer,
        short=_count_labels,
        caption=lambda answer: "" if answer.items else "invalid boxes" if answer.invalid else "no objects",
    ),
    answer_lines=_lines,
    answer_to_record=_answer_to_record,
    boxes=TaskBoxes(of_target=_boxes, of_answer=_mark, to_answer=_to_answer, move=_move, labels_of_target=_labels),
    probes=_probes,
    blind_answers=_blind_answers,
    oracle=_oracle,
)
