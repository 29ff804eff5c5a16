"""Pascal VOC folders, valid and invalid."""

from __future__ import annotations

from pathlib import Path

import pytest

from factories import save_image
from virft.cli.main import main
from virft.data.annotations import AnnotatedSet, Skipped
from virft.data.sources.voc import read_voc
from virft.data.store import Store

SIZE = (
    "<source><database>The VOC2012 Database</database></source>"
    "<size><width>64</width><height>48</height><depth>3</depth></size>"
)


def thing(name: str, *numbers: float | str, more: str = "") -> str:
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{key}>{number}</{key}>" for key, number in zip(keys, numbers, strict=False))
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def rotated(name: str, *numbers: float | str) -> str:
    """A rotated box of roLabelImg."""
    keys = ("cx", "cy", "w", "h", "angle")
    box = "".join(f"<{key}>{number}</{key}>" for key, number in zip(keys, numbers, strict=False))
    return f"<object><type>robndbox</type><name>{name}</name><robndbox>{box}</robndbox></object>"


def save(root: Path, *objects: str, name: str = "a", head: str = SIZE) -> Path:
    """``Annotations/NAME.xml`` and ``JPEGImages/NAME.png`` of 64 x 48."""
    save_image(root / "JPEGImages" / f"{name}.png")
    path = root / "Annotations" / f"{name}.xml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"<annotation><filename>{name}.png</filename>{head}{''.join(objects)}</annotation>")
    return path.parent


def read(folder: Path) -> tuple[AnnotatedSet, list[tuple[str, str]]]:
    skipped = Skipped()
    return read_voc(folder, skipped=skipped), skipped.records


def test_pixels_are_counted_from_one_and_the_last_is_included(tmp_path: Path) -> None:
    annotated, skipped = read(save(tmp_path, thing("cat", 1, 1, 64, 48), thing("cat", 11, 11, 30, 40)))
    (image,) = annotated.images.values()
    assert image.boxes == {"cat": ((0, 0, 64, 48), (10, 10, 30, 40))}
    assert image.name == "JPEGImages/a.png"
    assert skipped == []


@pytest.mark.parametrize(
    ("angle", "expected"),
    [
        ("0", (22, 20, 42, 28)),  # 20 x 8 around (32, 24)
        ("1.5707963267948966", (28, 14, 36, 34)),
        ("0.7853981633974483", (22.101, 14.101, 41.899, 33.899)),  # (20 + 8) / sqrt(2) = 19.799 wide and high
        ("2.356194490192345", (22.101, 14.101, 41.899, 33.899)),
    ],
)
def test_a_rotated_box_is_read_as_the_box_around_it(
    tmp_path: Path, angle: str, expected: tuple[float, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path, rotated("cat", 32, 24, 20, 8, angle), thing("dog", 1, 1, 9, 9), head="")
    assert main(["build", "voc", str(folder), str(tmp_path / "d")]) == 0
    cat = Store(tmp_path / "d")[0]
    assert cat.query == "cat"
    assert [item.box.xyxy for item in cat.target.items] == [pytest.approx(expected, abs=1e-3)]  # type: ignore[union-attr]
    assert "rotated boxes read as the boxes around them, which are larger: 1\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "numbers", [(32, 24, 20, 8, 45), (32, 24, 20, 8, "x"), (32, 24, -20, 8, 0), (32, "nan", 20, 8, 0), (32, 24, 20, 8)]
)
def test_a_rotated_box_without_radians_is_reported(tmp_path: Path, numbers: tuple[float | str, ...]) -> None:
    annotated, ((where, reason),) = read(save(tmp_path, rotated("cat", *numbers), head=""))
    assert where == "a.xml: object 0"
    assert reason == "robndbox does not have cx, cy, w, h, and an angle in radians"
    assert next(iter(annotated.images.values())).doubtful == {"cat"}


def test_difficult_objects_make_their_class_doubtful(tmp_path: Path) -> None:
    difficult = thing("cat", 11, 11, 30, 40, more="<difficult>1</difficult>")
    annotated, _ = read(save(tmp_path, difficult, thing("cat", 1, 1, 9, 9), thing("dog", 1, 1, 9, 9)))
    (image,) = annotated.images.values()
    assert image.doubtful == {"cat"}
    assert not image.is_absent("cat")
    assert annotated.num_crowd == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (thing("", 1, 1, 2, 2), "has no name"),
        (thing("cat", 1, 1, 2), "bndbox does not have four numbers"),
        (thing("cat", 1, 1, "x", 2), "bndbox does not have four numbers"),
        (thing("cat", 9, 1, 8, 2), "box [8, 0, 8, 2] has x2 <= x1; expected x1 < x2 in pixels of the original image"),
        (thing("cat", 9, 1, 99, 2), "box [8, 0, 99, 2] reaches outside its image; expected it inside [0, 0, 64, 48]"),
    ],
)
def test_an_invalid_object_is_skipped_and_reported(tmp_path: Path, row: str, reason: str) -> None:
    annotated, skipped = read(save(tmp_path, row, thing("dog", 1, 1, 9, 9)))
    assert annotated.images["JPEGImages/a.png"].boxes == {"dog": ((0, 0, 9, 9),)}
    assert skipped == [("a.xml: object 0", reason)]


def test_invalid_files_are_skipped_and_reported(tmp_path: Path) -> None:
    folder = save(tmp_path, thing("dog", 1, 1, 9, 9))
    (folder / "b.xml").write_text("<annotation>")
    (folder / "c.xml").write_text("<html/>")
    (folder / "d.xml").write_text("<annotation/>")
    (folder / "e.xml").write_text("<annotation><filename>e.png</filename></annotation>")
    annotated, skipped = read(folder)
    assert set(annotated.images) == {"JPEGImages/a.png"}
    assert [where for where, _ in skipped] == ["b.xml", "c.xml", "d.xml", "e.xml"]
    reasons = [reason.split(" (")[0] for _, reason in skipped]
    assert reasons[:3] == [
        "not valid XML",
        "holds <html>; expected <annotation>",
        "no image d.jpg; expected it in ../JPEGImages, ../images or ../data, or in the folder of the XML files",
    ]
    assert reasons[3].startswith("no image e.png; expected it in ../JPEGImages")


def test_several_files_of_one_image_are_merged(tmp_path: Path) -> None:
    folder = save(tmp_path, thing("dog", 1, 1, 9, 9))
    (folder / "b.xml").write_text(
        f"<annotation><filename>a.png</filename>{SIZE}{thing('cat', 1, 1, 5, 5)}</annotation>"
    )
    annotated, skipped = read(folder)
    assert annotated.images["JPEGImages/a.png"].boxes == {"dog": ((0, 0, 9, 9),), "cat": ((0, 0, 5, 5),)}
    assert skipped == []
    assert any("another file annotates too, merged with it: 1" in note for note in annotated.notes)


def test_two_files_of_one_image_with_different_sizes_make_every_class_doubtful(tmp_path: Path) -> None:
    folder = save(tmp_path, thing("dog", 1, 1, 9, 9))
    size = "<size><width>48</width><height>64</height></size>"
    (folder / "b.xml").write_text(
        f"<annotation><filename>a.png</filename>{size}{thing('cat', 1, 1, 5, 5)}</annotation>"
    )
    annotated, skipped = read(folder)
    assert annotated.images["JPEGImages/a.png"].is_doubtful
    assert skipped == [("b.xml", "image JPEGImages/a.png is stated as 64x48 and as 48x64; expected one size")]


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        (("nan", 1, 9, 9), "box [nan, 1, 9, 9] has a number that is not finite; expected pixels of the original image"),
        ((30, 1, 90, 9), "box [30, 1, 90, 9] reaches outside its image; expected it inside [0, 0, 64, 48]"),
        ((9, 1, 1, 9), "box [9, 1, 1, 9] has x2 <= x1; expected x1 < x2 in pixels of the original image"),
    ],
)
def test_boxes_of_a_file_without_a_size_are_checked_against_the_image(
    tmp_path: Path, numbers: tuple[float | str, ...], reason: str
) -> None:
    annotated, skipped = read(save(tmp_path, thing("cat", *numbers), thing("dog", 1, 1, 9, 9), head=""))
    (image,) = annotated.images.values()
    assert image.boxes == {"dog": ((1, 1, 9, 9),)}
    assert image.doubtful == {"cat"}
    assert skipped == [("a.xml: object 0", reason)]


def test_a_rotated_box_of_cvat_becomes_its_bounding_box(tmp_path: Path) -> None:
    turned = "<attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes>"
    # 40 x 10 around (30, 20), upright: 10 x 40
    annotated, skipped = read(
        save(
            tmp_path,
            thing("cat", 10, 15, 50, 25, more=turned),
            head="<size><width>64</width><height>48</height></size>",
        )
    )
    assert annotated.images["JPEGImages/a.png"].boxes == {"cat": ((25, 0, 35, 40),)}
    assert skipped == []


def test_links_to_folders_and_images_are_followed(tmp_path: Path) -> None:
    save(tmp_path / "real", thing("cat", 1, 1, 9, 9))
    (tmp_path / "real" / "JPEGImages" / "a.png").rename(tmp_path / "content-1.png")
    (tmp_path / "real" / "JPEGImages" / "a.png").symlink_to(tmp_path / "content-1.png")
    (tmp_path / "given").mkdir()
    for name in ("JPEGImages", "Annotations"):
        (tmp_path / "given" / name).symlink_to(tmp_path / "real" / name)
    annotated, skipped = read(tmp_path / "given")
    assert annotated.images.keys() == {"JPEGImages/a.png"}
    assert skipped == []


def test_accents_of_file_names_can_be_encoded_in_two_ways(tmp_path: Path) -> None:
    folder = save(tmp_path, thing("cat", 1, 1, 9, 9))
    save_image(tmp_path / "JPEGImages" / "cafe\u0301.png")
    (folder / "b.xml").write_text(
        f"<annotation><filename>caf\u00e9.png</filename>{SIZE}</annotation>", encoding="utf-8"
    )
    annotated, skipped = read(tmp_path)
    assert annotated.images.keys() == {"JPEGImages/a.png", "JPEGImages/cafe\u0301.png"}
    assert skipped == []


def test_the_command_builds_a_dataset_from_the_root_or_from_annotations(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", thing("cat", 1, 1, 9, 9))
    for number, place in enumerate((folder, folder.parent)):
        assert main(["build", "voc", str(place), str(tmp_path / f"d{number}")]) == 0
        assert [one.id for one in Store(tmp_path / f"d{number}")] == ["JPEGImages/a.png:cat"]


TOOL = "<folder>VOC</folder><source><database>Unknown</database></source>" + SIZE.partition("</source>")[2]


def test_files_of_labelling_tools_count_pixels_from_zero(tmp_path: Path) -> None:
    annotated, _ = read(save(tmp_path, thing("cat", 10, 20, 40, 44), head=TOOL))
    assert annotated.images["JPEGImages/a.png"].boxes == {"cat": ((10, 20, 40, 44),)}
    assert annotated.notes == ("pixels are counted from 0; --first-pixel overrides",)


@pytest.mark.parametrize("database", ["roboflow.ai", "roboflow.com"])
def test_roboflow_adds_one_to_all_four_numbers(tmp_path: Path, database: str) -> None:
    head = TOOL.replace("Unknown", database)
    folder = save(tmp_path, thing("cat", 1, 1, 65, 49), thing("cat", 11, 21, 41, 45), head=head)
    assert read(folder)[0].images["JPEGImages/a.png"].boxes == {"cat": ((0, 0, 64, 48), (10, 20, 40, 44))}


def test_a_box_at_zero_shows_that_pixels_are_counted_from_zero(tmp_path: Path) -> None:
    folder = save(tmp_path, thing("cat", 0, 5, 40, 44))
    save(tmp_path, thing("cat", 10, 20, 40, 44), name="b")
    assert read(folder)[0].images["JPEGImages/b.png"].boxes == {"cat": ((10, 20, 40, 44),)}


def test_the_first_pixel_of_each_file_is_decided_alone_and_can_be_given(tmp_path: Path) -> None:
    folder = save(tmp_path, thing("cat", 10, 20, 40, 44), head=TOOL)
    save(tmp_path, thing("cat", 10, 20, 40, 44), name="b")
    annotated, _ = read(folder)
    assert annotated.images["JPEGImages/b.png"].boxes == {"cat": ((9, 19, 40, 44),)}
    assert annotated.notes == (
        "pixels are counted from 0 in 1 files, from 1, the last one included (Pascal VOC) in 1 files; --first-pixel "
        "overrides",
    )
    given = read_voc(folder, first_pixel=1, skipped=Skipped())
    assert given.images["JPEGImages/a.png"].boxes == {"cat": ((9, 19, 40, 44),)}
    assert given.notes == ("pixels are counted from 1, the last one included (Pascal VOC)",)


def test_the_build_prints_the_first_pixel_and_the_pairs_with_difficult_objects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    difficult = thing("cat", 11, 11, 30, 40, more="<difficult>1</difficult>")
    folder = save(tmp_path / "in", difficult, thing("cat", 1, 1, 9, 9), thing("dog", 1, 1, 9, 9))
    assert main(["build", "voc", str(folder), str(tmp_path / "d"), "--first-pixel", "0"]) == 0
    assert [one.id for one in Store(tmp_path / "d")] == ["JPEGImages/a.png:dog"]
    out = capsys.readouterr().out
    assert "pixels are counted from 0\n" in out
    assert "1 pairs of an image and a class are not queried: an object is marked difficult" in out


@pytest.mark.parametrize(
    ("images", "annotations", "filename", "image"),
    [
        ("JPEGImages", "Annotations", "sub/a.png", "JPEGImages/sub/a.png"),  # CVAT
        ("JPEGImages", "Annotations", "a.png", "JPEGImages/sub/a.png"),
        ("data", "labels", "a.png", "data/a.png"),  # FiftyOne
        ("JPEGImages", "Annotations", "n0_a", "JPEGImages/a.png"),  # renamed: the name of the XML file
        ("JPEGImages", "Annotations", "a.JPEG", "JPEGImages/a.png"),  # another ending
        ("photos/day", "xml", "a.png", "photos/day/a.png"),  # anywhere in the folder
    ],
)
def test_the_image_is_found(tmp_path: Path, images: str, annotations: str, filename: str, image: str) -> None:
    sub = "sub/" if "sub" in image else ""
    save_image(tmp_path / images / f"{sub}a.png")
    path = tmp_path / annotations / f"{sub}a.xml"
    path.parent.mkdir(parents=True)
    path.write_text(f"<annotation><filename>{filename}</filename>{thing('cat', 1, 1, 9, 9)}</annotation>")
    places = [tmp_path] if image.startswith("photos") else [tmp_path, tmp_path / annotations]
    for place in places:
        annotated, skipped = read(place)
        assert (set(annotated.images), skipped) == ({image}, [])


def test_one_name_in_two_folders_is_found_by_the_folder_of_the_annotation(tmp_path: Path) -> None:
    for sub in ("b", "c"):
        save_image(tmp_path / "photos" / sub / "a.png")
        (tmp_path / "xml" / sub).mkdir(parents=True)
        text = f"<annotation><filename>a.png</filename>{thing(sub, 1, 1, 9, 9)}</annotation>"
        (tmp_path / "xml" / sub / "a.xml").write_text(text)
    images = read(tmp_path)[0].images
    assert {name: set(image.boxes) for name, image in images.items()} == {
        "photos/b/a.png": {"b"},
        "photos/c/a.png": {"c"},
    }
    (tmp_path / "xml" / "b" / "a.xml").rename(tmp_path / "xml" / "a.xml")
    assert "several images are named a.png" in read(tmp_path)[1][0][1]


@pytest.mark.parametrize("encoding", ["gb2312", "gbk", "big5", "shift_jis"])
def test_encodings_that_the_xml_parser_lacks_are_read(tmp_path: Path, encoding: str) -> None:
    folder = save(tmp_path, thing("\u72d7", 1, 1, 9, 9))
    text = (folder / "a.xml").read_text(encoding="utf-8")
    (folder / "a.xml").write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode(encoding))
    assert set(read(folder)[0].images["JPEGImages/a.png"].boxes) == {"\u72d7"}


def test_an_unknown_encoding_is_a_named_record(tmp_path: Path) -> None:
    folder = save(tmp_path, thing("dog", 1, 1, 9, 9))
    (folder / "b.xml").write_text('<?xml version="1.0" encoding="klingon"?><annotation/>')
    ((where, reason),) = read(folder)[1]
    assert where == "b.xml"
    assert reason == "its encoding klingon cannot be read (unknown encoding: klingon); save it as UTF-8"
