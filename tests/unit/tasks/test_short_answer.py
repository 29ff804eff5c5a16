"""Short answers: targets that rows describe, rewards that no list of answers raises, blind baselines."""

from __future__ import annotations

from typing import Any

import pytest

from factories import reading, sample
from virft.audit.audit import audit_reward
from virft.errors import DataError
from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.tasks.grader import Grader
from virft.tasks.reward import RewardRule
from virft.tasks.short_answer import MAX_CHARACTERS, parse_short_answer
from virft.types import ImageSize, Sample, ShortAnswer, Unreadable

SHORT_ANSWER = TASKS["short_answer"]
SIZE = ImageSize(64, 48)
OPTIONS = ("red", "blue", "green", "black")


def parse(**record: Any) -> ShortAnswer:
    target = SHORT_ANSWER.parse_target(record, SIZE, where="x:1").target
    assert isinstance(target, ShortAnswer)
    return target


@pytest.mark.parametrize(
    "target",
    [
        ShortAnswer(answers=("red", "crimson")),
        ShortAnswer(kind="number", answers=("12.5",), relative_tolerance=0.05),
        ShortAnswer(kind="number", answers=("1,200", "1,300"), absolute_tolerance=10.0),
        ShortAnswer(kind="choice", answers=("B",), options=OPTIONS),
        ShortAnswer(kind="list", answers=("red", "blue")),
        ShortAnswer(kind="ocr", answers=("STOP",)),
        ShortAnswer(kind="vqa", answers=("2",) * 8 + ("two", "3")),
    ],
)
def test_a_target_of_each_kind_survives_record_and_completion(target: ShortAnswer) -> None:
    one = sample(target, task="short_answer")
    assert parse(**SHORT_ANSWER.target_format.to_record(one)) == target
    text = SHORT_ANSWER.render_for(one, space=BoxSpace.RELATIVE_1000, resized=SIZE)
    read = SHORT_ANSWER.read_for(text, one, thinking=False, space=BoxSpace.RELATIVE_1000, resized=SIZE)
    assert read.well_formed
    assert SHORT_ANSWER.score(read, target) == 1.0


def test_numbers_of_a_row_become_texts() -> None:
    assert parse(kind="number", answers=[12, 0.5]).answers == ("12", "0.5")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"answers": []}, "target.answers is empty; expected at least one"),
        ({"answers": "red"}, "target.answers is 'red'; expected a list"),
        ({"answers": [" "]}, "an answer of the target is ' '; expected text that is not empty"),
        ({"answers": ["x" * 1001]}, "an answer has 1001 characters; expected at most 1000"),
        ({"answers": ["</answer>"]}, "answer '</answer>' has a tag"),
        (
            {"answers": ["red"], "kind": "colour"},
            "target.kind is 'colour'; expected text, vqa, number, choice, list, ocr",
        ),
        ({"answers": ["red"], "kind": ["text"]}, r"target.kind is \['text'\]; expected text"),
        ({"answers": ["3-4"], "kind": "number"}, "answer '3-4' is no number; expected one such as 12.5"),
        ({"answers": ["3"], "kind": "number", "relative_tolerance": -1}, "target.relative_tolerance is -1; expected"),
        ({"answers": ["3"], "relative_tolerance": 0.1}, "target.relative_tolerance has no effect with kind text"),
        ({"answers": ["E"], "kind": "choice", "options": list(OPTIONS)}, "answer 'E' is no option; .*from A to D"),
        ({"answers": ["A"], "kind": "choice"}, "0 options; expected 2 to 26"),
        (
            {"answers": ["A"], "kind": "choice", "options": ["red", "blue", "Red "]},
            "options A and C are both 'Red'; expected different texts",
        ),
        ({"answers": ["A"], "options": ["red"]}, "target.options has no effect with kind text; expected kind choice"),
        ({"answers": ["red, blue"], "kind": "list"}, "item 'red, blue' has a separator"),
        ({"answers": ["red"], "kind": "vqa"}, "1 answers of a vqa target; expected at least 4, one of each person"),
    ],
)
def test_a_target_that_cannot_be_compared_is_an_error(record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^x:1: {message}"):
        parse(**record)


def test_a_long_answer_is_unreadable() -> None:
    assert isinstance(parse_short_answer("x" * MAX_CHARACTERS), ShortAnswer)
    answer = parse_short_answer("x" * (MAX_CHARACTERS + 1))
    assert isinstance(answer, Unreadable)
    assert answer.reason == "1001 characters; expected at most 1000"


def test_the_question_is_the_query() -> None:
    one = sample(ShortAnswer(answers=("4",)), task="short_answer", query="How many legs?")
    assert SHORT_ANSWER.format_question(one, template="short", thinking=False) == "How many legs?"
    paper = SHORT_ANSWER.format_question(one, template="paper", thinking=False)
    assert paper.startswith("How many legs? Write only the answer, between <answer> and </answer>.")


def mixed() -> list[Sample]:
    targets = [
        *(ShortAnswer(answers=(text,)) for text in ("red", "blue", "green", "white", "black", "red")),
        *(ShortAnswer(kind="number", answers=(n,), relative_tolerance=0.05) for n in ("3", "17", "250", "4", "0.5")),
        *(ShortAnswer(kind="choice", answers=(letter,), options=OPTIONS) for letter in "ABCDBCAD"),
        *(ShortAnswer(kind="list", answers=items) for items in (("fox", "owl"), ("hen",), ("cow", "pig", "cat"))),
        *(ShortAnswer(kind="ocr", answers=(text,)) for text in ("STOP", "Main Street", "Exit 4", "Bakery")),
        *(ShortAnswer(kind="vqa", answers=(text,) * 10) for text in ("yes", "no", "yes", "tennis")),
    ]
    return [
        sample(target, task="short_answer", id=str(i), query=f"question {i % 10}") for i, target in enumerate(targets)
    ]


@pytest.mark.parametrize("preset", ["robust", "paper"])
def test_no_probe_earns_as_much_as_a_half_right_answer(preset: str) -> None:
    grader = Grader(rule=RewardRule(preset=preset), thinking=False, box_space=BoxSpace.RELATIVE_1000)  # type: ignore[arg-type]
    (report,) = audit_reward(mixed(), grader)
    assert report.margin > 0.1, report.best_probe
    by_name = {one.name: one for one in report.answers}
    assert by_name["correct"].parts["answer"] == 1.0
    for name in ("all letters", "all letters with commas", "all letters with or", "a range", "many numbers",
                 "a huge number", "a very long answer", "all answers with or", "nothing visible"):  # fmt: skip
        assert by_name[name].parts["answer"] == 0.0, name
    assert by_name["always B"].parts["answer"] == pytest.approx(2 / 30)


@pytest.mark.parametrize(
    ("target", "texts"),
    [
        (ShortAnswer(answers=("red",)), ["red blue", "red red", "red or blue", "red / blue", "not red"]),
        (ShortAnswer(kind="number", answers=("5",), absolute_tolerance=1), ["0-10", "4 5 6", "5 or 6", "5 6"]),
        (ShortAnswer(kind="choice", answers=("B",), options=OPTIONS), ["A B C D", "A,B", "red blue", "(A) (B)", "BB"]),
        (ShortAnswer(kind="ocr", answers=("STOP",)), ["STOP" + "x" * 5, "stop " * 10, "s"]),
    ],
)
def test_answers_that_cover_several_earn_nothing(target: ShortAnswer, texts: list[str]) -> None:
    for text in texts:
        assert SHORT_ANSWER.score(reading(parse_short_answer(text)), target) == 0.0, text


def test_blind_answers() -> None:
    targets = [ShortAnswer(answers=(text,)) for text in ("Red", "red.", "blue", "two")]
    targets += [ShortAnswer(kind="choice", answers=(letter,), options=OPTIONS) for letter in "CCA"]
    queries = ("colour?", "colour?", "colour?", "number?", "a", "b", "c")
    train = [sample(one, task="short_answer", query=query) for one, query in zip(targets, queries, strict=True)]
    at = sample(ShortAnswer(answers=("?",)), task="short_answer", query="number?")
    found = {name: answer(at) for name, answer in SHORT_ANSWER.blind_answers(train).items()}
    assert found == {
        "commonest answer": ShortAnswer(answers=("Red",)),
        "commonest answer to the question": ShortAnswer(answers=("two",)),
        "commonest letter": ShortAnswer(answers=("C",)),
    }
    assert SHORT_ANSWER.blind_answers([]) == {}
