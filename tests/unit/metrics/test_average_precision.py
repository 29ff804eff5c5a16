"""If all scores differ, average precision is the reference evaluators', to the last digit."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from box_questions import box_questions, untied
from coco_factories import LVIS_NAMES, perturbed, questions_of
from virft.geometry.boxes import XYXY
from virft.metrics.average_precision import COCO_NAMES, RECALL_NAMES, BoxQuestion, average_precision

pycocotools_coco = pytest.importorskip("pycocotools.coco")
pycocotools_eval = pytest.importorskip("pycocotools.cocoeval")

DATA = Path(__file__).parents[2] / "data"
EXAMPLES = int(os.environ.get("VIRFT_EXAMPLES", "150"))
NAMES = (*COCO_NAMES, *RECALL_NAMES)


def reference(questions: Sequence[BoxQuestion]) -> dict[str, float]:
    """What pycocotools says of the same boxes."""
    images = list(dict.fromkeys(one.image for one in questions))
    labels = sorted({one.label for one in questions})
    annotations, results = [], []
    for one in questions:
        place = {"image_id": images.index(one.image), "category_id": labels.index(one.label)}
        for crowd, boxes in ((0, one.targets), (1, one.crowd)):
            for number, (x1, y1, x2, y2) in enumerate(boxes):
                area = one.areas[number] if one.areas and not crowd else (x2 - x1) * (y2 - y1)
                annotations.append(
                    place
                    | {"id": len(annotations) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, "iscrowd": crowd}
                )
        for (x1, y1, x2, y2), score in zip(one.boxes, one.scores, strict=True):
            results.append(place | {"bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = pycocotools_coco.COCO()
        truth.dataset = {
            "images": [{"id": number} for number in range(len(images))],
            "categories": [{"id": number} for number in range(len(labels))],
            "annotations": annotations,
        }
        truth.createIndex()
        found = truth.loadRes(results) if results else pycocotools_coco.COCO()
        evaluation = pycocotools_eval.COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: value for name, value in zip(NAMES, evaluation.stats, strict=True) if value >= 0}


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None)
@given(box_questions())
def test_numbers_are_those_of_pycocotools(questions: list[BoxQuestion]) -> None:
    questions = untied(questions)
    found = average_precision(questions).values
    if not any(one.targets for one in questions):
        assert found == {}
        return
    assert found == pytest.approx(reference(questions), abs=1e-9)


def lvis_reference(questions: Sequence[BoxQuestion], frequency: dict[str, str]) -> dict[str, float]:
    """What lvis-api says of the same boxes; it has no crowds."""
    lvis = pytest.importorskip("lvis", reason="lvis-api wants OpenCV, so it is not among the pinned packages")
    np.float = float  # type: ignore[attr-defined]  # lvis 0.5.3 was written for NumPy before 1.24
    images = list(dict.fromkeys(one.image for one in questions))
    labels = sorted(frequency)
    annotations, results = [], []
    judged = {name: {"neg_category_ids": [], "not_exhaustive_category_ids": []} for name in images}
    for one in questions:
        label = labels.index(one.label) + 1
        place = {"image_id": images.index(one.image) + 1, "category_id": label}
        if not one.targets:
            judged[one.image]["neg_category_ids"].append(label)
        if not one.exhaustive:
            judged[one.image]["not_exhaustive_category_ids"].append(label)
        for number, (x1, y1, x2, y2) in enumerate(one.targets):
            area = one.areas[number] if one.areas else (x2 - x1) * (y2 - y1)
            annotations.append(place | {"id": len(annotations) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": area})
        for (x1, y1, x2, y2), score in zip(one.boxes, one.scores, strict=True):
            results.append(place | {"bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
    truth = lvis.LVIS.__new__(lvis.LVIS)
    truth.logger = logging.getLogger("lvis")
    truth.dataset = {
        "images": [{"id": number, **held} for number, held in enumerate(judged.values(), start=1)],
        "categories": [{"id": number, "frequency": frequency[label]} for number, label in enumerate(labels, start=1)],
        "annotations": annotations,
    }
    truth._create_index()
    if not results:  # it refuses an empty list, so it gets a box of no area far outside
        place = {"image_id": annotations[0]["image_id"], "category_id": annotations[0]["category_id"]}
        results = [place | {"bbox": [-9, -9, 0, 0], "score": 0.0}]
    evaluation = lvis.LVISEval(truth, lvis.LVISResults(truth, results, max_dets=300), "bbox")
    evaluation.run()
    return {LVIS_NAMES[name]: float(value) for name, value in evaluation.get_results().items() if value >= 0}


@settings(max_examples=EXAMPLES, deadline=None)
@given(box_questions(crowds=False), st.tuples(*[st.booleans()] * 15), st.tuples(*[st.sampled_from("rcf")] * 3))
def test_numbers_of_any_sets_are_those_of_lvis_api(
    questions: list[BoxQuestion], exhaustive: tuple[bool, ...], frequencies: tuple[str, ...]
) -> None:
    pytest.importorskip("lvis", reason="lvis-api wants OpenCV, so it is not among the pinned packages")
    questions = [replace(one, exhaustive=flag) for one, flag in zip(untied(questions), exhaustive, strict=False)]
    frequency = dict(zip("abc", frequencies, strict=True))
    found = average_precision(questions, frequency=frequency).values
    if any(one.targets for one in questions):
        assert found == pytest.approx(lvis_reference(questions, frequency), abs=1e-9)


def test_the_published_example_of_coco_gives_its_published_numbers(shared_data: Path) -> None:
    folder = shared_data / "coco_val100"
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    found = average_precision(questions_of(folder / "instances_val2014_100.json", results))
    # printed by pycocotools for this file, three digits
    published = (0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564)
    assert [round(found.values[name], 3) for name in NAMES] == list(published)


@pytest.mark.parametrize("crowds", [True, False])
def test_the_published_results_give_the_numbers_of_pycocotools(shared_data: Path, crowds: bool) -> None:
    folder = shared_data / "coco_val100"
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    questions = questions_of(folder / "instances_val2014_100.json", results)
    if not crowds:  # the same images without crowds and areas, as in Padilla's toolkit: published as 0.503647
        questions = [replace(one, crowd=(), areas=()) for one in questions]
    found = average_precision(untied(questions)).values
    assert found == pytest.approx(reference(questions), abs=1e-9)
    assert round(found["ap"], 6) == (0.504581 if crowds else 0.503647)


@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(box_questions(), st.randoms(use_true_random=False))
def test_the_order_of_the_images_has_no_effect(questions: list[BoxQuestion], random: Random) -> None:
    mixed = [replace(one, image=f"{crc32(one.image.encode()) % 97}-{one.image}") for one in questions]
    random.shuffle(mixed)
    assert average_precision(mixed).values == pytest.approx(average_precision(questions).values, abs=1e-12)


def test_equal_scores_on_several_images_are_the_mean_over_orders() -> None:
    # One hit and one false positive: AP is 1 in one order and 0.5 in the other.
    right: XYXY = (0, 0, 9, 10)
    wrong: XYXY = (50, 50, 60, 60)
    questions = [
        BoxQuestion(image="a", label="fox", boxes=[right], scores=[0.7], targets=[right]),
        BoxQuestion(image="b", label="fox", boxes=[wrong], scores=[0.7], targets=[]),
    ]
    ranked = [
        average_precision([replace(questions[0], scores=[score]), questions[1]]).values["ap"] for score in (0.8, 0.6)
    ]
    assert ranked == pytest.approx([1.0, 0.5])
    assert average_precision(questions).values["ap"] == pytest.approx(0.75, abs=0.03)  # 200 random orders


def test_rounding_does_not_decide_an_iou_at_a_threshold() -> None:
    # 4 wide, moved by 1: IoU 0.6. As x, y, width, height of pixels 27.24 becomes 27.23999999999998.
    for height in (27.24, 31.7, 13.13, 0.3):
        box: XYXY = (101.1, 7.7, 105.1, 7.7 + height)
        target: XYXY = (102.1, 7.7, 106.1, 7.7 + height)
        found = average_precision([BoxQuestion(image="a", label="fox", boxes=[box], scores=[1.0], targets=[target])])
        assert found.values["ap"] == pytest.approx(0.3)  # hits at 0.5, 0.55 and 0.6


def test_each_class_has_a_number_of_its_own() -> None:
    right: XYXY = (0, 0, 9, 10)
    questions = [
        BoxQuestion(image="a", label="fox", boxes=[right], scores=[1.0], targets=[right]),
        BoxQuestion(image="a", label="hen", boxes=[], scores=[], targets=[right]),
        BoxQuestion(image="b", label="cow", boxes=[right], scores=[1.0], targets=[]),
    ]
    found = average_precision(questions)
    # no one can find a cow, so it has no number
    assert found.by_class == {"fox": 1.0, "hen": 0.0}
    assert found.values["ap"] == 0.5


def test_equal_scores_keep_the_order_of_the_text() -> None:
    right: XYXY = (0, 0, 9, 10)
    wrong: XYXY = (50, 50, 60, 60)
    for boxes, expected in (([right, wrong], 1.0), ([wrong, right], 0.5)):
        found = average_precision([BoxQuestion(image="a", label="fox", boxes=boxes, scores=[1, 1], targets=[right])])
        assert found.values["ap50"] == pytest.approx(expected)


def test_no_answer_at_all_is_zero_and_no_target_at_all_is_nothing() -> None:
    nothing = BoxQuestion(image="a", label="fox", boxes=[], scores=[], targets=[(0, 0, 9, 10)])
    assert set(average_precision([nothing]).values.values()) == {0.0}
    assert average_precision([BoxQuestion(image="a", label="fox", boxes=[], scores=[], targets=[])]).values == {}


def test_lvis_numbers_are_those_of_lvis_api(shared_data: Path) -> None:
    golden = json.loads((DATA / "lvis_perturbed.json").read_text())  # made by scripts/make_lvis_golden.py
    annotations = shared_data / "lvis_val100" / "lvis_val_100.json"
    truth = json.loads(annotations.read_text())
    frequency = {f"{one['id']:04d}": one["frequency"] for one in truth["categories"]}
    for seed, numbers in golden.items():
        found = average_precision(
            untied(questions_of(annotations, perturbed(annotations, int(seed)))), frequency=frequency
        )
        assert found.values == pytest.approx(numbers, abs=1e-9)
