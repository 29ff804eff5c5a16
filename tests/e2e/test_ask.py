"""Query a model about one image, or about many line by line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from factories import save_image
from runs import files, virft
from virft.cli.main import EXIT_NOT_ALL_WELL

SHORT = ("--max-completion-tokens", 48)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, next to one with an image of a fox."""
    save_image(tmp_path / "photos" / "fox.png", (112, 112))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def feed(monkeypatch: pytest.MonkeyPatch, *lines: str | bytes) -> None:
    """Lines for standard input."""
    text = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_result_is_printed_and_drawn_in_the_current_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert virft("ask", "virft-tiny", "../photos/fox.png", "top hat", *SHORT) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("answer: ")
    assert lines[-1] == "image: fox_answer.png"
    assert list(files(here)) == ["fox_answer.png"]
    # a second query replaces its own image, but no other file
    assert virft("ask", "virft-tiny", "../photos/fox.png", "fox", *SHORT, "--task", "classification") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "image: fox_answer.png (replaced)"
    save_image(here / "fox_answer.png")
    before = files(here)
    assert virft("ask", "virft-tiny", "../photos/fox.png", "fox", *SHORT) == 2
    assert "virft: fox_answer.png: exists and was not written by `virft ask`" in capsys.readouterr().err
    assert files(here) == before
    assert virft("ask", "virft-tiny", "../photos/fox.png", "fox", *SHORT, "--overwrite") == 0
    assert files(here) != before


def test_an_unreadable_answer_is_no_error(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("ask", "virft-tiny", "../photos/fox.png", "fox", "--max-completion-tokens", 1, "--out", "x/a.png")
    assert virft(*argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "truncated at 1 tokens: see --max-completion-tokens"
    assert lines[1].startswith("answer: unreadable: ")
    assert lines[2].startswith("text: ")
    assert lines[-1] == "image: x/a.png"
    with Image.open(here / "x" / "a.png") as image:
        assert image.size == (448, 448)


def test_an_invalid_line_does_not_stop_the_rest(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "corrupt.jpg").write_bytes(b"\xff\xd8 no image")
    photo = "../photos/fox.png"
    save_image(here / "fox_answer_2.png")
    feed(
        monkeypatch,
        f"{photo}\tfox",
        "",
        "corrupt.jpg\tfox",
        json.dumps({"image": photo, "question": 'a "fox"', "task": "grounding"}),
        b"\xff",
        json.dumps({"image": photo, "question": "fox"}),
    )
    assert virft("ask", "virft-tiny", "-", *SHORT) == EXIT_NOT_ALL_WELL == 1
    captured = capsys.readouterr()
    first, corrupt, taken, no_text, last = records(captured.out)
    assert (first["line"], first["question"], first["task"]) == (1, "fox", "detection")
    assert first["annotated_image"] == "fox_answer.png"
    assert corrupt == {
        "line": 3,
        "error": "corrupt.jpg: cannot be read as an image: not in a format that Pillow can read",
    }
    # the second image would be fox_answer_2.png, which another program wrote
    assert taken["line"] == 4
    assert taken["error"].startswith("fox_answer_2.png: exists and was not written by `virft ask`")
    assert (no_text["line"], no_text["error"][:14]) == (5, "not UTF-8 text")
    assert last["line"] == 6 and "fox_answer_2.png: exists" in last["error"]
    assert captured.err == "virft: 4 of 5 lines could not be used; each has its record with an error\n"


def test_many_results_equal_those_of_single_queries(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_image(here / "b.png", (200, 100), seed=1)
    feed(monkeypatch, "../photos/fox.png\tfox", "b.png\tfox", "b.png\tdog")
    assert virft("ask", "virft-tiny", "-", *SHORT, "--out", "drawn") == 0
    many = records(capsys.readouterr().out)
    assert [one["annotated_image"] for one in many] == [
        "drawn/fox_answer.png",
        "drawn/b_answer.png",
        "drawn/b_answer_2.png",
    ]
    for name, query, path in (("../photos/fox.png", "fox", many[0]), ("b.png", "dog", many[2])):
        assert virft("ask", "virft-tiny", name, query, *SHORT, "--out", "single.png") == 0
        assert (here / "single.png").read_bytes() == (here / path["annotated_image"]).read_bytes()
    assert virft("ask", "virft-tiny", "-", "--out", "single.png") == 2
    assert "--out single.png: is a file; with - expected a folder" in capsys.readouterr().err


def test_each_record_is_printed_before_the_next_query_is_read(here: Path) -> None:
    command = [sys.executable, "-m", "virft", "ask", "virft-tiny", "-", "--max-completion-tokens", "4"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for number in (1, 2):
            process.stdin.write("../photos/fox.png\tfox\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["line"] == number
        process.stdin.close()
        assert process.wait() == 0
