"""Hugging Face datasets of boxes or labels."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from virft.cli.main import main
from virft.data.store import Store
from virft.types import Label, Sample

datasets = pytest.importorskip("datasets")

CATEGORIES = ["cat", "dog"]
# In an image of 64 x 48; as corners, the first box would have no area.
XYWH = [[30.0, 12.0, 20.0, 28.0], [0.0, 0.0, 9.0, 9.0]]
XYXY = [[30.0, 12.0, 50.0, 40.0], [0.0, 0.0, 9.0, 9.0]]


def images(number: int, first: int = 0) -> list[Image.Image]:
    return [Image.new("RGB", (64, 48), (40 * n, 90, 30)) for n in range(first, first + number)]


def with_objects(boxes: list[list[float]], number: int = 1, first: int = 0) -> Any:
    box = datasets.Sequence(datasets.Value("float32"), length=4)
    category = datasets.ClassLabel(names=CATEGORIES)
    features = datasets.Features(
        {"image": datasets.Image(), "objects": datasets.Sequence({"bbox": box, "category": category})}
    )
    rows = [{"bbox": boxes, "category": [0, 1]}] * number
    return datasets.Dataset.from_dict({"image": images(number, first), "objects": rows}, features=features)


def with_labels(number: int, first: int = 0) -> Any:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "big_dog"])})
    return datasets.Dataset.from_dict(
        {"image": images(number, first), "label": [n % 2 for n in range(number)]}, features=features
    )


def build(root: Path, found: Any, *options: str) -> None:
    found.save_to_disk(str(root / "saved"))
    assert main(["build", "hf", str(root / "saved"), str(root / "d"), *options]) == 0


def boxes_of(sample: Sample) -> list[tuple[float, ...]]:
    return [item.box.xyxy for item in sample.target.items]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("boxes", "options", "note"),
    [
        (XYWH, [], "boxes are read as [x, y, width, height]; --box-format overrides"),
        (XYXY, [], "boxes are read as [x1, y1, x2, y2]; --box-format overrides"),
        (XYXY, ["--box-format", "xyxy"], "boxes are read as [x1, y1, x2, y2]\n"),
    ],
)
def test_objects_become_boxes_of_named_classes(
    tmp_path: Path, boxes: list[list[float]], options: list[str], note: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build(tmp_path, with_objects(boxes), *options)
    cat, dog = Store(tmp_path / "d")
    assert (cat.query, boxes_of(cat)) == ("cat", [(30, 12, 50, 40)])
    assert (dog.query, boxes_of(dog)) == ("dog", [(0, 0, 9, 9)])
    assert note in capsys.readouterr().out


@pytest.mark.parametrize("name", ["img", "picture", "webp", "scan of the day"])
def test_images_are_found_by_a_usual_name_or_by_their_type(tmp_path: Path, name: str) -> None:
    build(tmp_path, with_objects(XYWH).rename_column("image", name))
    assert [boxes_of(sample) for sample in Store(tmp_path / "d")] == [[(30, 12, 50, 40)], [(0, 0, 9, 9)]]


def test_a_text_column_with_a_usual_name_is_not_preferred_to_images(tmp_path: Path) -> None:
    found = with_labels(2).rename_column("image", "scan").add_column("image", ["a.jpg", "b.jpg"])
    build(tmp_path, found, "--domain", "animal")
    assert [sample.target for sample in Store(tmp_path / "d")] == [Label(text="cat"), Label(text="big dog")]


def test_published_splits_are_used_or_one_is_chosen(tmp_path: Path) -> None:
    parts = {"train": with_objects(XYWH, 2), "validation": with_objects(XYWH, 1, first=2)}
    build(tmp_path, datasets.DatasetDict(parts))
    assert [len(list(Store(tmp_path / "d" / part))) for part in ("train", "validation")] == [4, 2]
    words = ["build", "hf", str(tmp_path / "saved"), str(tmp_path / "e"), "--hf-split", "validation"]
    assert main(words) == 0
    assert len(list(Store(tmp_path / "e"))) == 2


def test_labels_become_classification(tmp_path: Path) -> None:
    build(tmp_path, datasets.DatasetDict({"train": with_labels(4), "test": with_labels(2, 4)}), "--domain", "animal")
    targets = [sample.target for sample in Store(tmp_path / "d" / "train")]
    assert targets == [Label(text="cat"), Label(text="big dog")] * 2
    assert len(list(Store(tmp_path / "d" / "test"))) == 2


@pytest.mark.parametrize(
    ("found", "options", "message"),
    [
        (with_labels(2), [], "saved: has labels; expected --domain"),
        (with_objects(XYWH), ["--domain", "animal"], "--domain has no effect: the source has boxes"),
        (datasets.Dataset.from_dict({"text": ["a"]}), [], "saved: has the columns text; expected images"),
        (
            with_labels(2).rename_column("image", "left").add_column("right", ["x", "y"]).remove_columns("left"),
            ["--domain", "animal"],
            "saved: has the columns label, right; expected images (a column such as image or img)",
        ),
        (
            datasets.Dataset.from_dict({"image": ["x"], "label": [3]}),
            ["--domain", "animal"],
            "labels are numbers without names in its features",
        ),
    ],
)
def test_a_set_that_cannot_be_read_is_refused(
    tmp_path: Path, found: Any, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found.save_to_disk(str(tmp_path / "saved"))
    assert main(["build", "hf", str(tmp_path / "saved"), str(tmp_path / "d"), *options]) != 0
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_images_as_base64_text_are_decoded_and_other_texts_are_named(
    tmp_path: Path, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = io.BytesIO()
    images(1)[0].save(file, format="PNG")
    texts = [prefix + base64.b64encode(file.getvalue()).decode(), "A" * 5000, "b"]
    table = {"image": texts, "problem": ["What?"] * 3, "solution": ["cat"] * 3}
    datasets.Dataset.from_dict(table).to_parquet(str(tmp_path / "t.parquet"))
    assert main(["build", "visual-rft", str(tmp_path / "t.parquet"), str(tmp_path / "d")]) == 0
    (sample,) = Store(tmp_path / "d")
    assert sample.target == Label(text="cat")
    printed = capsys.readouterr().out
    assert f"skipped row 1: image is '{'A' * 59}; expected the bytes of an image" in printed
    assert "skipped row 2: image is 'b'; expected the bytes of an image" in printed


@pytest.mark.parametrize("objects", [None, '{"bbox": [], "category": []}'])
def test_a_row_whose_objects_cannot_be_read_has_no_absent_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], objects: str | None
) -> None:
    good = {"bbox": XYWH, "category": CATEGORIES}
    rows = [json.dumps(good), objects] if isinstance(objects, str) else [good, None, good | {"category": ["cat"] * 2}]
    found = datasets.Dataset.from_dict({"image": images(len(rows)), "objects": rows})
    found.save_to_disk(str(tmp_path / "saved"))
    code = main(["build", "hf", str(tmp_path / "saved"), str(tmp_path / "d"), "--negatives-frac", "0.9"])
    printed = "".join(capsys.readouterr())
    assert "objects is" in printed and "expected lists of bbox and category" in printed
    if objects is None:
        assert code == 0
        assert [sample.id for sample in Store(tmp_path / "d")] == [
            "000000.png:cat", "000000.png:dog", "000002.png:cat", "000002.png:dog",
        ]  # fmt: skip
    else:
        assert code == 2


def test_a_split_without_the_columns_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = datasets.Dataset.from_dict({"image": images(1), "text": ["x"]})
    datasets.DatasetDict({"train": with_labels(2), "test": test}).save_to_disk(str(tmp_path / "saved"))
    assert main(["build", "hf", str(tmp_path / "saved"), str(tmp_path / "d"), "--domain", "animal"]) == 2
    assert "split test has the columns image, text" in capsys.readouterr().err
