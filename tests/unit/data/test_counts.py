"""Statistics of a dataset: in its card, and in the output of ``virft check``."""

from __future__ import annotations

from pathlib import Path

import pytest

from factories import box, detections, sample, save_image
from virft.cli.main import main
from virft.data.counts import Counts, count_sample, counts_text, negatives_frac
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.tasks.counting import Count
from virft.types import Label, Sample


def save(folder: Path, *samples: Sample) -> Path:
    """A dataset of these samples on one image of 200 x 150."""
    save_image(folder / "a.png", (200, 150))
    with StoreWriter(folder / "d") as writer:
        writer.add_image_file("a.png", folder / "a.png")
        for one in samples:
            writer.add(one)
        writer.finish(source={}, seed=0, skipped=[("here", "why")])
    return folder / "d"


def four(folder: Path) -> Path:
    size = (200, 150)
    return save(
        folder,
        sample(detections((0, 0, 10, 10), (0, 0, 40, 40)), id="1", size=size),
        sample(detections(), id="2", size=size),
        sample(Label(text="red fox"), id="3", size=size, task="classification"),
        sample(box(0, 0, 120, 120), id="4", size=size, task="grounding", query="the left one"),
    )


def test_questions_boxes_and_sizes_are_counted(tmp_path: Path) -> None:
    counts = Store(four(tmp_path)).card["counts"]
    assert counts == {
        "classification": {"red fox": {"questions": 1}},
        "detection": {"fox": {"questions": 2, "boxes": 2, "small": 1, "medium": 1, "large": 0, "absent": 1}},
        "grounding": {"all": {"questions": 1, "boxes": 1, "small": 0, "medium": 0, "large": 1}},
    }
    header, *lines = counts_text(counts).splitlines()
    assert header.split() == ["task", "class", "questions", "absent", "boxes", "small", "medium", "large"]
    assert lines[1].split() == ["detection", "fox", "2", "1", "2", "1", "1", "0"]
    # a task without boxes has no numbers of boxes
    assert lines[0].split() == ["classification", "red", "fox", "1", "-", "-", "-", "-", "-"]
    assert len({len(line) for line in (header, *lines)}) == 1


def test_a_table_has_only_the_columns_of_its_tasks() -> None:
    counts: Counts = {}
    count_sample(sample(Count(number=3), task="counting"), counts)
    assert counts_text(counts).splitlines()[0].split() == ["task", "class", "questions", "absent", "objects"]


def test_the_fraction_of_absent_classes_is_that_of_detection_only() -> None:
    counts: Counts = {}
    assert negatives_frac(counts) is None
    for one in (
        sample(detections()),
        sample(detections((0, 0, 9, 9))),
        sample(Label(text="x"), task="classification"),
    ):
        count_sample(one, counts)
    assert negatives_frac(counts) == 0.5


def test_the_command_reports_skipped_records_and_corrupt_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = four(tmp_path)
    assert main(["check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "detection       fox" in out
    assert "1 records of the source were skipped" in out
    (folder / "images" / "a.png").write_bytes(b"cut")
    assert main(["check", str(folder)]) == 2
    assert "a.png" in capsys.readouterr().err


def test_the_command_checks_every_split_of_a_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = tmp_path / "both"
    both.mkdir()
    four(tmp_path / "1").rename(both / "train")
    save(tmp_path / "2", sample(detections((0, 0, 9, 9)), id="1", size=(200, 150))).rename(both / "test")
    alone = {}
    for split in ("train", "test"):
        assert main(["check", str(both / split)]) == 0
        alone[split] = capsys.readouterr().out
    assert main(["check", str(both), "--model", "virft-tiny"]) == 0
    accepts = "virft-tiny accepts every prompt\n"
    assert capsys.readouterr().out == f"train:\n{alone['train']}{accepts}\ntest:\n{alone['test']}{accepts}"
    (both / "test" / "images" / "a.png").write_bytes(b"cut")
    assert main(["check", str(both)]) == 2
    assert "both/test/images/a.png" in capsys.readouterr().err
    (both / "test" / "card.json").write_text("{")
    assert main(["check", str(both)]) == 2
    assert "both/test/card.json: cannot be read as JSON" in capsys.readouterr().err


def test_a_folder_without_datasets_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train").mkdir()
    for verb in ("check", "preview"):
        assert main([verb, str(tmp_path)]) == 2
        assert f"{tmp_path}: has no card.json; expected a dataset made by `virft build`" in capsys.readouterr().err
