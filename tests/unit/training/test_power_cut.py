"""Whenever the power is cut, the run resumes to the same end."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

import pytest

from power_cut import Cut, drop, watched_disk
from toy_training import question, toy_trainer
from virft.config.schema import Config, DataConfig, RunConfig
from virft.files import write_text
from virft.training.loop import LoopSettings, TrainingLoop
from virft.training.run import METRICS, ROLLOUTS, RUN_SCHEMA_VERSION, RunFolder

SAME = (METRICS, ROLLOUTS, "checkpoints/step_000003/trained.safetensors", "best/weight")
QUESTIONS = [question(id) for id in "abc"]
SETTINGS = LoopSettings(num_steps=3, save_every=1, keep_checkpoints=1, log_every=1, validate_every=2)


def run(folder: Path) -> list[str]:
    """A run of a toy policy, validated twice, to its end; what it said."""
    trainer = toy_trainer()
    said: list[str] = []
    weight: Any = trainer.policy.weight
    with contextlib.chdir(folder.parent):  # the folder's name is part of the config
        config = Config(data=DataConfig(train="d"), run=RunConfig(dir=folder.name))
        TrainingLoop(
            trainer=trainer,
            batch=lambda step: [QUESTIONS[(step + place) % 3] for place in range(2)],
            run_folder=RunFolder.open(
                config, resume=True, card={"schema_version": RUN_SCHEMA_VERSION, "data_hash": "0", "trainer": "grpo"}
            ),
            settings=SETTINGS,
            log=said.append,
            validate=lambda num_steps: {"score": (weight[1] - weight[2]).item()},
            save_best=lambda: keep(Path(folder.name) / "best", weight.tolist()),
        ).run()
    return said


def keep(folder: Path, weight: list[float]) -> None:
    folder.mkdir(exist_ok=True)
    write_text(folder / "weight", str(weight))


def states_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in SAME}


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> list[Cut]:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("disk")
        with watched_disk(root, patch) as cuts:
            run(root / "run")
    return cuts


@pytest.mark.slow
def test_a_run_cut_at_any_moment_resumes_to_the_same_end(
    cuts: list[Cut], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # each of 3 saves syncs 3 logs, 4 files and 3 folders, and renames at least once
    assert len(cuts) > 40
    monkeypatch.setattr(os, "fsync", lambda number: None)  # these are not cut again, and syncing takes a while
    (tmp_path / "whole").mkdir()
    run(tmp_path / "whole" / "run")
    expected = states_of(tmp_path / "whole" / "run")
    # several cuts leave the same disk behind, and from the same disk a run resumes in the same way
    resumed: dict[frozenset[tuple[str, bytes | None]], int] = {}
    for state in ("live", "synced", "torn"):
        kept = [0]
        for number, cut in enumerate(cuts):
            disk = frozenset(cut.tree(state).items())
            if disk not in resumed:
                place = cut.lay_out(state, tmp_path / f"{state}_{number}") / "run"
                said = run(place)
                assert states_of(place) == expected, (state, number, cut.call)
                assert not list(place.rglob("*.unfinished")), (state, number, cut.call)
                found = re.fullmatch(r"resuming after step (\d)", said[0]) if said else None
                resumed[disk] = int(found[1]) if found else 0
                drop(place.parent)
            kept.append(resumed[disk])
        assert kept == sorted(kept), f"{state}: a saved step is never lost"
        assert set(kept) == {0, 1, 2, 3}, state


def test_what_a_run_wrote_outlasts_a_power_cut_at_its_end(cuts: list[Cut]) -> None:
    end = cuts[-1]
    assert {f"run/{name}" for name in SAME} < end.synced.keys()
    assert {name: end.synced.get(name) for name in end.live} == end.live


def test_the_states_are_those_a_disk_could_be_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d").mkdir()
    with watched_disk(tmp_path / "d", monkeypatch) as cuts:
        (tmp_path / "d" / "careless").write_bytes(b"1234")
        write_text(tmp_path / "d" / "careful", "1234")
    end = cuts[-1]
    assert end.live == {"careless": b"1234", "careful": b"1234"}
    # the folder was synced, so both names exist, but one file never was
    assert end.synced == {"careless": b"", "careful": b"1234"}
    assert end.torn == {"careless": b"12", "careful": b"1234"}
    assert [cut.call for cut in cuts] == ["fsync", "replace", "fsync", "end"]
    assert cuts[1].synced == {}
    assert cuts[2].torn["careful"] == b"1234"
