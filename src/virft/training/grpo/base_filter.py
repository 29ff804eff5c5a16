"""Leaves out samples that the untrained model always gets right, or never: their groups have nothing to compare."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from virft.errors import DataError
from virft.files import write_text, writing
from virft.tasks import TASKS
from virft.training.distributed import Ranks
from virft.training.grpo.trainer import GRPOTrainer
from virft.training.progress import Progress
from virft.types import Sample

BASE_SCORES = "base_scores.json"
"""In a run folder: sample id -> mean score of the untrained model's answers."""


def score_base(
    trainer: GRPOTrainer,
    samples: Sequence[Sample],
    folder: Path,
    *,
    batch_size: int,
    ranks: Ranks,
    say: Callable[[str], None],
) -> dict[str, float]:
    """The mean score (``Task.score``) of one group of answers to each sample, as the first step would draw them.

    What is in ``folder`` already is not asked again; it is written after every ``batch_size`` samples.
    """
    path = folder / BASE_SCORES
    there = json.loads(path.read_text(encoding="utf-8")) if ranks.is_first and path.exists() else {}
    scores: dict[str, float] = dict(ranks.union(list(there.items())))
    missing = [sample for sample in samples if sample.id not in scores]
    progress = Progress(len(missing))
    for start in range(0, len(missing), batch_size):
        batch = missing[start : start + batch_size]
        own = [
            (
                group.sample.id,
                fmean(TASKS[group.sample.task].score(one.reading, group.sample.target) for one in group.reports),
            )
            for group in trainer.sample(0, batch)
        ]
        scores |= dict(ranks.gather(own))
        if ranks.is_first:
            with writing(folder, partial(_kept_so_far, len(scores) - len(batch), len(samples))):
                write_text(path, json.dumps(scores, ensure_ascii=False))
        done = start + len(batch)
        say(f"untrained model: {done} of {len(missing)} samples answered  {progress.tell(done)}")
    return scores


def _kept_so_far(num_scored: int, num_samples: int) -> str:
    return f"{num_scored} of {num_samples} samples are scored; go on with --resume"


def in_range(scores: Mapping[str, float], *, least: float, most: float) -> set[str]:
    """The samples whose score is from ``least`` to ``most``; ``DataError`` if there are none."""
    kept = {name for name, score in scores.items() if least <= score <= most}
    if not kept:
        too_low = sum(score < least for score in scores.values())
        raise DataError(
            f"the untrained model's mean score is below {least:g} on {too_low} samples and above {most:g} on "
            f"{len(scores) - too_low}; expected some between: widen grpo.min_base_score and grpo.max_base_score"
        )
    return kept
