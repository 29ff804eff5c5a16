"""A learning curve as one HTML page: the fitted curve with its numbers, then scores, training curves and images."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from virft.config.wording import counted
from virft.evaluation.predictions import PREDICTIONS, read_predictions_card
from virft.metrics.labels import label_of
from virft.metrics.learning_curve import point_interval
from virft.recipes.learning_curve import FINAL_PREDICTIONS, MeasuredCurve, describe_doubled
from virft.report.read import read_reported_predictions, read_run
from virft.report.read.predictions import FittedBlind
from virft.report.render.curves import Chart, CurvePoints, Line
from virft.report.render.page import chart_figure, html_table, paragraph
from virft.report.render.reported import ReportedPredictions, ReportedSystem, Section
from virft.report.render.run_page import render_run_page

_DRAWN = 24
"""Points of a drawn curve."""


def curve_page(found: MeasuredCurve, folder: Path) -> str:
    """Return the page; ``folder``: that of the curve, with the runs and the predictions of the base model."""
    fitted: FittedBlind = {}

    def predictions(place: Path) -> ReportedPredictions:
        path = place / FINAL_PREDICTIONS / PREDICTIONS
        card = read_predictions_card(path)
        run = found.runs[-1][0]
        return read_reported_predictions(path.parent, card, near=path.parent, run=run, fitted=fitted)

    systems = [ReportedSystem(name="base", predictions={"validation": (predictions(folder / "base"),)})]
    for point, runs in zip(found.points, found.runs, strict=True):
        name = counted(point.num_images, "image")
        systems.append(
            ReportedSystem(
                name=name,
                runs=tuple(read_run(run, name=f"{name}, {run.name.replace('_', ' ')}") for run in runs),
                predictions={"validation": tuple(map(predictions, runs))},
            )
        )
    body = Markup().join(
        [
            paragraph(f"{describe_doubled(found)}."),
            *(paragraph(f"Warning: {text}.") for text in found.warnings),
            Markup('<div class="charts">{}</div>').format(chart_figure(_chart(found))),
            html_table(["images", "score", "95 % confidence interval", "seeds"], _rows(found)),
        ]
    )
    return render_run_page(
        systems,
        title="Learning curve",
        intro="The same settings and number of steps on nested subsets of the training images, evaluated on the "
        "validation set.",
        sections=[Section(heading=f"Validation {label_of(found.metric)} by number of training images", body=body)],
    )


def _rows(found: MeasuredCurve) -> list[list[str]]:
    rows = [["0 (base model)", f"{found.base:.3f}", "", ""]]
    for point in found.points:
        low, high = point_interval(point)
        seeds = ", ".join(f"{score:.3f}" for score in point.scores)
        rows.append([f"{point.num_images}", f"{point.mean:.3f}", f"{low:.3f} to {high:.3f}", seeds])
    one = found.doubled
    rows.append([f"{one.num_images} (expected)", f"{one.value:.3f}", f"{one.low:.3f} to {one.high:.3f}", ""])
    return rows


def _chart(found: MeasuredCurve) -> Chart:
    first, last = found.points[0].num_images, found.doubled.num_images
    sizes = sorted({round(first * (last / first) ** (i / (_DRAWN - 1))) for i in range(_DRAWN)})
    expected = [found.fitted.extrapolate(size) for size in sizes]
    measured = CurvePoints(
        tuple(float(point.num_images) for point in found.points), tuple(point.mean for point in found.points)
    )
    curves = {
        "fitted": [one.value for one in expected],
        "95 % low": [one.low for one in expected],
        "95 % high": [one.high for one in expected],
    }
    lines = [Line(name="measured", tone=1, points=measured)]
    lines += [
        Line(name=name, tone=tone, points=CurvePoints(tuple(map(float, sizes)), tuple(values)))
        for tone, (name, values) in enumerate(curves.items(), start=2)
    ]
    return Chart(
        title=f"{label_of(found.metric)} by number of training images",
        description="score = limit - slope / sqrt(images)",
        lines=tuple(lines),
        x_name="images",
    )
