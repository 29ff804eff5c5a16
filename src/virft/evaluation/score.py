"""Scores of written answers. The texts are read again, so an old run gains from a better reader."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from virft.data.store import Store
from virft.errors import DataError
from virft.evaluation.predictions import read_predictions, read_predictions_card
from virft.tasks import TASKS
from virft.types import Reading, Scores, Target, TaskName


def score_predictions(path: Path, store: Store) -> tuple[Scores, ...]:
    """One ``Scores`` per task of the data set. Every sample must have been answered, or the first N of them.

    Beside the task's own metrics: ``truncated_frac``, the share of texts cut by the token limit.
    """
    card = read_predictions_card(path)
    if card.data_hash != store.hash:
        raise DataError(
            f"{path}: answers to another data set ({card.data}, hash {card.data_hash[:12]}); "
            f"{store.folder} has hash {store.hash[:12]}"
        )
    predictions = read_predictions(path)
    pairs: dict[TaskName, list[tuple[Reading, Target]]] = {}
    num_truncated: dict[TaskName, int] = {}
    asked = [sample for number, sample in enumerate(store) if number < card.num_samples]
    for sample in asked:
        if sample.id not in predictions:
            raise DataError(
                f"{path}: no answer to sample {sample.id!r}; expected {len(asked)}, found {len(predictions)}"
            )
        prediction, resized = predictions[sample.id]
        task = TASKS[sample.task]
        reading = task.read_for(prediction.text, sample, thinking=card.thinking, space=card.box_space, resized=resized)
        pairs.setdefault(task.name, []).append((reading, sample.target))
        num_truncated[task.name] = num_truncated.get(task.name, 0) + (prediction.finish_reason == "length")
    if unknown := predictions.keys() - {sample.id for sample in asked}:
        raise DataError(f"{path}: sample {min(unknown)!r} is not in {store.folder}")
    return tuple(
        _scores(name, pairs[name], num_truncated[name], _protocol(store), store.hash) for name in sorted(pairs)
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
            }
            for one in scores
        },
    }
    out.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    return tree


def scores_to_text(scores: tuple[Scores, ...]) -> str:
    """A plain table, a block per task.

    >>> one = Scores(task=TaskName.GROUNDING, protocol="all", data_hash="", num_samples=3, values={"box_miou": 0.5})
    >>> print(scores_to_text((one,)))
    grounding, protocol all, 3 questions
      box_miou                     0.500
    """
    lines = []
    for one in scores:
        lines.append(f"{one.task}, protocol {one.protocol}, {one.num_samples} questions")
        lines += [f"  {name:<26} {value:>7.3f}" for name, value in one.values.items()]
    return "\n".join(lines)


def _scores(
    name: TaskName, pairs: list[tuple[Reading, Target]], num_truncated: int, protocol: str, data_hash: str
) -> Scores:
    measured = TASKS[name].measure(pairs)
    return Scores(
        task=name,
        protocol=protocol if name is TaskName.DETECTION else "all",
        data_hash=data_hash,
        num_samples=len(pairs),
        values={**measured.values, "truncated_frac": num_truncated / len(pairs)},
        counts={**measured.counts, "num_truncated": num_truncated},
    )


def _protocol(store: Store) -> str:
    """Which classes were asked: those present, or also a sampled share of absent ones."""
    share = store.card.get("negatives_frac") or 0.0
    return f"positives+negatives ({share:.3f} absent)" if share else "positives"
