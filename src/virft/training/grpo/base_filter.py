"""Sample completions of the base model for each training sample, and filter the data by their scores.

A sample that the untrained model always or never solves has groups of equal rewards, from which nothing is learnt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from virft.data.base_completions import (
    BaseCompletion,
    BaseGroup,
    append_base_completions,
    start_base_completions,
)
from virft.errors import DataError, stopped_by_user
from virft.files import writing
from virft.tasks import TASKS
from virft.training.distributed import Ranks
from virft.training.grpo.trainer import GRPOTrainer
from virft.training.progress import Progress
from virft.types import RolloutGroup, Sample


def sample_base(
    trainer: GRPOTrainer,
    samples: Sequence[Sample],
    folder: Path,
    *,
    batch_size: int,
    ranks: Ranks,
    log: Callable[[str], None],
    resume: str = "resume with --resume",
) -> dict[str, BaseGroup]:
    """Sample id -> ``group_size`` completions with their scores, sampled as in step 0; in the order of ``samples``.

    The trainer's policy must still be the base model. Groups that ``folder`` already contains are not sampled again
    (``read_base_completions`` reads them); each batch is added to its file. ``folder`` must exist. ``resume``: how to
    resume, for the message of an error. Raises ``RunStopped`` after Ctrl-C.
    """
    # rank 0 alone reads the file: another machine may see an older state of a shared file system
    saved = start_base_completions(folder) if ranks.is_first else {}
    groups: dict[str, BaseGroup] = dict(ranks.union(list(saved.items())))
    missing = [sample for sample in samples if sample.id not in groups]
    progress = Progress(len(missing))

    def state() -> str:
        return f"{len(groups)} of {len(samples)} samples are scored; {resume}"

    with stopped_by_user(state):
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            before = time.perf_counter()
            # step 0: the same random streams and reward thresholds as the first training step
            own = trainer.sample(0, batch)
            seconds = (time.perf_counter() - before) / len(batch)
            new = ranks.gather([_base_group(group, seconds) for group in own])
            if ranks.is_first:
                with writing(folder, state):
                    append_base_completions(folder, new)
            groups |= {group.sample_id: group for group in new}
            done = start + len(batch)
            log(f"base model: {done} of {len(missing)} samples scored  {progress.describe(done)}")
    return {sample.id: groups[sample.id] for sample in samples}


def _base_group(group: RolloutGroup, seconds: float) -> BaseGroup:
    sample = group.sample
    return BaseGroup(
        sample_id=sample.id,
        prompt_tokens=len(group.prompt.token_ids),
        resized=group.prompt.images[sample.target_image].resized,
        seconds=round(seconds, 4),
        completions=tuple(
            BaseCompletion(
                text=completion.text,
                num_tokens=len(completion.token_ids),
                score=TASKS[sample.task].score(report.reading, sample.target),
                reward=report.total,
                well_formed=report.reading.well_formed,
                truncated=completion.truncated,
            )
            for completion, report in zip(group.completions, group.reports, strict=True)
        ),
    )


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
