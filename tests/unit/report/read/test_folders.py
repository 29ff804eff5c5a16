"""The page of folders, and where it lands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from report_factories import (
    RIGHT,
    PageReader,
    make_run,
    make_set,
    run_with_answers,
    write_answers,
)
from runs import files
from virft.cli.main import main

DOCS = Path(__file__).parents[4] / "docs"


def test_the_page_lands_in_the_first_folder_or_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_with_answers(tmp_path, make_set(tmp_path / "coins"))
    assert main(["report", str(run.folder), "--images", "0"]) == 0
    assert capsys.readouterr().out == f"{run.folder}/report.html: 0.0 MB\n"
    page = PageReader((run.folder / "report.html").read_text(encoding="utf-8"))
    assert page.texts[0] == "mine"
    assert page.all("figure", cls="question") == []
    assert main(["report", str(run.folder), "--out", str(tmp_path / "new" / "a.html"), "--no-intervals"]) == 0
    assert "mine" in PageReader((tmp_path / "new" / "a.html").read_text(encoding="utf-8")).texts
    assert main(["report", str(run.folder), "--out", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "report.html").is_file()


def test_the_page_of_predictions_alone_lands_here_and_not_among_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_answers(tmp_path / "p", make_set(tmp_path / "coins"), [RIGHT] * 3)
    before = files(folder)
    monkeypatch.chdir(tmp_path)
    assert main(["report", "p"]) == 0
    assert (tmp_path / "report.html").is_file()
    assert files(folder) == before


def test_pictures_are_at_most_two_hundred(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["report", "a", "--images", "201"])
    assert "201; expected an integer from 0 to 200" in capsys.readouterr().err


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
