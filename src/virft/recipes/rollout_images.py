"""Annotated images of a group's best and worst completion, for experiment trackers."""

from __future__ import annotations

from virft.data.images import load_image
from virft.report.render.images import draw_answer
from virft.training.grpo.group_metrics import from_worst_to_best
from virft.training.trackers import ShownAnswer
from virft.types import RolloutGroup

_ROLLOUT_SIDE = 336
"""Pixels of the longer side of a picture for trackers."""


def drawn_rollout(group: RolloutGroup) -> tuple[ShownAnswer, ShownAnswer]:
    """A group's best and worst answer, with the target, on the picture as it was seen."""
    sample = group.sample
    image = load_image(sample.images[sample.target_image], sample.view)
    order = from_worst_to_best(group)

    def drawn(rank: str, i: int) -> ShownAnswer:
        report = group.reports[i]
        return ShownAnswer(
            rank=rank,
            question=sample.query,
            text=group.completions[i].text,
            reward=report.total,
            picture=draw_answer(image, sample.target, report.reading.answer, task=sample.task, side=_ROLLOUT_SIDE),
        )

    return drawn("best", order[-1]), drawn("worst", order[0])
