"""Predictions that are interrupted anywhere and resumed equal those of an uninterrupted run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factories import sample
from virft.errors import RunError
from virft.evaluation.prediction_run import PredictionRun, plan_batches
from virft.evaluation.predictions import PARTS, PREDICTIONS, PredictionsCard, SizedPrediction, read_predictions
from virft.geometry.boxes import BoxSpace
from virft.types import FinishReason, ImageSize, Prediction

IDS = [f"é{i}" for i in range(11)]
BATCHES = [[3, 1, 8], [0, 2, 10], [4, 5, 9], [6, 7]]
CARD = PredictionsCard(
    model="m",
    data="d",
    data_hash="0",
    num_samples=len(IDS),
    box_space=BoxSpace.RELATIVE_1000,
    thinking=False,
    settings={"template": "short", "commit": "c"},
)


def run_in(folder: Path, **changes: Any) -> PredictionRun:
    return PredictionRun(folder, replace(CARD, **changes), ids=IDS, batches=BATCHES)


def predict(batch: Sequence[int]) -> list[SizedPrediction]:
    """Predictions that depend on the whole batch, as floating-point results do in the last digit."""
    texts = {i: f"{IDS[i]} in {sorted(batch)}" for i in batch}
    return [
        SizedPrediction(
            Prediction(sample_id=IDS[i], text=text, finish_reason=FinishReason.STOP, token_logprobs=(-0.5,)),
            ImageSize(28, 28),
        )
        for i, text in texts.items()
    ]


def predict_all(folder: Path, *, processes: int = 1, resume: bool = False) -> bytes:
    run = run_in(folder)
    run.begin(resume=resume)
    for process in range(processes):
        for batch in run.missing()[:: processes - process]:
            run.append(predict(batch), process=process)
    return run.finish().read_bytes()


def test_predictions_have_the_order_of_the_dataset(tmp_path: Path) -> None:
    predict_all(tmp_path / "p")
    assert list(read_predictions(tmp_path / "p" / PREDICTIONS)) == IDS
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["card.json", PREDICTIONS]


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_write_the_same_file_as_one(tmp_path: Path, processes: int) -> None:
    assert predict_all(tmp_path / "several", processes=processes) == predict_all(tmp_path / "one")


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_run_that_is_killed_twenty_times_writes_the_same_file(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng, folder = random.Random(seed), tmp_path_factory.mktemp("p") / "p"
    for attempt in range(20):
        run = run_in(folder)
        run.begin(resume=attempt > 0)
        for batch in run.missing()[: rng.randint(0, 2)]:
            run.append(predict(batch), process=rng.randint(0, 1))
        if parts := sorted(folder.glob(PARTS.format("*"))):
            last = rng.choice(parts)  # the last write was truncated
            last.write_bytes(last.read_bytes()[: -rng.randint(1, 60) or None])
    whole = tmp_path_factory.mktemp("whole") / "p"
    assert predict_all(folder, resume=True) == predict_all(whole)


def test_a_finished_run_is_not_changed(tmp_path: Path) -> None:
    before = predict_all(tmp_path / "p")
    run = run_in(tmp_path / "p")
    run.begin(resume=True)
    assert run.is_finished
    assert run.missing() == []
    assert run.finish().read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_hash": "1"}, r"made with other settings: data_hash is '0' \(saved\) and '1' \(now\)"),
        ({"thinking": True}, r"thinking is False \(saved\) and True \(now\)"),
        ({"settings": {"template": "paper", "commit": "c"}}, r"template is 'short' \(saved\) and 'paper' \(now\)"),
    ],
)
def test_a_run_with_other_settings_is_not_resumed(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    run_in(tmp_path / "p").begin(resume=False)
    with pytest.raises(RunError, match=message):
        run_in(tmp_path / "p", **changes).begin(resume=True)
    run_in(tmp_path / "p", data="moved").begin(resume=True)


def test_predictions_are_resumed_only_on_request(tmp_path: Path) -> None:
    run_in(tmp_path / "p").begin(resume=False)
    with pytest.raises(RunError, match=r"p: holds unfinished predictions; resume with --resume"):
        run_in(tmp_path / "p").begin(resume=False)
    predict_all(tmp_path / "p", resume=True)
    with pytest.raises(RunError, match=r"p: already holds predictions; name another folder"):
        run_in(tmp_path / "p").begin(resume=False)


def test_unfinished_predictions_can_be_read(tmp_path: Path) -> None:
    run = run_in(tmp_path / "p")
    run.begin(resume=False)
    run.append(predict(BATCHES[0]), process=0)
    run.append(predict(BATCHES[1]), process=1)
    part = tmp_path / "p" / PARTS.format(1)
    part.write_bytes(part.read_bytes()[:-5])
    found = read_predictions(tmp_path / "p" / PREDICTIONS)
    assert sorted(found) == sorted(IDS[i] for i in (3, 1, 8, 0, 2))


def test_batches_hold_samples_of_similar_length() -> None:
    samples = [
        sample(id="wide", size=(900, 900)),
        sample(id="a", query="fox"),
        sample(id="long", query="a fox that sits behind a tree"),
        sample(id="b", query="hen"),
        sample(id="wide too", size=(900, 900)),
    ]
    assert plan_batches(samples, batch_size=2) == [[1, 3], [2, 0], [4]]
    assert plan_batches([], batch_size=2) == []


@pytest.mark.parametrize(
    ("number", "sizes"),
    [
        (40, [32, 8]),
        (255, [32] * 7 + [31]),
        # a quarter of the dataset, in multiples of 32: 300 / 4 = 75
        (300, [64] * 4 + [44]),
        # at most 8 x 32
        (1100, [256] * 4 + [76]),
    ],
)
def test_batches_of_a_large_dataset_have_samples_that_wait(number: int, sizes: list[int]) -> None:
    batches = plan_batches([sample(id=str(i)) for i in range(number)])
    assert [len(batch) for batch in batches] == sizes
    assert sorted(i for batch in batches for i in batch) == list(range(number))
