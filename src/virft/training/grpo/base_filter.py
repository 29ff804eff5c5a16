"""Filter the training data by the score of the base model.

A sample that the untrained model always or never solves has groups of equal rewards, from which nothing is learnt.
"""

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
from virft.training.run import BASE_SCORES
from virft.types import Sample


def score_base(
    trainer: GRPOTrainer,
    samples: Sequence[Sample],
    folder: Path,
    *,
    batch_size: int,
    ranks: Ranks,
    log: Callable[[str], None],
) -> dict[str, float]:
    """Sample id -> mean ``Task.score`` of one group of completions, sampled as in step 0.

    Scores that ``folder`` already contains are not computed again; the file is written after each batch.
    """
    path = folder / BASE_SCORES
    saved = json.loads(path.read_text(encoding="utf-8")) if ranks.is_first and path.exists() else {}
    # rank 0 alone reads the file: another machine may see an older state of a shared file system
    scores: dict[str, float] = dict(ranks.union(list(saved.items())))
    missing = [sample for sample in samples if sample.id not in scores]
    progress = Progress(len(missing))
    for start in range(0, len(missing), batch_size):
        batch = missing[start : start + batch_size]
        own = [
            (
                group.sample.id,
                fmean(TASKS[group.sample.task].score(one.reading, group.sample.target) for one in group.reports),
            )
            # step 0: the same random streams and reward thresholds as the first training step
            for group in trainer.sample(0, batch)
        ]
        scores |= dict(ranks.gather(own))
        if ranks.is_first:
            with writing(folder, partial(_describe_saved, len(scores) - len(batch), len(samples))):
                write_text(path, json.dumps(scores, ensure_ascii=False))
        done = start + len(batch)
        log(f"base model: {done} of {len(missing)} samples scored  {progress.describe(done)}")
    return scores


def _describe_saved(num_scored: int, num_samples: int) -> str:
    return f"{num_scored} of {num_samples} samples are scored; resume with --resume"


def in_range(scores: Mapping[str, float], *, least: float, most: float) -> set[str]:
    """Ids of the samples with a score from ``least`` to ``most``. Raises ``DataError`` if there are none."""
    chosen = {name for name, score in scores.items() if least <= score <= most}
    if not chosen:
        too_low = sum(score < least for score in scores.values())
        raise DataError(
            f"the base model's mean score is below {least:g} on {too_low} samples and above {most:g} on "
            f"{len(scores) - too_low}; expected some between: widen grpo.min_base_score and grpo.max_base_score"
        )
    return chosen
