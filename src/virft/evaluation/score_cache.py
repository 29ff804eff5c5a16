"""Read ``scores.json``, for predictions whose dataset is not available to score them again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from virft.errors import DataError
from virft.evaluation.blind import BlindBaseline, BlindScores, CommonAnswer
from virft.evaluation.comparison import ScoreDifference, SystemValue
from virft.metrics.bootstrap import Resampled
from virft.tasks import TASKS
from virft.types import Scores


class SavedScores(NamedTuple):
    """One ``Scores`` per task, the version of the scoring rules (None if it was not recorded), and blind baselines."""

    scores: tuple[Scores, ...]
    rules: int | None
    blind: Mapping[str, BlindScores] = {}


def read_scores(path: Path) -> SavedScores:
    """Read a file written by ``virft score``; ``DataError`` if it cannot be read or holds no scores."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        scores = tuple(
            Scores(
                task=TASKS[name].name,
                protocol=one["protocol"],
                data_hash=tree["data_hash"],
                num_samples=one["num_samples"],
                values={key: float(value) for key, value in one["values"].items()},
                counts=one["counts"],
                tables={
                    table: {row: _number(value) for row, value in rows.items()} for table, rows in one["tables"].items()
                },
                intervals={key: (float(low), float(high)) for key, (low, high) in one["intervals"].items()},
            )
            for name, one in tree["tasks"].items()
            if one["values"]
        )
        blind = {name: _read_blind(name, one) for name, one in tree.get("blind", {}).get("tasks", {}).items()}
        return SavedScores(scores, tree.get("rules"), blind)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected what `virft score` writes") from error
    except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: holds no scores ({type(error).__name__}: {error}); expected what `virft score` writes"
        ) from error


def _read_blind(task: str, tree: Mapping[str, Any]) -> BlindScores:
    """Return the blind baselines of one task; see ``blind_tree``."""
    metric, interval, common = tree["metric"], tree["difference"]["interval"], tree["common_answer"]
    baselines = [
        BlindBaseline(
            name=name,
            task=task,
            values=one["values"],
            intervals={key: (float(low), float(high)) for key, (low, high) in one["intervals"].items()},
        )
        for name, one in tree["baselines"].items()
    ]
    best = next(one for one in baselines if one.name == tree["best"])
    value = float(tree["difference"]["value"])
    first, second = (
        SystemValue(mean=mean, low=mean, high=mean, num_seeds=1)
        for mean in (best.values[metric], best.values[metric] + value)
    )
    return BlindScores(
        task=task,
        metric=metric,
        baselines=(best, *(one for one in baselines if one is not best)),
        best_headline=(first, Resampled(images=(), values={})),
        difference=ScoreDifference(
            first=first,
            second=second,
            value=value,
            interval=(float(interval[0]), float(interval[1])) if interval is not None else None,
        ),
        common_answer=CommonAnswer(**common) if common is not None else None,
    )


def _number(value: Any) -> float:
    """Return a number unchanged, so that a count stays an integer; ``TypeError`` for anything else."""
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return value
