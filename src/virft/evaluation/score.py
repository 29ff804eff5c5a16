"""Scores of written answers. The texts are read again, so an old run gains from a better reader."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from virft.data.store import Store
from virft.evaluation.answered import Answered, read_answered
from virft.evaluation.box_questions import BoxScore, box_questions, confidences, constants, logprobs
from virft.evaluation.headlines import headline_statistics, images_of
from virft.evaluation.predictions import read_predictions_card
from virft.metrics.average_precision import AveragePrecision, average_precision
from virft.metrics.bootstrap import intervals
from virft.metrics.detection import detection_metrics
from virft.tasks import TASKS
from virft.types import Detections, Reading, Scores, TaskName


def score_predictions(path: Path, store: Store, *, with_intervals: bool = False) -> tuple[Scores, ...]:
    """One ``Scores`` per task of the data set.

    Beside the task's own metrics: ``truncated_frac``, the share of texts cut by the token limit, and average precision
    (``box_scores``). Where only some samples were asked (``--limit``), or answered so far, every number says so in its
    name: ``f1 (120 of 320)``. ``with_intervals``: bootstrap over images for the headline numbers.
    """
    answered = read_answered(path, store)
    return tuple(
        _scores(name, found, answered.num_questions[name], store, with_intervals)
        for name, found in answered.by_task.items()
    )


def write_scores(scores: tuple[Scores, ...], out: Path, *, predictions: Path) -> Mapping[str, Any]:
    """Write the scores as JSON with what they rest on, and return that."""
    card = read_predictions_card(predictions)
    tree = {
        "model": card.model,
        "data": card.data,
        "data_hash": card.data_hash,
        "thinking": card.thinking,
        "settings": card.settings,
        "tasks": {
            one.task.value: {
                "protocol": one.protocol,
                "num_samples": one.num_samples,
                "values": {name: round(value, 6) for name, value in one.values.items()},
                "counts": dict(one.counts),
                "intervals": {name: [round(end, 6) for end in ends] for name, ends in one.intervals.items()},
                "tables": {
                    table: {row: round(value, 6) for row, value in rows.items()} for table, rows in one.tables.items()
                },
            }
            for one in scores
        },
    }
    out.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    return tree


def scores_to_text(scores: tuple[Scores, ...]) -> str:
    """A plain table, a block per task; behind a number its 95 % interval, if there is one.

    >>> one = Scores(task=TaskName.GROUNDING, protocol="all", data_hash="", num_samples=3, values={"box_miou": 0.5})
    >>> print(scores_to_text((one,)))
    grounding, protocol all, 3 questions
      box_miou                     0.500
    """
    lines = []
    for one in scores:
        lines.append(f"{one.task}, protocol {one.protocol}, {one.num_samples} questions")
        for name, value in one.values.items():
            ends = one.intervals.get(name)
            between = f"  ({ends[0]:.3f} to {ends[1]:.3f})" if ends else ""
            lines.append(f"  {name:<26} {value:>7.3f}{between}")
    return "\n".join(lines)


def _scores(name: TaskName, answered: Sequence[Answered], num_asked: int, store: Store, with_intervals: bool) -> Scores:
    measured = TASKS[name].measure([(one.reading, one.sample.target) for one in answered])
    num_truncated = sum(one.prediction.finish_reason == "length" for one in answered)
    values = {**measured.values, "truncated_frac": num_truncated / len(answered)}
    tables = dict(measured.tables)
    if name is TaskName.DETECTION:
        precise = box_scores(answered, frequency=store.card.get("source", {}).get("frequency"))
        values |= precise.values
        tables |= {"ap": precise.by_class, "f1": _f1_by_class(answered)}
    images = images_of(answered)
    between: dict[str, tuple[float, float]] = {}
    for statistic in headline_statistics(name, answered, images) if with_intervals else ():
        between |= intervals(statistic, len(images))
    incomplete = f" ({len(answered)} of {num_asked})" if len(answered) < num_asked else ""
    return Scores(
        task=name,
        protocol=_protocol(store) if name is TaskName.DETECTION else "all",
        data_hash=store.hash,
        num_samples=len(answered),
        values={value_name + incomplete: value for value_name, value in values.items()},
        counts={**measured.counts, "num_truncated": num_truncated},
        tables={table + incomplete: rows for table, rows in tables.items()},
        intervals={value_name + incomplete: ends for value_name, ends in between.items()},
    )


def box_scores(answered: Sequence[Answered], *, frequency: Mapping[str, str] | None) -> AveragePrecision:
    """Average precision with the confidences in the text as scores; ``ap`` and ``ap50`` also with two other scores.

    ``_constant``: every box counts the same, in the order of the text; ``_logprob``: mean log-probability of the tokens
    of its element. Elements that are no boxes do not count here.
    """
    precise = average_precision(box_questions(answered, confidences), frequency=frequency)
    values = dict(precise.values)
    others: dict[str, BoxScore] = {"constant": constants}
    if all(one.prediction.token_logprobs for one in answered if one.sample.asked):
        others["logprob"] = logprobs
    for name, score in others.items():
        other = average_precision(box_questions(answered, score), frequency=frequency).values
        values |= {f"{key}_{name}": other[key] for key in ("ap", "ap50") if key in other}
    return AveragePrecision(values=values, by_class=precise.by_class)


def _f1_by_class(answered: Sequence[Answered]) -> dict[str, float]:
    by_class: dict[str, list[tuple[Reading, Detections]]] = {}
    for one in answered:
        assert isinstance(one.sample.target, Detections)
        by_class.setdefault(one.sample.query, []).append((one.reading, one.sample.target))
    return {label: detection_metrics(pairs).values["f1"] for label, pairs in sorted(by_class.items())}


def _protocol(store: Store) -> str:
    """Which classes were asked: those present, or also a sampled share of absent ones; or as the set was built."""
    source = store.card.get("source", {})
    if (named := source.get("protocol")) is not None:
        return f"map:{source['map']['file']}" if named == "map" else str(named)
    share = store.card.get("negatives_frac") or 0.0
    return f"positives+negatives ({share:.3f} absent)" if share else "positives"
