"""Near-duplicate images in two parts of a build are reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from factories import save_coco
from virft.cli.main import main
from virft.data.duplicates import MAX_DISTANCE, find_duplicates, image_hash
from virft.scenes.assets import Split, background, background_files

PHOTOGRAPHS = [*background_files(Split.TRAIN), *background_files(Split.TEST)]


def distance(one: Image.Image, other: Image.Image) -> int:
    return (image_hash(one) ^ image_hash(other)).bit_count()


@pytest.mark.parametrize("file", PHOTOGRAPHS[:8])
def test_size_brightness_and_compression_hardly_change_a_hash(file: str, tmp_path: Path) -> None:
    image = background(file)
    image.save(tmp_path / "a.jpg", quality=40)
    smaller = Image.open(tmp_path / "a.jpg").resize((image.width // 2, image.height // 2))
    assert distance(image, smaller) <= MAX_DISTANCE
    assert distance(image, ImageEnhance.Brightness(image).enhance(0.8)) <= MAX_DISTANCE


def test_no_two_photographs_are_duplicates() -> None:
    hashes = {file: image_hash(background(file)) for file in PHOTOGRAPHS}
    halves = {"a": dict(list(hashes.items())[::2]), "b": dict(list(hashes.items())[1::2])}
    assert find_duplicates(halves) == []
    assert find_duplicates({"a": hashes, "b": hashes}) == sorted((f"a/{file}", f"b/{file}") for file in PHOTOGRAPHS)


def test_uniform_images_are_not_compared() -> None:
    grey = image_hash(Image.new("RGB", (64, 48), "grey"))
    assert find_duplicates({"a": {"x": grey}, "b": {"y": grey}}) == []


def test_an_empty_part_has_no_duplicates() -> None:
    assert find_duplicates({"a": {}, "b": {"x": 2**64 - 1}}) == []


def test_a_build_reports_duplicates_and_its_log_has_command_and_date(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_coco(tmp_path, {f"{i}.png": [("cat", [10, 10, 20, 30])] for i in range(4)})
    first = np.asarray(Image.open(tmp_path / "images" / "0.png"))
    for name in "123":
        Image.fromarray(first).save(tmp_path / "images" / f"{name}.png", compress_level=int(name))
    argv = ["build", "coco", str(path), str(tmp_path / "images"), str(tmp_path / "d"), "--test-frac", "0.25"]
    assert main(argv) == 0
    assert "3 near-duplicate images in two parts, such as train/" in capsys.readouterr().out
    card = json.loads((tmp_path / "d" / "test" / "card.json").read_text())["source"]
    assert card["num_duplicate_images"] == len(card["duplicate_images"]) == 3
    log = (tmp_path / "d" / "train" / "build.log").read_text()
    assert log.startswith("20")
    assert "virft" in log
    assert "build.log" not in json.dumps(card)
