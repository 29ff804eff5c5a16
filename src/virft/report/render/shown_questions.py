"""Select the questions that a page shows with their image: largest changes, the worst failures, typical answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from virft.config.wording import counted
from virft.report.render.page_images import PageImages
from virft.report.render.panels import Panel, make_panel
from virft.report.render.reported import QuestionScore, ReportedPredictions, ReportedSystem
from virft.report.render.score_tables import names_of_tests
from virft.tasks import TASKS
from virft.types import Answer, ClassNote, JoinedPrediction, Sample, Unreadable

MOST_SYSTEMS = 4
"""Maximum number of predictions per question; of more systems the first and the last ones are shown."""
_NO_ANSWER = Unreadable(reason="no prediction")
_EQUAL = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownPrediction:
    """A system's prediction for a question."""

    system: str
    """Name of the system."""
    place: int
    """Index of the system on the page, which selects its colour."""
    panel: Panel
    """Image with target and predicted boxes."""
    summary: str
    """The parsed answer in short."""
    score: str
    """Score of the prediction, formatted."""
    outcomes: tuple[str, ...]
    """The entries of ``OUTCOMES`` that apply."""
    text: str
    """Text of the completion."""
    first_turn: str
    """Text before ``text``, with a zoom call; empty if the completion has one turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownQuestion:
    """A question with its ground truth and the prediction of each system."""

    id: str
    """Sample id."""
    query: str
    """Class name, domain or expression."""
    question: str
    """The sample's own question text, if it has one."""
    notes: tuple[ClassNote, ...]
    """Its class instructions."""
    target: str
    """The ground truth in short."""
    label: str
    """Class of the sample, for the filter; empty for a task without classes."""
    change: str
    """``better`` or ``worse``, last system against first; empty if equal."""
    predictions: tuple[ShownPrediction, ...]
    """Predictions in the order of the systems."""

    @property
    def found(self) -> dict[int, tuple[str, ...]]:
        """The outcomes of each prediction by the index of its system on the page, for the filter."""
        return {one.place: one.outcomes for one in self.predictions}


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownTest:
    """The questions of a test set that are shown with their image."""

    test: str
    """Name of the test set."""
    num_systems: int
    """Predictions per question."""
    counts: tuple[str, ...]
    """A sentence for each later system with the numbers of better, worse and equal predictions."""
    changed: tuple[ShownQuestion, ...]
    """Questions with the largest changes."""
    failures: tuple[ShownQuestion, ...]
    """Worst failures."""
    typical: tuple[ShownQuestion, ...]
    """Questions at equal distances in the order of the last system's scores."""
    problems: tuple[str, ...]
    """Reasons why images are missing."""

    @property
    def questions(self) -> tuple[ShownQuestion, ...]:
        """All questions, in the order of the page."""
        return (*self.changed, *self.failures, *self.typical)


class _ShownSystem(NamedTuple):
    """A system with its index on the page."""

    place: int
    system: str
    predictions: ReportedPredictions


class ExampleSelection(NamedTuple):
    """Sample ids, the most informative first."""

    changed: list[str]
    failures: list[str]
    typical: list[str]


def select_examples(scores: Sequence[Mapping[str, QuestionScore]], number: int) -> ExampleSelection:
    """Select at most ``number`` questions: half changed, a quarter failures, a quarter typical.

    ``scores``: of each system, the baseline first.

    The change of a question is its largest score difference between a later system and the first; equal changes have
    the order of the dataset. Failures are questions that the later systems answered incorrectly, sorted by score, then
    by confidence. Typical questions are those at equal distances in the order of the last system's scores, among the
    others. With one system there are no changes.
    """
    first, later = scores[0], scores[1:] or scores[:1]
    common = [name for name in first if all(name in one for one in later)]
    largest = {name: max(abs(one[name].score - first[name].score) for one in later) for name in common}
    changed = sorted((name for name in common if largest[name] > _EQUAL), key=lambda name: -largest[name])
    changed = changed[: number - number // 2]

    def badness(name: str) -> tuple[float, float]:
        return fmean(one[name].score for one in later), -max(one[name].confidence for one in later)

    taken = set(changed)
    wrong = sorted(
        (name for name in common if name not in taken and any(one[name].score < 1 for one in later)), key=badness
    )
    failures = wrong[: number - len(changed) - (number - len(changed)) // 2]
    taken |= set(failures)
    others = sorted((name for name in common if name not in taken), key=lambda name: later[-1][name].score)
    typical = _at_equal_distances(others, number - len(changed) - len(failures))
    return ExampleSelection(changed, failures, typical)


def _at_equal_distances(names: Sequence[str], number: int) -> list[str]:
    """Return ``number`` entries, the middle of each of as many equal parts.

    >>> _at_equal_distances("abcdef", 2), _at_equal_distances("ab", 3)
    (['b', 'e'], ['a', 'b'])
    """
    number = min(number, len(names))
    return [names[(2 * place + 1) * len(names) // (2 * number)] for place in range(number)]


def shown_tests(systems: Sequence[ReportedSystem], images: PageImages, *, number: int) -> list[ShownTest]:
    """Return every test set with its examples, ``number`` in all, divided evenly; their images go into ``images``."""
    names = names_of_tests(systems)
    numbers = [number // len(names) + (place < number % len(names)) for place in range(len(names))]
    return [_test(name, systems, images, each) for name, each in zip(names, numbers, strict=True)]


def _test(name: str, systems: Sequence[ReportedSystem], images: PageImages, number: int) -> ShownTest:
    """Select and draw the examples of a test set; of several seeds, those of the first."""
    available = [
        _ShownSystem(place, system.name, system.predictions[name][0])
        for place, system in enumerate(systems)
        if system.predictions.get(name)
    ]
    problems = tuple(dict.fromkeys(one.predictions.problem for one in available if one.predictions.problem))
    shown = [one for one in available if one.predictions.samples is not None and one.predictions.read is not None]
    # a dataset of the same name with other content has other questions
    shown = [one for one in shown if one.predictions.data_hash == shown[0].predictions.data_hash]
    counts = _counts(shown)
    if len(shown) > MOST_SYSTEMS:
        shown = [shown[0], *shown[-(MOST_SYSTEMS - 1) :]]
    if not shown or not number:
        return ShownTest(test=name, num_systems=0, counts=(), changed=(), failures=(), typical=(), problems=problems)
    selection = select_examples([one.predictions.question_scores for one in shown], number)
    selected = {name for names in selection for name in names}
    samples = {one.id: one for one in shown[0].predictions.samples or () if one.id in selected}
    joined = [one.predictions.read(list(samples.values())) if one.predictions.read else {} for one in shown]

    def question(sample_id: str) -> ShownQuestion:
        return _question(samples[sample_id], shown, [one.get(sample_id) for one in joined], images)

    changed, failures, typical = (tuple(map(question, names)) for names in selection)
    lost = [each.predictions[0].panel.image.problem for each in (*changed, *failures, *typical)]
    return ShownTest(
        test=name,
        num_systems=len(shown),
        counts=counts,
        changed=changed,
        failures=failures,
        typical=typical,
        problems=(*problems, *_truncate(list(dict.fromkeys(one for one in lost if one)))),
    )


def _question(
    sample: Sample, shown: Sequence[_ShownSystem], joined: Sequence[JoinedPrediction | None], images: PageImages
) -> ShownQuestion:
    image = images.add(sample.images[sample.target_image], sample.target_size)
    scores = [one.predictions.question_scores[sample.id].score for one in shown]
    task = TASKS[sample.task]
    target = task.describe_target(sample.target)
    drawn = []
    for one, found, score in zip(shown, joined, scores, strict=True):
        answer: Answer = found.reading.answer if found is not None else _NO_ANSWER
        predicted = task.describe_answer(answer)
        alt_text = f"Query: {sample.query}. Target: {target}. Prediction of {one.system}: {predicted}."
        drawn.append(
            ShownPrediction(
                system=one.system,
                place=one.place,
                panel=make_panel(
                    image,
                    sample.task,
                    sample.target,
                    answer,
                    alt_text=alt_text,
                    label=sample.query if task.class_of is not None else "",
                    polygons=(*sample.polygons, *(one for outlines in sample.outlines for one in outlines)),
                    region=found.prediction.zoom_region if found is not None else None,
                ),
                summary=task.describe_answer(answer, "short"),
                score=f"{score:.2f}",
                outcomes=outcomes(sample, answer, score, score - scores[0]),
                text=found.reading.text if found is not None else "",
                first_turn=found.prediction.zoom_text if found is not None else "",
            )
        )
    change = scores[-1] - scores[0]
    return ShownQuestion(
        id=sample.id,
        query=sample.query,
        question=sample.question or "",
        notes=sample.notes,
        target=task.describe_target(sample.target, "short"),
        label=task.class_of(sample) if task.class_of is not None else "",
        change="better" if change > _EQUAL else "worse" if change < -_EQUAL else "",
        predictions=tuple(drawn),
    )


OUTCOMES = ("hit", "miss", "false positive", "unreadable", "better", "worse")
"""What a prediction can be filtered by; ``better`` and ``worse`` are against the first system."""


def outcomes(sample: Sample, answer: Answer, score: float, change: float) -> tuple[str, ...]:
    """Return the ``OUTCOMES`` of a prediction.

    A hit is a predicted box that matches a target, or a correct answer without box; a miss is a target that no box
    matches, or an incorrect answer without box; a false positive is a predicted box that matches no target.
    """
    task = TASKS[sample.task]
    marked, num_targets = task.answer_boxes(answer, sample.target), len(task.target_boxes(sample.target))
    num_hits = sum(one.is_hit for one in marked)
    is_correct = score > 1 - _EQUAL
    found = {
        "hit": num_hits > 0 or (not marked and is_correct),
        "miss": num_hits < num_targets or (not marked and not is_correct),
        "false positive": any(not one.is_hit and not one.is_ignored for one in marked),
        "unreadable": isinstance(answer, Unreadable),
        "better": change > _EQUAL,
        "worse": change < -_EQUAL,
    }
    return tuple(name for name in OUTCOMES if found[name])


def _counts(shown: Sequence[_ShownSystem]) -> tuple[str, ...]:
    """Count, for each later system, the questions on which it is better, worse and equal to the first."""
    return tuple(_count(shown[0], one) for one in shown[1:])


def _count(first: _ShownSystem, last: _ShownSystem) -> str:
    changes = [
        last.predictions.question_scores[name].score - was.score
        for name, was in first.predictions.question_scores.items()
        if name in last.predictions.question_scores
    ]
    better, worse = sum(one > _EQUAL for one in changes), sum(one < -_EQUAL for one in changes)
    return (
        f"{last.system} against {first.system}: {counted(better, 'better prediction')}, {worse} worse, "
        f"{len(changes) - better - worse} equal."
    )


def _truncate(problems: Sequence[str]) -> list[str]:
    """Return the first three messages and the number of the others."""
    rest = len(problems) - 3
    return [*problems[:3], *([f"and {counted(rest, 'more missing image')}"] if rest > 0 else [])]
