"""Oracle answers of graded quality: completions made from the ground truth, the baseline for the probes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.types import Sample, Target


def oracle_texts(samples: Sequence[Sample], *, thinking: bool) -> Iterator[dict[str, str]]:
    """Yield the texts of the oracle answers to each sample in order, by name, with boxes relative to 1000.

    ``samples``: all of one task.
    """
    if not samples:
        return
    for sample, answers in zip(samples, TASKS[samples[0].task].oracle(samples), strict=True):
        yield {name: _write(sample, answer, thinking) for name, answer in answers.items()}


def _write(sample: Sample, answer: Target, thinking: bool) -> str:
    return TASKS[sample.task].render_for(
        replace(sample, target=answer),
        space=BoxSpace.RELATIVE_1000,
        resized=sample.target_size,
        thinking_text="I look." if thinking else None,
    )
