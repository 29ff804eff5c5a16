"""Printed lines of suspect labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from virft.recipes.suspects import FoundSuspects, suspect_lines


@pytest.mark.parametrize(("label_score", "warns"), [(0.05, True), (0.6, False), (float("nan"), False)])
def test_a_model_that_does_not_know_the_data_is_a_warning(label_score: float, warns: bool) -> None:
    found = FoundSuspects(
        suspects=(), num_samples=16, model="m", path=Path("run/suspects/suspects.jsonl"), label_score=label_score
    )
    lines = list(suspect_lines(found, limit=3))
    warning = "warning: the completions have a mean score of 0.05 on the labels"
    assert lines[0] == "0 suspect labels of 16 samples: run/suspects/suspects.jsonl"
    assert any(line.startswith(warning) for line in lines) is warns
