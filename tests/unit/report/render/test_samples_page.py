"""The page of a dataset's images and targets."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from factories import box, detections, sample, save_image
from virft.cli.main import main
from virft.data.store_writer import StoreWriter
from virft.geometry.masks import mask_to_rle
from virft.report.render.images import TARGET_COLOUR
from virft.report.render.samples import draw_target, write_samples_page


def test_the_target_is_drawn_and_small_images_are_not_enlarged() -> None:
    white = Image.new("RGB", (64, 48), "white")
    drawn = np.asarray(draw_target(white, sample(detections((10, 10, 30, 40)))))
    assert drawn.shape == (48, 64, 3)
    assert tuple(drawn[25, 10]) == TARGET_COLOUR
    assert tuple(drawn[25, 20]) == (255, 255, 255)


def test_large_images_shrink_with_their_boxes() -> None:
    large = Image.new("RGB", (1280, 640), "white")
    drawn = np.asarray(draw_target(large, sample(detections((400, 200, 800, 600)), size=(1280, 640))))
    assert drawn.shape == (160, 320, 3)
    assert tuple(drawn[100, 100]) == TARGET_COLOUR


def test_outlines_are_filled() -> None:
    one = sample(box(0, 0, 60, 40), task="grounding", polygons=((0, 0, 60, 0, 60, 40, 0, 40),))
    drawn = np.asarray(draw_target(Image.new("RGB", (64, 48), "white"), one))
    assert tuple(drawn[20, 30]) != (255, 255, 255)
    assert tuple(drawn[45, 62]) == (255, 255, 255)


def test_a_mask_of_run_lengths_is_shaded() -> None:
    left = np.zeros((480, 640), dtype=bool)
    left[:, :320] = True
    one = sample(box(0, 0, 320, 480), task="grounding", size=(640, 480), rle=mask_to_rle(left))
    drawn = np.asarray(draw_target(Image.new("RGB", (640, 480), "white"), one))
    assert drawn.shape == (240, 320, 3)
    assert tuple(drawn[120, 80]) != (255, 255, 255)
    assert tuple(drawn[120, 240]) == (255, 255, 255)


def test_texts_are_escaped_and_images_are_embedded(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png")
    one = sample(image=str(path), query="<b>&", question="<script>")
    page = "".join(write_samples_page([one], title="a & b", intro="two < three"))
    assert "<script>" not in page
    assert "&lt;b&gt;&amp;" in page
    assert "a &amp; b" in page
    (uri,) = re.findall(r'src="data:image/webp;base64,([^"]+)"', page)
    assert Image.open(io.BytesIO(base64.b64decode(uri))).size == (64, 48)


def test_the_verb_selects_equally_spaced_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_image(tmp_path / "a.png")
    with StoreWriter(tmp_path / "d") as writer:
        writer.add_image_file("a.png", tmp_path / "a.png")
        for number in range(10):
            writer.add(sample(id=f"number {number}"))
        writer.finish(source={}, seed=0)
    assert main(["preview", str(tmp_path / "d"), "--limit", "5"]) == 0
    page = (tmp_path / "d" / "preview.html").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == str(tmp_path / "d" / "preview.html")
    assert re.findall(r"number \d", page) == [f"number {n}" for n in (0, 2, 4, 6, 8)]
    assert "5 of 10 questions" in page
