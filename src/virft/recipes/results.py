"""Results of the public functions: a run and an evaluation, which show themselves in a notebook."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from virft.config.schema import Config
from virft.config.toml_file import load_config
from virft.config.wording import counted
from virft.errors import RunError
from virft.evaluation.blind import BlindScores
from virft.evaluation.evaluated import EvaluatedPredictions, summary_lines, table_lines
from virft.files import write_text
from virft.inference.model import Model, load
from virft.inference.optional import import_optional
from virft.report import REPORT
from virft.report.read import report_folders
from virft.report.render.page import html_table
from virft.tasks import TASKS
from virft.training.run import CONFIG, EVENTS, METRICS, MODEL, TIMINGS, RunFolder
from virft.types import Scores

_SHOWN = ("reward", "validation_score")
"""Prefixes of the metrics that a run shows, in this order; of a run without them, the loss."""


class Records(list[dict[str, Any]]):
    """Records of a log, one dict for each line."""

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame``; ``ConfigError`` if pandas is not installed."""
        return import_optional("pandas", needed_by="to_pandas()").DataFrame(list(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportPage:
    """An HTML page in a file. In a notebook it is shown in a frame."""

    path: Path

    def _repr_html_(self) -> str:
        page = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" style="width:100%;height:640px;border:1px solid #ccc"></iframe>'


class Run:
    """A run folder, finished or not. In a notebook it shows its rewards."""

    def __init__(self, folder: str | Path) -> None:
        """Open ``folder``; ``RunError`` if it holds no run."""
        self.folder = Path(folder)
        if not (self.folder / CONFIG).is_file():
            raise RunError(f"{folder}: holds no run; expected a folder with {CONFIG}")
        self._logs = RunFolder(self.folder, writes=False)

    @property
    def config(self) -> Config:
        """Every setting of the run."""
        return load_config(self.folder / CONFIG).config

    @property
    def metrics(self) -> Records:
        """One record for each step (``reward``, ``reward_*``, ``unreadable_frac``, ..) and for each validation."""
        return Records(self._logs.records(METRICS))

    @property
    def events(self) -> Records:
        """Alarms of the monitors, and interruptions, with their steps."""
        return Records(self._logs.records(EVENTS))

    @property
    def num_steps(self) -> int:
        """Number of optimizer steps done so far."""
        return max((record["step"] + 1 for record in self._logs.records(TIMINGS)), default=0)

    @property
    def is_finished(self) -> bool:
        """True if the run has a trained model."""
        return (self.folder / MODEL).is_dir()

    @cached_property
    def model(self) -> Model:
        """The trained model, loaded on first use; ``RunError`` if the run is not finished."""
        if not self.is_finished:
            raise RunError(f"{self.folder}: has no trained model yet; expected a finished run, or train(resume=True)")
        return load(self.folder / MODEL)

    def report(self, out: str | Path | None = None) -> ReportPage:
        """Write the HTML report of the run, with its evaluations so far; in a notebook the page is shown.

        ``out``: default is ``report.html`` in the run folder.
        """
        path = Path(out or self.folder / REPORT)
        # a completion may hold half of a surrogate pair, which UTF-8 cannot
        write_text(path, report_folders([self.folder]).encode(errors="backslashreplace").decode())
        return ReportPage(path=path)

    def __repr__(self) -> str:
        return f"<Run {self.folder}: {self._state()}>"

    def _repr_html_(self) -> str:
        metrics = self.metrics
        names = dict.fromkeys(name for record in metrics for name in record)
        shown = [name for start in _SHOWN for name in names if name.startswith(start)] or names.keys() & {"loss"}
        values = {name: [record[name] for record in metrics if name in record] for name in shown}
        rows = [(name, f"{found[0]:.3f}", f"{found[-1]:.3f}", curve(found)) for name, found in values.items()]
        heading = Markup("<p><b>{}</b>: {}</p>").format(self.folder, self._state())
        return str(heading + html_table(["", "first", "last", ""], rows) if rows else heading)

    def _state(self) -> str:
        return f"{counted(self.num_steps, 'step')}, {'finished' if self.is_finished else 'not finished'}"


def curve(values: Sequence[float], *, width: int = 240, height: int = 32) -> Markup:
    """Draw values as a line from left to right, the largest at the top; "" for less than two values.

    >>> str(curve([0.0, 1.0], width=10, height=6)).split('"')[-4]
    '1,5 9,1'
    """
    if len(values) < 2:
        return Markup()
    low, high = min(values), max(values)
    if low == high:  # a flat line in the middle
        low, high = low - 0.5, high + 0.5
    across, down = (width - 2) / (len(values) - 1), (height - 2) / (high - low)
    points = " ".join(f"{1 + i * across:.4g},{1 + (high - value) * down:.4g}" for i, value in enumerate(values))
    return Markup('<svg width="{}" height="{}"><polyline points="{}" style="fill:none;stroke:#0a7f78"/></svg>').format(
        width, height, points
    )


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Evaluation:
    """The scores of a model on a dataset. In a notebook they show as a table with confidence intervals."""

    model: str
    """Name or folder of the model."""
    data: str
    """Folder of the dataset."""
    predictions: EvaluatedPredictions
    """Scores and blind baselines of the predictions."""

    @property
    def tasks(self) -> tuple[Scores, ...]:
        """The scores of each task of the dataset, with counts and scores by class."""
        return self.predictions.scores

    @property
    def blind(self) -> tuple[BlindScores, ...]:
        """The blind baselines of each task, best first, and the model's margin over the best one."""
        return self.predictions.blind

    @property
    def values(self) -> dict[str, float]:
        """Scores by name; with several tasks the name of the task comes first, as in ``detection/f1``."""
        return {self._name(scores, name): value for scores in self.tasks for name, value in scores.values.items()}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % bootstrap confidence intervals (resampling images) of the main scores, by name."""
        return {self._name(scores, name): ends for scores in self.tasks for name, ends in scores.intervals.items()}

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame``: task, score, value, low and high end of the interval, number of samples.

        Raises ``ConfigError`` if pandas is not installed.
        """
        pandas = import_optional("pandas", needed_by="to_pandas()")
        nothing = (float("nan"),) * 2
        rows = [
            (scores.task, name, value, *scores.intervals.get(name, nothing), scores.num_samples)
            for scores in self.tasks
            for name, value in scores.values.items()
        ]
        return pandas.DataFrame(rows, columns=["task", "score", "value", "low", "high", "num_samples"])

    def __repr__(self) -> str:
        main = ", ".join(
            f"{name} {value:.3f}"
            for scores in self.tasks
            for name, value in scores.values.items()
            if name.partition(" ")[0] == TASKS[scores.task].headline  # behind it is " (8 of 40)" if samples are missing
        )
        return f"<Evaluation of {self.model} on {self.data}: {main}>"

    def __str__(self) -> str:
        return "\n".join([*summary_lines(self.predictions), *table_lines(self.predictions)])

    def _repr_html_(self) -> str:
        lines = Markup("").join(Markup("<p>{}</p>").format(line) for line in summary_lines(self.predictions))
        return str(lines + Markup().join(self._table(scores) for scores in self.tasks))

    def _table(self, scores: Scores) -> Markup:
        heading = Markup("<p><b>{}</b> on {}: {}, {}</p>").format(
            self.model, self.data, scores.task, counted(scores.num_samples, "sample")
        )
        main = [
            (name, f"{scores.values[name]:.3f}", f"{low:.3f} to {high:.3f}")
            for name, (low, high) in scores.intervals.items()
        ]
        others = [(name, f"{value:.3f}") for name, value in scores.values.items() if name not in scores.intervals]
        return (
            heading
            + html_table(["score", "value", "95 % confidence interval"], main)
            + Markup("<details><summary>{} more scores</summary>{}</details>").format(
                len(others), html_table(["score", "value"], others)
            )
        )

    def _name(self, scores: Scores, name: str) -> str:
        return name if len(self.tasks) == 1 else f"{scores.task}/{name}"
