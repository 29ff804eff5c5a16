"""Curves and confusion matrices as shown on the page."""

from __future__ import annotations

from dataclasses import replace

from report_factories import PageReader, predictions, scores
from virft.metrics.box_curves import box_curves
from virft.metrics.confusion import LabelledBox, confusion_matrix
from virft.report.render.box_details import MOST_CLASSES, OTHERS, box_details
from virft.report.render.reported import BoxDiagnostics, ReportedSystem
from virft.report.render.run_page import render_run_page

BOX = (0.0, 0.0, 9.0, 9.0)


def system(name: str, *confidences: float, classes: int = 2) -> ReportedSystem:
    """A system whose predicted boxes are hits, one for each confidence; of each class one object is missed."""
    targets = [LabelledBox(f"class {place:02}", BOX) for place in range(classes)]
    found = BoxDiagnostics(
        curves=box_curves(confidences, [True] * len(confidences), num_targets=4),
        confusion=confusion_matrix([([one], []) for one in targets]),
    )
    one = replace(predictions(scores({"f1": 0.5})), diagnostics={"detection": found})
    return ReportedSystem(name=name, predictions={"coins": (one,)})


def test_all_systems_share_the_curves_and_the_last_ones_matrix_is_open() -> None:
    (found,) = box_details([system("base", 0.9, 0.7, 0.5), system("rft", 0.8)])
    precision_recall, f1 = found.charts
    assert [(line.name, line.tone) for line in precision_recall.lines] == [("base", 0), ("rft", 1)]
    assert precision_recall.lines[0].points == ((0.25, 0.5, 0.75), (1.0, 1.0, 1.0))
    # below the lowest confidence all boxes count: 2 * 3 / (3 + 4)
    assert f1.lines[0].points.steps == (0.0, 0.5, 0.7, 0.9)
    assert f1.lines[0].points.values[:2] == (6 / 7, 6 / 7)
    assert f1.lines[0].summary == "best 0.857 at 0.50, all boxes 0.857"
    assert (f1.x_range, f1.y_range) == ((0.0, 1.0), (0.0, 1.0))
    assert [(one.system, one.is_open) for one in found.confusions] == [("rft", True), ("base", False)]


def test_two_confidences_are_no_curve_and_one_class_no_matrix() -> None:
    (found,) = box_details([system("base", 0.9, 0.7, classes=1)])
    assert (found.charts, found.confusions) == ((), ())
    assert "fewer than 3" in found.note


def test_many_classes_share_a_row() -> None:
    (found,) = box_details([system("base", classes=MOST_CLASSES + 3)])
    (view,) = found.confusions
    assert len(view.columns) == MOST_CLASSES + 1
    assert view.columns[-2:] == (OTHERS, "not found")
    # 11 classes of their own, so 4 of 15 share a row; all are missed
    assert view.rows[-2] == (OTHERS, (*((0, 0.0),) * MOST_CLASSES, (4, 1.0)))


def test_the_page_shows_them() -> None:
    found = PageReader(render_run_page([system("base", 0.9, 0.7, 0.5)], title="t"))
    assert {"boxes", "Precision over recall", "F1 over confidence", "Confusion matrix of base"} <= {
        *found.texts,
        *(one.get("id", "") for one in found.all("section")),
    }
