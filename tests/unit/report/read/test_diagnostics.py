"""Curves and confusion matrix of predictions."""

from __future__ import annotations

from pathlib import Path

from factories import detections, labelled, reading, sample
from report_factories import NOTHING, RIGHT, make_set, write_texts
from virft.evaluation.joined import join_predictions
from virft.report.read.diagnostics import diagnose_boxes
from virft.types import FinishReason, JoinedPrediction, Prediction


def test_boxes_are_diagnosed_over_all_questions(tmp_path: Path) -> None:
    store = make_set(tmp_path / "coins")
    wrong = "<answer>[{'Position':[500,500,999,999],'Confidence':0.5}]</answer>"
    folder = write_texts(tmp_path / "p", store, [RIGHT, wrong, NOTHING])
    joined = join_predictions(folder / "predictions.jsonl", store).by_task["detection"]
    found = diagnose_boxes("detection", joined, num_invalid=0)
    assert found is not None
    assert found.curves is not None
    # confidence 0.8: a hit; 0.5: a false positive; three targets
    assert found.curves.thresholds == (0.8, 0.5)
    assert found.curves.precision == (1.0, 0.5)
    assert found.confusion.counts == {("fox", "fox"): 1, ("fox", ""): 2, ("", "fox"): 1}
    assert detections((0, 0, 1, 1)).items


def test_a_task_without_classes_with_boxes_is_not_diagnosed() -> None:
    assert diagnose_boxes("classification", [], num_invalid=0) is None
    assert diagnose_boxes("grounding", [], num_invalid=0) is None


def test_boxes_of_several_classes_are_confused_by_their_labels() -> None:
    target = labelled(("fox", (0, 0, 20, 20)), ("hen", (30, 0, 50, 20)), classes=("fox", "hen"))
    answer = labelled(("Fox", (0, 0, 20, 20)), ("fox", (30, 0, 50, 20)), ("cow", (0, 30, 9, 40)), confidence=0.5)
    one = sample(target, task="multiclass_detection")
    text = Prediction(sample_id=one.id, text="", finish_reason=FinishReason.STOP)
    found = diagnose_boxes("multiclass_detection", [JoinedPrediction(one, text, reading(answer))], num_invalid=0)
    assert found is not None
    assert found.confusion.counts == {("fox", "fox"): 1, ("hen", "fox"): 1, ("", "cow"): 1}
    assert found.curves is not None
    assert found.curves.precision == (1 / 3,)
