"""Printed lines of suspect labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from factories import sample
from virft.data.base_completions import BaseGroup
from virft.errors import RunStopped
from virft.recipes.suspects import FoundSuspects, _complete, suspect_lines
from virft.types import ImageSize, Sample


@pytest.mark.parametrize(("label_score", "warns"), [(0.05, True), (0.6, False), (float("nan"), False)])
def test_a_model_that_does_not_know_the_data_is_a_warning(label_score: float, warns: bool) -> None:
    found = FoundSuspects(
        suspects=(), num_samples=16, model="m", path=Path("run/suspects/suspects.jsonl"), label_score=label_score
    )
    lines = list(suspect_lines(found, limit=3))
    warning = "warning: the completions have a mean score of 0.05 on the labels"
    assert lines[0] == "0 suspect labels of 16 samples: run/suspects/suspects.jsonl"
    assert any(line.startswith(warning) for line in lines) is warns


class _InterruptedSampler:
    """Samples groups without completions; Ctrl-C in the second batch."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def sample(self, samples: Sequence[Sample]) -> list[BaseGroup]:
        self.batches.append([one.id for one in samples])
        if len(self.batches) == 2:
            raise KeyboardInterrupt
        return [
            BaseGroup(sample_id=one.id, prompt_tokens=1, resized=ImageSize(28, 28), seconds=0.1, completions=())
            for one in samples
        ]


def test_ctrl_c_says_what_is_saved_and_the_same_call_resumes(tmp_path: Path) -> None:
    samples = [sample(id=f"{number}") for number in range(20)]
    sampler: Any = _InterruptedSampler()
    path = tmp_path / "completions.jsonl"
    with pytest.raises(RunStopped) as stopped:
        _complete(sampler, samples, path, None)
    first = sampler.batches[0]
    assert str(stopped.value) == (
        f"stopped: completions of {len(first)} of 20 samples are saved in {path}; the same command resumes"
    )
    again: Any = _InterruptedSampler()
    assert list(_complete(again, samples, path, None)) == [one.id for one in samples]
    assert again.batches == [[one.id for one in samples[len(first) :]]]
