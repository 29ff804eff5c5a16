"""Selection and rendering of the examples of a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from factories import box, detections, reading, sample, save_image
from report_factories import predictions, predictions_on, scores
from virft.report.render.page_images import PageImages
from virft.report.render.reported import QuestionScore, ReportedPredictions, ReportedSystem
from virft.report.render.shown_questions import ShownTest, select_examples, shown_tests
from virft.types import Detections, Label, Sample, Unreadable

FOX = detections((10, 10, 30, 40), confidence=0.5)


def scored(*values: float, confidences: tuple[float, ...] = ()) -> dict[str, QuestionScore]:
    certain = confidences or (0.5,) * len(values)
    return {f"q{i}": QuestionScore(*both) for i, both in enumerate(zip(values, certain, strict=True))}


def system(name: str, *seeds: ReportedPredictions) -> ReportedSystem:
    return ReportedSystem(name=name, predictions={"coins": seeds})


def shown(*systems: ReportedSystem, number: int = 10) -> ShownTest:
    (found,) = shown_tests(systems, PageImages(), number=number)
    return found


def make_samples(folder: Path, number: int = 2) -> list[Sample]:
    return [
        sample(FOX, id=f"q{i}", image=str(save_image(folder / f"{i}.png", seed=i)), question="Where?")
        for i in range(number)
    ]


def test_the_largest_changes_come_first_then_failures_by_confidence() -> None:
    before = scored(0.0, 1.0, 0.5, 0.0, 0.0, 1.0)
    after = scored(0.5, 0.0, 0.5, 0.0, 0.0, 1.0, confidences=(0.5, 0.5, 0.5, 0.6, 0.9, 0.9))
    # changes of 0.5 and 1; q3 and q4 are as wrong as before, q4 with more confidence; q2 is half right; q5 is correct
    assert select_examples([before, after], 10) == (["q1", "q0"], ["q4", "q3", "q2"], ["q5"])
    # half of two for each
    assert select_examples([before, after], 2) == (["q1"], ["q4"], [])
    assert select_examples([before, after], 1) == (["q1"], [], [])
    assert select_examples([before, after], 0) == ([], [], [])


def test_equal_changes_keep_the_order_of_the_data_so_that_better_and_worse_are_mixed() -> None:
    assert select_examples([scored(0, 1, 0, 1), scored(1, 0, 1, 0)], 8).changed == ["q0", "q1", "q2", "q3"]


def test_without_changes_half_are_failures_and_the_others_typical() -> None:
    assert select_examples([scored(0, 0, 1), scored(0, 0, 1)], 4) == ([], ["q0", "q1"], ["q2"])
    values = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    # two failures; of the other four, the middle of the lower and of the upper half
    assert select_examples([scored(*values)], 4) == ([], ["q0", "q1"], ["q3", "q5"])


def test_with_several_systems_the_largest_change_counts_on_questions_common_to_all() -> None:
    later = [scored(0.5, 0.5, 0.0), scored(1.0, 0.5)]
    assert select_examples([scored(0.5, 0.5, 1.0), *later], 4) == (["q0"], ["q1"], [])


def test_of_a_single_system_failures_are_shown() -> None:
    assert select_examples([scored(0.0, 1.0, 0.5)], 4) == ([], ["q0", "q2"], ["q1"])


def test_a_question_is_shown_with_each_systems_prediction_on_one_image(tmp_path: Path) -> None:
    samples = make_samples(tmp_path)
    nothing, found = reading(Detections()), reading(FOX)
    images = PageImages()
    systems = [
        system("base", predictions_on(samples, {"q0": nothing, "q1": nothing}, {"q0": 0.0, "q1": 0.0})),
        system("rft", predictions_on(samples, {"q0": found, "q1": nothing}, {"q0": 1.0, "q1": 0.0})),
    ]
    (test,) = shown_tests(systems, images, number=4)
    (changed,), (failure,) = test.changed, test.failures
    assert (changed.id, changed.query, changed.question, changed.target, changed.change) == (
        "q0", "fox", "Where?", "1 box", "better",
    )  # fmt: skip
    assert [(one.system, one.summary, one.score) for one in changed.predictions] == [
        ("base", "no objects", "0.00"),
        ("rft", "1 box", "1.00"),
    ]
    assert changed.predictions[1].panel.alt_text == (
        "Query: fox. Target: 1 box: 10, 10 to 30, 40. Prediction of rft: 1 box: 10, 10 to 30, 40 (confidence 0.50)."
    )
    assert failure.id == "q1"
    assert failure.change == ""
    assert changed.predictions[0].panel.image is changed.predictions[1].panel.image
    assert len(images.found) == 2
    assert test.counts == ("rft against base: 1 better prediction, 0 worse, 1 equal.",)
    assert changed.found == {0: ("miss",), 1: ("hit", "better")}
    assert changed.label == "fox"


def test_classification_and_grounding_are_shown_too(tmp_path: Path) -> None:
    image = str(save_image(tmp_path / "a.png"))
    samples = [
        sample(Label(text="tit", aliases=("bird",)), id="q0", task="classification", image=image),
        sample(box(0, 0, 9, 9), id="q1", task="grounding", image=image, polygons=((0, 0, 9, 0, 9, 9),)),
    ]
    read = {"q0": reading(Label(text="hen")), "q1": reading(Unreadable(reason="no answer block"))}
    test = shown(system("base", predictions_on(samples, read, {"q0": 0.0, "q1": 0.0})))
    name, grounding = test.failures
    assert (name.target, name.predictions[0].summary) == ("tit or bird", "hen")
    assert (grounding.target, grounding.predictions[0].summary) == ("1 box", "unreadable: no answer block")
    assert grounding.predictions[0].panel.outlines == ("0.0 0.0 9.0 0.0 9.0 9.0",)


def test_a_missing_image_is_reported_and_its_boxes_are_drawn(tmp_path: Path) -> None:
    samples = make_samples(tmp_path, 5)
    for i in range(5):
        (tmp_path / f"{i}.png").unlink()
    read = {one.id: reading(Detections()) for one in samples}
    test = shown(system("base", predictions_on(samples, read, dict.fromkeys(read, 0.0))))
    assert len(test.failures) == 5
    assert test.failures[0].predictions[0].panel.shapes != ()
    assert test.problems == (
        *(f"{tmp_path}/{i}.png: no such image" for i in range(3)),
        "and 2 more missing images",
    )


def test_without_the_dataset_the_reason_is_shown() -> None:
    test = shown(system("base", predictions(scores({"f1": 0.5}), problem="d: dataset not found")))
    assert (test.changed, test.failures, test.problems) == ((), (), ("d: dataset not found",))


def test_predictions_on_another_dataset_of_the_same_name_are_not_shown_together(tmp_path: Path) -> None:
    samples = make_samples(tmp_path)
    read = {one.id: reading(Detections()) for one in samples}
    first = predictions_on(samples, read, {"q0": 0.0, "q1": 0.0})
    other = predictions(scores({"f1": 0.5}), data_hash="bbbb", samples=samples, read=first.read)
    assert shown(system("base", first), system("other", other)).num_systems == 1


def test_of_many_systems_the_first_and_the_last_are_shown(tmp_path: Path) -> None:
    samples = make_samples(tmp_path)
    read = {one.id: reading(Detections()) for one in samples}
    systems = [system(str(i), predictions_on(samples, read, {"q0": 0.0, "q1": 0.0})) for i in range(6)]
    (question, _) = shown(*systems).failures
    assert [(one.system, one.place) for one in question.predictions] == [("0", 0), ("3", 3), ("4", 4), ("5", 5)]


@pytest.mark.parametrize(("number", "each"), [(5, [3, 2]), (1, [1, 0]), (0, [0, 0])])
def test_questions_are_divided_evenly_over_test_sets(tmp_path: Path, number: int, each: list[int]) -> None:
    samples = make_samples(tmp_path, 4)
    read = {one.id: reading(Detections()) for one in samples}
    shared = predictions_on(samples, read, dict.fromkeys(read, 0.0))
    both = ReportedSystem(name="base", predictions={"a": (shared,), "b": (shared,)})
    tests = shown_tests([both], PageImages(), number=number)
    assert [len(one.questions) for one in tests] == each


def test_the_region_of_a_zoom_call_and_its_first_turn_are_shown(tmp_path: Path) -> None:
    samples = make_samples(tmp_path)
    read = {one.id: reading(FOX) for one in samples}
    turns = {"zoom_text": "<zoom>[1,2,3,4]</zoom>", "zoom_region": box(8, 9, 40, 45)}
    test = shown(system("base", predictions_on(samples, read, dict.fromkeys(read, 1.0), **turns)))
    for question in test.questions:
        (prediction,) = question.predictions
        zoom = prediction.panel.shapes[0]
        assert (zoom.kind, zoom.x, zoom.y, zoom.width, zoom.height) == ("region", 8, 9, 32, 36)
        assert prediction.first_turn == "<zoom>[1,2,3,4]</zoom>"
