"""Which questions a page shows in pictures: those whose answers changed most, then the worst failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from virft.report.render.page_images import PagePictures
from virft.report.render.panels import Panel, panel
from virft.report.render.reported import QuestionScore, ReportedAnswers, ReportedSystem
from virft.report.render.score_tables import names_of_tests
from virft.tasks import TASKS
from virft.types import Answer, Reading, Sample, Unreadable

MOST_SYSTEMS = 4
"""Answers beside each other; of more systems the first and the last ones are shown."""
_NO_ANSWER = Unreadable(reason="not answered")
_EQUAL = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownAnswer:
    """A system's answer on the picture. ``place`` of the system on the page; ``text``: what it wrote."""

    system: str
    place: int
    panel: Panel
    words: str
    score: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownQuestion:
    """A question with what is right and what each system answered. ``change``: "better", "worse" or ""."""

    id: str
    query: str
    question: str
    target: str
    change: str
    answers: tuple[ShownAnswer, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownTest:
    """The pictures of a test set, with answers of ``num_systems`` each.

    ``counts``: how many answers became better and worse, in words; ``problems``: why pictures are missing.
    """

    test: str
    num_systems: int
    counts: str
    changed: tuple[ShownQuestion, ...]
    failures: tuple[ShownQuestion, ...]
    problems: tuple[str, ...]


class _Answering(NamedTuple):
    """A system that is shown, with its place on the page."""

    place: int
    system: str
    answers: ReportedAnswers


class Choice(NamedTuple):
    """Ids of samples, most telling first."""

    changed: list[str]
    failures: list[str]


def choose_questions(scores: Sequence[Mapping[str, QuestionScore]], number: int) -> Choice:
    """At most ``number`` questions, half of them changed; ``scores`` of each system, the one to compare with first.

    A change is the difference of a later system to the first one, the largest one counts; equal changes keep the order
    of the data set. Failures are questions that the later systems got wrong, those they were surest about first. With
    one system there are failures only.
    """
    first, later = scores[0], scores[1:] or scores[:1]
    asked = [name for name in first if all(name in one for one in later)]
    largest = {name: max(abs(one[name].score - first[name].score) for one in later) for name in asked}
    changed = sorted((name for name in asked if largest[name] > _EQUAL), key=lambda name: -largest[name])
    changed = changed[: number - number // 2]

    def badness(name: str) -> tuple[float, float]:
        return fmean(one[name].score for one in later), -max(one[name].confidence for one in later)

    taken = set(changed)
    wrong = (name for name in asked if name not in taken and any(one[name].score < 1 for one in later))
    return Choice(changed=changed, failures=sorted(wrong, key=badness)[: number - len(changed)])


def shown_tests(systems: Sequence[ReportedSystem], pictures: PagePictures, *, number: int) -> list[ShownTest]:
    """Every test set with at most ``number`` questions in all, evenly shared; pictures go into ``pictures``."""
    names = names_of_tests(systems)
    shares = [number // len(names) + (place < number % len(names)) for place in range(len(names))]
    return [_test(name, systems, pictures, share) for name, share in zip(names, shares, strict=True)]


def _test(name: str, systems: Sequence[ReportedSystem], pictures: PagePictures, number: int) -> ShownTest:
    """Of several seeds the first one."""
    asked = [
        _Answering(place, system.name, system.answers[name][0])
        for place, system in enumerate(systems)
        if system.answers.get(name)
    ]
    problems = tuple(dict.fromkeys(one.answers.problem for one in asked if one.answers.problem))
    shown = [one for one in asked if one.answers.samples is not None and one.answers.read is not None]
    # another data set of the same name has other questions
    shown = [one for one in shown if one.answers.data_hash == shown[0].answers.data_hash]
    if len(shown) > MOST_SYSTEMS:
        shown = [shown[0], *shown[-(MOST_SYSTEMS - 1) :]]
    if not shown or not number:
        return ShownTest(test=name, num_systems=0, counts="", changed=(), failures=(), problems=problems)
    choice = choose_questions([one.answers.question_scores for one in shown], number)
    wanted = {*choice.changed, *choice.failures}
    samples = {one.id: one for one in shown[0].answers.samples or () if one.id in wanted}
    readings = [one.answers.read(list(samples.values())) if one.answers.read else {} for one in shown]

    def question(sample_id: str) -> ShownQuestion:
        return _question(samples[sample_id], shown, [one.get(sample_id) for one in readings], pictures)

    changed, failures = tuple(map(question, choice.changed)), tuple(map(question, choice.failures))
    lost = [each.answers[0].panel.picture.problem for each in (*changed, *failures)]
    return ShownTest(
        test=name,
        num_systems=len(shown),
        counts=_counts(shown),
        changed=changed,
        failures=failures,
        problems=(*problems, *_few(list(dict.fromkeys(one for one in lost if one)))),
    )


def _question(
    sample: Sample, shown: Sequence[_Answering], readings: Sequence[Reading | None], pictures: PagePictures
) -> ShownQuestion:
    picture = pictures.add(sample.images[sample.target_image], sample.target_size)
    scores = [one.answers.question_scores[sample.id].score for one in shown]
    task = TASKS[sample.task]
    right = task.describe_target(sample.target)
    drawn = []
    for one, reading, score in zip(shown, readings, scores, strict=True):
        answer: Answer = reading.answer if reading is not None else _NO_ANSWER
        words = f"Asked for: {sample.query}. Right: {right}. {one.system} answered: {task.describe_answer(answer)}."
        drawn.append(
            ShownAnswer(
                system=one.system,
                place=one.place,
                panel=panel(picture, sample.task, sample.target, answer, in_words=words, polygons=sample.polygons),
                words=task.describe_answer(answer, "short"),
                score=f"{score:.2f}",
                text=reading.text if reading is not None else "",
            )
        )
    change = scores[-1] - scores[0]
    return ShownQuestion(
        id=sample.id,
        query=sample.query,
        question=sample.question or "",
        target=task.describe_target(sample.target, "short"),
        change="better" if change > _EQUAL else "worse" if change < -_EQUAL else "",
        answers=tuple(drawn),
    )


def _counts(shown: Sequence[_Answering]) -> str:
    """How many answers of the last system are better, equal and worse than the first one's."""
    if len(shown) == 1:
        return ""
    first, last = shown[0], shown[-1]
    changes = [
        last.answers.question_scores[name].score - was.score
        for name, was in first.answers.question_scores.items()
        if name in last.answers.question_scores
    ]
    better, worse = sum(one > _EQUAL for one in changes), sum(one < -_EQUAL for one in changes)
    return (
        f"{last.system} against {first.system}: {better} answers are better, {worse} worse, "
        f"{len(changes) - better - worse} as good as before."
    )


def _few(problems: Sequence[str]) -> list[str]:
    rest = len(problems) - 3
    return [*problems[:3], *([f"and {rest} more pictures are missing"] if rest > 0 else [])]
