"""The page of folders, and the file that it is written to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from report_factories import (
    RIGHT,
    PageReader,
    make_run,
    make_set,
    run_with_predictions,
    write_texts,
)
from runs import files
from virft.cli.main import main

DOCS = Path(__file__).parents[4] / "docs"


def test_the_page_is_written_to_the_first_folder_or_to_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_with_predictions(tmp_path, make_set(tmp_path / "coins"))
    assert main(["report", str(run.folder), "--images", "0"]) == 0
    # the size depends on the length of paths
    assert re.fullmatch(rf"{run.folder}/report\.html: 6\d kB\n", capsys.readouterr().out)
    page = PageReader((run.folder / "report.html").read_text(encoding="utf-8"))
    assert page.texts[0] == "mine"
    assert page.all("figure", cls="question") == []
    assert main(["report", str(run.folder), "--out", str(tmp_path / "new" / "a.html"), "--no-intervals"]) == 0
    assert "mine" in PageReader((tmp_path / "new" / "a.html").read_text(encoding="utf-8")).texts
    assert main(["report", str(run.folder), "--out", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "report.html").is_file()


def test_the_page_of_predictions_alone_is_written_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_texts(tmp_path / "p", make_set(tmp_path / "coins"), [RIGHT] * 3)
    before = files(folder)
    monkeypatch.chdir(tmp_path)
    assert main(["report", "p"]) == 0
    assert (tmp_path / "report.html").is_file()
    assert files(folder) == before


def test_at_most_two_hundred_images_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["report", "a", "--images", "201"])
    assert "201; expected an integer from 0 to 200" in capsys.readouterr().err


def test_a_lone_surrogate_in_a_completion_does_not_stop_a_page(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    run = make_run(tmp_path / "mine", store)
    write_texts(run.folder / "eval" / "test", store, ["<answer>\ud83d</answer>"], model=str(run.folder / "model"))
    assert main(["report", str(run.folder)]) == 0
    assert "\\ud83d" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_the_documented_program_makes_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_set(tmp_path / "coins")
    for name in ("a", "b"):
        run_with_predictions(tmp_path / "runs", store, name=name)
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", (DOCS / "report.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, str] = {}
    exec(program, names)
    assert {"In short", "b is better.", "hours"} <= set(PageReader(names["page"]).texts)
