"""From folders to a page: whose predictions are whose, and what is missing is told."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from factories import edit_json
from report_factories import NOTHING, RIGHT, PageReader, make_run, make_set, rollout, write_answers
from virft.cli import main
from virft.data.store import Store
from virft.errors import RunError
from virft.evaluation.predictions import PARTS, PREDICTIONS
from virft.pipeline import score
from virft.report.reported import ReportedSystem
from virft.run_report import read_systems, report_folders, short_names
from virft.training.run import METRICS, ROLLOUTS, RunFolder

DOCS = Path(__file__).parents[2] / "docs"
WORSE = "<answer>[{'Position':[600,600,900,900],'Confidence':0.9}]</answer>"


def systems_of(*places: Path) -> dict[str, dict[str, float]]:
    """System -> test -> F1 (-1 without scores)."""
    systems, _ = read_systems(places)
    return {
        one.name: {
            test: answers.scores[0].values["f1"] if answers.scores else -1.0 for test, (answers,) in one.answers.items()
        }
        for one in systems
    }


def page_of(*places: Path) -> PageReader:
    return PageReader(report_folders(places))


def run_with_answers(folder: Path, store: Store, *, name: str = "mine") -> RunFolder:
    """A run whose model finds two of three foxes, and whose base finds none."""
    run = make_run(folder / name, store)
    write_answers(run.folder / "eval" / "base", store, [NOTHING] * 3)
    write_answers(run.folder / "eval" / "test", store, [RIGHT, RIGHT, NOTHING], model=str(run.folder / "model"))
    return run


def test_predictions_belong_to_the_base_to_runs_or_to_others(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = run_with_answers(tmp_path, store)
    write_answers(run.folder / "eval" / "best", store, [RIGHT] * 3, model=str(run.folder / "best"))
    other = write_answers(tmp_path / "other", store, [WORSE] * 3, model="some/hub-model")
    # 2 hits of 2 boxes and 3 targets: 4 / 5
    expected = {
        "base": {"coins": 0.0},
        "mine": {"coins": 0.8},
        "mine, best by validation": {"coins": 1.0},
        "some/hub-model": {"coins": 0.0},
    }
    assert systems_of(run.folder, other) == expected
    assert systems_of(other, run.folder) == expected
    assert list(systems_of(other, run.folder)) == list(expected)


def test_where_only_the_best_model_was_asked_it_stands_for_its_run(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = make_run(tmp_path / "mine", store)
    write_answers(run.folder / "eval" / "test", store, [RIGHT] * 3, model=str(run.folder / "best"))
    assert systems_of(run.folder) == {"mine": {"coins": 1.0}}


def test_a_base_given_as_a_folder_of_predictions_is_the_base_of_the_run(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = make_run(tmp_path / "mine", store)
    base = write_answers(tmp_path / "somewhere", store, [RIGHT, NOTHING, NOTHING])
    # 2 x 1 hit / (1 box + 3 targets)
    assert systems_of(base, run.folder) == {"base": {"coins": 0.5}, "mine": {}}


def test_a_run_that_began_with_another_runs_model_stands_beside_it(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    first = run_with_answers(tmp_path, store, name="sft")
    (first.folder / "model").mkdir()
    second = make_run(tmp_path / "rft", store)
    edit_config(second, 'path = "virft-tiny"', f'path = "{first.folder / "model"}"')
    write_answers(second.folder / "eval" / "test", store, [RIGHT] * 3, model=str(second.folder / "model"))
    assert systems_of(first.folder, second.folder) == {
        "base virft-tiny": {"coins": 0.0},
        "sft": {"coins": 0.8},
        "rft": {"coins": 1.0},
    }
    # alone, its base is what it began with
    assert systems_of(second.folder, first.folder / "eval" / "test") == {"base": {"coins": 0.8}, "rft": {"coins": 1.0}}


def edit_config(run: RunFolder, old: str, new: str) -> None:
    path = run.folder / "config.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_nested_folders_and_moved_runs_are_understood(tmp_path: Path) -> None:
    store = make_set(tmp_path / "q" / "data" / "coins")
    run = make_run(tmp_path / "q" / "run", store)
    write_answers(run.folder / "eval" / "base" / "coins", store, [NOTHING] * 3)
    write_answers(run.folder / "eval" / "rft" / "coins", store, [RIGHT] * 3, model=str(run.folder / "model"))
    expected = {"base": {"coins": 0.0}, "q": {"coins": 1.0}}
    assert systems_of(run.folder) == expected
    (tmp_path / "q").rename(tmp_path / "moved")
    assert systems_of(tmp_path / "moved" / "run") == {"base": {"coins": 0.0}, "moved": {"coins": 1.0}}
    found = page_of(tmp_path / "moved" / "run")
    assert found.all("svg", cls="panel")


def test_equal_answers_of_the_base_in_several_runs_count_once(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    runs = [run_with_answers(tmp_path, store, name=name).folder for name in ("a", "b")]
    assert list(systems_of(*runs)) == ["base", "a", "b"]
    assert list(systems_of(runs[0], runs[0])) == ["base", "a"]


def test_the_same_model_asked_otherwise_is_a_system_of_its_own(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = run_with_answers(tmp_path, store)
    write_answers(run.folder / "eval" / "thinking", store, [NOTHING] * 3, thinking=True)
    write_answers(run.folder / "eval" / "zz", store, [RIGHT, NOTHING, NOTHING])
    assert systems_of(run.folder) == {
        "base": {"coins": 0.0},
        "base, thinking True": {"coins": 0.0},
        "base, again (2)": {"coins": 0.5},
        "mine": {"coins": 0.8},
    }


def test_sets_of_one_name_with_other_questions_are_kept_apart_and_told(tmp_path: Path) -> None:
    runs = [
        run_with_answers(tmp_path / name, make_set(tmp_path / name / "coins", query=query), name=name).folder
        for name, query in (("a", "fox"), ("b", "hen"))
    ]
    assert systems_of(*runs) == {
        "base": {"coins (a)": 0.0, "coins (b)": 0.0},
        "a": {"coins (a)": 0.8},
        "b": {"coins (b)": 0.8},
    }
    (note,) = read_systems(runs)[1]
    assert note == (
        "coins: not the same questions everywhere, the data differs (a, b). Do not compare numbers across these tables."
    )
    assert note in page_of(*runs).texts


def test_a_set_that_was_built_anew_between_two_predictions_is_told_by_its_hash(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = make_run(tmp_path / "mine", store)
    for name, data_hash in (("a", "1" * 64), ("b", "2" * 64)):
        folder = write_answers(run.folder / "eval" / name, store, [RIGHT] * 3, data_hash=data_hash)
        edit_json(folder / "card.json", lambda tree, name=name: tree.update(model=str(tmp_path / "mine" / "model")))
    assert systems_of(run.folder) == {"mine": {"coins (11111111)": -1.0, "coins (22222222)": -1.0}}
    assert "has changed since it was asked" in page_of(run.folder).text


def test_scores_have_intervals_and_so_have_differences(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins", number=8)
    run = make_run(tmp_path / "mine", store)
    write_answers(run.folder / "eval" / "base", store, [NOTHING] * 8)
    write_answers(run.folder / "eval" / "test", store, [RIGHT] * 8, model=str(run.folder / "model"))
    (base, mine), _ = read_systems([run.folder])
    assert mine.answers["coins"][0].scores[0].intervals["f1"] == (1.0, 1.0)
    assert base.answers["coins"][0].resampled.keys() == {"detection"}
    assert "(+1.000 to +1.000)" in page_of(run.folder).text
    (_, mine), _ = read_systems([run.folder], with_intervals=False)
    assert mine.answers["coins"][0].scores[0].intervals == {}


def test_without_its_data_set_a_run_is_shown_by_its_scores_and_says_so(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = run_with_answers(tmp_path, store)
    score(predictions=run.folder / "eval" / "test", data=store.folder, intervals=False)
    shutil.rmtree(store.folder)
    found = page_of(run.folder)
    assert "0.800" in found.texts
    assert f"{store.folder}: the data set is not there (hash {store.hash[:12]}); scores are as scores.json says" in (
        found.text
    )
    assert "base on coins: " + f"{store.folder}: the data set is not there" in found.text
    assert "its data set is not at hand: answers are shown without pictures" in found.texts
    assert found.all("svg", cls="panel") == []


def test_missing_pictures_are_told_where_they_should_be(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = run_with_answers(tmp_path, store)
    for picture in (store.folder / "images").iterdir():
        picture.unlink()
    found = page_of(run.folder)
    assert "picture missing" in found.texts
    assert f"{store.folder}/images/0.png: no such image" in found.texts
    assert "0.800" in found.texts


def test_a_run_that_is_being_written_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = make_run(tmp_path / "mine", store, steps=2)
    for name in (METRICS, ROLLOUTS):
        with (run.folder / name).open("a") as file:
            file.write('{"step":2,"rew')
    folder = write_answers(run.folder / "eval" / "test", store, [RIGHT, NOTHING], model=str(run.folder / "model"))
    (folder / PREDICTIONS).rename(folder / PARTS.format(0))
    found = page_of(run.folder)
    reward = found.charts()[0]["lines"][0]
    assert (reward["steps"], reward["values"]) == ([1, 2], ["1", "2"])
    assert "2 of 200" in found.texts
    # 1 hit, 1 box, 2 targets so far: 2 / 3
    assert "0.667" in found.texts
    assert f"mine: {folder}: predictions are still being written, 2 so far" in found.texts


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("card.json", None, "card.json: cannot be read (No such file or directory)"),
        ("card.json", b"{", "card.json: not valid JSON"),
        ("card.json", b"[]", "card.json: no card of a run"),
        ("config.toml", b"[[", "config.toml: not valid TOML"),
        ("config.toml", b"a = 1\n\xff", "config.toml: not valid TOML"),
        ("metrics.jsonl", b"", "seconds of a step"),
        ("metrics.jsonl", b"\xff\xfe{\n[1]\n3\n", "seconds of a step"),
        ("rollouts.jsonl", b"", "no step of it has logged its answers yet"),
    ],
)
def test_a_broken_file_of_a_run_is_told_in_its_place(
    tmp_path: Path, name: str, content: bytes | None, told: str
) -> None:
    run = run_with_answers(tmp_path, make_set(tmp_path / "coins"))
    if content is None:
        (run.folder / name).unlink()
    else:
        (run.folder / name).write_bytes(content)
    assert told in page_of(run.folder).text


def test_an_empty_run_is_a_page_that_says_so(tmp_path: Path) -> None:
    found = page_of(make_run(tmp_path / "mine", make_set(tmp_path / "coins"), steps=0).folder)
    assert "No step has been logged yet." in found.texts
    assert "0 of 200" in found.texts


def test_broken_predictions_are_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = run_with_answers(tmp_path, store)
    other = make_set(tmp_path / "coins2", number=5)
    write_answers(run.folder / "eval" / "bad_card", store, [RIGHT])
    (run.folder / "eval" / "bad_card" / "card.json").write_text("{}")
    bad_lines = write_answers(run.folder / "eval" / "bad_lines", store, [WORSE])
    (bad_lines / PREDICTIONS).write_text("{}\n")
    # texts about other questions than the card says
    mixed = write_answers(run.folder / "eval" / "mixed", other, [WORSE] * 5)
    edit_json(mixed / "card.json", lambda tree: tree.update(data=str(store.folder), data_hash=store.hash))
    found = page_of(run.folder)
    assert f"{run.folder}/eval/bad_card/card.json: no card of predictions of schema_version 1" in found.texts
    assert "bad_lines/predictions.jsonl:1: no prediction" in found.text
    assert f"mixed/predictions.jsonl: sample 'q3' is not in {store.folder}" in found.text
    assert "0.800" in found.texts


def test_a_mixtures_rollouts_find_their_samples(tmp_path: Path) -> None:
    stores = {name: make_set(tmp_path / name, query=name) for name in ("fox", "hen")}
    run = make_run(tmp_path / "mine", stores["fox"], steps=0)
    tables = "".join(f'[mixture.{name}]\ndata = "{store.folder}"\n' for name, store in stores.items())
    edit_config(run, f'[data]\ntrain = "{stores["fox"].folder}"', tables)
    for step, name in enumerate(("fox", "hen")):
        run.append(ROLLOUTS, rollout(step, sample=f"{name}/q1"))
    ((system,), _) = read_systems([run.folder])
    assert {key: one.query for key, one in system.runs[0].samples.items()} == {"fox/q1": "fox", "hen/q1": "hen"}


def test_what_is_no_run_and_holds_no_predictions_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match=r"none: no such folder; expected a run folder \(with config.toml\)"):
        read_systems([tmp_path / "none"])
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"virft: {tmp_path}: no run; expected a run folder (with config.toml), or a folder of predictions (with "
        "predictions.jsonl and card.json)\n"
    )


def test_the_page_lands_in_the_first_folder_or_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_with_answers(tmp_path, make_set(tmp_path / "coins"))
    assert main(["report", str(run.folder), "--pictures", "0"]) == 0
    assert capsys.readouterr().out == f"{run.folder}/report.html: 0.0 MB\n"
    page = PageReader((run.folder / "report.html").read_text(encoding="utf-8"))
    assert page.texts[0] == "mine"
    assert page.all("figure", cls="question") == []
    assert main(["report", str(run.folder), "--out", str(tmp_path / "new" / "a.html"), "--no-intervals"]) == 0
    assert "mine" in PageReader((tmp_path / "new" / "a.html").read_text(encoding="utf-8")).texts


def test_pictures_are_at_most_two_hundred(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["report", "a", "--pictures", "201"])
    assert "201; expected an integer of at most 200" in capsys.readouterr().err


def test_half_a_character_in_an_answer_does_not_stop_a_page(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = make_run(tmp_path / "mine", store)
    write_answers(run.folder / "eval" / "test", store, ["<answer>\ud83d</answer>"], model=str(run.folder / "model"))
    assert main(["report", str(run.folder)]) == 0
    assert "\\ud83d" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_the_documented_program_makes_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_set(tmp_path / "coins")
    for name in ("a", "b"):
        run_with_answers(tmp_path / "runs", store, name=name)
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", (DOCS / "report.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, str] = {}
    exec(program, names)
    assert {"In short", "b is better.", "hours"} <= set(PageReader(names["page"]).texts)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a", "runs/b"], ["a", "b"]),
        (["x/run", "y/run"], ["x", "y"]),
        (["x/1/run", "y/1/run"], ["x", "y"]),
        (["x/a", "y/a", "y/b"], ["x/a", "y/a", "y/b"]),
        (["mine/run"], ["mine"]),
        (["mine", "mine"], ["mine", "mine"]),
        ([], []),
    ],
)
def test_names_tell_folders_apart(paths: list[str], names: list[str]) -> None:
    assert short_names([Path(path) for path in paths]) == names


def test_a_system_is_found_for_every_run_even_without_answers(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine", make_set(tmp_path / "coins"))
    (systems, notes) = read_systems([run.folder])
    assert [(one.name, dict(one.answers)) for one in systems] == [("mine", {})]
    assert isinstance(systems[0], ReportedSystem)
    assert notes == ()
    assert json.loads(json.dumps(dict(systems[0].runs[0].card)))["commit"] == "abc"
