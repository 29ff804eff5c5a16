"""Annotated images of a group's best and worst completion, for experiment trackers."""

from __future__ import annotations

from virft.data.images import load_image
from virft.report.render.images import draw_answer
from virft.training.grpo.group_metrics import from_worst_to_best
from virft.training.trackers import LoggedCompletion
from virft.types import RolloutGroup

_SIDE = 336
"""Pixels of the longer side."""


def rollout_images(group: RolloutGroup) -> tuple[LoggedCompletion, LoggedCompletion]:
    """Best and worst completion of a group, drawn with the ground truth on the image that the model saw."""
    sample = group.sample
    image = load_image(sample.images[sample.target_image], sample.augmentation)
    order = from_worst_to_best(group)

    def draw(rank: str, i: int) -> LoggedCompletion:
        report = group.reports[i]
        return LoggedCompletion(
            rank=rank,
            query=sample.query,
            text=group.completions[i].text,
            reward=report.total,
            image=draw_answer(image, sample.target, report.reading.answer, task=sample.task, side=_SIDE),
        )

    return draw("best", order[-1]), draw("worst", order[0])
