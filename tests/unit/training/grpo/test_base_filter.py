"""Completions of the base model are sampled once, and samples that it always or never solves may be skipped."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path

import pytest

from toy_training import RIGHT, WRONG, ToyGenerator, question, toy_trainer
from virft.data.base_completions import (
    BASE_COMPLETIONS,
    BaseGroup,
    append_base_completions,
    read_base_completions,
)
from virft.errors import DataError, RunError, RunStopped
from virft.training.distributed import Ranks
from virft.training.grpo.base_filter import in_range, sample_base
from virft.types import ImageSize

SAMPLES = [question(name) for name in "abc"]


def score(folder: Path, logged: list[str] | None = None) -> tuple[dict[str, float], list[list[str]]]:
    """The mean scores of three samples of which "b" is always solved; the stream ids that were sampled."""
    trainer = toy_trainer(equal={"b"})
    log = (logged if logged is not None else []).append
    groups = sample_base(trainer, SAMPLES, folder, batch_size=2, ranks=Ranks(), log=log)
    assert isinstance(trainer.generator, ToyGenerator)
    assert read_base_completions(folder) == groups
    return {name: group.mean_score for name, group in groups.items()}, trainer.generator.calls


def test_scores_are_those_of_the_base_models_completions(tmp_path: Path) -> None:
    logged: list[str] = []
    scores, sampled = score(tmp_path, logged)
    assert scores == {"a": 0.5, "b": 1.0, "c": 0.5}
    assert sampled == [["0/a", "1/b"], ["0/c"]]
    assert [line.split("  ")[0] for line in logged] == [
        "base model: 2 of 3 samples scored",
        "base model: 3 of 3 samples scored",
    ]
    found = read_base_completions(tmp_path)
    assert list(found) == ["a", "b", "c"]
    assert [one.text for one in found["a"].completions] == [WRONG, RIGHT] * 2
    assert [one.score for one in found["a"].completions] == [0.0, 1.0] * 2
    assert found["a"].completions[1].reward > found["a"].completions[0].reward
    assert found["a"].resized == ImageSize(100, 100)
    # a prompt, once, and four completions of a token each
    assert found["a"].num_tokens == found["a"].prompt_tokens + 4
    assert found["a"].seconds > 0


def test_sampling_resumes_after_the_last_complete_line(tmp_path: Path) -> None:
    score(tmp_path)
    path = tmp_path / BASE_COMPLETIONS
    first, second, third = path.read_text().splitlines(keepends=True)
    path.write_text(first.replace('"score":1.0', '"score":0.0') + second + third[:40])
    assert list(read_base_completions(tmp_path)) == ["a", "b"]
    scores, sampled = score(tmp_path)
    assert scores == {"a": 0.0, "b": 1.0, "c": 0.5}
    assert sampled == [["0/c"]]
    assert score(tmp_path) == (scores, [])


def test_a_reward_that_is_not_finite_survives_the_file(tmp_path: Path) -> None:
    score(tmp_path)
    path = tmp_path / BASE_COMPLETIONS
    group = read_base_completions(tmp_path)["a"]
    path.write_text(path.read_text().replace(f'"reward":{group.completions[0].reward}', '"reward":null', 1))
    again = read_base_completions(tmp_path)["a"].completions[0].reward
    assert again != again  # NaN
    other = tmp_path / "other"
    other.mkdir()
    append_base_completions(other, [read_base_completions(tmp_path)["a"]])
    assert '"reward":null' in (other / BASE_COMPLETIONS).read_text()


def test_a_full_disk_ends_scoring_with_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def full_at_the_second(folder: Path, groups: Iterable[BaseGroup]) -> None:
        calls.append(folder)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        append_base_completions(folder, groups)

    with monkeypatch.context() as patch:
        patch.setattr("virft.training.grpo.base_filter.append_base_completions", full_at_the_second)
        with pytest.raises(RunError) as error:
            score(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: cannot be written (No space left on device); 2 of 3 samples are scored; resume with --resume"
    )
    scores, sampled = score(tmp_path)
    assert scores == {"a": 0.5, "b": 1.0, "c": 0.5}
    assert sampled == [["0/c"]]


def test_ctrl_c_says_what_is_scored_and_how_to_resume(tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(RunStopped, match=r"^stopped: 2 of 3 samples are scored; call it again$"):
        trainer = toy_trainer(equal={"b"})
        sample_base(trainer, SAMPLES, tmp_path, batch_size=2, ranks=Ranks(), log=interrupt, resume="call it again")
    assert score(tmp_path)[1] == [["0/c"]]


def test_samples_in_range_are_selected() -> None:
    scores = {"a": 0.0, "b": 0.5, "c": 1.0}
    assert in_range(scores, least=0.5, most=1.0) == {"b", "c"}
    assert in_range(scores, least=0.0, most=0.9) == {"a", "b"}
    with pytest.raises(DataError, match=r"below 0\.6 on 2 samples and above 0\.9 on 1; .* widen grpo\.min_base_score"):
        in_range(scores, least=0.6, most=0.9)
