"""``scripts/photo_beds.py`` and ``scripts/make_negative_photographs.py``: splits, boxes, blind baselines."""

from __future__ import annotations

import json
import struct
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from virft.data.duplicates import image_hash
from virft.data.store import Store
from virft.types import Box, Detections, Label

SCRIPTS = Path(__file__).parents[3] / "scripts"
NAMES = {
    "ferret": ("mammal", "animal"),
    "cow": ("mammal", "animal"),
    "duck": ("bird", "animal"),
    "hen": ("bird", "animal"),
}


@pytest.fixture
def beds(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return import_module("photo_beds")


def noise(seed: int, size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Blocks of random colours: no two have similar hashes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)


def write_coco(folder: Path, classes: list[str], number: int) -> None:
    """Photographs of 60 x 40 pixels with a box of 20 x 20 of each class, at (10 + class, 10)."""
    (folder / "images").mkdir(parents=True)
    images, boxes = [], []
    for n in range(number):
        noise(n).save(folder / f"images/{n}.png")
        images.append({"id": n, "file_name": f"images/{n}.png", "width": 60, "height": 40})
        boxes += [
            {"id": 10 * n + c, "image_id": n, "category_id": c, "bbox": [10 + c, 10, 20, 20], "area": 400, "iscrowd": 0}
            for c in range(len(classes))
        ]
    categories = [{"id": c, "name": name} for c, name in enumerate(classes)]
    tree = {"images": images, "annotations": boxes, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(tree))


def write_negatives(folder: Path, number: int) -> None:
    folder.mkdir()
    rows = []
    for n in range(number):
        noise(1000 + n).save(folder / f"{n}.png")
        rows.append({"file": f"{n}.png"})
    (folder / "photographs.json").write_text(json.dumps(rows))


def image_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix in (".png", ".jpg")}


def test_near_duplicates_come_to_one_part(beds: ModuleType) -> None:
    # two bits apart, then far from both
    hashes = {"a": 0xFF, "b": 0xFC, "c": 0xFF00, "d": 0xF0F0F0F0}
    parts = beds.without_duplicates_across(hashes, {"train": ["a", "c"], "validation": [], "test": ["b", "d"]})
    assert parts == {"train": ["a", "b", "c"], "validation": [], "test": ["d"]}


def test_cells_are_split_by_photograph_and_shots_are_nested(beds: ModuleType, tmp_path: Path) -> None:
    write_coco(tmp_path / "bccd", ["WBC", "RBC", "Platelets"], 40)
    for shots in (4, 8):
        beds.build("bccd", tmp_path / str(shots), data=tmp_path, shots=shots)
    four, eight = (image_files(tmp_path / name / "train") for name in ("4", "8"))
    assert (len(four), len(eight)) == (4, 8)
    assert four.items() <= eight.items()
    assert image_files(tmp_path / "4/test") == image_files(tmp_path / "8/test")
    parts = [set(image_files(tmp_path / "8" / part).values()) for part in ("train", "validation", "test")]
    assert len(set.union(*parts)) == sum(map(len, parts))
    assert {sample.query for sample in Store(tmp_path / "4/test")} == {"white blood cell", "red blood cell", "platelet"}


def test_white_cells_have_the_photographs_of_all_cells(beds: ModuleType, tmp_path: Path) -> None:
    write_coco(tmp_path / "bccd", ["WBC", "RBC", "Platelets"], 20)
    for bed in ("bccd", "white_cells"):
        beds.build(bed, tmp_path / bed / "bed", data=tmp_path, shots=4)
    assert image_files(tmp_path / "bccd/bed/test") == image_files(tmp_path / "white_cells/bed/test")
    assert {sample.query for sample in Store(tmp_path / "white_cells/bed/test")} == {"white blood cell"}


def test_too_many_shots_are_refused_with_the_number_that_exists(beds: ModuleType, tmp_path: Path) -> None:
    write_coco(tmp_path / "bccd", ["WBC", "RBC", "Platelets"], 20)
    with pytest.raises(SystemExit, match=r"--shots 32: the training part has 7 photographs"):
        beds.build("bccd", tmp_path / "out", data=tmp_path, shots=32)


def test_a_third_of_the_raccoon_photographs_have_none(beds: ModuleType, tmp_path: Path) -> None:
    write_coco(tmp_path / "raccoon", ["raccoon"], 60)
    write_negatives(tmp_path / "without", 30)
    beds.build_raccoon(tmp_path / "out", tmp_path, tmp_path / "without", shots=6, seed=0)
    for part in ("train", "test"):
        samples = list(Store(tmp_path / "out" / part))
        absent = [one for one in samples if one.target == Detections()]
        assert abs(3 * len(absent) - len(samples)) <= 1
    assert len(Store(tmp_path / "out/train")) == 6


def test_a_mosaic_moves_and_clips_boxes_with_their_photograph(beds: ModuleType, tmp_path: Path) -> None:
    write_coco(tmp_path / "raccoon", ["raccoon"], 4)
    annotated = beds.read_boxes(tmp_path / "raccoon", {"raccoon": "raccoon"})
    first = annotated.images["0.png"]
    empty = beds.replace(first, boxes={})
    image, boxes = beds.mosaic([empty, first, empty, empty])
    assert image.size == (336, 336)
    # the central square of 60 x 40 begins at x = 10 and is enlarged 168 / 40 = 4.2 times: (0, 10, 20, 30) in it
    assert boxes == [Box(x1=168.0, y1=42.0, x2=252.0, y2=126.0)]
    # 5 of 20 pixels inside would be a quarter; 4 are less
    outside = beds.replace(first, boxes={"raccoon": ((-6.0, 10.0, 14.0, 30.0),)})
    assert beds.mosaic([outside, empty, empty, empty])[1] == []


def test_mosaics_have_none_to_two_raccoons(beds: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beds, "NUM_TEST", 18)
    monkeypatch.setattr(beds, "NUM_VALIDATION", 3)
    write_coco(tmp_path / "raccoon", ["raccoon"], 60)
    write_negatives(tmp_path / "without", 40)
    for out in ("one", "two"):
        beds.build_mosaics(tmp_path / out, tmp_path, tmp_path / "without", shots=6, seed=0)
    counts = [len(sample.target.items) for sample in Store(tmp_path / "one/test")]
    assert set(counts) == {0, 1, 2}
    assert counts.count(0) == 6  # every third
    assert Store(tmp_path / "one/test").hash == Store(tmp_path / "two/test").hash


def write_cutouts(folder: Path) -> None:
    for place in ("cutouts", "backgrounds"):
        (folder / place).mkdir(parents=True)
    rows = []
    for number, (name, categories) in enumerate(NAMES.items()):
        image = noise(number, (60, 60)).convert("RGBA")
        image.save(folder / f"cutouts/{name}.png")
        split = "heldout" if name in ("ferret", "hen") else "base"
        rows.append({"file": f"{name}.png", "name": name, "categories": categories, "source": "stamps", "split": split})
    backgrounds = []
    for split in ("train", "test"):
        noise(50 + len(backgrounds), (300, 300)).save(folder / f"backgrounds/{split}.jpg")
        backgrounds.append({"file": f"{split}.jpg", "split": split, "source": "own"})
    # a name that every scene lacks: "cow" and "duck" may both be shown
    noise(9, (60, 60)).convert("RGBA").save(folder / "cutouts/kettle.png")
    for split, name in (("base", "kettle"), ("heldout", "wrench")):
        row = {"file": "kettle.png", "name": name, "categories": ("tool",), "source": "stamps", "split": split}
        rows.append(row)
    (folder / "assets.json").write_text(json.dumps({"cutouts": rows, "backgrounds": backgrounds}))


def test_composites_show_held_out_names_in_tests_only(
    beds: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beds, "NUM_TEST", 6)
    monkeypatch.setattr(beds, "NUM_VALIDATION", 4)
    write_cutouts(tmp_path / "assets")
    beds.build("composites", tmp_path / "out", cutouts=tmp_path / "assets", shots=6)
    heldout = {"ferret", "hen", "wrench"}
    queries = {part: {one.query for one in Store(tmp_path / "out" / part)} for part in ("train", "heldout_names")}
    assert queries["train"] <= {"cow", "duck", "kettle"}
    assert queries["heldout_names"] <= heldout
    categories = {one.query for one in Store(tmp_path / "out/heldout_categories")}
    assert categories <= {"mammal", "bird", "tool", "animal"}
    absent = [one for one in Store(tmp_path / "out/heldout_names") if one.target == Detections()]
    assert len(absent) == 3  # one on every second of six scenes


def test_lookalikes_and_relations_have_targets_of_their_tasks(
    beds: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beds, "NUM_TEST", 4)
    monkeypatch.setattr(beds, "NUM_VALIDATION", 2)
    write_cutouts(tmp_path / "assets")
    beds.build("lookalikes", tmp_path / "naming", cutouts=tmp_path / "assets", shots=2)
    labels = [(one.query, one.target) for one in Store(tmp_path / "naming/train")]
    assert labels[:2] == [("mammal", Label(text="cow", aliases=())), ("bird", Label(text="duck", aliases=()))]
    assert len(labels) == 4
    beds.build("relations", tmp_path / "relations", cutouts=tmp_path / "assets", shots=3)
    for one in Store(tmp_path / "relations/train"):
        assert one.task == "grounding"
        assert isinstance(one.target, Box)


def test_blind_baselines_reach_what_one_box_hits(beds: ModuleType, tmp_path: Path) -> None:
    write_coco(tmp_path / "raccoon", ["raccoon"], 60)
    write_negatives(tmp_path / "without", 30)
    beds.build_raccoon(tmp_path / "out", tmp_path, tmp_path / "without", shots=6, seed=0)
    values = beds.blind_values(Store(tmp_path / "out/train"), Store(tmp_path / "out/test"))
    samples = list(Store(tmp_path / "out/test"))
    num_present = sum(one.target != Detections() for one in samples)
    # all boxes are equal: as many hits as targets, and a prediction for every question
    assert values["best constant box"] == pytest.approx(2 * num_present / (len(samples) + num_present))
    assert 0.75 < values["best constant box"] < 0.85
    assert values["No Objects"] == 0.0
    assert list(beds.blind_table([tmp_path / "out"]))[2].startswith("| out: test |")


@pytest.mark.parametrize(("bed", "bound"), [("white_cells", 0.15), ("bccd", 0.05), ("raccoon_mosaic", 0.25)])
def test_no_constant_answer_passes_on_real_photographs(
    beds: ModuleType, tmp_path: Path, shared_data: Path, bed: str, bound: float
) -> None:
    beds.build(bed, tmp_path / "bed", data=shared_data, shots=32)
    values = beds.blind_values(Store(tmp_path / "bed/train"), Store(tmp_path / "bed/test"))
    assert max(values.values()) < bound
    hashes = [
        {image_hash(Image.open(path)) for path in (tmp_path / "bed" / part).rglob("*.jpg")}
        for part in ("train", "validation", "test")
    ]
    assert not (hashes[0] & hashes[2] or hashes[1] & hashes[2] or hashes[0] & hashes[1])


def test_files_of_a_qt_resource_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    negatives = import_module("make_negative_photographs")
    name = struct.pack(">HI", 5, 0) + "a.jpg".encode("utf-16-be")
    root = struct.pack(">IHII", 0, 2, 1, 1)
    file = struct.pack(">IHHHI", 0, 0, 0, 0, 0)
    data = struct.pack(">I", 3) + b"abc"
    tree = 20
    head = b"qres" + struct.pack(">4I", 1, tree, tree + len(root + file), tree + len(root + file + data))
    assert list(negatives.rcc_files(head + root + file + data + name)) == [("/a.jpg", b"abc")]
    with pytest.raises(ValueError, match=r"begins with b'RIFF'; expected a Qt resource file"):
        list(negatives.rcc_files(b"RIFF"))


def test_only_entries_about_one_file_are_credits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    negatives = import_module("make_negative_photographs")
    text = "Files: *\nCopyright: all\nLicense: GPL-3\n\n"
    text += "Files: a/b.jpg\nCopyright: Ann\n Bob\nLicense: CC0-1.0\nComment: here\n"
    assert negatives.credits_of(text) == {"a/b": negatives.Credit("Ann Bob", "CC0-1.0", "here")}


def test_shipped_photographs_are_small_and_each_has_an_allowed_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    negatives = import_module("make_negative_photographs")
    folder = negatives.ROOT / "benchmarks/photographs"
    rows = json.loads((folder / "photographs.json").read_text(encoding="utf-8"))
    assert {row["file"] for row in rows} == {path.name for path in folder.glob("*.jpg")}
    assert all(negatives.LICENCES.fullmatch(row["licence"]) and row["author"] for row in rows)
    assert sum(path.stat().st_size for path in folder.glob("*.jpg")) < 8 * 2**20
    assert all(max(Image.open(folder / row["file"]).size) <= negatives.SIDE for row in rows)
    notice = (folder / "NOTICE").read_text(encoding="utf-8")
    assert all(row["file"] in notice for row in rows)
