"""gIoU and cIoU of predicted boxes, with any segmenter that is a function."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from factories import box, reading, sample, save_image
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.errors import DataError
from virft.evaluation.masks import MaskMaker, mask_average_precision, mask_scores, measure_masks, require_masks
from virft.geometry.masks import Mask, box_to_mask, mask_to_rle, polygons_to_mask
from virft.metrics.bootstrap import ratio_statistic, resample
from virft.tasks import TASKS
from virft.types import (
    Box,
    Detection,
    Detections,
    FinishReason,
    ImageSize,
    JoinedPrediction,
    Label,
    LabelledDetections,
    Polygon,
    Prediction,
    Reading,
    Sample,
    Target,
    Unreadable,
)

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
    ("target", "task", "message"),
    [
        (
            box(0, 0, 32, 24),
            "grounding",
            r"d: the target of its only question has no mask; expected polygons, rle, or ",
        ),
        (None, "detection", r"d: the target of its only question has no mask; .*in a target of samples\.jsonl, or no "),
        (
            Label(text="a"),
            "classification",
            "d: has no question of detection, grounding, multiclass_detection; expected",
        ),
    ],
)
def test_a_dataset_without_masks_is_refused(tmp_path: Path, target: Target, task: str, message: str) -> None:
    with StoreWriter(tmp_path / "d") as writer:
        writer.add(sample(target, task=task, image=writer.add_image("a.png", Image.new("RGB", SIZE))))
        writer.finish(source={}, seed=0)
    with pytest.raises(DataError, match=message):
        require_masks(Store(tmp_path / "d"))


# --- average precision of the masks of detection ---


def joined(one: Sample, answer: Detections | LabelledDetections | Unreadable) -> JoinedPrediction:
    return JoinedPrediction(
        one, Prediction(sample_id=one.id, text="", finish_reason=FinishReason.STOP), reading(answer)
    )


def random_polygon(rng: random.Random, corners: tuple[float, float, float, float]) -> Polygon:
    """A box without a part of its corner at the bottom left: 50 % to 100 % of its area."""
    x1, y1, x2, y2 = corners
    return (x1, y1, x2, y1, x2, y2, rng.uniform(x1, x2), y2, x1, rng.uniform(y1, y2))


def random_predictions(rng: random.Random) -> list[JoinedPrediction]:
    """Questions about two classes on 12 images, some without objects, with moved boxes of different confidences."""
    found = []
    confidences = iter(rng.sample(range(1, 1000), 200))
    for number in range(12):
        for label in ("cat", "dog"):
            corners = [
                (x := rng.randint(0, 40), y := rng.randint(0, 25), x + rng.randint(6, 24), y + rng.randint(6, 23))
                for _ in range(rng.randint(0, 3))
            ]
            moved = [tuple(max(0, value + rng.randint(-2, 2)) for value in one) for one in corners]
            moved += [(0, 0, 10, 10)] * rng.randint(0, 1)
            one = sample(
                Detections(items=tuple(Detection(box=box(*one)) for one in corners)),
                id=f"{number}:{label}",
                image=f"{number}.png",
                query=label,
                outlines=tuple((random_polygon(rng, one),) for one in corners),
            )
            items = tuple(Detection(box=box(*one), confidence=next(confidences) / 1000) for one in moved)
            found.append(joined(one, Detections(items=items)))
    return found


def pycocotools_segm(predictions: Sequence[JoinedPrediction]) -> dict[str, float]:
    """What pycocotools says of the same masks."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    truth: list[dict] = []
    results: list[dict] = []
    for one in predictions:
        common = {"image_id": int(one.image.split(".")[0]) + 1, "category_id": 1 + (one.sample.query == "dog")}
        for polygons in one.sample.outlines:
            rle = {"size": [48, 64], "counts": mask_to_rle(polygons_to_mask(polygons, SIZE))}
            number = len(truth) + 1
            truth.append({"id": number, "iscrowd": 0, "area": 9.0, "bbox": [0, 0, 1, 1], "segmentation": rle, **common})
        for item in one.reading.answer.items:
            rle = {"size": [48, 64], "counts": mask_to_rle(box_to_mask(item.box, SIZE))}
            results.append({"segmentation": rle, "score": item.confidence, **common})
    images = [{"id": number, "width": 64, "height": 48} for number in sorted({one["image_id"] for one in truth})]
    with contextlib.redirect_stdout(io.StringIO()):
        tree = coco.COCO()
        tree.dataset = {"images": images, "annotations": truth, "categories": [{"id": 1}, {"id": 2}]}
        tree.createIndex()
        evaluation = cocoeval.COCOeval(tree, tree.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(("ap", "ap50", "ap75"), evaluation.stats[:3].tolist(), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_of_masks_is_that_of_pycocotools(seed: int) -> None:
    predictions = random_predictions(random.Random(seed))
    shown = {one.image for one in predictions if one.sample.outlines}
    predictions = [one for one in predictions if one.image in shown]
    found = mask_average_precision(predictions, MaskMaker())
    expected = {f"{name} (masks: box)": value for name, value in pycocotools_segm(predictions).items()}
    assert found.values == pytest.approx(expected, abs=1e-9)
    assert 0.05 < found.values["ap50 (masks: box)"] < 0.95
    assert found.counts == {"num_with_mask": sum(bool(one.sample.outlines) for one in predictions)}


def test_questions_with_an_object_without_a_mask_are_excluded() -> None:
    target = Detections(items=(Detection(box=box(0, 0, 32, 24)), Detection(box=box(40, 0, 60, 24))))
    both = (SQUARE,), ((40.0, 0.0, 60.0, 0.0, 60.0, 24.0, 40.0, 24.0),)
    known, partial = (
        sample(target, id=id, image=f"{id}.png", outlines=outlines)
        for id, outlines in (("a", both), ("b", (both[0], ())))
    )
    predictions = [joined(known, target), joined(partial, Detections())]
    found = mask_average_precision(predictions, MaskMaker(), with_intervals=True)
    assert found.values == {f"{name} (masks: box)": 1.0 for name in ("ap", "ap50", "ap75")}
    assert found.counts == {"num_with_mask": 1}
    assert mask_average_precision(predictions[1:], MaskMaker()).values == {}
    # a false positive on an image without objects
    extra = Detections(items=(Detection(box=box(0, 0, 32, 24)),))
    absent = joined(sample(Detections(), id="c", image="c.png"), extra)
    found = mask_average_precision([*predictions, absent], MaskMaker(), with_intervals=True)
    assert found.values["ap50 (masks: box)"] < 1.0
    low, high = found.intervals["ap50 (masks: box)"]
    assert low <= found.values["ap50 (masks: box)"] <= high


def test_several_classes_are_measured_as_questions_about_each(tmp_path: Path) -> None:
    calls: list[list[Box]] = []
    path = save_image(tmp_path / "a.png")

    def filled(image: Image.Image, boxes: Sequence[Box]) -> list[Mask]:
        calls.append(list(boxes))
        return [box_to_mask(one, ImageSize(*image.size)) for one in boxes]

    cat, dog = Detection(box=box(0, 0, 32, 24), label="cat"), Detection(box=box(40, 0, 60, 24), label="dog")
    one = sample(
        LabelledDetections(items=(cat, dog), classes=("cat", "dog", "owl")),
        task="multiclass_detection",
        image=str(path),
        outlines=((SQUARE,), ((40.0, 0.0, 60.0, 0.0, 60.0, 24.0, 40.0, 24.0),)),
    )
    masks = TASKS["multiclass_detection"].masks
    assert masks is not None
    # the dog is called a cat
    answer = LabelledDetections(items=(cat, replace(dog, label="cat", confidence=0.5)))
    found = measure_masks([joined(one, answer)], masks, MaskMaker(name="filled", segment=filled))
    assert found.values["ap50 (masks: filled)"] == 0.5
    assert found.counts == {"num_with_mask": 1}
    assert calls == [[cat.box, dog.box]]
    unreadable = measure_masks([joined(one, UNREADABLE)], masks, MaskMaker())
    assert unreadable.values["ap (masks: box)"] == 0.0
