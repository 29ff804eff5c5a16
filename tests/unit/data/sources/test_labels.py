"""Folders and CSV files of labelled images as classification datasets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from factories import save_image
from virft.cli.main import main
from virft.data.annotations import Skipped
from virft.data.label_questions import LabelPlan, write_label_stores
from virft.data.sampling import SplitPlan
from virft.data.sources.labels import read_aliases, read_label_csv, read_label_folders
from virft.data.store import Store
from virft.errors import ConfigError, DataError
from virft.types import ImageSize, Label

SIZE = ImageSize(40, 30)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six images of each of two aircraft, one of them deeper, and files that are not images."""
    for number, (folder, count) in enumerate((("Boeing_737", 6), ("Airbus A320/old", 1), ("Airbus A320", 5))):
        for i in range(count):
            save_image(tmp_path / "planes" / folder / f"{i}.png", SIZE, seed=10 * number + i)
    (tmp_path / "planes" / "Boeing_737" / "notes.txt").write_text("not a picture")
    (tmp_path / "planes" / "Boeing_737" / ".hidden.png").write_bytes(b"")
    return tmp_path / "planes"


def test_each_folder_is_a_label_with_spaces(root: Path) -> None:
    labelled = read_label_folders(root, skipped=Skipped())
    assert labelled.labels == ("Airbus A320", "Boeing 737")
    assert len(labelled.images) == 12
    assert labelled.label_of["Airbus A320/old/0.png"] == "Airbus A320"


def test_shots_of_every_label_and_a_test_set_of_the_rest(root: Path, tmp_path: Path) -> None:
    labelled = read_label_folders(root, aliases={"Boeing 737": ("B737",)}, skipped=Skipped())
    plan = LabelPlan(domain="aircraft", shots=2, split=SplitPlan(test_frac=0.5, seed=3))
    cards = write_label_stores(labelled, tmp_path / "d", plan=plan, source={"kind": "folders"}, skipped=Skipped())
    train, test = Store(tmp_path / "d" / "train"), Store(tmp_path / "d" / "test")
    assert cards[str(tmp_path / "d" / "train")]["counts"]["classification"] == {
        "Airbus A320": {"questions": 2},
        "Boeing 737": {"questions": 2},
    }
    assert len(test) == 6
    assert {sample.id for sample in train}.isdisjoint(sample.id for sample in test)
    assert {sample.query for sample in train} == {"aircraft"}
    assert Label(text="Boeing 737", aliases=("B737",)) in {sample.target for sample in train}
    train.check(decode=True)


def test_the_same_build_twice_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        plan = LabelPlan(domain="aircraft", shots=3, split=SplitPlan(test_frac=0.3))
        write_label_stores(
            read_label_folders(root, skipped=Skipped()), tmp_path / name, plan=plan, source={}, skipped=Skipped()
        )
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_invalid_image_is_skipped_and_reported(root: Path, tmp_path: Path) -> None:
    whole = (root / "Boeing_737" / "0.png").read_bytes()
    (root / "Boeing_737" / "0.png").write_bytes(whole[: len(whole) // 2])
    skipped = Skipped()
    plan = LabelPlan(domain="aircraft")
    write_label_stores(
        read_label_folders(root, skipped=Skipped()), tmp_path / "d", plan=plan, source={}, skipped=skipped
    )
    assert len(Store(tmp_path / "d")) == 11
    ((where, _),) = skipped.records
    assert where == "image Boeing_737/0.png"
    with pytest.raises(DataError, match=r"image Boeing_737/0.png: .*--strict"):
        write_label_stores(
            read_label_folders(root, skipped=Skipped()),
            tmp_path / "e",
            plan=plan,
            source={},
            skipped=Skipped(strict=True),
        )
    assert not (tmp_path / "e").exists()


def test_a_label_with_too_few_images_is_reported(root: Path, tmp_path: Path) -> None:
    plan = LabelPlan(domain="aircraft", shots=7)
    with pytest.raises(ConfigError, match=r"fewer than 7 usable images \(shots\): 'Airbus A320' \(6\)"):
        write_label_stores(
            read_label_folders(root, skipped=Skipped()), tmp_path / "d", plan=plan, source={}, skipped=Skipped()
        )


def test_unknown_names_are_reported_with_the_closest_name(root: Path) -> None:
    with pytest.raises(ConfigError, match="no image has the label 'Boeing737'; did you mean 'Boeing 737'"):
        read_label_folders(root, classes=("Boeing737",), skipped=Skipped())
    with pytest.raises(ConfigError, match="no image has the label 'Cessna'; expected one of Airbus A320, Boeing 737"):
        read_label_folders(root, aliases={"Cessna": ("C172",)}, skipped=Skipped())


def test_a_name_that_is_correct_for_two_labels_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match="'airbus-a320' would be correct for 'Airbus A320' and for 'Boeing 737'"):
        read_label_folders(root, aliases={"Boeing 737": ("airbus-a320",)}, skipped=Skipped())


@pytest.mark.parametrize("name", ["none", "empty"])
def test_a_folder_without_classes_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected a folder"):
        read_label_folders(tmp_path / name, skipped=Skipped())


def test_a_csv_is_read_by_its_header(root: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(
        "id,label,path\n1,big,Boeing_737/0.png\n2,,Boeing_737/1.png\n3,small,Boeing_737/0.png\n"
        '4,big,../x.png\n5,"small, old",Airbus A320\\old\\0.png\n',
        encoding="utf-8-sig",
    )
    skipped = Skipped()
    labelled = read_label_csv(table, root, skipped=skipped)
    assert labelled.label_of == {"Airbus A320/old/0.png": "small, old"}
    assert skipped.records == [
        ("t.csv:3", "label is empty"),
        ("t.csv:4", "image Boeing_737/0.png was named before, as 'big'"),
        ("t.csv:5", "path ../x.png leads out of the folder of the images"),
        ("image Boeing_737/0.png", "is labelled 'big' and 'small'; expected one label, so it is not used"),
    ]
    write_label_stores(labelled, tmp_path / "d", plan=LabelPlan(domain="x"), source={}, skipped=skipped)
    assert len(Store(tmp_path / "d")) == 1


def test_folders_of_splits_next_to_another_folder_are_refused(tmp_path: Path) -> None:
    for name in ("Training/cat", "Training/dog", "Testing/cat", "extra/cat"):
        save_image(tmp_path / name / "0.png")
    with pytest.raises(DataError, match="holds the splits Testing, Training, and extra next to them; expected folders"):
        read_label_folders(tmp_path, skipped=Skipped())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,label\na.png,cat\n", "the head names file, label; expected columns path and label"),
        (b"", "the head names nothing"),
        (b"path,label\n", "names no image"),
        (b"path,label\n\xff.png,cat\n", "not UTF-8 text"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_label_csv(tmp_path / "t.csv", tmp_path, skipped=Skipped())


@pytest.mark.parametrize(
    ("tree", "message"),
    [([], "holds a list"), ({"a": "b"}, "a has 'b'; expected"), ({"a": [""]}, "expected {")],
)
def test_aliases_of_another_form_are_refused(tmp_path: Path, tree: object, message: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match=message):
        read_aliases(tmp_path / "a.json")


def test_a_tree_with_splits_above_the_labels_builds_the_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train/cat/0", "train/big_dog/0", "val/cat/1", "val/big_dog/1", "test/photo"):
        save_image(tmp_path / "in" / f"{name}.png")
    out = tmp_path / "d"
    assert main(["build", "folders", str(tmp_path / "in"), str(out), "--domain", "animal"]) == 0
    labels = {part: [one.target.text for one in Store(out / part)] for part in ("train", "validation")}
    assert labels == {"train": ["big dog", "cat"], "validation": ["big dog", "cat"]}
    assert not (out / "test").exists()
    printed = capsys.readouterr().out
    assert "the published splits are used: train, validation" in printed
    assert "skipped test: holds no folder of images for each class" in printed


def test_labels_that_are_named_as_splits_stay_labels_beside_others(tmp_path: Path) -> None:
    for name in ("train/a/0", "bus/0"):
        save_image(tmp_path / f"{name}.png")
    assert read_label_folders(tmp_path, skipped=Skipped()).labels == ("bus", "train")


def test_a_table_of_absolute_paths_is_refused_with_the_first_path(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\n/data/img/1.jpg,cat\nC:\\img\\2.jpg,cat\n")
    with pytest.raises(DataError, match=r"names no image; .* skipped: t\.csv:2: path /data/img/1\.jpg leads out of"):
        read_label_csv(tmp_path / "t.csv", tmp_path, skipped=Skipped())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_other_programs_are_read(tmp_path: Path, encoding: str, separator: str) -> None:
    text = f'path{separator} label\r\na.png{separator}"a{separator} b"\r\n'
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    labelled = read_label_csv(tmp_path / "t.csv", tmp_path, skipped=Skipped())
    assert labelled.label_of == {"a.png": f"a{separator} b"}


def test_an_image_name_of_a_csv_can_have_accents_in_another_form(tmp_path: Path) -> None:
    save_image(tmp_path / "cafe\u0301.png")
    (tmp_path / "t.csv").write_text("path,label\ncaf\u00e9.png,cat\n", encoding="utf-8")
    labelled = read_label_csv(tmp_path / "t.csv", tmp_path, skipped=Skipped())
    assert labelled.label_of == {"cafe\u0301.png": "cat"}
