"""Groups of rollouts from a run's log: the best and the worst answer of a step beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from virft.data.views import target_in
from virft.report.render.page_images import PagePictures
from virft.report.render.panels import Panel, panel
from virft.report.render.reported import ReportedRun
from virft.report.render.score_tables import signed
from virft.tasks import TASKS
from virft.types import Answer, Box, Detection, Sample, Target, Unreadable, View

NUM_GROUPS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownCompletion:
    """One of a group. ``parts``: name and figure of each part of its reward; ``advantage``: empty in older logs."""

    title: str
    text: str
    reward: str
    advantage: str
    parts: tuple[tuple[str, str], ...]
    panel: Panel | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownGroup:
    """The group that differed most in a step. ``rewards``: of all its completions, as places on a scale of [0, 1]."""

    step: int
    sample: str
    query: str
    target: str
    prompt: str
    completions: tuple[ShownCompletion, ...]
    rewards: tuple[float, ...]
    in_words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownRollouts:
    """Groups of one run; ``problem``: why there are none, or no pictures."""

    run: str
    groups: tuple[ShownGroup, ...]
    problem: str = ""


def chosen_rollouts(records: Sequence[Mapping[str, Any]], number: int = NUM_GROUPS) -> list[Mapping[str, Any]]:
    """Records of groups that differ, evenly spread from the first to the last.

    >>> group = {"rewards": [0, 1], "best": {}, "worst": {}, "sample": ""}
    >>> [one["step"] for one in chosen_rollouts([{"step": i, **group} for i in range(9)], 3)]
    [0, 4, 8]
    """
    whole = [one for one in records if one.get("rewards") and {"best", "worst", "sample"} <= one.keys()]
    spread = [one for one in whole if max(one["rewards"]) > min(one["rewards"])]
    if len(spread) <= number:
        return spread
    return [spread[round(place * (len(spread) - 1) / (number - 1))] for place in range(number)]


def shown_rollouts(run: ReportedRun, pictures: PagePictures) -> ShownRollouts:
    """The chosen groups of a run, with pictures where its samples are at hand."""
    chosen = chosen_rollouts(run.rollouts)
    groups = tuple(_group(record, run.samples.get(record["sample"]), pictures) for record in chosen)
    problem = ""
    if not run.rollouts:
        problem = "no step of it has logged its answers yet"
    elif not groups:
        problem = "no group has differed so far: nothing to compare"
    elif any(record["sample"] not in run.samples for record in chosen):
        problem = "its data set is not at hand: answers are shown without pictures"
    return ShownRollouts(run=run.name, groups=groups, problem=problem)


def _group(record: Mapping[str, Any], sample: Sample | None, pictures: PagePictures) -> ShownGroup:
    rewards = [float(one) for one in record["rewards"]]
    low, high = min(rewards), max(rewards)
    view = _view(record)
    target: Target | None = None
    if sample is not None:
        target = sample.target if view is None else target_in(view, sample.task, sample.target, sample.target_size)
    return ShownGroup(
        step=record["step"] + 1,
        sample=record["sample"],
        query=sample.query if sample is not None else "",
        target=TASKS[sample.task].describe_target(target) if sample is not None else "",
        prompt=record.get("prompt", ""),
        completions=tuple(
            _completion(title, record[title], sample, target, view, pictures) for title in ("best", "worst")
        ),
        rewards=tuple(round((one - low) / (high - low), 3) for one in rewards),
        in_words=f"{len(rewards)} rewards from {low:.2f} to {high:.2f}",
    )


def _completion(
    title: str,
    record: Mapping[str, Any],
    sample: Sample | None,
    target: Target | None,
    view: View | None,
    pictures: PagePictures,
) -> ShownCompletion:
    drawn = None
    if sample is not None and target is not None:
        picture = pictures.add(sample.images[sample.target_image], sample.target_size, view)
        answer = _answer(record, sample.task)
        right = TASKS[sample.task].describe_target(target)
        words = f"The {title} answer, asked for {sample.query}. Right: {right}. Written: {record['text']}"
        drawn = panel(picture, sample.task, target, answer, in_words=words)
    advantage = record.get("advantage")
    return ShownCompletion(
        title=title,
        text=record["text"],
        reward=f"{record['reward']:.2f}",
        advantage=signed(advantage) if advantage is not None else "",
        parts=tuple(
            (name.replace("_", " "), f"{value:.2f}".replace("-", "−")) for name, value in record["parts"].items()
        ),
        panel=drawn,
    )


def _answer(record: Mapping[str, Any], task: str) -> Answer:
    """What the log kept of an answer's boxes."""
    boxes = TASKS[task].boxes
    if boxes is None:
        return Unreadable(reason="no box")
    found = [(Box(x1=x1, y1=y1, x2=x2, y2=y2), sure) for x1, y1, x2, y2, sure in record.get("boxes", ())]
    return boxes.to_answer([Detection(box=box, confidence=sure) for box, sure in found])


def _view(record: Mapping[str, Any]) -> View | None:
    if "view" not in record:
        return None
    return View(**{**record["view"], "crop": tuple(record["view"]["crop"])})
