"""CSV files of boxes, valid and invalid."""

from __future__ import annotations

from pathlib import Path

import pytest

from factories import save_image
from virft.cli.main import main
from virft.data.annotations import AnnotatedSet, Skipped
from virft.data.sources.detection_csv import read_detection_csv
from virft.data.store import Store
from virft.errors import ConfigError, DataError

TENSORFLOW = "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,64,48,cat,10,12,30,40\na.png,64,48,dog,0,0,9,9\n"


def read(folder: Path, text: str, **options: dict[str, str]) -> tuple[AnnotatedSet, list[tuple[str, str]]]:
    for name in ("a", "b"):
        save_image(folder / "images" / f"{name}.png")
    (folder / "t.csv").write_text(text)
    skipped = Skipped()
    return read_detection_csv(folder / "t.csv", folder / "images", skipped=skipped, **options), skipped.records


@pytest.mark.parametrize(
    "text",
    [
        TENSORFLOW,
        "image_path;label;x1;y1;x2;y2\n/data/img/a.png;cat;10;12;30;40\n/data/img/a.png;dog;0;0;9;9\n",
        "Path,X_Min,Y_Min,X_Max,Y_Max,Category\na.png,10,12,30,40,cat\na.png,0,0,9,9,dog\n",
    ],
)
def test_columns_are_recognized_by_their_usual_names(tmp_path: Path, text: str) -> None:
    annotated, skipped = read(tmp_path, text)
    assert annotated.images["a.png"].boxes == {"cat": ((10, 12, 30, 40),), "dog": ((0, 0, 9, 9),)}
    assert skipped == []


def test_other_columns_can_be_named(tmp_path: Path) -> None:
    text = "bild,art,xmin,ymin,xmax,ymax,filename\na.png,cat,10,12,30,40,x\n"
    annotated, _ = read(tmp_path, text, columns={"image": "bild", "class": "art"})
    assert annotated.images["a.png"].boxes == {"cat": ((10, 12, 30, 40),)}
    with pytest.raises(DataError, match=r"expected columns image, class, .*, or --columns class=NAME"):
        read(tmp_path, text)
    with pytest.raises(ConfigError, match="--columns box: not a value of a box; expected image, class, xmin"):
        read(tmp_path, text, columns={"box": "art"})


def test_a_row_of_an_image_alone_names_an_image_without_objects(tmp_path: Path) -> None:
    annotated, skipped = read(tmp_path, TENSORFLOW + "b.png,64,48,,,,,\n")
    assert annotated.images["b.png"].is_absent("cat")
    assert skipped == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.png,64,48,cat,10,x,30,40", "box is 10, x, 30, 40; expected four numbers"),
        ("a.png,64,48,cat,10,12,,40", "box is 10, 12, empty, 40; expected four numbers"),
        ("a.png,64,48,,10,12,30,40", "class is empty; expected a class name"),
        (",64,48,cat,10,12,30,40", "image is empty; expected a path inside the folder of the images"),
        ("/img/z.png,64,48,cat,1,2,3,4", "image is /img/z.png; expected a path inside the folder of the images"),
        ("a.png,64,48,cat,0.1,0.2,0.3,0.4", "box [0.1, 0.2, 0.3, 0.4]"),
    ],
)
def test_an_invalid_row_is_reported_and_its_class_is_not_absent(tmp_path: Path, row: str, reason: str) -> None:
    annotated, ((where, found),) = read(tmp_path, f"{TENSORFLOW}{row}\n")
    assert where == "t.csv:4"
    assert found.startswith(reason)
    image = annotated.images["a.png"]
    is_of_image = row.startswith("a.png")
    assert ("cat" in image.doubtful or image.is_doubtful) == is_of_image


OPEN_IMAGES = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
    "a,xclick,/m/01yrx,1,0.25,0.5,0.125,0.75,0,0,0,0,0\n"
    "a,xclick,/m/0bt9lr,1,0.000000,0.5,0,1,0,0,1,0,0\n"
    "b,xclick,/m/0bt9lr,1,0.5,1,0.5,1,0,0,0,0,0\n"
    "zzz,xclick,/m/01yrx,1,0.5,1,0.5,1,0,0,0,0,0\n"
)
# 0.25 * 64, 0.125 * 48, 0.5 * 64, 0.75 * 48
CAT, DOG = (16, 6, 32, 36), (32, 24, 64, 48)


def test_open_images_are_fractions_of_images_named_without_ending(tmp_path: Path) -> None:
    annotated, skipped = read(tmp_path, OPEN_IMAGES)
    assert annotated.images["a.png"].boxes == {"/m/01yrx": (CAT,)}
    assert annotated.images["a.png"].crowd == {"/m/0bt9lr": ((0, 0, 32, 48),)}
    assert annotated.images["b.png"].boxes == {"/m/0bt9lr": (DOG,)}
    assert not annotated.images["b.png"].is_absent("/m/01yrx")
    assert annotated.num_crowd == 1
    assert skipped == []
    assert "rows skipped, as images does not hold their image: 1" in annotated.notes
    assert "classes are ids such as /m/01yrx, which a model does not know: name them with --class-names" in (
        annotated.notes
    )


@pytest.mark.parametrize("head", ["", "LabelName,DisplayName\n"])
def test_class_descriptions_name_the_classes(tmp_path: Path, head: str, capsys: pytest.CaptureFixture[str]) -> None:
    read(tmp_path, OPEN_IMAGES)
    (tmp_path / "names.csv").write_text(f'{head}/m/01yrx,Cat\n/m/0bt9lr,"Dog, tame"\n')
    words = ["build", "csv-boxes", str(tmp_path / "t.csv"), str(tmp_path / "images"), str(tmp_path / "d")]
    assert main([*words, "--class-names", str(tmp_path / "names.csv"), "--negatives-frac", "0.5"]) == 0
    found = {one.id: [item.box.xyxy for item in one.target.items] for one in Store(tmp_path / "d")}  # type: ignore[union-attr]
    assert found == {"a.png:Cat": [CAT], "b.png:Dog, tame": [DOG]}
    printed = capsys.readouterr().out
    assert "boxes are read as fractions of width and height, as Open Images has them" in printed
    assert "--class-names" not in printed


def test_open_images_columns_with_pixels_are_pixels(tmp_path: Path) -> None:
    text = "ImageID,LabelName,XMin,XMax,YMin,YMax\na,cat,16,32,6,36\nb,dog,32,64,24,48\nb,dog,0,1,0,1\n"
    annotated, ((where, _),) = read(tmp_path, text)
    assert annotated.images["a.png"].boxes == {"cat": (CAT,)}
    assert where == "t.csv:4"
    assert annotated.images["b.png"].doubtful == {"dog"}


@pytest.mark.parametrize("size", ["", ",width,height"])
def test_fractions_in_other_columns_are_refused(tmp_path: Path, size: str) -> None:
    sides = ",64,48" if size else ""
    text = f"filename,class,xmin,ymin,xmax,ymax{size}\na.png,cat,0.1,0.2,0.5,0.6{sides}\nb.png,dog,0,0,1,1{sides}\n"
    message = r"t\.csv: all numbers of its boxes are from 0 to 1, such as 0\.1, 0\.2, 0\.5, 0\.6, so its numbers are "
    with pytest.raises(DataError, match=message + r"fractions of .*; expected pixels, or the columns of Open Images"):
        read(tmp_path, text)


def test_open_images_without_any_of_its_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"names no image of .*images; expected files such as zzz\.jpg for its ImageID"):
        read(tmp_path, OPEN_IMAGES.splitlines()[0] + "\n" + OPEN_IMAGES.splitlines()[-1])


def test_the_command_builds_a_dataset(tmp_path: Path) -> None:
    read(tmp_path, TENSORFLOW)
    (tmp_path / "t.csv").write_text(TENSORFLOW.replace("class", "Tier"))
    words = ["build", "csv-boxes", str(tmp_path / "t.csv"), str(tmp_path / "images"), str(tmp_path / "d")]
    assert main([*words, "--columns", "class=Tier"]) == 0
    assert [one.id for one in Store(tmp_path / "d")] == ["a.png:cat", "a.png:dog"]


def test_boxes_without_a_size_are_checked_against_the_image(tmp_path: Path) -> None:
    head = "filename,class,xmin,ymin,xmax,ymax\n"
    annotated, skipped = read(tmp_path, f"{head}a.png,cat,nan,2,9,9\na.png,dog,30,1,90,9\nb.png,cat,1,2,9,9\n")
    assert annotated.images["a.png"].boxes == {}
    assert annotated.images["a.png"].doubtful == {"cat", "dog"}
    assert annotated.images["b.png"].boxes == {"cat": ((1, 2, 9, 9),)}
    assert [where for where, _ in skipped] == ["t.csv:2", "t.csv:3"]


def test_a_class_of_a_row_without_an_image_is_absent_nowhere(tmp_path: Path) -> None:
    head = "filename,class,xmin,ymin,xmax,ymax\n"
    annotated, _ = read(tmp_path, f"{head},cat,1,2,9,9\na.png,dog,1,1,9,9\nb.png,cat,1,2,9,9\n")
    assert not annotated.images["a.png"].is_absent("cat")
    assert annotated.images["b.png"].is_absent("dog")


def test_two_images_of_one_id_are_not_used(tmp_path: Path) -> None:
    read(tmp_path, OPEN_IMAGES)
    (tmp_path / "images" / "small").mkdir()
    (tmp_path / "images" / "small" / "a.png").write_bytes((tmp_path / "images" / "a.png").read_bytes())
    annotated, ((where, reason),) = read(tmp_path, OPEN_IMAGES)
    assert list(annotated.images) == ["b.png"]
    assert where == "image a"
    assert reason == "several images are named a, such as a.png in images and small"
