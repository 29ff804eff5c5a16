"""The page of a dataset's images and targets."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from factories import box, detections, labelled, sample, save_image
from report_factories import PageReader
from virft.cli.main import main
from virft.data.store_writer import StoreWriter
from virft.geometry.masks import mask_to_rle
from virft.report.render.samples import MOST_DOTS, image_card, shade_masks, summarize, write_samples_page
from virft.types import Detections, Label, Sample


def read(*groups: list[Sample], **more: Any) -> PageReader:
    summary = summarize(one for group in groups for one in group)
    images = [("", group) for group in groups]
    return PageReader("".join(write_samples_page(images, **{"title": "t", "summary": summary, "intro": "i"} | more)))


def in_one_image(folder: Path) -> list[Sample]:
    """Two boxes of a fox, no cat and a dog, on the same image."""
    image = str(save_image(folder / "a.png"))
    fox, cat, dog = detections((0, 0, 32, 24), (32, 24, 64, 48)), Detections(), detections((0, 0, 16, 48))
    return [
        sample(target, id=f"a:{query}", image=image, query=query)
        for query, target in (("fox", fox), ("cat", cat), ("dog", dog))
    ]


def test_outlines_are_filled() -> None:
    one = sample(box(0, 0, 60, 40), task="grounding", polygons=((0, 0, 60, 0, 60, 40, 0, 40),))
    drawn = np.asarray(shade_masks(Image.new("RGB", (64, 48), "white"), [one]))
    assert tuple(drawn[20, 30]) != (255, 255, 255)
    assert tuple(drawn[45, 62]) == (255, 255, 255)


def test_a_mask_of_run_lengths_is_shaded_on_a_smaller_image() -> None:
    left = np.zeros((480, 640), dtype=bool)
    left[:, :320] = True
    one = sample(box(0, 0, 320, 480), task="grounding", size=(640, 480), rle=mask_to_rle(left))
    drawn = np.asarray(shade_masks(Image.new("RGB", (320, 240), "white"), [one]))
    assert tuple(drawn[120, 80]) != (255, 255, 255)
    assert tuple(drawn[120, 240]) == (255, 255, 255)


def test_an_image_has_one_card_with_a_colour_for_each_class(tmp_path: Path) -> None:
    samples = in_one_image(tmp_path)
    card = image_card(samples, summarize(samples))
    assert [(one.query, one.target) for one in card.questions] == [
        ("fox", "2 boxes"),
        ("cat", "absent"),
        ("dog", "1 box"),
    ]
    assert (card.labels, card.kinds) == (("fox", "cat", "dog"), ("detection", "absent"))
    assert [(one.text, one.width) for one in card.panel.shapes] == [("fox", 32), ("fox", 32), ("dog", 16)]
    fox, _, dog = (one.tone for one in card.panel.shapes)
    assert fox != dog
    assert [one.tone for one in card.questions] == [fox, 3, dog]


def test_of_many_boxes_of_a_class_one_has_a_label(tmp_path: Path) -> None:
    many = detections(*((x, 0, x + 5, 9) for x in range(0, 60, 10)))
    one = sample(many, image=str(save_image(tmp_path / "a.png")), query="egg")
    assert [shape.text for shape in image_card([one], summarize([one])).panel.shapes] == ["egg", "", "", "", "", ""]


def test_a_dataset_is_counted_by_class(tmp_path: Path) -> None:
    found = summarize(in_one_image(tmp_path))
    assert found.facts == ("1 image", "3 questions", "3 boxes", "1 about an absent class (33%)")
    assert found.classes == (("fox", 1, 2, 0), ("dog", 1, 1, 0), ("cat", 1, 0, 1))
    assert found.kinds == ("detection", "absent")
    # boxes of 32 x 24 and 16 x 48 pixels on an image of 64 x 48
    assert found.dots == ((0.5, 0.5, 1), (0.5, 0.5, 1), (0.25, 1.0, 2))
    assert [(bar.text, bar.num_images) for bar in found.boxes_per_image] == [("0", 0), ("1", 0), ("2", 0), ("3", 1)]


def test_questions_about_several_classes_are_counted_by_the_classes_of_their_boxes() -> None:
    one, other = (
        sample(target, task="multiclass_detection", id=str(len(target.items)), query="cat, dog")
        for target in (labelled(("cat", (1, 2, 9, 9)), ("cat", (9, 9, 19, 19))), labelled(classes=("cat", "dog")))
    )
    assert summarize([one, other]).classes == (("cat", 1, 2, 0), ("no objects", 1, 0, 0))


def test_a_dataset_without_boxes_has_no_plots(tmp_path: Path) -> None:
    one = sample(Label(text="tit"), task="classification", image=str(save_image(tmp_path / "a.png")), query="bird")
    found = summarize([one])
    assert (found.classes, found.dots, found.boxes_per_image) == ((("tit", 1, 0, 0),), (), ())
    assert "Box sizes" not in read([one]).texts


def test_many_boxes_are_thinned() -> None:
    boxes = detections(*((x, 0, x + 1, 1) for x in range(50)))
    found = summarize(sample(boxes, id=f"{i}", size=(64, 48)) for i in range(100))
    assert found.num_boxes == 5000
    assert 1000 < len(found.dots) <= MOST_DOTS


def test_texts_are_escaped_and_images_are_embedded(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png")
    one = sample(image=str(path), query="<b>&\"'", question="<script>")
    found = read([one], title="a & b", intro="two < three")
    assert {"a & b", "two < three", "<script>"} <= set(found.texts)
    (card,) = found.all("figure", cls="filtered")
    assert json.loads(card["data-labels"]) == ["<b>&\"'"]
    assert json.loads(card["data-found"]) == {"": ["detection"]}
    (image,) = found.all("image")
    assert Image.open(io.BytesIO(base64.b64decode(image["href"].partition(",")[2]))).size == (64, 48)


def test_the_verb_selects_equally_spaced_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with StoreWriter(tmp_path / "data" / "mine") as writer:
        for number in range(10):
            path = writer.add_image(f"{number}.png", Image.new("RGB", (64, 48)))
            for query in ("fox", "cat"):
                writer.add(sample(id=f"number {number}:{query}", image=path, query=query))
        writer.finish(source={}, seed=0)
    assert main(["preview", "data/mine", "--limit", "5"]) == 0
    assert capsys.readouterr().out.strip() == "data/mine/preview.html"
    found = PageReader((tmp_path / "data" / "mine" / "preview.html").read_text(encoding="utf-8"))
    shown = [text.partition(" ·")[0] for text in found.texts if text.startswith("number ") and text[7].isdigit()]
    assert shown == [f"number {n}:fox" for n in (0, 2, 4, 6, 8)]
    assert {"data/mine", "10 images", "20 questions", "5 of 10 images shown"} <= set(found.texts)


def test_the_verb_shows_every_split_of_a_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = {"train": 6, "test": 2}
    for split, number in numbers.items():
        with StoreWriter(tmp_path / split) as writer:
            for place in range(number):
                path = writer.add_image(f"{place}.png", Image.new("RGB", (64, 48)))
                writer.add(sample(id=f"{split}{place}", image=path, query="fox"))
            writer.finish(source={}, seed=0)
    assert main(["preview", str(tmp_path), "--limit", "4"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "train: 3 of 6 images shown",
        "test: 1 of 2 images shown",
        str(tmp_path / "preview.html"),
    ]
    found = PageReader((tmp_path / "preview.html").read_text(encoding="utf-8"))
    assert [text for text in found.texts if "64 x 48" in text] == [
        *(f"train{number} · 64 x 48 · train" for number in (0, 2, 4)),
        "test0 · 64 x 48 · test",
    ]
    kinds = [json.loads(card["data-found"])[""] for card in found.all("figure", cls="filtered")]
    assert kinds == [["train", "detection"]] * 3 + [["test", "detection"]]
    assert {"8 images", "train: 3 of 6 images shown. test: 1 of 2 images shown"} <= set(found.texts)
    assert {"train", "test", "detection"} <= set(found.texts)  # options of the filter
