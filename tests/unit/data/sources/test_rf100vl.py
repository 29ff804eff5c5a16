"""Folders of RF100-VL: layout, class 0 of Roboflow's exports, instructions, splits and protocol."""

from __future__ import annotations

from pathlib import Path

import pytest

from rf100vl_factories import README, write_rf100vl, write_split
from runs import virft
from virft.data.annotations import Skipped
from virft.data.sources.rf100vl import find_rf100vl, match_notes, read_readme, read_rf100vl
from virft.data.store import Store
from virft.errors import DataError


def test_a_dataset_has_its_published_splits_and_instructions(tmp_path: Path) -> None:
    found = read_rf100vl(write_rf100vl(tmp_path / "boars"), skipped=Skipped())
    assert found.classes == ("Adult", "young_one")
    assert found.published == {
        "train/a_jpg.rf.1.jpg": "train",
        "train/b_jpg.rf.2.jpg": "train",
        "valid/c_jpg.rf.3.jpg": "validation",
        "test/d_jpg.rf.4.jpg": "test",
    }
    assert found.class_notes == {
        "Adult": "Grown boars, large in the image.\n- Box the whole animal.\n- Do not include shadows.",
        "young_one": "Small boars with stripes.\nBox the whole animal, as of adults.",
    }


@pytest.mark.parametrize("parent", [None, "boars", "Adult"])
def test_category_0_of_an_export_is_no_class(tmp_path: Path, parent: str | None) -> None:
    """With its own ids 0 and 1, or after a super-category, even one with the name of a class."""
    found = read_rf100vl(write_rf100vl(tmp_path / "boars", parent=parent), skipped=Skipped(strict=True))
    assert found.classes == ("Adult", "young_one")
    assert found.images["valid/c_jpg.rf.3.jpg"].boxes == {"Adult": ((4, 4, 34, 34),), "young_one": ((40, 20, 50, 32),)}


def test_a_class_without_boxes_in_one_split_is_a_class_of_all(tmp_path: Path) -> None:
    folder = tmp_path / "boars"
    write_split(folder / "train", {"a.png": [("Adult", [4, 4, 30, 30])]}, classes=["Adult", "young_one"], parent="x")
    write_split(folder / "test", {"b.png": [("Adult", [4, 4, 30, 30])]}, classes=["Adult"], parent="x")
    assert read_rf100vl(folder, skipped=Skipped()).classes == ("Adult", "young_one")


@pytest.mark.parametrize(
    ("readme", "option", "is_sparse"),
    [(README, "auto", True), ("", "auto", False), (README, "complete", False), ("", "sparse", True)],
)
def test_no_class_is_absent_on_few_shot_training_images(
    tmp_path: Path, readme: str, option: str, is_sparse: bool
) -> None:
    folder = write_rf100vl(tmp_path / "boars", readme=readme)
    command = ("build", "rf100vl", folder, tmp_path / "data", "--per-image", "--train-annotations", option)
    assert virft(*command) == 0
    train, test = (Store(tmp_path / "data" / part) for part in ("train", "test"))
    assert {one.query for one in train} == ({"Adult", "young_one"} if is_sparse else {"Adult, young_one"})
    assert {one.query for one in test} == {"Adult, young_one"}


def test_test_sets_query_every_class_on_every_image(tmp_path: Path) -> None:
    folder = write_rf100vl(tmp_path / "boars")
    assert virft("build", "rf100vl", folder, tmp_path / "data", "--shots", "1") == 0
    test = Store(tmp_path / "data" / "test")
    assert sorted((one.query, len(one.target.items)) for one in test) == [("Adult", 0), ("young_one", 1)]  # type: ignore[attr-defined]
    assert test.card["source"]["protocol"] == "all"
    assert "protocol" not in Store(tmp_path / "data" / "train").card["source"]
    lists = ("build", "rf100vl", folder, tmp_path / "lists", "--per-image", "--max-classes-per-question", "1")
    assert virft(*lists) == 0
    assert sorted(one.query for one in Store(tmp_path / "lists" / "test")) == ["Adult", "young_one"]


def test_all_datasets_of_a_folder_are_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rf100vl(tmp_path / "rf20" / "boars", parent="boars")
    write_rf100vl(tmp_path / "rf20" / "pigs", readme="")
    (tmp_path / "rf20" / "notes").mkdir()
    assert virft("build", "rf100vl", tmp_path / "rf20", tmp_path / "data") == 0
    assert sorted(path.parent.relative_to(tmp_path / "data").as_posix() for path in tmp_path.rglob("card.json")) == [
        "boars/test", "boars/train", "boars/validation", "pigs/test", "pigs/train", "pigs/validation",
    ]  # fmt: skip
    out = capsys.readouterr().out
    assert "boars: class 'boars' is excluded" in out
    assert "pigs: classes without instructions in README.dataset.txt: Adult, young_one" in out
    cards = [Store(tmp_path / "data" / name / "test").card["source"] for name in ("boars", "pigs")]
    assert [card["licence"] for card in cards] == ["MIT", None]


def test_nothing_is_written_if_one_of_several_datasets_is_invalid(tmp_path: Path) -> None:
    write_rf100vl(tmp_path / "rf20" / "a")
    broken = write_rf100vl(tmp_path / "rf20" / "b") / "test" / "_annotations.coco.json"
    broken.write_text("null")  # as an early version of the download left it
    assert virft("build", "rf100vl", tmp_path / "rf20", tmp_path / "data") == 2
    assert not (tmp_path / "data").exists()


def test_other_folders_are_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match="expected a dataset of RF100-VL"):
            find_rf100vl(folder)


def test_a_file_of_instructions_replaces_those_of_the_readme(tmp_path: Path) -> None:
    folder = write_rf100vl(tmp_path / "boars")
    (tmp_path / "notes.json").write_text('{"Adult": "mine"}')
    assert virft("build", "rf100vl", folder, tmp_path / "data", "--class-notes", tmp_path / "notes.json") == 0
    texts = {note.name: note.text for one in Store(tmp_path / "data" / "test") for note in one.notes}
    assert texts["Adult"] == "mine"
    assert texts["young_one"].startswith("Small boars")


def test_a_readme_may_lack_parts(tmp_path: Path) -> None:
    path = tmp_path / "README.dataset.txt"
    assert read_readme(path).notes == {}
    path.write_text("# Introduction\n- **Crack**: in wood.\n# Object Classes\n## Crack\nIn wood. <image>\n## Knot\n")
    assert read_readme(path) == ("# Introduction\n- **Crack**: in wood.", None, {"Crack": "In wood."})


def test_names_fit_but_for_case_and_punctuation() -> None:
    notes = {"Bamboo 1": "a", "Bamboo 2": "b", "Knot with Crack": "c", "Hole": "d", "Glass": "e"}
    assert match_notes(["bamboo_2", "knot-with-crack", "holes", "glass", "bamboo"], notes) == {
        "bamboo_2": "b", "knot-with-crack": "c", "holes": "d", "glass": "e",
    }  # fmt: skip
    assert match_notes(["whd"], {"Wheat Head": "f"}) == {"whd": "f"}
