"""Score predictions. Completions are parsed again, so old predictions benefit from parser fixes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, harmonic_mean
from typing import Any

from virft.config.wording import counted
from virft.data.store import Store
from virft.errors import ConfigError
from virft.evaluation.comparison import Comparison, comparison_tree
from virft.evaluation.headlines import headline_statistics, images_of, scored_pairs
from virft.evaluation.joined import JoinedPredictions, collector_paused, join_predictions
from virft.evaluation.masks import MaskMaker, measure_masks
from virft.evaluation.predictions import read_predictions_card
from virft.files import make_folder, write_text
from virft.metrics.bootstrap import resample
from virft.tasks import TASKS
from virft.types import JoinedPrediction, Scores

RULES = 2
"""Version of the scoring rules, incremented when equal predictions may get other scores than before."""

MAX_ROWS = 100
"""Scores by class are printed for at most this number of classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _ScoreOptions:
    """Scores in addition to the task's own metrics."""

    intervals: bool
    class_groups: Mapping[str, Sequence[str]]
    masks: MaskMaker | None


def score_predictions(
    path: Path,
    store: Store,
    *,
    with_intervals: bool = False,
    class_groups: Mapping[str, Sequence[str]] | None = None,
    masks: MaskMaker | None = None,
) -> tuple[Scores, ...]:
    """Return one ``Scores`` per task of the dataset.

    In addition to the task's own metrics: ``truncated_frac``, the fraction of completions cut at the token limit,
    those of the whole dataset (``Task.measure_dataset``, such as average precision), and with ``masks`` the gIoU and
    cIoU of grounding (``mask_scores``). If only some samples have predictions (``--limit``, or an unfinished run), the
    name of every metric contains the coverage: ``f1 (120 of 320)``. ``with_intervals``: confidence intervals of the
    headline metrics, bootstrap over images. ``class_groups``: see ``group_scores``.
    """
    with collector_paused():
        return score_joined(
            join_predictions(path, store),
            store,
            with_intervals=with_intervals,
            class_groups=class_groups,
            masks=masks,
        )


def score_joined(
    joined: JoinedPredictions,
    store: Store,
    *,
    with_intervals: bool = False,
    class_groups: Mapping[str, Sequence[str]] | None = None,
    masks: MaskMaker | None = None,
) -> tuple[Scores, ...]:
    """Score predictions that are joined with their samples already; see ``score_predictions``."""
    options = _ScoreOptions(intervals=with_intervals, class_groups=class_groups or {}, masks=masks)
    return tuple(
        _scores(name, found, joined.num_questions[name], store, options) for name, found in joined.by_task.items()
    )


def write_scores(
    scores: tuple[Scores, ...],
    out: Path,
    *,
    predictions: Path,
    comparisons: Sequence[Comparison] = (),
    blind: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """Write scores, their provenance, comparisons and blind baselines as JSON; return the JSON tree."""
    card = read_predictions_card(predictions)
    tree = {
        "model": card.model,
        "data": card.data,
        "data_hash": card.data_hash,
        "thinking": card.thinking,
        "settings": card.settings,
        "rules": RULES,
        "tasks": {
            one.task: {
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
        **({"blind": blind} if blind else {}),
        **({"against": {one.task: comparison_tree(one) for one in comparisons}} if comparisons else {}),
    }
    make_folder(out.parent)
    write_text(out, json.dumps(tree, indent=2) + "\n")
    return tree


def scores_to_text(scores: tuple[Scores, ...]) -> str:
    """Format a plain table, one block per task, with 95 % confidence intervals where available, then scores by class.

    Tables of more than ``MAX_ROWS`` rows are only in ``scores.json``.

    >>> one = Scores(task="grounding", protocol="all", data_hash="", num_samples=3, values={"box_miou": 0.5})
    >>> print(scores_to_text((one,)))
    grounding, protocol all, 3 questions
      box_miou                     0.500
    """
    lines = []
    for one in scores:
        lines.append(f"{one.task}, protocol {one.protocol}, {counted(one.num_samples, 'question')}")
        width = max(26, *map(len, one.values))
        for name, value in one.values.items():
            ends = one.intervals.get(name)
            between = f"  ({ends[0]:.3f} to {ends[1]:.3f})" if ends else ""
            lines.append(f"  {name:<{width}} {value:>7.3f}{between}")
        lines += _tables_to_text(one.tables)
    return "\n".join(lines)


def _tables_to_text(tables: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Format tables: a line per class (or count, size), a column for each table with the same rows."""
    lines = []
    for rows in dict.fromkeys(tuple(sorted(table)) for table in tables.values()):
        if not 1 < len(rows) <= MAX_ROWS:
            continue
        same = {name: table for name, table in tables.items() if tuple(sorted(table)) == rows}
        columns = {name: max(7, len(name)) for name in same}
        width = max(26, *map(len, rows))
        lines.append(f"  {'':<{width}} " + "  ".join(f"{name:>{size}}" for name, size in columns.items()))
        for row in rows:
            values = "  ".join(f"{same[name][row]:>{size}.3f}" for name, size in columns.items())
            lines.append(f"  {row:<{width}} {values}")
    return lines


def seeds_to_text(seeds: Sequence[Sequence[Scores]]) -> str:
    """Format mean and range over several seeds of a system, for each task.

    >>> one, two = (Scores(task="grounding", protocol="all", data_hash="", num_samples=3,
    ...                    values={"box_miou": value}) for value in (0.5, 0.7))
    >>> print(seeds_to_text([(one,), (two,)]))
    grounding, mean over 2 seeds
      box_miou                     0.600  [0.500, 0.700]
    """
    lines = []
    for same in zip(*seeds, strict=True):
        lines.append(f"{same[0].task}, mean over {len(seeds)} seeds")
        for name in same[0].values:
            if all(name in one.values for one in same):
                values = [one.values[name] for one in same]
                lines.append(f"  {name:<26} {fmean(values):>7.3f}  [{min(values):.3f}, {max(values):.3f}]")
    return "\n".join(lines)


def _scores(
    name: str,
    joined: Sequence[JoinedPrediction],
    num_questions: int,
    store: Store,
    options: _ScoreOptions,
) -> Scores:
    task = TASKS[name]
    measured = task.measure(scored_pairs(joined))
    num_truncated = sum(one.prediction.finish_reason == "length" for one in joined)
    values = {**measured.values, "truncated_frac": num_truncated / len(joined)}
    tables = dict(measured.tables)
    images = images_of(joined)
    counts = {**measured.counts, "num_truncated": num_truncated, "num_images": len(images)}
    if task.measure_dataset is not None:
        added = task.measure_dataset(joined, store.card.get("source", {}))
        values |= added.values
        tables |= added.tables
        counts |= added.counts
    values |= group_scores(name, joined, options.class_groups, tables=tables)
    statistics = headline_statistics(name, joined, images) if options.intervals else []
    between = resample(statistics, images).intervals()
    if task.masks is not None and options.masks is not None:
        masked = measure_masks(joined, task.masks, options.masks, with_intervals=options.intervals)
        values |= masked.values
        between |= masked.intervals
        counts |= masked.counts
    incomplete = f" ({len(joined)} of {num_questions})" if len(joined) < num_questions else ""
    return Scores(
        task=name,
        protocol=_protocol(store) if task.absent is not None else _listed_protocol(store),
        data_hash=store.hash,
        num_samples=len(joined),
        values={value_name + incomplete: value for value_name, value in values.items()},
        counts=counts,
        tables={table + incomplete: rows for table, rows in tables.items()},
        intervals={value_name + incomplete: ends for value_name, ends in between.items()},
    )


def named_values(scores: Sequence[Scores]) -> dict[str, float]:
    """Return the metrics of one dataset by name; a name that several of its tasks have ends in ``@TASK``.

    >>> made = [Scores(task=task, protocol="all", data_hash="", num_samples=1, values={"accuracy": value, task: 0.0})
    ...         for task, value in (("classification", 0.5), ("counting", 1.0))]
    >>> named_values(made)
    {'accuracy@classification': 0.5, 'classification': 0.0, 'accuracy@counting': 1.0, 'counting': 0.0}
    """
    num_tasks = Counter(name for one in scores for name in one.values)
    return {
        name if num_tasks[name] == 1 else f"{name}@{one.task}": value
        for one in scores
        for name, value in one.values.items()
    }


HARMONIC_MEAN = "harmonic_mean"


def group_scores(
    name: str,
    joined: Sequence[JoinedPrediction],
    class_groups: Mapping[str, Sequence[str]],
    *,
    tables: Mapping[str, Mapping[str, float]],
) -> dict[str, float]:
    """Return the headline metric on groups of classes, such as base and novel classes.

    ``accuracy@NAME``; for detection ``f1@NAME``, and ``ap@NAME``, the mean of table ``ap`` over classes with targets.
    With two groups or more also their harmonic mean, ``accuracy@harmonic_mean``. Grounding has no classes.
    ``ConfigError``: no question is about a class of the group. Source: base-to-new generalisation in CoCoOp, arXiv
    2203.05557.
    """
    task = TASKS[name]
    if task.class_of is None or not class_groups:
        return {}
    by_class: dict[str, list[JoinedPrediction]] = {}
    for one in joined:
        by_class.setdefault(task.class_of(one.sample), []).append(one)
    found: dict[str, dict[str, float]] = {}
    for group, classes in class_groups.items():
        members = [one for label in sorted(set(classes)) for one in by_class.get(label, ())]
        if not members:
            raise ConfigError(
                f"class group {group}: no question is about {', '.join(classes[:3]) or 'any of its classes'}; expected "
                f"some of {', '.join(sorted(by_class)[:8])}{', ..' if len(by_class) > 8 else ''}"
            )
        found.setdefault(task.headline, {})[group] = task.measure(scored_pairs(members)).values[task.headline]
        for table in task.class_tables:
            rows = tables.get(table, {})
            if numbers := [rows[label] for label in sorted(set(classes)) if label in rows]:
                found.setdefault(table, {})[group] = fmean(numbers)
    for groups in found.values():
        if len(groups) > 1:
            groups[HARMONIC_MEAN] = harmonic_mean(groups.values())
    return {f"{value}@{group}": number for value, groups in found.items() for group, number in groups.items()}


def _protocol(store: Store) -> str:
    """Describe which classes were queried: present ones, sampled absent ones too, or the protocol of the build."""
    source = store.card.get("source", {})
    if (named := source.get("protocol")) is not None:
        return f"map:{source['map']['file']}" if named == "map" else str(named)
    absent = store.card.get("negatives_frac") or 0.0
    return f"positives+negatives ({absent:.3f} absent, seed {store.card.get('seed')})" if absent else "positives"


def _listed_protocol(store: Store) -> str:
    """Describe a dataset whose questions are not about one class each: some list only a part of the classes."""
    source = store.card.get("source", {})
    most = source.get("max_classes_per_question")
    return "all" if most is None or source.get("protocol") == "all" else f"at most {most} classes a question"
