"""Samples that the base model always or never solves may be skipped."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from toy_training import ToyGenerator, question, toy_trainer
from virft.errors import DataError, RunError
from virft.files import write_text
from virft.training.distributed import Ranks
from virft.training.grpo.base_filter import in_range, score_base
from virft.training.run import BASE_SCORES

SAMPLES = [question(name) for name in "abc"]


def score(folder: Path, logged: list[str] | None = None) -> tuple[dict[str, float], list[list[str]]]:
    """The scores of three samples of which "b" is always solved; the stream ids that were sampled."""
    trainer = toy_trainer(equal={"b"})
    log = (logged if logged is not None else []).append
    scores = score_base(trainer, SAMPLES, folder, batch_size=2, ranks=Ranks(), log=log)
    assert isinstance(trainer.generator, ToyGenerator)
    return scores, trainer.generator.calls


def test_scores_are_those_of_the_base_models_completions(tmp_path: Path) -> None:
    logged: list[str] = []
    scores, sampled = score(tmp_path, logged)
    assert scores == {"a": 0.5, "b": 1.0, "c": 0.5}
    assert sampled == [["0/a", "1/b"], ["0/c"]]
    assert [line.split("  ")[0] for line in logged] == [
        "base model: 2 of 3 samples scored",
        "base model: 3 of 3 samples scored",
    ]
    assert json.loads((tmp_path / BASE_SCORES).read_text()) == scores


def test_scoring_resumes(tmp_path: Path) -> None:
    (tmp_path / BASE_SCORES).write_text('{"a": 0.25, "b": 1.0}')
    scores, sampled = score(tmp_path)
    assert scores == {"a": 0.25, "b": 1.0, "c": 0.5}
    assert sampled == [["0/c"]]
    assert score(tmp_path) == (scores, [])


def test_a_full_disk_ends_scoring_with_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def full_at_the_second(path: Path, text: str) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_text(path, text)

    with monkeypatch.context() as patch:
        patch.setattr("virft.training.grpo.base_filter.write_text", full_at_the_second)
        with pytest.raises(RunError) as error:
            score(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: cannot be written (No space left on device); 2 of 3 samples are scored; resume with --resume"
    )
    scores, sampled = score(tmp_path)
    assert scores == {"a": 0.5, "b": 1.0, "c": 0.5}
    assert sampled == [["0/c"]]


def test_samples_in_range_are_selected() -> None:
    scores = {"a": 0.0, "b": 0.5, "c": 1.0}
    assert in_range(scores, least=0.5, most=1.0) == {"b", "c"}
    assert in_range(scores, least=0.0, most=0.9) == {"a", "b"}
    with pytest.raises(DataError, match=r"below 0\.6 on 2 samples and above 0\.9 on 1; .* widen grpo\.min_base_score"):
        in_range(scores, least=0.6, most=0.9)
