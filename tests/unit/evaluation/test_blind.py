"""Blind baselines scored next to predictions, and answers that a model repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from factories import box, detections, reading, sample
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.evaluation.blind import most_common_answer, position_again, score_blind
from virft.evaluation.joined import join_predictions
from virft.evaluation.predictions import PredictionsCard, SizedPrediction, write_predictions
from virft.evaluation.score import score_joined
from virft.geometry.boxes import BoxSpace
from virft.geometry.points import point_target
from virft.tasks.counting import Count
from virft.types import (
    Answer,
    Detections,
    FinishReason,
    ImageSize,
    JoinedPrediction,
    Label,
    Point,
    Points,
    Prediction,
    Sample,
    Unreadable,
)

SIZE = ImageSize(100, 100)
LEFT, RIGHT = (0, 0, 40, 100), (60, 0, 100, 100)


def make_store(folder: Path, targets: Sequence[Detections]) -> Store:
    """A question about a fox on each image; no image files."""
    with StoreWriter(folder) as writer:
        for number, target in enumerate(targets):
            path = writer.add_image_file(f"{number}.png", None)
            writer.add(sample(target, id=str(number), image=path, size=SIZE))
        writer.finish(source={}, seed=0)
    return Store(folder)


def predict(store: Store, folder: Path, texts: Sequence[str]) -> Path:
    """Predictions for the first samples."""
    card = PredictionsCard(
        model="m",
        data="d",
        data_hash=store.hash,
        num_samples=len(texts),
        box_space=BoxSpace.RELATIVE_1000,
        thinking=False,
        settings={},
    )
    rows = [
        SizedPrediction(
            Prediction(sample_id=str(number), text=f"<answer>{text}</answer>", finish_reason=FinishReason.STOP), SIZE
        )
        for number, text in enumerate(texts)
    ]
    return write_predictions(folder, card, rows)


def write_box(x1: int, y1: int, x2: int, y2: int) -> str:
    return f"[{{'Position': [{x1}, {y1}, {x2}, {y2}], 'Confidence': 0.9}}]"


ON_LEFT, ON_RIGHT = write_box(0, 0, 400, 1000), write_box(600, 0, 1000, 1000)
TRAIN = [sample(detections(LEFT), size=SIZE)] * 3


def test_a_blind_answer_is_scored_like_the_same_predictions(tmp_path: Path) -> None:
    store = make_store(tmp_path / "d", [detections(LEFT), detections(LEFT), detections(RIGHT), detections()])
    joined = join_predictions(predict(store, tmp_path / "p", [ON_LEFT] * 4), store)
    (scores,) = score_joined(joined, store, with_intervals=True)
    (blind,) = score_blind(joined, store, TRAIN)
    mean = next(one for one in blind.baselines if one.name == "mean box")
    # 2 hits, 4 boxes, 3 targets: 4 / 7.
    assert mean.values["f1"] == pytest.approx(4 / 7)
    assert mean.values.keys() == scores.values.keys() - {"ap_logprob", "ap50_logprob"}
    same = ("f1", "precision", "recall", "ap", "ap50", "false_positive_rate")
    assert {name: mean.values[name] for name in same} == {name: scores.values[name] for name in same}
    assert mean.intervals == scores.intervals
    assert blind.difference.value == 0.0
    assert blind.verdict == "not distinguishable from"


def test_the_best_baseline_comes_first(tmp_path: Path) -> None:
    store = make_store(tmp_path / "d", [detections(LEFT), detections(), detections()])
    joined = join_predictions(predict(store, tmp_path / "p", ["No Objects"] * 3), store)
    (blind,) = score_blind(joined, store, TRAIN)
    # One box: 1 hit of 3 boxes and 1 target, F1 0.5; the whole image has IoU 0.4, "No Objects" finds nothing.
    assert {one.name: one.values["f1"] for one in blind.baselines} == {
        "mean box": 0.5,
        "best constant box": 0.5,
        "whole image": 0.0,
        "No Objects": 0.0,
    }
    assert blind.best.name in ("mean box", "best constant box")
    assert blind.metric == "f1"


def test_a_model_that_sees_is_above_the_best_baseline(tmp_path: Path) -> None:
    targets = [detections(LEFT), detections(RIGHT)] * 6
    store = make_store(tmp_path / "d", targets)
    path = predict(store, tmp_path / "p", [ON_LEFT, ON_RIGHT] * 6)
    (blind,) = score_blind(join_predictions(path, store), store, TRAIN)
    assert (blind.difference.first.mean, blind.difference.second.mean) == (0.5, 1.0)
    assert blind.difference.interval is not None
    assert blind.difference.interval[0] > 0
    assert blind.verdict == "above"


def test_a_model_that_answers_the_wrong_place_is_below(tmp_path: Path) -> None:
    store = make_store(tmp_path / "d", [detections(LEFT)] * 12)
    (blind,) = score_blind(join_predictions(predict(store, tmp_path / "p", [ON_RIGHT] * 12), store), store, TRAIN)
    assert blind.verdict == "below"
    assert str(blind.common_answer) == "12 of 12 answers are the same box"


def test_the_position_of_another_model_needs_no_new_baselines(tmp_path: Path) -> None:
    store = make_store(tmp_path / "d", [detections(LEFT), detections(RIGHT)] * 6)
    models = [
        predict(store, tmp_path / name, texts)
        for name, texts in (("p", [ON_LEFT, ON_RIGHT] * 6), ("q", [ON_LEFT] * 12))
    ]
    first, second = (join_predictions(path, store) for path in models)
    (known,), (expected,) = score_blind(first, store, TRAIN), score_blind(second, store, TRAIN)
    (again,) = position_again([known], second)
    assert again.baselines == known.baselines == expected.baselines
    assert again.difference == expected.difference != known.difference
    assert again.common_answer == expected.common_answer != known.common_answer


def test_without_intervals_nothing_is_distinguishable(tmp_path: Path) -> None:
    store = make_store(tmp_path / "d", [detections(LEFT)] * 3)
    joined = join_predictions(predict(store, tmp_path / "p", [ON_RIGHT] * 3), store)
    (blind,) = score_blind(joined, store, TRAIN, with_intervals=False)
    assert blind.difference.interval is None
    assert blind.best.intervals == {}


def test_baselines_answer_only_the_questions_with_predictions(tmp_path: Path) -> None:
    store = make_store(tmp_path / "d", [detections(LEFT), detections(RIGHT), detections(RIGHT)])
    joined = join_predictions(predict(store, tmp_path / "p", [ON_LEFT]), store)
    (blind,) = score_blind(joined, store, TRAIN)
    assert blind.metric == "f1 (1 of 3)"
    assert blind.best.values[blind.metric] == 1.0


def test_without_training_samples_only_baselines_without_fitting_are_scored(tmp_path: Path) -> None:
    store = make_store(tmp_path / "d", [detections(LEFT)])
    joined = join_predictions(predict(store, tmp_path / "p", [ON_LEFT]), store)
    (blind,) = score_blind(joined, store, [sample(Label(text="fox"), task="classification")])
    assert {one.name for one in blind.baselines} == {"whole image", "No Objects"}


def test_the_targets_of_the_test_set_do_not_change_the_answers(tmp_path: Path) -> None:
    targets = [detections(LEFT), detections(RIGHT), detections((0, 0, 90, 90)), detections()]
    found = []
    for name, order in (("a", targets), ("b", targets[::-1])):
        store = make_store(tmp_path / name, order)
        joined = join_predictions(predict(store, tmp_path / f"p{name}", ["No Objects"] * 4), store)
        (blind,) = score_blind(joined, store, TRAIN)
        found.append({one.name: one.values["boxes_per_question"] for one in blind.baselines})
        f1 = {one.name: one.values["f1"] for one in blind.baselines}
        assert f1["mean box"] == pytest.approx(2 / 7)  # the box on the left is a hit in either order
    assert found[0] == found[1]


# --- answers that are repeated ---


def joined(
    answers: Sequence[Answer], targets: Sequence[object] | None = None, **more: object
) -> list[JoinedPrediction]:
    """Answers to questions about different images, whose targets differ from one another."""
    made: list[Sample] = []
    for number in range(len(answers)):
        target = targets[number] if targets else detections((number, 0, number + 10, 10))
        made.append(sample(target, id=str(number), image=f"{number}.png", size=SIZE, **more))
    prediction = Prediction(sample_id="", text="", finish_reason=FinishReason.STOP)
    return [JoinedPrediction(one, prediction, reading(answer)) for one, answer in zip(made, answers, strict=True)]


def different(number: int) -> list[Detections]:
    return [detections((0, 0, 10, 50 + place)) for place in range(number)]


def test_a_repeated_box_is_counted_whatever_its_confidence() -> None:
    same = [detections(LEFT, confidence=0.5 + place / 100) for place in range(27)]
    found = most_common_answer(joined([*same, *different(13)]))
    assert str(found) == "27 of 40 answers are the same box"


def test_boxes_are_compared_relative_to_their_images() -> None:
    answers = joined([detections(LEFT), detections((0, 0, 80, 200)), detections((0, 0, 20, 50))])
    sizes = (100, 200, 50)
    scaled = [
        one._replace(sample=replace(one.sample, image_sizes=(ImageSize(size, size),)))
        for one, size in zip(answers, sizes, strict=True)
    ]
    assert str(most_common_answer(scaled)) == "3 of 3 answers are the same box"


def test_a_quarter_is_enough_for_ten_equal_answers() -> None:
    assert str(most_common_answer(joined([*[detections(LEFT)] * 10, *different(30)]))).startswith("10 of 40")
    assert most_common_answer(joined([*[detections(LEFT)] * 9, *different(27)])) is None


def test_no_objects_is_named() -> None:
    found = most_common_answer(joined([*[Detections()] * 31, *different(9)]))
    assert str(found) == '31 of 40 answers are "No Objects"'


def test_an_answer_as_frequent_as_its_target_is_not_reported() -> None:
    targets = [*[Detections()] * 30, *[detections(RIGHT)] * 10]
    assert most_common_answer(joined([*[Detections()] * 31, *different(9)], targets)) is None
    found = most_common_answer(joined([Detections()] * 40, targets))
    assert str(found) == '40 of 40 answers are "No Objects"'


def test_several_equal_boxes_are_one_answer() -> None:
    assert str(most_common_answer(joined([detections(LEFT, RIGHT)] * 4))) == "4 of 4 answers are the same 2 boxes"


def test_labels_and_counts_are_compared_by_their_text() -> None:
    labels = joined([Label(text="fox")] * 4, [Label(text=name) for name in "abcd"], task="classification")
    counts = joined([Count(3)] * 4, [Count(number) for number in range(4)], task="counting")
    assert str(most_common_answer(labels)) == '4 of 4 answers are "fox"'
    assert str(most_common_answer(counts)) == '4 of 4 answers are "3"'


def test_unreadable_answers_are_no_group_but_count_as_answers() -> None:
    assert most_common_answer(joined([Unreadable(reason="x")] * 8)) is None
    found = most_common_answer(joined([*[Unreadable(reason="x")] * 2, *[detections(LEFT)] * 4]))
    assert str(found) == "4 of 6 answers are the same box"


def test_grounding_boxes_are_compared_too() -> None:
    targets = [box(number, 0, number + 10, 10) for number in range(4)]
    assert str(most_common_answer(joined([box(*LEFT)] * 4, targets, task="grounding"))).endswith("the same box")


def test_points_are_named_as_points() -> None:
    targets = [point_target([box(number, 0, number + 10, 10)]) for number in range(4)]
    answers = [Points(items=(Point(5, 5), Point(9, 9)))] * 4
    assert str(most_common_answer(joined(answers, targets, task="pointing"))).endswith("the same 2 points")


def test_two_equal_answers_are_no_sign_of_anything() -> None:
    assert most_common_answer(joined([detections(LEFT)] * 2)) is None
