"""Boxes of images with an EXIF orientation, in the formats that state an image size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from factories import save_image
from virft.cli.main import main
from virft.data.annotations import Skipped
from virft.data.sources.voc import read_voc
from virft.data.store import Store

# An image of 64 x 48 stored pixels is shown as 48 x 64; a box (x1, y1, x2, y2) of the stored pixels is
# (48 - y2, x1, 48 - y1, x2) upright.
FITS_BOTH, UPRIGHT_ONLY, RAW_ONLY = (10, 5, 30, 35), (10, 50, 30, 60), (50, 10, 60, 30)
IS_UPRIGHT, IS_ROTATED = FITS_BOTH, (13, 10, 43, 30)


def save_voc(folder: Path, boxes: list[tuple[int, ...]], size: tuple[int, int] | None) -> list[str]:
    for number, box in enumerate(boxes):
        corners = "".join(
            f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
        thing = f"<object><name>cat</name><bndbox>{corners}</bndbox></object>"
        (folder / f"{number}.xml").write_text(f"<annotation>{sides}{thing}</annotation>")
    return ["voc", str(folder)]


def save_labelme(folder: Path, boxes: list[tuple[int, ...]], size: tuple[int, int] | None) -> list[str]:
    for number, box in enumerate(boxes):
        shape = {"label": "cat", "shape_type": "rectangle", "points": [box[:2], box[2:]]}
        sides = {"imageWidth": size[0], "imageHeight": size[1]} if size else {}
        (folder / f"{number}.json").write_text(json.dumps({"shapes": [shape], **sides}))
    return ["labelme", str(folder)]


def save_csv(folder: Path, boxes: list[tuple[int, ...]], size: tuple[int, int] | None) -> list[str]:
    head = "filename,class,xmin,ymin,xmax,ymax" + (",width,height" if size else "")
    rows = [",".join(map(str, (f"{number}.png", "cat", *box, *(size or ())))) for number, box in enumerate(boxes)]
    (folder / "t.csv").write_text("\n".join([head, *rows]))
    return ["csv-boxes", str(folder / "t.csv"), str(folder)]


def first_box(folder: Path, out: str) -> tuple[float, ...]:
    sample = next(sample for sample in Store(folder / out) if sample.id.startswith("0.png"))
    (item,) = sample.target.items  # type: ignore[union-attr]
    return item.box.xyxy


@pytest.mark.parametrize("save", [save_voc, save_labelme, save_csv])
@pytest.mark.parametrize(
    ("boxes", "size", "exif", "expected"),
    [
        ([FITS_BOTH], (64, 48), "auto", IS_ROTATED),  # the stated size decides
        ([FITS_BOTH], (48, 64), "auto", IS_UPRIGHT),
        ([FITS_BOTH], None, "auto", IS_UPRIGHT),
        ([FITS_BOTH, UPRIGHT_ONLY], (64, 48), "auto", IS_UPRIGHT),
        ([FITS_BOTH, RAW_ONLY, UPRIGHT_ONLY, RAW_ONLY], (64, 48), "auto", IS_ROTATED),
        ([FITS_BOTH], (64, 48), "upright", IS_UPRIGHT),
        ([FITS_BOTH, UPRIGHT_ONLY], (64, 48), "raw", IS_ROTATED),
        ([FITS_BOTH], None, "raw", IS_ROTATED),
    ],
)
def test_boxes_of_sideways_images_are_read_for_the_whole_source(
    tmp_path: Path, save: Any, boxes: list[Any], size: Any, exif: str, expected: tuple[int, ...], capsys: Any
) -> None:
    orientation = Image.Exif()
    orientation[0x0112] = 6
    for number in range(len(boxes)):
        save_image(tmp_path / f"{number}.png", seed=number, exif=orientation)
    words = save(tmp_path, boxes, size)
    assert main(["build", *words, str(tmp_path / "d"), "--exif", exif]) == 0
    assert first_box(tmp_path, "d") == expected
    source = Store(tmp_path / "d").card["source"]
    assert source.get("exif", "auto") == exif
    assert (source["num_images_annotated_unrotated"] > 0) == (expected == IS_ROTATED)
    printed = capsys.readouterr().out
    assert ("whose boxes were read as those of the upright image: " in printed) == (
        expected == IS_UPRIGHT and size == (64, 48)
    )


@pytest.mark.parametrize("save", [save_voc, save_labelme, save_csv])
def test_ordinary_images_are_not_counted_as_rotated(tmp_path: Path, save: Any) -> None:
    save_image(tmp_path / "0.png")
    assert main(["build", *save(tmp_path, [FITS_BOTH], (64, 48)), str(tmp_path / "d"), "--exif", "raw"]) == 0
    assert first_box(tmp_path, "d") == FITS_BOTH
    assert Store(tmp_path / "d").card["source"]["num_images_annotated_unrotated"] == 0


@pytest.mark.parametrize("save", [save_voc, save_labelme, save_csv])
def test_boxes_are_checked_against_the_file_if_no_size_is_stated(tmp_path: Path, save: Any, capsys: Any) -> None:
    for name in ("0.png", "1.png"):
        save_image(tmp_path / name)
    assert main(["build", *save(tmp_path, [FITS_BOTH, (70, 10, 90, 30)], None), str(tmp_path / "d")]) == 0
    assert [sample.id.partition(":")[0] for sample in Store(tmp_path / "d")] == ["0.png"]
    assert "box [70, 10, 90, 30] lies outside its image of [0, 0, 64, 48]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "exif", "expected"),
    [
        ((64, 48), "auto", {}),  # stored pixels in one file, upright ones in the other
        ((64, 48), "raw", {"cat": (FITS_BOTH, (12, 5, 30, 35))}),
        ((48, 64), "auto", {"cat": (FITS_BOTH, (12, 5, 30, 35))}),
    ],
)
def test_files_of_one_sideways_image_are_merged_if_their_pixels_are_the_same(
    tmp_path: Path, size: tuple[int, int], exif: Any, expected: dict[str, Any]
) -> None:
    orientation = Image.Exif()
    orientation[0x0112] = 6
    save_image(tmp_path / "0.png", exif=orientation)
    save_voc(tmp_path, [FITS_BOTH], size)
    text = (tmp_path / "0.xml").read_text().replace("<xmin>10", "<xmin>12")
    text = text.replace(
        f"<size><width>{size[0]}</width><height>{size[1]}</height></size>", "<filename>0.png</filename>"
    )
    (tmp_path / "1.xml").write_text(text)
    skipped = Skipped()
    (image,) = read_voc(tmp_path, exif=exif, skipped=skipped).images.values()
    assert image.is_doubtful == (not expected)
    if expected:
        assert image.boxes == expected
    assert len(skipped.records) == (not expected)
