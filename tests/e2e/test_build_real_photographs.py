"""Real photographs of many sizes become data sets, the same every time."""

from __future__ import annotations

from pathlib import Path

from virft.cli import main
from virft.data.store import Store
from virft.types import Detections


def build(data: Path, out: Path, *options: str) -> None:
    assert main(["build", "coco", str(data / "annotations.json"), str(data), str(out), *options]) == 0


def test_raccoons_are_split_into_training_and_test(shared_data: Path, tmp_path: Path) -> None:
    build(shared_data / "raccoon", tmp_path / "d", "--shots", "8", "--test-frac", "0.25")
    train, test = Store(tmp_path / "d" / "train"), Store(tmp_path / "d" / "test")
    assert (len(train), len(test)) == (8, 50)
    assert not {one.id for one in train} & {one.id for one in test}
    assert len({one.target_size for one in test}) > 5
    test.check(decode=True)


def test_all_raccoons_are_there(shared_data: Path, tmp_path: Path) -> None:
    build(shared_data / "raccoon", tmp_path / "d")
    store = Store(tmp_path / "d")
    boxes = [item for one in store if isinstance(one.target, Detections) for item in one.target.items]
    assert (len(store), len(boxes), store.card["num_skipped"]) == (200, 217, 0)


def test_blood_cells_are_asked_by_class_and_when_absent(shared_data: Path, tmp_path: Path) -> None:
    options = ("--classes", "WBC,Platelets", "--shots", "4", "--negatives-frac", "0.2")
    build(shared_data / "bccd", tmp_path / "a", *options)
    build(shared_data / "bccd", tmp_path / "b", *options)
    assert (tmp_path / "a" / "samples.jsonl").read_bytes() == (tmp_path / "b" / "samples.jsonl").read_bytes()
    assert (tmp_path / "a" / "card.json").read_bytes() == (tmp_path / "b" / "card.json").read_bytes()
    counts = Store(tmp_path / "a").card["counts"]["detection"]
    assert sum(row["questions"] - row["absent"] for row in counts.values()) == 8
    assert sum(row["absent"] for row in counts.values()) == 2
