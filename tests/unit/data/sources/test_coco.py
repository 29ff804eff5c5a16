"""COCO files, valid and invalid."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import virft
from factories import edit_json, save_coco, save_image
from virft.cli.main import main
from virft.data.annotations import AnnotatedSet, Skipped
from virft.data.sources.coco import open_coco, read_coco
from virft.data.store import Store
from virft.data.upright import UprightImages
from virft.errors import ConfigError, DataError

TWO = {"a.png": [("cat", [10, 10, 20, 30]), ("cat", [1, 2, 3, 4])], "b.png": [("dog", [0, 0, 64, 48])]}


def read(path: Path, images: Path | None = None, **options: Any) -> tuple[AnnotatedSet, list[tuple[str, str]]]:
    skipped = Skipped(strict=options.pop("strict", False))
    return read_coco(open_coco(path), images or path.parent / "images", skipped=skipped, **options), skipped.records


def test_boxes_are_corners_by_image_and_class(tmp_path: Path) -> None:
    annotated, skipped = read(save_coco(tmp_path, TWO))
    assert annotated.classes == ("cat", "dog")
    assert annotated.images["a.png"].boxes == {"cat": ((10.0, 10.0, 30.0, 40.0), (1.0, 2.0, 4.0, 6.0))}
    assert annotated.images["b.png"].boxes == {"dog": ((0.0, 0.0, 64.0, 48.0),)}
    assert skipped == []


def test_only_chosen_classes_are_read(tmp_path: Path) -> None:
    annotated, _ = read(save_coco(tmp_path, TWO), classes=["dog"])
    assert annotated.classes == ("dog",)
    assert not annotated.images["a.png"].is_absent("cat")


def test_unknown_class_is_reported_with_the_closest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"class 'dgo' is not in annotations\.json; did you mean 'dog'\?"):
        read(save_coco(tmp_path, TWO), classes=["dgo"])
    with pytest.raises(ConfigError, match=r"class 'zebra' is not in annotations\.json; it has cat, dog"):
        read(save_coco(tmp_path, TWO), classes=["zebra"])


def test_a_class_name_in_place_of_a_category_id_is_read_and_counted(tmp_path: Path) -> None:
    path = save_coco(tmp_path, TWO)
    names = ("cat", "2", " dog ")
    edit_json(
        path,
        lambda tree: [one.update(category_id=name) for one, name in zip(tree["annotations"], names, strict=True)],
    )
    annotated, skipped = read(path)
    assert annotated.images["a.png"].boxes == {"cat": ((10.0, 10.0, 30.0, 40.0),), "dog": ((1.0, 2.0, 4.0, 6.0),)}
    assert annotated.images["b.png"].boxes == {"dog": ((0.0, 0.0, 64.0, 48.0),)}
    assert annotated.notes == ("annotations with the name of a class in place of its category_id: 2",)
    assert skipped == []


def test_a_text_that_is_the_id_of_one_class_and_the_name_of_another_is_neither(tmp_path: Path) -> None:
    path = save_coco(tmp_path, TWO)
    edit_json(path, lambda tree: tree["categories"][0].update(name="2"))
    edit_json(path, lambda tree: tree["annotations"][0].update(category_id="2"))
    annotated, ((_, reason),) = read(path)
    assert reason == "category_id '2' is not among the categories"
    assert annotated.images["a.png"].is_doubtful


def test_crowd_is_counted_and_its_class_is_not_absent(tmp_path: Path) -> None:
    path = save_coco(tmp_path, TWO)
    edit_json(path, lambda tree: tree["annotations"][2].update(iscrowd=1))
    annotated, skipped = read(path)
    assert annotated.num_crowd == 1
    assert annotated.images["b.png"].boxes == {}
    assert annotated.images["b.png"].crowd == {"dog": ((0.0, 0.0, 64.0, 48.0),)}
    assert not annotated.images["b.png"].is_absent("dog")
    assert skipped == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox": [10, 10, 0, 30]}, "box [10, 10, 10, 40] has x2 <= x1; expected x1 < x2 in pixels of the original"),
        ({"bbox": [10, 10, 20, -1]}, "box [10, 10, 30, 9] has y2 <= y1; expected y1 < y2 in pixels of the original"),
        ({"bbox": [50, 10, 24, 20]}, "box [50, 10, 74, 30] reaches outside its image; expected it inside [0, 0, 64"),
        ({"bbox": [60, 10, 9, 20]}, "box [60, 10, 69, 30] reaches outside its image; expected it inside [0, 0, 64"),
        (
            {"bbox": [0.1, 0.2, 0.3, 0.4]},
            "box [0.1, 0.2, 0.4, 0.6] is one pixel or less at the top left, so its numbers",
        ),
        (
            {"bbox": [0.5, 0.5, 0.9, 0.9]},
            "box [0.5, 0.5, 1.4, 1.4] is one pixel or less at the top left, so its numbers",
        ),
        ({"bbox": [10, 10, 1e400, 1]}, "box [10, 10, inf, 11] has a number that is not finite"),
        ({"bbox": [10, 10, 20]}, "bbox is [10, 10, 20]; expected [x, y, width, height]"),
        ({"bbox": None}, "bbox is None; expected [x, y, width, height]"),
        ({"bbox": []}, "bbox is []; expected [x, y, width, height]"),
        ({"bbox": "1 2 3 4"}, "bbox is '1 2 3 4'; expected [x, y, width, height]"),
        ({"bbox": ["1", 2, 3, 4]}, "bbox is ['1', 2, 3, 4]; expected [x, y, width, height]"),
        ({"category_id": 9}, "category_id 9 is not among the categories"),
        ({"category_id": "wolf"}, "category_id 'wolf' is not among the categories"),
        ({"category_id": None}, "category_id None is not among the categories"),
        ({"category_id": 1.5}, "category_id 1.5 is not among the categories"),
        ({"category_id": [2]}, "category_id [2] is not among the categories"),
    ],
)
def test_an_invalid_annotation_is_skipped_and_reported(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = save_coco(tmp_path, TWO)
    edit_json(path, lambda tree: tree["annotations"][2].update(change))
    annotated, skipped = read(path)
    image = annotated.images["b.png"]
    assert image.boxes == {}
    assert not image.is_absent("dog")
    # If the class is unknown, it may be any.
    assert image.is_absent("cat") == ("bbox" in change)
    assert len(skipped) == 1
    where, found = skipped[0]
    assert where == "annotations.json: annotation 3 (b.png)"
    assert found.startswith(reason)
    with pytest.raises(DataError, match=r"^annotations\.json: annotation .*--strict"):
        read(path, strict=True)


def test_no_box_is_dropped_for_the_id_of_its_annotation(tmp_path: Path) -> None:
    path = save_coco(tmp_path, TWO)
    for ids in ([1, 1, 1], ["a", None, 2.5], [None, None, None]):
        edit_json(
            path, lambda tree, ids=ids: [one.update(id=id) for one, id in zip(tree["annotations"], ids, strict=True)]
        )
        annotated, skipped = read(path)
        assert [len(boxes) for image in annotated.images.values() for boxes in image.boxes.values()] == [2, 1]
        assert skipped == []
    edit_json(path, lambda tree: [one.pop("id") for one in tree["annotations"]])
    assert read(path)[0].images["b.png"].boxes == {"dog": ((0.0, 0.0, 64.0, 48.0),)}


def test_ids_and_sizes_may_be_texts_and_whole_floats(tmp_path: Path) -> None:
    path = save_coco(tmp_path, TWO)
    expected, _ = read(path)

    def change(tree: Any) -> None:
        tree["images"][0].update(id="im a", width=64.0, height="48")
        tree["images"][1].update(id=2.0)
        for one, image, category in zip(tree["annotations"], ["im a", "im a", "2"], ["1", 1.0, "d"], strict=True):
            one.update(image_id=image, category_id=category)
        tree["categories"][0].update(id=1.0)
        tree["categories"][1].update(id="d")

    edit_json(path, change)
    assert read(path) == (expected, [])


@pytest.mark.parametrize("category", [None, 9, "fox", [1]])
def test_an_image_with_a_record_of_unknown_class_is_not_used(tmp_path: Path, category: Any) -> None:
    path = save_coco(tmp_path, TWO)
    edit_json(path, lambda tree: tree["annotations"][1].update(category_id=category))
    annotated, _ = read(path)
    assert annotated.images["a.png"].is_doubtful
    assert not annotated.images["b.png"].is_doubtful
    out = tmp_path / "out"
    assert main(["build", "coco", str(path), str(tmp_path / "images"), str(out), "--negatives-frac", "0.9"]) == 0
    assert [sample.id for sample in Store(out)] == ["b.png:cat", "b.png:dog"]


def test_boxes_that_are_all_fractions_are_refused(tmp_path: Path) -> None:
    path = save_coco(tmp_path, {"a.png": [("cat", [0.1, 0.2, 0.3, 0.4]), ("dog", [0, 0, 1, 1])]})
    with pytest.raises(
        DataError, match=r"all numbers of its boxes are from 0 to 1, such as \[0\.1, 0\.2, 0\.3, 0\.4\]"
    ):
        read(path)


def test_annotations_of_no_listed_image_are_refused(tmp_path: Path) -> None:
    path = save_coco(tmp_path, TWO)
    edit_json(path, lambda tree: tree["annotations"][0].update(image_id=77))
    annotated, _ = read(path)
    assert annotated.notes == ("annotations skipped, as annotations.json does not list their image: 1",)
    edit_json(path, lambda tree: [one.update(image_id=one["image_id"] + 70) for one in tree["annotations"]])
    with pytest.raises(DataError, match=r"no annotation is of one of its images, such as image_id 147; .* such as 1$"):
        read(path)


def test_records_of_one_file_are_merged(tmp_path: Path) -> None:
    path = save_coco(tmp_path, {"ä.png": [("cat", [1, 2, 3, 4])], "b.png": [("dog", [1, 2, 9, 9])]})

    def change(tree: Any) -> None:
        other = unicodedata.normalize("NFD", tree["images"][0]["file_name"])
        tree["images"] += [{"id": 5, "file_name": f"./{other}", "width": 64, "height": 48}]
        tree["annotations"] += [{"image_id": 5, "category_id": 2, "bbox": [5, 6, 7, 8]}]

    edit_json(path, change)
    annotated, skipped = read(path)
    assert annotated.images["ä.png"].boxes == {"cat": ((1, 2, 4, 6),), "dog": ((5, 6, 12, 14),)}
    assert annotated.notes == ("image records of a file that another record has too, merged with it: 1",)
    assert (len(annotated.images), skipped) == (2, [])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": 1}, "its id is that of a.png and of b.png; neither is used, as their boxes are unclear"),
        ({"file_name": "a.png", "width": 63}, "a.png is stated as 64x48 and as 63x48; it is not used"),
    ],
)
def test_images_whose_boxes_are_unclear_are_not_used(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = save_coco(tmp_path, TWO | {"c.png": [("dog", [1, 2, 3, 4])]})
    edit_json(path, lambda tree: tree["images"][1].update(change))
    annotated, skipped = read(path)
    assert list(annotated.images) == ["c.png"]
    assert skipped == [(f"annotations.json: image {change.get('id', 2)}", reason)]


def test_a_category_id_of_two_names_is_no_class(tmp_path: Path) -> None:
    path = save_coco(tmp_path, TWO)
    edit_json(path, lambda tree: tree["categories"].append({"id": 1, "name": "fox"}))
    annotated, skipped = read(path)
    assert annotated.classes == ("dog",)
    assert not annotated.images["a.png"].is_absent("dog")
    assert skipped[0] == ("annotations.json: category 1", "the id is that of 'cat' and of 'fox'; neither is used")


def test_a_placeholder_super_category_is_no_class(tmp_path: Path) -> None:
    path = save_coco(tmp_path, TWO, categories=("cat", "dog", "animals", "owl"))

    def change(tree: Any) -> None:
        for category, parent in zip(tree["categories"], ("animals", "animals", "none", "birds"), strict=True):
            category["supercategory"] = parent

    edit_json(path, change)
    annotated, skipped = read(path)
    assert (annotated.classes, skipped) == (("cat", "dog", "owl"), [])
    assert annotated.notes == ("class 'animals' is excluded: it has no box and is the super-category of cat, dog",)
    assert read(path, classes=["animals", "cat"])[0].classes == ("animals", "cat")
    # A super-category with boxes is a class, and so is one that is its own, as "person" of COCO.
    edit_json(path, lambda tree: tree["annotations"][2].update(category_id=3))
    assert read(path)[0].classes == ("animals", "cat", "dog", "owl")
    own = save_coco(tmp_path / "own", TWO, categories=("cat", "dog", "person"))
    edit_json(own, lambda tree: [one.update(supercategory=one["name"]) for one in tree["categories"]])
    assert read(own)[0].classes == ("cat", "dog", "person")


def test_a_box_a_pixel_outside_is_accepted(tmp_path: Path) -> None:
    annotated, skipped = read(save_coco(tmp_path, {"a.png": [("cat", [-0.5, 0, 65.4, 48.9])]}))
    assert annotated.images["a.png"].boxes["cat"] == ((-0.5, 0.0, 64.9, 48.9),)
    assert skipped == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": "wide"}, "width is 'wide'; expected an integer"),
        ({"width": 64.5}, "width is 64.5; expected an integer"),
        ({"id": None}, "id is None; expected an integer"),
        ({"height": 0}, "its size is 64x0; expected at least 1x1"),
        ({"file_name": ""}, "file_name is ''; expected the name of a file"),
        ({"file_name": None}, "file_name is None; expected the name of a file"),
    ],
)
def test_invalid_image_record_is_skipped_and_reported(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = save_coco(tmp_path, TWO)
    edit_json(path, lambda tree: tree["images"][1].update(change))
    annotated, skipped = read(path)
    assert list(annotated.images) == ["a.png"]
    assert skipped == [(f"annotations.json: image {change.get('id', 2)}", reason)]


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_record_that_is_not_an_object_is_skipped(tmp_path: Path, key: str) -> None:
    path = save_coco(tmp_path, TWO)
    edit_json(path, lambda tree: tree[key].append("?"))
    annotated, skipped = read(path)
    assert len(annotated.images) == 2
    assert len(skipped) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"annotations\.json: not valid JSON"),
        ("[]", r"annotations\.json: images is missing; expected a COCO file with images, annotations and categories"),
        ('{"images": []}', r"annotations\.json: images is empty; expected a COCO file"),
        ('{"images": {}}', r"annotations\.json: images is a dict; expected a COCO file"),
        ('{"images": 3}', r"annotations\.json: images is an int; expected a COCO file"),
        ('{"images": [1], "annotations": [1]}', r"annotations\.json: categories is missing"),
    ],
)
def test_a_file_of_another_format_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        open_coco(path)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: cannot be read \(No such file"):
        open_coco(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(DataError, match=r"binary\.json: not valid JSON"):
        open_coco(tmp_path / "binary.json")


def test_names_are_relative_to_the_common_folder(tmp_path: Path) -> None:
    path = save_coco(tmp_path, {"val/x/a.png": [("cat", [1, 1, 5, 5])], "val/y/a.png": [("dog", [1, 1, 5, 5])]})
    annotated, _ = read(path)
    assert sorted(annotated.images) == ["x/a.png", "y/a.png"]
    assert annotated.images["x/a.png"].file == tmp_path / "images" / "val" / "x" / "a.png"


def test_images_are_also_found_without_their_folders(tmp_path: Path) -> None:
    path = save_coco(tmp_path, {"a.png": [("cat", [1, 1, 5, 5])]})
    edit_json(path, lambda tree: tree["images"][0].update(file_name="val2017/a.png"))
    annotated, _ = read(path)
    assert annotated.images["a.png"].file == tmp_path / "images" / "a.png"


@pytest.mark.parametrize("name", ["/home/me/a.png", "../../a.png", "C:\\me\\a.png", "sub\\a.png"])
def test_names_never_lead_out_of_the_image_folder(tmp_path: Path, name: str) -> None:
    path = save_coco(tmp_path, {"a.png": [("cat", [1, 1, 5, 5])]})
    edit_json(path, lambda tree: tree["images"][0].update(file_name=name))
    annotated, _ = read(path)
    assert annotated.images["a.png"].file == tmp_path / "images" / "a.png"


def test_a_sum_of_decimals_is_rounded(tmp_path: Path) -> None:
    # 10.1 + 10.2 = 20.299999999999997
    annotated, _ = read(save_coco(tmp_path, {"a.png": [("cat", [10.1, 10.1, 10.2, 10.2])]}))
    assert json.dumps(annotated.images["a.png"].boxes["cat"]) == "[[10.1, 10.1, 20.3, 20.3]]"


def save_sideways(folder: Path, boxes: dict[str, list[Any]], *, contributor: str = "") -> Path:
    """Images of 64 x 48 stored pixels that are shown as 48 x 64; the file states the stored size."""
    path = save_coco(folder, boxes)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in boxes:
        save_image(folder / "images" / name, exif=exif)
    edit_json(path, lambda tree: tree.update(info={"contributor": contributor}))
    return path


FITS_BOTH, UPRIGHT_ONLY, RAW_ONLY = [10, 5, 20, 30], [10, 50, 20, 10], [50, 10, 10, 20]


@pytest.mark.parametrize(
    ("boxes", "contributor", "exif", "is_upright"),
    [
        ([FITS_BOTH], "", "auto", False),  # the stated size decides
        ([FITS_BOTH], "Label Studio", "auto", True),
        ([FITS_BOTH], "", "upright", True),
        ([FITS_BOTH, UPRIGHT_ONLY], "", "auto", True),
        ([FITS_BOTH, UPRIGHT_ONLY], "", "raw", False),
        ([FITS_BOTH, RAW_ONLY], "", "auto", False),
        ([FITS_BOTH, RAW_ONLY, UPRIGHT_ONLY, RAW_ONLY], "", "auto", False),
        ([FITS_BOTH], "Label Studio", "raw", False),
    ],
)
def test_boxes_of_sideways_images_are_read_for_the_whole_file(
    tmp_path: Path, boxes: list[Any], contributor: str, exif: Any, is_upright: bool
) -> None:
    shown = {f"{number}.png": [("cat", box)] for number, box in enumerate(boxes)}
    path = save_sideways(tmp_path, shown, contributor=contributor)
    annotated, _ = read(path, exif=exif)
    files = UprightImages(annotated.images, Skipped())
    assert files.is_usable("0.png")
    expected = (10.0, 5.0, 30.0, 35.0) if is_upright else (13.0, 10.0, 43.0, 30.0)
    assert files.upright("0.png", annotated.images["0.png"].boxes["cat"][0]) == expected
    assert len(annotated.notes) == is_upright
    assert files.num_unrotated == (not is_upright)


def test_outlines_of_label_studio_are_fractions_of_the_upright_image(tmp_path: Path) -> None:
    # On 48 x 64 upright pixels the outline spans (12, 16) to (36, 32); its fractions were multiplied by 64 x 48.
    path = save_sideways(tmp_path, {"a.png": [("cat", [16, 12, 32, 12])]}, contributor="Label Studio")
    edit_json(path, lambda tree: tree["annotations"][0].update(segmentation=[[16, 12, 48, 12, 48, 24]]))
    annotated, _ = read(path)
    assert annotated.images["a.png"].boxes == {"cat": ((12.0, 16.0, 36.0, 32.0),)}


def test_boxes_of_an_image_upside_down_are_rotated_if_requested(tmp_path: Path) -> None:
    path = save_coco(tmp_path, {"a.png": [("cat", FITS_BOTH)]})
    exif = Image.Exif()
    exif[0x0112] = 3
    save_image(tmp_path / "images" / "a.png", exif=exif)
    for reading, expected in (("auto", (10.0, 5.0, 30.0, 35.0)), ("raw", (34.0, 13.0, 54.0, 43.0))):
        annotated, _ = read(path, exif=reading)
        files = UprightImages(annotated.images, Skipped())
        assert files.is_usable("a.png")
        assert files.upright("a.png", annotated.images["a.png"].boxes["cat"][0]) == expected


def test_the_python_function_has_the_switch_of_the_command(tmp_path: Path) -> None:
    path = save_sideways(tmp_path, {"a.png": [("cat", FITS_BOTH)]})
    for exif, expected in (("raw", (13.0, 10.0, 43.0, 30.0)), ("upright", (10.0, 5.0, 30.0, 35.0))):
        built = virft.build_coco(path, tmp_path / "images", tmp_path / exif, exif=exif)
        ((sample,), card) = Store(built.train), built.cards[str(tmp_path / exif)]
        assert [item.box.xyxy for item in sample.target.items] == [expected]
        assert card["source"]["exif"] == exif
    with pytest.raises(ConfigError, match="exif is 'sideways'; expected auto, raw, upright"):
        virft.build_coco(path, tmp_path / "images", tmp_path / "d", exif="sideways")


@pytest.mark.parametrize("on_disk", ["x.png", "patch3/x.png", "v1/patch3/x.png", "images/v1/patch3/x.png"])
def test_the_end_of_a_path_is_searched(tmp_path: Path, on_disk: str) -> None:
    path = save_coco(tmp_path, {on_disk: [("cat", [1, 1, 5, 5])]})
    edit_json(path, lambda tree: tree["images"][0].update(file_name="images/v1/patch3/x.png"))
    annotated, _ = read(path)
    assert annotated.images["x.png"].file == tmp_path / "images" / on_disk


def test_a_file_that_fits_two_names_is_the_file_of_neither(tmp_path: Path) -> None:
    path = save_coco(tmp_path, {"a.png": [("cat", [1, 1, 5, 5])], "b.png": [("dog", [1, 1, 5, 5])]})
    edit_json(path, lambda tree: [one.update(file_name=f"{one['id']}/a.png") for one in tree["images"]])
    annotated, _ = read(path)
    assert not any(image.file.is_file() for image in annotated.images.values())


@pytest.mark.parametrize(("in_file", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_letters_with_accents_are_found_in_both_spellings(tmp_path: Path, in_file: Any, on_disk: Any) -> None:
    name = unicodedata.normalize(on_disk, "müll/Größe é.png")
    path = save_coco(tmp_path, {name: [("cat", [1, 1, 5, 5])]})
    written = unicodedata.normalize(in_file, "müll/Größe é.png").replace("/", "\\")
    edit_json(path, lambda tree: tree["images"][0].update(file_name=written))
    annotated, _ = read(path)
    assert annotated.images[unicodedata.normalize("NFC", "Größe é.png")].file == tmp_path / "images" / name


@pytest.mark.parametrize("start", ["/data/", "../", "C:\\data\\", "//server/data/"])
def test_images_of_one_name_in_different_folders_are_not_merged(tmp_path: Path, start: str) -> None:
    file = save_coco(tmp_path, TWO)
    tree = json.loads(file.read_text())
    for image, folder in zip(tree["images"], ("x", "y"), strict=True):
        (tmp_path / "images" / folder).mkdir()
        (tmp_path / "images" / image["file_name"]).rename(tmp_path / "images" / folder / "a.png")
        image["file_name"] = f"{start}{folder}/a.png"
    file.write_text(json.dumps(tree))
    annotated, skipped = read(file, tmp_path / "images")
    assert {name: set(image.boxes) for name, image in annotated.images.items()} == {
        "x/a.png": {"cat"},
        "y/a.png": {"dog"},
    }
    assert all(image.file is not None and image.file.is_file() for image in annotated.images.values())
    assert skipped == []


def test_a_class_of_an_annotation_without_an_image_is_absent_nowhere(tmp_path: Path) -> None:
    file = save_coco(tmp_path, TWO)
    tree = json.loads(file.read_text())
    dog = next(one for one in tree["annotations"] if one["image_id"] == tree["images"][1]["id"])
    tree["annotations"].append({**dog, "image_id": None})
    file.write_text(json.dumps(tree))
    annotated, ((_, reason),) = read(file)
    assert not annotated.images["a.png"].is_absent("dog")
    assert annotated.images["b.png"].is_absent("cat")
    assert reason == "image_id is None; expected an integer"


def test_a_rotated_box_of_cvat_becomes_its_bounding_box(tmp_path: Path) -> None:
    file = save_coco(tmp_path, TWO)
    tree = json.loads(file.read_text())
    # 40 x 10 around (30, 20), upright: 10 x 40
    tree["annotations"] = [{**tree["annotations"][0], "bbox": [10, 15, 40, 10], "attributes": {"rotation": 270.0}}]
    file.write_text(json.dumps(tree))
    annotated, _ = read(file)
    assert annotated.images["a.png"].boxes == {"cat": ((25.0, 0.0, 35.0, 40.0),)}


@pytest.mark.parametrize(("number", "is_refused"), [(5, True), (4, False)])
def test_a_file_of_corners_is_refused(tmp_path: Path, number: int, is_refused: bool) -> None:
    file = save_coco(tmp_path, TWO)
    tree = json.loads(file.read_text())
    # In an image of 64 x 48; as [x, y, width, height], the first box ends at x = 110.
    boxes = [[50, 30, 60, 40], *([1, 2, 9 + n, 9] for n in range(number - 1))]
    tree["annotations"] = [{**tree["annotations"][0], "bbox": box} for box in boxes]
    file.write_text(json.dumps(tree))
    if is_refused:
        with pytest.raises(DataError, match=r"1 of 5 boxes do not fit .*, and all fit as \[x1, y1, x2, y2\]; expected"):
            read(file)
    else:
        assert len(read(file)[1]) == 1
