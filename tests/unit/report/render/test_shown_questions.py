"""Which questions are shown, and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from factories import box, detections, reading, sample, save_picture
from report_factories import answers, answers_to, scores
from virft.report.render.page_images import PagePictures
from virft.report.render.reported import QuestionScore, ReportedAnswers, ReportedSystem
from virft.report.render.shown_questions import ShownTest, choose_questions, shown_tests
from virft.types import Detections, Label, Sample, Unreadable

FOX = detections((10, 10, 30, 40), confidence=0.5)


def scored(*values: float, confidences: tuple[float, ...] = ()) -> dict[str, QuestionScore]:
    sure = confidences or (0.5,) * len(values)
    return {f"q{i}": QuestionScore(*both) for i, both in enumerate(zip(values, sure, strict=True))}


def system(name: str, *seeds: ReportedAnswers) -> ReportedSystem:
    return ReportedSystem(name=name, answers={"coins": seeds})


def shown(*systems: ReportedSystem, number: int = 10) -> ShownTest:
    (found,) = shown_tests(systems, PagePictures(), number=number)
    return found


def make_samples(folder: Path, number: int = 2) -> list[Sample]:
    return [
        sample(FOX, id=f"q{i}", image=str(save_picture(folder / f"{i}.png", seed=i)), question="Where?")
        for i in range(number)
    ]


def test_the_largest_changes_come_first_then_failures_by_confidence() -> None:
    before = scored(0.0, 1.0, 0.5, 0.0, 0.0, 1.0)
    after = scored(0.5, 0.0, 0.5, 0.0, 0.0, 1.0, confidences=(0.5, 0.5, 0.5, 0.6, 0.9, 0.9))
    # changes of 0.5 and 1; q3 and q4 are as wrong as before, q4 more surely; q2 is half right; q5 is right
    assert choose_questions([before, after], 10) == (["q1", "q0"], ["q4", "q3", "q2"])
    # half of two for each
    assert choose_questions([before, after], 2) == (["q1"], ["q4"])
    assert choose_questions([before, after], 1) == (["q1"], [])
    assert choose_questions([before, after], 0) == ([], [])


def test_equal_changes_keep_the_order_of_the_data_so_that_better_and_worse_are_mixed() -> None:
    assert choose_questions([scored(0, 1, 0, 1), scored(1, 0, 1, 0)], 8).changed == ["q0", "q1", "q2", "q3"]


def test_what_did_not_change_leaves_room_for_failures() -> None:
    assert choose_questions([scored(0, 0, 1), scored(0, 0, 1)], 4) == ([], ["q0", "q1"])


def test_with_several_systems_the_largest_change_counts_and_only_questions_all_were_asked() -> None:
    later = [scored(0.5, 0.5, 0.0), scored(1.0, 0.5)]
    assert choose_questions([scored(0.5, 0.5, 1.0), *later], 4) == (["q0"], ["q1"])


def test_of_a_single_system_failures_are_shown() -> None:
    assert choose_questions([scored(0.0, 1.0, 0.5)], 4) == ([], ["q0", "q2"])


def test_a_question_is_shown_with_each_systems_answer_on_one_picture(tmp_path: Path) -> None:
    samples = make_samples(tmp_path)
    nothing, found = reading(Detections()), reading(FOX)
    pictures = PagePictures()
    systems = [
        system("base", answers_to(samples, {"q0": nothing, "q1": nothing}, {"q0": 0.0, "q1": 0.0})),
        system("rft", answers_to(samples, {"q0": found, "q1": nothing}, {"q0": 1.0, "q1": 0.0})),
    ]
    (test,) = shown_tests(systems, pictures, number=4)
    (changed,), (failure,) = test.changed, test.failures
    assert (changed.id, changed.query, changed.question, changed.target, changed.change) == (
        "q0", "fox", "Where?", "1 box to find", "better",
    )  # fmt: skip
    assert [(one.system, one.words, one.score) for one in changed.answers] == [
        ("base", "no objects", "0.00"),
        ("rft", "1 box", "1.00"),
    ]
    assert changed.answers[1].panel.in_words == (
        "Asked for: fox. Right: 1 box: 10, 10 to 30, 40. rft answered: 1 box: 10, 10 to 30, 40 (confidence 0.50)."
    )
    assert failure.id == "q1"
    assert failure.change == ""
    assert changed.answers[0].panel.picture is changed.answers[1].panel.picture
    assert len(pictures.found) == 2
    assert test.counts == "rft against base: 1 answers are better, 0 worse, 1 as good as before."


def test_names_and_grounding_are_shown_too(tmp_path: Path) -> None:
    picture = str(save_picture(tmp_path / "a.png"))
    asked = [
        sample(Label(text="tit", aliases=("bird",)), id="q0", task="classification", image=picture),
        sample(box(0, 0, 9, 9), id="q1", task="grounding", image=picture, polygons=((0, 0, 9, 0, 9, 9),)),
    ]
    read = {"q0": reading(Label(text="hen")), "q1": reading(Unreadable(reason="no answer block"))}
    test = shown(system("base", answers_to(asked, read, {"q0": 0.0, "q1": 0.0})))
    name, grounding = test.failures
    assert (name.target, name.answers[0].words) == ("tit or bird", "hen")
    assert (grounding.target, grounding.answers[0].words) == ("1 box to find", "unreadable: no answer block")
    assert grounding.answers[0].panel.outlines == ("0.0 0.0 9.0 0.0 9.0 9.0",)


def test_a_picture_that_is_missing_is_told_and_its_boxes_stay(tmp_path: Path) -> None:
    samples = make_samples(tmp_path, 5)
    for i in range(5):
        (tmp_path / f"{i}.png").unlink()
    read = {one.id: reading(Detections()) for one in samples}
    test = shown(system("base", answers_to(samples, read, dict.fromkeys(read, 0.0))))
    assert len(test.failures) == 5
    assert test.failures[0].answers[0].panel.shapes != ()
    assert test.problems == (
        *(f"{tmp_path}/{i}.png: no such image" for i in range(3)),
        "and 2 more pictures are missing",
    )


def test_without_the_data_set_there_are_no_pictures_but_a_reason() -> None:
    test = shown(system("base", answers(scores({"f1": 0.5}), problem="d: the data set is not there")))
    assert (test.changed, test.failures, test.problems) == ((), (), ("d: the data set is not there",))


def test_answers_to_other_questions_of_the_same_name_are_not_beside_each_other(tmp_path: Path) -> None:
    samples = make_samples(tmp_path)
    read = {one.id: reading(Detections()) for one in samples}
    first = answers_to(samples, read, {"q0": 0.0, "q1": 0.0})
    other = answers(scores({"f1": 0.5}), data_hash="bbbb", samples=samples, read=first.read)
    assert shown(system("base", first), system("other", other)).num_systems == 1


def test_of_many_systems_the_first_and_the_last_are_shown(tmp_path: Path) -> None:
    samples = make_samples(tmp_path)
    read = {one.id: reading(Detections()) for one in samples}
    systems = [system(str(i), answers_to(samples, read, {"q0": 0.0, "q1": 0.0})) for i in range(6)]
    (question, _) = shown(*systems).failures
    assert [(one.system, one.place) for one in question.answers] == [("0", 0), ("3", 3), ("4", 4), ("5", 5)]


@pytest.mark.parametrize(("number", "each"), [(5, [3, 2]), (1, [1, 0]), (0, [0, 0])])
def test_tests_share_the_questions(tmp_path: Path, number: int, each: list[int]) -> None:
    samples = make_samples(tmp_path, 4)
    read = {one.id: reading(Detections()) for one in samples}
    asked = answers_to(samples, read, dict.fromkeys(read, 0.0))
    both = ReportedSystem(name="base", answers={"a": (asked,), "b": (asked,)})
    tests = shown_tests([both], PagePictures(), number=number)
    assert [len(one.failures) for one in tests] == each
