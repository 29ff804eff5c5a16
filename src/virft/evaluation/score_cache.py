"""Read ``scores.json``, for predictions whose dataset is not available to score them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from virft.errors import DataError
from virft.tasks import TASKS
from virft.types import Scores


class SavedScores(NamedTuple):
    """One ``Scores`` per task, and the version of the scoring rules; None if it was not recorded."""

    scores: tuple[Scores, ...]
    rules: int | None


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
        return SavedScores(scores, tree.get("rules"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected what `virft score` writes") from error
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: holds no scores ({type(error).__name__}: {error}); expected what `virft score` writes"
        ) from error


def _number(value: Any) -> float:
    """Return a number unchanged, so that a count stays an integer; ``TypeError`` for anything else."""
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return value
