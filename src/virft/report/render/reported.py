"""The nouns of a report page: systems, their runs and their predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from markupsafe import Markup

from virft.evaluation.blind import BlindScores
from virft.metrics.bootstrap import Resampled
from virft.metrics.box_curves import BoxCurves
from virft.metrics.confusion import ConfusionMatrix
from virft.types import JoinedPrediction, Sample, Scores


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportedRun:
    """The content of a run folder, finished or still being written."""

    name: str
    """Name of the run on the page."""
    folder: str
    """Path of the run folder."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """Content of ``card.json``: trainer, model, seed, commit, versions."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings by dotted key."""
    config: str = ""
    """Text of ``config.toml``."""
    metrics: Sequence[Mapping[str, Any]] = ()
    """Records of ``metrics.jsonl``."""
    timings: Sequence[Mapping[str, Any]] = ()
    """Records of ``timings.jsonl``."""
    rollouts: Sequence[Mapping[str, Any]] = ()
    """Records of ``rollouts.jsonl``."""
    events: Sequence[Mapping[str, Any]] = ()
    """Records of ``events.jsonl``."""
    samples: Mapping[str, Sample] = field(default_factory=dict)
    """Samples of the logged rollouts by id, as far as the dataset was found."""
    problems: tuple[str, ...] = ()
    """Messages about files that could not be read."""

    @property
    def trainer(self) -> str:
        """Training method, ``grpo`` or ``sft``; ``grpo`` if the card does not name it."""
        return str(self.card.get("trainer", "grpo"))


class QuestionScore(NamedTuple):
    """Score of a prediction (``Task.score``) and its highest box confidence; 1 for answers without box."""

    score: float
    confidence: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxDiagnostics:
    """Details about predicted boxes. ``curves``: None without targets or predicted boxes."""

    curves: BoxCurves | None
    confusion: ConfusionMatrix


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportedPredictions:
    """The predictions of one model on one dataset."""

    data: str
    """Path of the dataset, as the predictions' card names it."""
    data_hash: str
    """Hash of the dataset's content."""
    scores: tuple[Scores, ...] = ()
    """Metrics, one ``Scores`` per task."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Prompt, sampling and precision: thinking, template, max_completion_tokens, temperature, dtype, load_in_4bit."""
    scored: str = ""
    """Origin of the scores: computed for this page or read from ``scores.json``, with the version of the rules."""
    samples: Iterable[Sample] | None = None
    """The dataset; None if it was not found."""
    question_scores: Mapping[str, QuestionScore] = field(default_factory=dict)
    """Score of each question by sample id; empty without the dataset."""
    read: Callable[[Sequence[Sample]], Mapping[str, JoinedPrediction]] | None = None
    """Function that parses the predictions of some samples, by sample id."""
    resampled: Mapping[str, Resampled] = field(default_factory=dict)
    """Bootstrap resamples by task, for confidence intervals of differences."""
    diagnostics: Mapping[str, BoxDiagnostics] = field(default_factory=dict)
    """Curves and confusion matrix by task, for tasks that have classes with boxes; empty without the dataset."""
    blind: Mapping[str, BlindScores] = field(default_factory=dict)
    """Blind baselines by task, and the position of these predictions against the best of them."""
    blind_note: str = ""
    """Reason why there are no blind baselines that are fitted on training data."""
    problem: str = ""
    """Message about missing data or unfinished predictions."""

    def of_task(self, task: str) -> Scores | None:
        """Return the scores of a task, or None if the dataset has no such questions."""
        return next((one for one in self.scores if one.task == task), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportedSystem:
    """One model, or several seeds of it: its training runs, if any, and its predictions by test set.

    With several seeds, the predictions on a test set have the order of the runs.
    """

    name: str
    runs: tuple[ReportedRun, ...] = ()
    predictions: Mapping[str, tuple[ReportedPredictions, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A section of the page that the caller renders. ``body``: safe HTML, made with the functions of ``page``.

    ``is_folded``: only the heading is shown at first.
    """

    heading: str
    body: Markup
    is_folded: bool = False
