"""Detection: every box of one named class, or "No Objects"."""

from __future__ import annotations

from collections.abc import Sequence

from virft.metrics.calibration import calibration_metrics
from virft.metrics.detection import detection_metrics
from virft.metrics.measurement import Measurement
from virft.tasks.task import Task
from virft.text.answers import read_detection, render_detection
from virft.types import Detections, Reading, TaskName


def measure_detection(pairs: Sequence[tuple[Reading, Detections]]) -> Measurement:
    """Precision, recall and F1 at IoU 0.5 with the habits they hide, and whether confidences are honest."""
    found, calibrated = detection_metrics(pairs), calibration_metrics(pairs)
    return Measurement(
        values={**found.values, **calibrated.values},
        counts={**found.counts, **calibrated.counts},
    )


DETECTION = Task(
    name=TaskName.DETECTION,
    example="[{'Position': [100, 200, 300, 400], 'Confidence': 0.9}] or No Objects",
    target_type=Detections,
    read=read_detection,
    render=render_detection,
    measure_pairs=measure_detection,
)
