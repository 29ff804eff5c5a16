"""Grounding: the one box that a referring expression means."""

from __future__ import annotations

from virft.metrics.grounding import grounding_metrics
from virft.tasks.task import Task
from virft.text.answers import read_grounding, render_grounding
from virft.types import Box, TaskName

GROUNDING = Task(
    name=TaskName.GROUNDING,
    example="(100,200),(300,400)",
    target_type=Box,
    read=read_grounding,
    render=render_grounding,
    measure_pairs=grounding_metrics,
)
