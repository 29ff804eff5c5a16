"""The commands of docs/labelling_tools.md read folders with the layout of each tool's export."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from virft.cli import main as cli
from virft.data.store import Store

PAGE = Path(__file__).parents[4] / "docs" / "labelling_tools.md"
BOX = (20, 30, 60, 70)  # corners in pixels, in images of 160 x 120
NAMES = ("a.jpg", "b.jpg")
YOLO = "0 0.25 0.41666667 0.25 0.33333333\n"  # centre (40, 50) of 160 x 120, size 40 x 40
VOC = (
    "<annotation><filename>{}</filename><size><width>160</width><height>120</height><depth>3</depth></size><object>"
    "<name>fox</name><difficult>0</difficult><bndbox><xmin>21</xmin><ymin>31</ymin><xmax>60</xmax><ymax>70</ymax>"
    "</bndbox></object></annotation>"
)
YAML = "names:\n  0: fox\n  1: owl\n"


def coco(names: tuple[str, ...] = NAMES) -> str:
    x1, y1, x2, y2 = BOX
    images = [{"id": i, "file_name": name, "width": 160, "height": 120} for i, name in enumerate(names)]
    box = [x1, y1, x2 - x1, y2 - y1]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": box, "area": 1600} for i in range(len(names))]
    categories = [{"id": 1, "name": "fox"}, {"id": 2, "name": "owl"}]
    return json.dumps({"images": images, "annotations": boxes, "categories": categories})


def yolo(images: str, labels: str, **texts: str) -> dict[str, str]:
    """Text files by path; an image has no text."""
    files = {f"{images}/{name}": "" for name in NAMES} | {f"{labels}/{name[0]}.txt": YOLO for name in NAMES}
    return files | texts


def voc(images: str, annotations: str) -> dict[str, str]:
    files = {f"{images}/{name}": "" for name in NAMES}
    return files | {f"{annotations}/{name[0]}.xml": VOC.format(name) for name in NAMES}


def coco_files(file: str, images: str) -> dict[str, str]:
    """A COCO file at this path, with file names inside of the folder of the images."""
    return {f"{images}/{name}": "" for name in NAMES} | {file: coco()}


SHAPE = {"label": "fox", "points": [[20, 30], [60, 70]], "shape_type": "rectangle"}
LABELME = json.dumps({"shapes": [SHAPE], "imageWidth": 160, "imageHeight": 120, "imagePath": "a.jpg"})
# (tool, beginning of its export) -> files
LAYOUTS = {
    ("Roboflow", "COCO"): coco_files("train/_annotations.coco.json", "train"),
    ("Roboflow", "YOLO"): yolo("train/images", "train/labels", **{"data.yaml": "names: ['fox', 'owl']\n"}),
    ("Roboflow", "Pascal VOC"): voc("train", "train"),
    ("CVAT", "COCO"): coco_files("annotations/instances_default.json", "images"),
    ("CVAT", "Ultralytics"): yolo("images/train", "labels/train", **{"data.yaml": YAML}),
    ("CVAT", "YOLO"): yolo(
        "obj_train_data", "obj_train_data", **{"obj.names": "fox\nowl\n", "obj.data": "classes = 2"}
    ),
    ("CVAT", "PASCAL"): voc("JPEGImages", "Annotations"),
    ("Label Studio", "YOLO"): yolo("images", "labels", **{"classes.txt": "fox\nowl\n", "notes.json": "{}"}),
    ("Label Studio", "COCO"): {
        "images/a.jpg": "",
        "images/b.jpg": "",
        "result.json": coco(("images/a.jpg", "images/b.jpg")),
    },
    ("Label Studio", "Pascal VOC"): voc("images", "Annotations"),
    ("LabelMe", "its own"): {"a.jpg": "", "a.json": LABELME},
    ("labelImg", "PascalVOC"): voc(".", "."),
    ("labelImg", "YOLO"): yolo(".", ".", **{"classes.txt": "fox\nowl\n"}),
    ("FiftyOne", "`COCO"): coco_files("labels.json", "data"),
    ("FiftyOne", "`YOLO"): yolo("images/val", "labels/val", **{"dataset.yaml": YAML}),
    ("FiftyOne", "`Image"): {"fox/1.jpg": "", "owl/1.jpg": ""},
    ("Supervisely", "COCO"): coco_files("annotations/instances.json", "images"),
    ("VIA", "COCO"): coco_files("via_export_coco.json", "IMAGES"),
    ("makesense.ai", "VOC"): voc(".", "."),
    ("makesense.ai", "YOLO"): yolo(".", ".", **{"classes.txt": "fox\nowl\n"}),
    ("Datumaro", "`coco`"): coco_files("annotations/instances_default.json", "images/default"),
    ("Ultralytics datasets", "as they"): yolo("images/train", "labels/train", **{"data.yaml": YAML}),
    ("anything else", "JSON"): {
        "rows.jsonl": json.dumps({"image": "a.jpg", "query": "fox", "target": {"boxes": [BOX]}}),
        "IMAGES/a.jpg": "",
    },
}


def rows() -> Iterator[tuple[str, str, str]]:
    """Tool, export and command of each row of the page's table."""
    tool = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and (command := re.match(r"`virft (build [^`]*)`", cells[2])):
            tool = re.sub(r"\[([^]]*)\]\(.*\)", r"\1", cells[0]) or tool
            yield tool, cells[1], command[1]


@pytest.mark.parametrize(("tool", "export", "command"), list(rows()))
def test_the_command_of_a_tool_reads_its_layout(
    tool: str, export: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (layout,) = (files for (name, start), files in LAYOUTS.items() if name == tool and export.startswith(start))
    for name, text in layout.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jpg":
            Image.new("RGB", (160, 120), (len(name) * 9, 80, ord(path.stem[0]))).save(path)
        else:
            path.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    words = [re.sub(r"^(EXPORT|FOLDER)(?=/|$)", ".", word) for word in shlex.split(command)]

    assert cli.main(words) == 0

    samples = list(Store(tmp_path / "data" / "mine"))
    assert {sample.query for sample in samples} == {"animal" if "folders" in words else "fox"}
    if "folders" not in words:
        assert [item.box.xyxy for sample in samples for item in sample.target.items] == [
            pytest.approx(BOX, abs=1e-3) for _ in samples
        ]


def test_the_page_has_a_row_for_every_layout() -> None:
    assert {tool for tool, _, _ in rows()} == {tool for tool, _ in LAYOUTS}
