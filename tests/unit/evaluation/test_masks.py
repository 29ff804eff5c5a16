"""gIoU and cIoU of predicted boxes, with any segmenter that is a function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from factories import box, reading, sample
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.errors import DataError
from virft.evaluation.masks import MaskMaker, mask_scores, require_masks
from virft.geometry.masks import Mask, box_to_mask, mask_to_rle, polygons_to_mask
from virft.metrics.bootstrap import ratio_statistic, resample
from virft.types import Box, ImageSize, Polygon, Reading, Sample, Unreadable

SIZE = ImageSize(64, 48)
UNREADABLE = Unreadable(reason="no answer block")
SQUARE = (0.0, 0.0, 32.0, 0.0, 32.0, 24.0, 0.0, 24.0)
TRIANGLE = (0.0, 0.0, 32.0, 0.0, 0.0, 24.0)


def question(id: str = "a", *, image: str = "a.png", polygons: tuple[Polygon, ...] = (SQUARE,), **more) -> Sample:
    return sample(box(0, 0, 32, 24), id=id, image=image, task="grounding", polygons=polygons, **more)


def scored(pairs: Sequence[tuple[Sample, Box | Unreadable]], maker: MaskMaker | None = None, **options: bool):
    joined: list[tuple[Sample, Reading]] = [(one, reading(answer)) for one, answer in pairs]
    return mask_scores(joined, maker or MaskMaker(), **options)


def test_by_default_the_filled_box_is_the_mask() -> None:
    found = scored([(question(), box(0, 0, 16, 24)), (question("b", image="b.png"), box(0, 0, 64, 24))])
    # 16 x 24 of 32 x 24: 384 / 768; 32 x 24 of 64 x 24: 768 / 1536. Sums: 1152 / 2304.
    assert found.values == {"giou (masks: box)": 0.5, "ciou (masks: box)": 0.5}
    assert found.counts == {"num_with_mask": 2}


def test_unreadable_is_an_empty_mask() -> None:
    found = scored([(question(), UNREADABLE), (question("b"), box(0, 0, 32, 24))])
    # (0 + 1) / 2; 768 / (768 + 768)
    assert found.values == {"giou (masks: box)": 0.5, "ciou (masks: box)": 0.5}
    # an empty mask equals a target mask without pixels
    nothing = question("c", polygons=(), rle=mask_to_rle(np.zeros((48, 64))))
    assert scored([(nothing, UNREADABLE)]).values["giou (masks: box)"] == 1.0
    assert scored([(nothing, box(0, 0, 1, 1))]).values["giou (masks: box)"] == 0.0


def test_questions_without_mask_are_skipped() -> None:
    found = scored([(question(), box(0, 0, 16, 24)), (question("b", polygons=()), box(0, 0, 32, 24))])
    assert found.values["giou (masks: box)"] == 0.5
    assert found.counts == {"num_with_mask": 1}


def test_ignored_regions_do_not_count() -> None:
    right_half = (16.0, 0.0, 64.0, 0.0, 64.0, 48.0, 16.0, 48.0)
    # where they overlap the target counts: 32 x 24 of 32 x 24; the rest of the box is ignored
    found = scored([(question(ignored=(right_half,)), box(0, 0, 64, 24))])
    assert found.values["giou (masks: box)"] == 1.0


def test_a_segmenter_is_any_function_of_an_image_and_boxes(tmp_path: Path) -> None:
    """A segmenter of bright pixels finds the triangle; the box is only its bound."""
    bright = np.zeros((48, 64, 3), dtype=np.uint8)
    bright[polygons_to_mask([TRIANGLE], SIZE)] = 255
    Image.fromarray(bright).save(tmp_path / "a.png")
    calls: list[int] = []

    def brightest(image: Image.Image, boxes: Sequence[Box]) -> list[Mask]:
        calls.append(len(boxes))
        light = np.asarray(image.convert("L")) > 127
        return [light & box_to_mask(one, ImageSize(*image.size)) for one in boxes]

    reported: list[tuple[int, int]] = []
    maker = MaskMaker(name="bright", segment=brightest, progress=lambda done, total: reported.append((done, total)))
    path = str(tmp_path / "a.png")
    one, two, three = (question(id, image=path, polygons=(TRIANGLE,)) for id in "abc")
    whole = box(0, 0, 32, 24)
    pairs = [(one, whole), (two, whole), (three, UNREADABLE)]
    found = scored(pairs, maker)
    assert found.values["giou (masks: bright)"] == pytest.approx(2 / 3)
    assert calls == [1], "one image, and the same box once"
    assert reported == [(3, 3)]
    # the box: half of it is the triangle
    bound = scored(pairs).values["giou (masks: box)"]
    assert bound == pytest.approx(2 / 3 * 0.5)


def test_an_image_without_a_readable_answer_is_not_opened() -> None:
    def never(image: Image.Image, boxes: Sequence[Box]) -> list[Mask]:
        raise AssertionError

    found = scored([(question(image="nowhere.png"), UNREADABLE)], MaskMaker(name="n", segment=never))
    assert found.values == {"giou (masks: n)": 0.0, "ciou (masks: n)": 0.0}


def test_intervals_resample_images_with_all_their_questions() -> None:
    pairs = [
        (question("a"), box(0, 0, 16, 24)),
        (question("b"), box(0, 0, 32, 24)),
        (question("c", image="c.png"), box(0, 0, 64, 24)),
        (question("d", image="d.png"), UNREADABLE),
    ]
    # for each image: sum of IoU and questions; sums of intersections and unions
    ratios = {
        "giou (masks: box)": ([1.5, 0.5, 0.0], [2, 1, 1]),
        "ciou (masks: box)": ([384 + 768, 768, 0], [768 + 768, 1536, 768]),
    }
    expected = resample([ratio_statistic(ratios)], ["b", "c", "d"]).intervals()
    assert scored(pairs, with_intervals=True).intervals == expected
    assert scored(pairs).intervals == {}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (box(0, 0, 32, 24), r"d: its only grounding question has no mask; expected polygons or rle in a target"),
        (None, r"d: has no grounding question; expected polygons or rle in a target of samples\.jsonl, or no --masks"),
    ],
)
def test_a_dataset_without_masks_is_refused(tmp_path: Path, target: Box | None, message: str) -> None:
    task = "grounding" if target else "detection"
    with StoreWriter(tmp_path / "d") as writer:
        writer.add(sample(target, task=task, image=writer.add_image("a.png", Image.new("RGB", SIZE))))
        writer.finish(source={}, seed=0)
    with pytest.raises(DataError, match=message):
        require_masks(Store(tmp_path / "d"))
