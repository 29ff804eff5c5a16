"""Exports of labelling tools: one small scene, written in each tool's layout and format.

A dialect is one row of ``EXPORTS``. None was copied from a tool; each writes what its tool is documented to write.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

Corners = tuple[int, int, int, int]
SIZE = (160, 120)
CLASSES = ("fox", "owl")
SCENE: dict[str, dict[str, tuple[Corners, ...]]] = {
    "a": {"fox": ((20, 30, 60, 70),), "owl": ((80, 10, 150, 100),)},
    "b": {"fox": ((0, 0, 40, 24), (100, 60, 160, 120))},
    "c": {"owl": ((8, 12, 72, 108),)},
}
"""Image -> class -> boxes, corners in pixels; image c is in the validation split of exports with splits."""
SPLIT_OF = {"a": "train", "b": "train", "c": "valid"}


class Export(NamedTuple):
    """Export of a tool."""

    tool: str
    format: str
    write: Callable[[Path], None]
    command: str
    """Command after ``virft``, run in the folder of the export; it writes ``data/mine``."""
    images: str = "abc"
    """Images that the command reads."""
    is_split: bool = False
    """Whether the command makes the published splits."""


def save_images(folder: Path, name_of: Callable[[str], str] = "{}.jpg".format, images: str = "abc") -> None:
    for image in images:
        path = folder / name_of(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, (70 * (ord(image) - 96), 80, 10)).save(path)


def save_text(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def quarter_turned(box: Corners) -> tuple[float, float, float, float]:
    """The corners of a box before a turn by 90 degrees about its centre."""
    x1, y1, x2, y2 = box
    x, y, across, down = (x1 + x2) / 2, (y1 + y2) / 2, (y2 - y1) / 2, (x2 - x1) / 2
    return x - across, y - down, x + across, y + down


def objects(image: str) -> list[tuple[str, Corners]]:
    return [(label, box) for label, boxes in SCENE[image].items() for box in boxes]


def coco(
    file: str,
    folder: str,
    *,
    names: str = "{}.jpg",
    images: str = "abc",
    extra: tuple[str, ...] = (),
    ids: Callable[[int], Any] = int,
    with_ids: bool = True,
    is_turned: bool = False,
) -> Callable[[Path], None]:
    """COCO; ``names``: file names in the JSON, below ``folder`` on the disk. ``extra``: categories in front.

    ``is_turned``: each box is written as CVAT writes one that is rotated by 90 degrees.
    """

    def write(root: Path) -> None:
        categories = [{"id": ids(n), "name": name, "supercategory": "none"} for n, name in enumerate(extra + CLASSES)]
        for category in categories[len(extra) :]:
            category["supercategory"] = extra[0] if extra else ""
        rows = [
            (n, label, quarter_turned(box) if is_turned else box)
            for n, image in enumerate(images)
            for label, box in objects(image)
        ]
        more = {"attributes": {"occluded": False, "rotation": 90.0}} if is_turned else {}
        tree = {
            "images": [
                {"id": ids(n), "file_name": names.format(image), "width": SIZE[0], "height": SIZE[1]}
                for n, image in enumerate(images)
            ],
            "annotations": [
                {
                    **({"id": ids(n)} if with_ids else {}),
                    "image_id": ids(image),
                    "category_id": ids((extra + CLASSES).index(label)),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    **more,
                }
                for n, (image, label, (x1, y1, x2, y2)) in enumerate(rows)
            ],
            "categories": categories,
        }
        save_text(root / file, json.dumps(tree))
        save_images(root / folder, names.format, images)

    return write


def yolo(
    images: str,
    labels: str,
    *,
    names: str,
    content: str,
    line: str = "{n} {x} {y} {w} {h}",
    encoding: str = "utf-8",
    more: dict[str, str] | None = None,
) -> Callable[[Path], None]:
    """YOLO; ``images`` and ``labels``: paths with {image}, {split}. ``names``: the file of class names."""

    def write(root: Path) -> None:
        for image in SCENE:
            place = {"image": image, "split": SPLIT_OF[image], "val": SPLIT_OF[image].removesuffix("id")}
            save_images(root, lambda _, place=place: images.format(**place), image)  # type: ignore[misc]
            lines = []
            for label, (x1, y1, x2, y2) in objects(image):
                x, y = (x1 + x2) / 2 / SIZE[0], (y1 + y2) / 2 / SIZE[1]
                w, h = (x2 - x1) / SIZE[0], (y2 - y1) / SIZE[1]
                a, b, c, d = x1 / SIZE[0], y1 / SIZE[1], x2 / SIZE[0], y2 / SIZE[1]
                lines.append(line.format(n=CLASSES.index(label), x=x, y=y, w=w, h=h, a=a, b=b, c=c, d=d))
            save_text(root / labels.format(**place), "\n".join(lines) + "\n", encoding)
        for path, text in {names: content, **(more or {})}.items():
            save_text(root / path, text, encoding)

    return write


def voc(
    images: str,
    annotations: str,
    *,
    database: str = "Unknown",
    low: int = 0,
    high: int = 0,
    filename: str = "{}.jpg",
    only: str = "abc",
    is_turned: bool = False,
) -> Callable[[Path], None]:
    """Pascal VOC; ``low``, ``high``: what the tool adds to the corners; ``is_turned``: as of ``coco``."""
    attribute = "<attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes>"
    more = attribute if is_turned else ""

    def write(root: Path) -> None:
        save_images(root, f"{images}/{{}}.jpg".format, only)
        for image in only:
            rows = [
                f"<object><name>{label}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
                f"<bndbox><xmin>{x1 + low}</xmin><ymin>{y1 + low}</ymin>"
                f"<xmax>{x2 + high}</xmax><ymax>{y2 + high}</ymax></bndbox>{more}</object>"
                for label, box in objects(image)
                for x1, y1, x2, y2 in [quarter_turned(box) if is_turned else box]
            ]
            head = (
                f"<folder>VOC</folder><filename>{filename.format(image)}</filename>"
                f"<source><database>{database}</database></source>"
                f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
            )
            save_text(root / annotations / f"{image}.xml", f"<annotation>{head}{''.join(rows)}</annotation>")

    return write


def rolabelimg(root: Path) -> None:
    """Rotated boxes: each is turned by 90 degrees about its centre."""
    save_images(root)
    for image in SCENE:
        rows = ""
        for label, (x1, y1, x2, y2) in objects(image):
            sides = f"<w>{y2 - y1}.0</w><h>{x2 - x1}.0</h><angle>1.570796</angle>"
            box = f"<robndbox><cx>{(x1 + x2) / 2}</cx><cy>{(y1 + y2) / 2}</cy>{sides}</robndbox>"
            rows += f"<object><type>robndbox</type><name>{label}</name><difficult>0</difficult>{box}</object>"
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
        head = f'<annotation verified="no"><folder>x</folder><filename>{image}</filename>{size}'
        save_text(root / f"{image}.xml", f"{head}{rows}</annotation>")


def open_images(root: Path) -> None:
    save_images(root / "IMAGES")
    ids = {"fox": "/m/0306r", "owl": "/m/09d5_"}
    lines = ["ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction"]
    for image in SCENE:
        for label, (x1, y1, x2, y2) in objects(image):
            across, down = f"{x1 / SIZE[0]:.6f},{x2 / SIZE[0]:.6f}", f"{y1 / SIZE[1]:.6f},{y2 / SIZE[1]:.6f}"
            lines.append(f"{image},xclick,{ids[label]},1,{across},{down},0,0,0,0")
    save_text(root / "validation-annotations-bbox.csv", "\n".join(lines))
    save_text(root / "class-descriptions-boxable.csv", "".join(f"{ids[label]},{label}\n" for label in CLASSES))


def labelme(root: Path) -> None:
    save_images(root)
    for image in SCENE:
        shapes = [
            {"label": label, "points": [[x1, y1], [x2, y2]], "group_id": None, "shape_type": "rectangle", "flags": {}}
            for label, (x1, y1, x2, y2) in objects(image)
        ]
        tree = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{image}.jpg", "imageData": None}
        save_text(root / f"{image}.json", json.dumps({**tree, "imageWidth": SIZE[0], "imageHeight": SIZE[1]}))


def rows(root: Path) -> None:
    save_images(root / "IMAGES")
    lines = [
        json.dumps({"image": f"{image}.jpg", "query": label, "target": {"boxes": boxes}})
        for image, found in SCENE.items()
        for label, boxes in found.items()
    ]
    save_text(root / "rows.jsonl", "\n".join(lines))


NAMES_TXT = "fox\nowl\n"
YAML = "names:\n  0: fox\n  1: owl\n"
ROBOFLOW_YAML = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['fox', 'owl']\n"
FLAT: dict[str, Any] = {"images": "{image}.jpg", "labels": "{image}.txt", "content": NAMES_TXT}
VAL: dict[str, Any] = {"images": "images/{val}/{image}.jpg", "labels": "labels/{val}/{image}.txt"}
BUILD_COCO, BUILD_VOC, BUILD_YOLO = "build coco {} {} data/mine", "build voc {} data/mine", "build yolo . data/mine"
OUTLINE = "{n} {a} {b} {c} {b} {c} {d} {a} {d}"

EXPORTS = [
    Export(
        "Roboflow",
        "COCO",
        coco(
            "train/_annotations.coco.json",
            "train",
            names="{}_jpg.rf.0a1b.jpg",
            images="ab",
            extra=("animals",),
        ),
        BUILD_COCO.format("train/_annotations.coco.json", "train"),
        images="ab",
    ),
    Export(
        "Roboflow",
        "YOLO",
        yolo(
            "{split}/images/{image}_jpg.rf.0a.jpg",
            "{split}/labels/{image}_jpg.rf.0a.txt",
            names="data.yaml",
            content=ROBOFLOW_YAML,
        ),
        BUILD_YOLO,
        is_split=True,
    ),
    Export(
        "Roboflow",
        "Pascal VOC",
        voc("train", "train", database="roboflow.com", low=1, high=1, only="ab"),
        BUILD_VOC.format("train"),
        images="ab",
    ),
    Export(
        "CVAT",
        "COCO",
        coco("annotations/instances_default.json", "images"),
        BUILD_COCO.format("annotations/instances_default.json", "images"),
    ),
    Export(
        "CVAT",
        "COCO, rotated rectangles",
        coco("annotations/instances_default.json", "images", is_turned=True),
        BUILD_COCO.format("annotations/instances_default.json", "images"),
    ),
    Export("CVAT", "PASCAL, rotated rectangles", voc("JPEGImages", "Annotations", is_turned=True),
           BUILD_VOC.format("Annotations")),
    Export("CVAT", "Ultralytics", yolo(**VAL, names="data.yaml", content=YAML), BUILD_YOLO, is_split=True),
    Export(
        "CVAT",
        "Ultralytics, lists",
        yolo(
            **VAL,
            names="data.yaml",
            content=YAML + "path: .\ntrain: train.txt\nval: val.txt\n",
            more={
                "train.txt": "data/images/train/a.jpg\ndata/images/train/b.jpg\n",
                "val.txt": "data/images/val/c.jpg\n",
            },
        ),
        BUILD_YOLO,
        is_split=True,
    ),
    Export(
        "CVAT",
        "YOLO",
        yolo(
            "obj_{split}_data/{image}.jpg",
            "obj_{split}_data/{image}.txt",
            names="obj.names",
            content=NAMES_TXT,
            more={"obj.data": "classes = 2\nnames = data/obj.names\n"},
        ),
        BUILD_YOLO,
        is_split=True,
    ),
    Export("CVAT", "PASCAL", voc("JPEGImages", "Annotations"), BUILD_VOC.format("Annotations")),
    Export(
        "CVAT",
        "PASCAL, subfolders",
        voc("JPEGImages/day/1", "Annotations/day/1", filename="day/1/{}.jpg"),
        BUILD_VOC.format("Annotations"),
    ),
    Export(
        "Label Studio",
        "YOLO",
        yolo(
            "images/{image}.jpg",
            "labels/{image}.txt",
            names="classes.txt",
            content=NAMES_TXT,
            more={"notes.json": "{}"},
        ),
        BUILD_YOLO,
    ),
    Export(
        "Label Studio",
        "COCO",
        coco("result.json", ".", names="images/{}.jpg"),
        BUILD_COCO.format("result.json", "."),
    ),
    Export("Label Studio", "Pascal VOC", voc("images", "Annotations"), BUILD_VOC.format("Annotations")),
    Export("LabelMe", "its own", labelme, "build labelme . data/mine"),
    Export("labelImg", "PascalVOC", voc(".", "."), BUILD_VOC.format(".")),
    Export("labelImg", "PascalVOC, ImageNet's names", voc(".", ".", filename="{}"), BUILD_VOC.format(".")),
    Export("labelImg", "YOLO", yolo(**FLAT, names="classes.txt"), BUILD_YOLO),
    Export("labelImg", "YOLO on Windows", yolo(**FLAT, names="classes.txt", encoding="utf-8-sig"), BUILD_YOLO),
    Export(
        "labelImg",
        "YOLO, folder of labels",
        yolo("images/{image}.jpg", "labels/{image}.txt", names="labels/classes.txt", content=NAMES_TXT),
        BUILD_YOLO,
    ),
    Export("roLabelImg", "its own", rolabelimg, BUILD_VOC.format(".")),
    Export("FiftyOne", "`COCO", coco("labels.json", "data"), BUILD_COCO.format("labels.json", "data")),
    Export("FiftyOne", "`YOLO", yolo(**VAL, names="dataset.yaml", content=YAML), BUILD_YOLO, is_split=True),
    Export("FiftyOne", "`VOC", voc("data", "labels"), BUILD_VOC.format(".")),
    Export(
        "Supervisely",
        "COCO",
        coco("annotations/instances.json", "images"),
        BUILD_COCO.format("annotations/instances.json", "images"),
    ),
    Export("VIA", "COCO", coco("via_export_coco.json", "IMAGES"), BUILD_COCO.format("via_export_coco.json", "IMAGES")),
    Export("makesense.ai", "VOC", voc(".", "."), BUILD_VOC.format(".")),
    Export("makesense.ai", "YOLO", yolo(**FLAT, names="classes.txt"), BUILD_YOLO),
    Export(
        "Datumaro",
        "`coco`",
        coco("annotations/instances_default.json", "images/default"),
        BUILD_COCO.format("annotations/instances_default.json", "images/default"),
    ),
    Export("Ultralytics datasets", "as they", yolo(**VAL, names="data.yaml", content=YAML), BUILD_YOLO, is_split=True),
    Export(
        "Ultralytics datasets",
        "outlines",
        yolo(**VAL, names="data.yaml", content=YAML, line=OUTLINE),
        BUILD_YOLO,
        is_split=True,
    ),
    Export(
        "Ultralytics datasets",
        "pose",
        yolo(**VAL, names="data.yaml", content=YAML + "kpt_shape: [1, 3]\n", line="{n} {x} {y} {w} {h} 0.5 0.5 2"),
        BUILD_YOLO,
        is_split=True,
    ),
    Export(
        "Pascal VOC",
        "as it is",
        voc("VOC2012/JPEGImages", "VOC2012/Annotations", database="The VOC2012 Database", low=1),
        BUILD_VOC.format("VOC2012"),
    ),
    Export("Open Images", "box annotations", open_images,
           "build csv-boxes validation-annotations-bbox.csv IMAGES data/mine --class-names "
           "class-descriptions-boxable.csv"),
    Export("supervision", "Pascal VOC", voc("images", "annotations", database="roboflow.ai", low=1, high=1),
           BUILD_VOC.format(".")),
    Export("anything else", "JSON", rows, "build rows rows.jsonl IMAGES data/mine"),
]  # fmt: skip
"""Exports of all supported tools. The format begins as in the table of docs/labelling_tools.md, if it is there."""
