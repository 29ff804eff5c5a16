"""Demonstrations: the ground truth of a sample as a completion that was not sampled, and answers close to it.

A demonstration is packed behind the completions of its group and shares their prompt. It is no part of a
``RolloutGroup``: metrics, monitors, KL and everything else that describes the policy's own completions never see it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from virft.generation.random_streams import StepKey
from virft.models.renderer import RenderedPrompt
from virft.tasks import TASKS
from virft.training.grpo.near_right import near_right_boxes
from virft.types import Answer, Box, Detection, RewardReport, RolloutGroup, Sample, Target

TARGET_CONFIDENCE = 1.0
"""Confidence of the boxes of a demonstration if no completion of its group has a box."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenTarget:
    """The canonical completion for a target, as SFT trains on it."""

    text: str
    """Full text, including the prefix that the prompt has opened."""
    token_ids: tuple[int, ...]
    """Token ids behind the prompt, with the end token."""
    in_loss: tuple[bool, ...]
    """For each token, False if it is a digit of a confidence: targets state none, so there is nothing to imitate."""


WriteTarget = Callable[[Sample, RenderedPrompt], WrittenTarget | None]
"""From a sample to the completion for its target. None for a sample without a rationale whose prompt requests one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstration:
    """The target of a group's sample as a completion, or an answer close to it."""

    token_ids: tuple[int, ...]
    """Token ids behind the prompt, with the end token."""
    in_loss: tuple[bool, ...]
    """For each token, False if it is a digit of a confidence."""
    is_target: bool
    """False for a near-right answer."""
    report: RewardReport | None = None
    """Its reward; None if it is not rewarded (``grpo.demonstrations`` = "loss")."""

    @property
    def reward(self) -> float:
        """Total reward of a demonstration that is rewarded."""
        assert self.report is not None, "only a member of a group is rewarded"
        return self.report.total

    @property
    def num_loss_tokens(self) -> int:
        """Number of tokens that are in the loss."""
        return sum(self.in_loss)


def demonstrate(
    group: RolloutGroup,
    rendered: RenderedPrompt,
    *,
    write: WriteTarget,
    key: StepKey,
    place: int,
    near_right: bool = False,
    grade: Callable[[str, int], RewardReport] | None = None,
) -> tuple[Demonstration, ...]:
    """The demonstrations of a group: that of its target first, then near-right answers.

    Boxes are in a new order at each step, a function of ``key`` (seed and step), the ``place`` in the step and the
    sample, and have the confidence ``hit_rate``. ``grade``: (text, number of tokens) -> reward; None: not rewarded.
    Empty if ``write`` returns None.
    """
    sample = group.sample
    stream = f"demonstration/{place}/{sample.id}"
    confidence = hit_rate(group)
    found = []
    for number, target in enumerate(_targets(sample, confidence, key, stream, near_right=near_right)):
        written = write(replace(sample, target=target), rendered)
        if written is None:
            return ()
        found.append(
            Demonstration(
                token_ids=written.token_ids,
                in_loss=written.in_loss,
                is_target=number == 0,
                report=None if grade is None else grade(written.text, len(written.token_ids)),
            )
        )
    return tuple(found)


def hit_rate(group: RolloutGroup) -> float:
    """Fraction of the boxes in a group's completions that are hits; ``TARGET_CONFIDENCE`` without boxes.

    Written as the confidence of a demonstration: it is the confidence that a calibrated policy would state.
    """
    sample = group.sample
    boxes = [
        one
        for report in group.reports
        for one in TASKS[sample.task].answer_boxes(report.reading.answer, sample.target)
        if not one.is_ignored
    ]
    return sum(bool(one.is_hit) for one in boxes) / len(boxes) if boxes else TARGET_CONFIDENCE


def success(group: RolloutGroup) -> float:
    """Mean score (``Task.score``) of a group's completions, in [0, 1]."""
    task = TASKS[group.sample.task]
    scores = [task.score(report.reading, group.sample.target) for report in group.reports]
    return sum(scores) / len(scores)


def _targets(
    sample: Sample, confidence: float, key: StepKey, stream: str, *, near_right: bool
) -> Iterator[Target | Answer]:
    """The target, its boxes in a random order and with a confidence, and the near-right answers of its boxes."""
    task = TASKS[sample.task]
    if task.boxes is None:
        yield sample.target
        return
    to_answer, of_target = task.boxes.to_answer, task.boxes.of_target
    labels = task.target_labels(sample.target)
    numbers = key.uniforms(stream, 0, len(labels))

    def shuffled(found: Iterable[Box]) -> list[Detection]:
        named = zip(found, labels, strict=True)
        return _shuffled(
            [Detection(box=box, confidence=confidence, label=label or None) for box, label in named], numbers
        )

    boxes = shuffled(of_target(sample.target))
    # The boxes of the target as an answer: those of a pointing target are its points.
    yield to_answer(shuffled(one.box for one in task.answer_boxes(sample.target)))
    if not near_right:
        return
    for number, rung in enumerate(near_right_boxes(boxes, sample.target_size, lambda n: key.uniforms(stream, 1, n))):
        answer = to_answer(_shuffled(rung, key.uniforms(stream, 2 + number, len(rung))))
        # Grounding has exactly one box: an answer with another number of them does not exist.
        if isinstance(answer, task.target_type) and len(of_target(answer)) == len(rung):
            yield answer


def _shuffled(boxes: Sequence[Detection], numbers: Iterable[float]) -> list[Detection]:
    """The boxes in the order of one random number for each."""
    return [boxes[i] for i in np.argsort(np.asarray(numbers), kind="stable")]
