"""A complete evaluation of saved predictions: scores, blind baselines, and both as JSON and as a few lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virft.config.wording import counted
from virft.data.store import Store
from virft.evaluation.blind import BlindBaseline, BlindScores, position_again, score_blind
from virft.evaluation.blind_data import TRAINED_ON, BlindData
from virft.evaluation.comparison import Comparison, ScoreDifference
from virft.evaluation.joined import collector_paused, join_predictions
from virft.evaluation.masks import MaskMaker
from virft.evaluation.score import score_joined, scores_to_text, write_scores
from virft.metrics.labels import label_of
from virft.tasks import TASKS
from virft.types import Scores

SCORES = "scores.json"
_MOST_NAMED = 20
"""Largest number of samples that a line names."""
_MOST_UNREADABLE = 0.1
"""Fraction of unreadable or truncated completions from which the summary names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedPredictions:
    """Scores and blind baselines of one predictions file."""

    path: Path
    """The predictions."""
    scores: tuple[Scores, ...]
    """One for each task."""
    blind: tuple[BlindScores, ...]
    """One for each task that has blind baselines."""
    blind_data: BlindData
    """The training data of the baselines."""
    skipped: tuple[str, ...] = ()
    """Ids of the samples that were not predicted, as the model refuses their prompts."""
    unpredicted: Mapping[str, int] = field(default_factory=dict)
    """Number of questions of each task of which none has a prediction; such a task has no scores."""

    @property
    def scores_path(self) -> Path:
        """The file that ``write`` writes by default."""
        return self.path.with_name(SCORES)

    def write(self, out: Path | None = None, *, comparisons: Sequence[Comparison] = ()) -> Mapping[str, Any]:
        """Write everything as JSON into ``out``, by default next to the predictions; return the JSON tree."""
        return write_scores(
            self.scores,
            out or self.scores_path,
            predictions=self.path,
            comparisons=comparisons,
            blind=blind_tree(self.blind, self.blind_data),
        )


def evaluate_predictions(
    path: Path,
    store: Store,
    blind_data: BlindData,
    *,
    with_intervals: bool = True,
    class_groups: Mapping[str, Sequence[str]] | None = None,
    masks: MaskMaker | None = None,
    known_blind: Sequence[BlindScores] = (),
) -> EvaluatedPredictions:
    """Score predictions and, on the same questions, the blind baselines; options as in ``score_predictions``.

    ``known_blind``: the blind scores of other predictions for the same questions, so that the baselines are not scored
    again.
    """
    with collector_paused():
        joined = join_predictions(path, store)
        return EvaluatedPredictions(
            path=path,
            scores=score_joined(joined, store, with_intervals=with_intervals, class_groups=class_groups, masks=masks),
            blind=position_again(known_blind, joined)
            if known_blind
            else score_blind(joined, store, blind_data.samples, with_intervals=with_intervals),
            blind_data=blind_data,
            skipped=joined.card.skipped,
            unpredicted={task: number for task, number in joined.num_questions.items() if task not in joined.by_task},
        )


def blind_tree(blind: Sequence[BlindScores], data: BlindData) -> dict[str, Any]:
    """Return blind baselines as JSON: the value of the key ``blind`` in ``scores.json``, see docs/evaluation.md."""
    return data.record() | {"tasks": {one.task: _task_tree(one) for one in blind}}


def _task_tree(blind: BlindScores) -> dict[str, Any]:
    common = blind.common_answer
    return {
        "metric": blind.metric,
        "baselines": baselines_tree(blind.baselines),
        "best": blind.best.name,
        "difference": difference_tree(blind.difference),
        "verdict": blind.verdict,
        "common_answer": None
        if common is None
        else {"count": common.count, "num_answers": common.num_answers, "description": common.description},
    }


def baselines_tree(baselines: Sequence[BlindBaseline]) -> dict[str, Any]:
    """Return blind baselines as JSON, by name."""
    return {
        one.name: {
            "values": {name: round(value, 6) for name, value in one.values.items()},
            "intervals": {name: [round(end, 6) for end in ends] for name, ends in one.intervals.items()},
        }
        for one in baselines
    }


def difference_tree(difference: ScoreDifference) -> dict[str, Any]:
    """Return a difference of one metric as JSON."""
    between = difference.interval
    return {
        "value": round(difference.value, 6),
        "interval": None if between is None else [round(end, 6) for end in between],
    }


# --- text ---


def summary_lines(found: EvaluatedPredictions) -> Iterator[str]:
    """Yield the headline of each task, its best blind baseline, then warnings."""
    blind = {one.task: one for one in found.blind}
    for scores in found.scores:
        prefix = f"{scores.task}: " if len(found.scores) > 1 else ""
        yield prefix + headline(scores)
        if scores.task in blind:
            yield prefix + describe_blind(blind[scores.task])
        # scores that an option has requested: of class groups, and of masks
        for name, value in scores.values.items():
            if "@" in name or "(masks: " in name:
                yield f"{prefix}{name} {format_score(value, scores.intervals.get(name))}"
    yield from warning_lines(found)


def warning_lines(found: EvaluatedPredictions) -> Iterator[str]:
    """Yield what a reader of the headlines must know: missing baselines, repeated answers, unreadable completions."""
    blind = {one.task: one for one in found.blind}
    if number := len(found.skipped):
        named = ", ".join(found.skipped[:_MOST_NAMED]) + (f" and {number - _MOST_NAMED} more" * (number > _MOST_NAMED))
        yield f"not the whole dataset: {number} skipped, as the model refuses the prompt: {named}"
    for task, number in found.unpredicted.items():
        yield f"not the whole dataset: no question of the task {task} has a prediction, of {number}"
    if not found.blind_data.stores and found.blind_data.note:
        advice = "" if found.blind_data.note == TRAINED_ON else ": name the training set with --train DATA"
        yield f"baselines that are fitted on training data are missing ({found.blind_data.note}){advice}"
    for scores in found.scores:
        prefix = f"{scores.task}: " if len(found.scores) > 1 else ""
        if (one := blind.get(scores.task)) is not None and one.common_answer is not None:
            yield f"{prefix}{one.common_answer}"
        yield from (prefix + line for line in _text_warnings(scores))


def table_lines(found: EvaluatedPredictions) -> Iterator[str]:
    """Yield every score, and the headline metric of every blind baseline."""
    yield scores_to_text(found.scores)
    for one in found.blind:
        name = label_of(one.metric)
        yield f"{one.task}, blind baselines fitted on {found.blind_data}, {name}"
        for baseline in one.baselines:
            value = format_score(baseline.values[one.metric], baseline.intervals.get(one.metric))
            yield f"  {baseline.name:<32} {value}"


def headline(scores: Scores) -> str:
    """Return the main metrics of a task in one line.

    >>> one = Scores(task="grounding", protocol="all", data_hash="", num_samples=3, counts={"num_images": 2},
    ...              values={"box_miou (3 of 8)": 0.5, "accuracy_at_50 (3 of 8)": 0.75})
    >>> headline(one)
    'mean box IoU 0.500, accuracy at IoU 0.5 0.750 on 3 of 8 questions about 2 images'
    """
    shown = [metric.name for metric in TASKS[scores.task].metrics if metric.in_card and metric.better > 0]
    # a metric of some of the questions has the coverage in its name: "f1 (3 of 8)"
    names = [(name, key) for name in shown for key in scores.values if key.partition(" (")[0] == name]
    parts = []
    for number, (name, key) in enumerate(names):
        ends = scores.intervals.get(key) if number == 0 else None
        parts.append(f"{label_of(name)} {format_score(scores.values[key], ends)}")
    coverage = names[0][1].partition(" (")[2].removesuffix(")") if names else ""
    number = scores.counts.get("num_images", 0)
    about = f" about {counted(number, 'image')}" if number else ""
    questions = f"{coverage} questions" if coverage else counted(scores.num_samples, "question")
    return f"{', '.join(parts)} on {questions}{about}"


def format_score(value: float, ends: tuple[float, float] | None = None) -> str:
    """Format a value with its confidence interval.

    >>> format_score(0.5, (0.25, 0.75))
    '0.500 (0.250 to 0.750)'
    """
    return f"{value:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")


def describe_blind(blind: BlindScores, model: str = "the model") -> str:
    """Return a sentence about the best blind baseline and the position of the model."""
    best, name = blind.best, blind.metric.partition(" (")[0]
    value = format_score(best.values[blind.metric], best.intervals.get(blind.metric))
    return f"best blind baseline: {best.name}, {label_of(name)} {value}; {model} is {describe_position(blind)}"


def describe_position(blind: BlindScores) -> str:
    """Return the position of the model against the best blind baseline, in capitals unless it is above."""
    if blind.difference.interval is None:
        where = "below" if blind.difference.value < 0 else "above"
        return f"{abs(blind.difference.value):.3f} {where} it (no confidence interval)"
    found = {"above": "above it", "below": "BELOW it"}.get(blind.verdict, "NOT DISTINGUISHABLE from it")
    return f"{found}: {format_difference(blind.difference)}"


def format_difference(difference: ScoreDifference) -> str:
    """Return a difference with its confidence interval."""
    if difference.interval is None:
        return f"{difference.value:+.3f} (no confidence interval)"
    return f"{difference.value:+.3f} ({difference.interval[0]:+.3f} to {difference.interval[1]:+.3f})"


def _text_warnings(scores: Scores) -> Iterator[str]:
    counts = (("num_unreadable", "cannot be parsed"), ("num_truncated", "were cut at the token limit"))
    for name, what in counts:
        number = scores.counts.get(name, 0)
        if number >= _MOST_UNREADABLE * scores.num_samples and number:
            yield f"{number} of {scores.num_samples} completions {what}"
    if number := scores.counts.get("num_at_most_1", 0):
        yield (
            f"{number} of {scores.num_samples} completions have all numbers at most 1: the model writes fractions of "
            "the image, which are unreadable"
        )
    if number := scores.counts.get("num_other_label", 0):
        yield f"{number} predicted boxes have a label of their own that names another class than the question"
