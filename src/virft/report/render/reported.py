"""The nouns of a page about runs: systems, the runs behind them, what they answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from markupsafe import Markup

from virft.metrics.bootstrap import Resampled
from virft.types import Reading, Sample, Scores


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportedRun:
    """A run folder as it was found, also while it is being written.

    ``settings``: dotted key -> value; ``config``: the text of ``config.toml``. ``metrics``, ``timings``, ``rollouts``,
    ``events``: the records of the logs. ``samples``: those of the rollouts that could be found, by id; ``problems``:
    what could not, in words.
    """

    name: str
    folder: str
    card: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    config: str = ""
    metrics: Sequence[Mapping[str, Any]] = ()
    timings: Sequence[Mapping[str, Any]] = ()
    rollouts: Sequence[Mapping[str, Any]] = ()
    events: Sequence[Mapping[str, Any]] = ()
    samples: Mapping[str, Sample] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def trainer(self) -> str:
        """The verb that trained it, "grpo" where the card does not tell."""
        return str(self.card.get("trainer", "grpo"))


class QuestionScore(NamedTuple):
    """How right an answer is (``Task.score``), and how sure its surest box; 1 for answers without boxes."""

    score: float
    confidence: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportedAnswers:
    """What a model answered to a data set.

    ``asked``: how (thinking, template and so on); ``scored``: by which rule, in words. ``samples``: the data set, None
    where it is not at hand; then there are no ``question_scores`` (by sample id). ``read``: samples -> what was
    answered, by sample id. ``resampled``: for the intervals of differences. ``problem``: what is missing, in words.
    """

    data: str
    data_hash: str
    scores: tuple[Scores, ...] = ()
    asked: Mapping[str, Any] = field(default_factory=dict)
    scored: str = ""
    samples: Iterable[Sample] | None = None
    question_scores: Mapping[str, QuestionScore] = field(default_factory=dict)
    read: Callable[[Sequence[Sample]], Mapping[str, Reading]] | None = None
    resampled: Mapping[str, Resampled] = field(default_factory=dict)
    problem: str = ""

    def of_task(self, task: str) -> Scores | None:
        """The scores of a task, if it was asked."""
        return next((one for one in self.scores if one.task == task), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportedSystem:
    """One model or several seeds of it: its runs, if it was trained, and its answers by name of the test set.

    Of several seeds, the answers to a test stand in the order of the runs.
    """

    name: str
    runs: tuple[ReportedRun, ...] = ()
    answers: Mapping[str, tuple[ReportedAnswers, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the page that its caller makes: ``body`` is HTML that is safe as it stands, see ``page``."""

    heading: str
    body: Markup
