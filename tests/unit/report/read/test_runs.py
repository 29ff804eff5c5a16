"""A run is shown whether it is finished, running or damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from report_factories import (
    NOTHING,
    RIGHT,
    PageReader,
    edit_config,
    make_run,
    make_set,
    rollout,
    run_with_predictions,
    write_texts,
)
from virft.errors import RunError
from virft.evaluation.predictions import PARTS, PREDICTIONS
from virft.report.read import read_systems, report_folders
from virft.training.run import CARD, METRICS, ROLLOUTS


def page_of(*places: Path) -> PageReader:
    return PageReader(report_folders(places))


def test_a_run_that_is_being_written_is_shown_as_far_as_it_got(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = make_run(tmp_path / "mine", store, steps=2)
    for name in (METRICS, ROLLOUTS):
        with (run.folder / name).open("a") as file:
            file.write('{"step":2,"rew')
    folder = write_texts(run.folder / "eval" / "test", store, [RIGHT, NOTHING], model=str(run.folder / "model"))
    (folder / PREDICTIONS).rename(folder / PARTS.format(0))
    found = page_of(run.folder)
    reward = found.charts()[0]["lines"][0]
    assert (reward["steps"], reward["values"]) == ([1, 2], ["1", "2"])
    assert "2 of 200" in found.texts
    # 1 hit, 1 box, 2 targets so far: 2 / 3
    assert "0.667" in found.texts
    assert f"mine: {folder}: predictions are still being written, 2 so far" in found.texts


def test_a_run_of_another_format_is_refused_by_its_version(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine", make_set(tmp_path / "coins"), steps=2)
    card = json.loads((run.folder / CARD).read_text()) | {"schema_version": 1}
    (run.folder / CARD).write_text(json.dumps(card))
    with pytest.raises(RunError, match=r"card\.json: schema_version is 1, .*; expected 2: open it with that version"):
        report_folders([run.folder])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("card.json", None, "card.json: cannot be read (No such file or directory)"),
        ("card.json", b"{", "card.json: not valid JSON"),
        ("card.json", b"[]", "card.json: not the card of a run"),
        ("config.toml", b"[[", "config.toml: not valid TOML"),
        ("config.toml", b"a = 1\n\xff", "config.toml: not valid TOML"),
        ("metrics.jsonl", b"", "seconds per step"),
        ("metrics.jsonl", b'{"step":"0","reward":1}\n', "seconds per step"),
        ("rollouts.jsonl", b'{"step":0,"rewards":[0,1]}\n', "all rewards within each group are equal so far"),
        ("metrics.jsonl", b"\xff\xfe{\n[1]\n3\n", "seconds per step"),
        ("rollouts.jsonl", b"", "no rollouts have been logged yet"),
    ],
)
def test_a_corrupt_file_of_a_run_is_reported_in_its_place(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    run = run_with_predictions(tmp_path, make_set(tmp_path / "coins"))
    if content is None:
        (run.folder / name).unlink()
    else:
        (run.folder / name).write_bytes(content)
    assert message in page_of(run.folder).text


def test_an_empty_run_has_a_page_with_notes(tmp_path: Path) -> None:
    found = page_of(make_run(tmp_path / "mine", make_set(tmp_path / "coins"), steps=0).folder)
    assert "No step has been logged yet." in found.texts
    assert "0 of 200" in found.texts


def test_a_mixtures_rollouts_find_their_samples(tmp_path: Path) -> None:
    stores = {name: make_set(tmp_path / name, query=name) for name in ("fox", "hen")}
    run = make_run(tmp_path / "mine", stores["fox"], steps=0)
    tables = "".join(f'[mixture.{name}]\ndata = "{store.folder}"\n' for name, store in stores.items())
    edit_config(run, f'[data]\ntrain = "{stores["fox"].folder}"', tables)
    for step, name in enumerate(("fox", "hen")):
        run.append(ROLLOUTS, rollout(step, sample=f"{name}/q1"))
    ((system,), _) = read_systems([run.folder])
    assert {key: one.query for key, one in system.runs[0].samples.items()} == {"fox/q1": "fox", "hen/q1": "hen"}
