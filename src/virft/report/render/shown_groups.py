"""Select rollout groups from a run's log and show the best completion of each next to the worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from virft.data.augmentation import augment_polygon, augment_target
from virft.geometry.boxes import box_of
from virft.geometry.masks import Mask, mask_outlines, rle_to_mask, target_mask
from virft.metrics.labels import label_of
from virft.report.render.page_images import PageImages
from virft.report.render.panels import Panel, make_panel
from virft.report.render.reported import ReportedRun
from virft.report.render.score_tables import signed
from virft.tasks import TASKS
from virft.types import Answer, Augmentation, Box, Detection, Polygon, Sample, Target, Unreadable

NUM_GROUPS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownCompletion:
    """A completion of a rollout group."""

    title: str
    """``best`` or ``worst``."""
    text: str
    """Text of the completion."""
    first_turn: str
    """Text before ``text``, with a zoom call; empty if the completion has one turn."""
    reward: str
    """Total reward, formatted."""
    advantage: str
    """Group-relative advantage, formatted; empty in logs of older versions."""
    parts: tuple[tuple[str, str], ...]
    """Name and formatted value of each reward part."""
    panel: Panel | None
    """Image with target and predicted boxes; None without the dataset."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownGroup:
    """The rollout group with the widest reward range of a step."""

    step: int
    """Number of the step, from 1."""
    sample: str
    """Sample id."""
    query: str
    """Query of the sample; empty without the dataset."""
    target: str
    """Description of the ground truth; empty without the dataset."""
    prompt: str
    """Prompt text."""
    completions: tuple[ShownCompletion, ...]
    """The best and the worst completion."""
    rewards: tuple[float, ...]
    """Rewards of all completions, scaled to [0, 1] between the lowest and the highest."""
    summary: str
    """Number of rewards, lowest and highest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownRollouts:
    """Rollout groups of one run. ``problem``: the reason why groups or images are missing."""

    run: str
    groups: tuple[ShownGroup, ...]
    problem: str = ""


def chosen_rollouts(records: Sequence[Mapping[str, Any]], number: int = NUM_GROUPS) -> list[Mapping[str, Any]]:
    """Return records of groups with a non-zero reward range, at equal distances from the first to the last.

    >>> group = {"rewards": [0, 1], "best": {}, "worst": {}, "sample": ""}
    >>> [one["step"] for one in chosen_rollouts([{"step": i, **group} for i in range(9)], 3)]
    [0, 4, 8]
    """
    complete = [one for one in records if one.get("rewards") and {"best", "worst", "sample"} <= one.keys()]
    usable = [one for one in complete if max(one["rewards"]) > min(one["rewards"])]
    if len(usable) <= number:
        return usable
    return [usable[round(place * (len(usable) - 1) / (number - 1))] for place in range(number)]


def shown_rollouts(run: ReportedRun, images: PageImages) -> ShownRollouts:
    """Return the chosen groups of a run, with images if the dataset was found."""
    chosen = chosen_rollouts(run.rollouts)
    groups = tuple(_group(record, run.samples.get(record["sample"]), images) for record in chosen)
    problem = ""
    if not run.rollouts:
        problem = "no rollouts have been logged yet"
    elif not groups:
        problem = "all rewards within each group are equal so far: nothing to compare"
    elif any(record["sample"] not in run.samples for record in chosen):
        problem = "the dataset was not found: rollouts are shown without images"
    return ShownRollouts(run=run.name, groups=groups, problem=problem)


def _group(record: Mapping[str, Any], sample: Sample | None, images: PageImages) -> ShownGroup:
    rewards = [float(one) for one in record["rewards"]]
    low, high = min(rewards), max(rewards)
    view = _view(record)
    target: Target | None = None
    if sample is not None:
        target = sample.target if view is None else augment_target(view, sample.task, sample.target, sample.target_size)
    return ShownGroup(
        step=record["step"] + 1,
        sample=record["sample"],
        query=sample.query if sample is not None else "",
        target=TASKS[sample.task].describe_target(target) if sample is not None else "",
        prompt=record.get("prompt", ""),
        completions=tuple(
            _completion(title, record[title], sample, target, view, images) for title in ("best", "worst")
        ),
        rewards=tuple(round((one - low) / (high - low), 3) for one in rewards),
        summary=f"{len(rewards)} rewards from {low:.2f} to {high:.2f}",
    )


def _completion(
    title: str,
    record: Mapping[str, Any],
    sample: Sample | None,
    target: Target | None,
    view: Augmentation | None,
    images: PageImages,
) -> ShownCompletion:
    drawn = None
    zoom = record.get("zoom")
    if sample is not None and target is not None:
        image = images.add(sample.images[sample.target_image], sample.target_size, view)
        answer = _answer(record, sample.task)
        described = TASKS[sample.task].describe_target(target)
        alt_text = f"The {title} completion. Query: {sample.query}. Target: {described}. Text: {record['text']}"
        label = sample.query if TASKS[sample.task].class_of is not None else ""
        outlines, answer_masks = _masks(record, sample, view)
        drawn = make_panel(
            image,
            sample.task,
            target,
            answer,
            alt_text=alt_text,
            label=label,
            polygons=outlines,
            answer_masks=answer_masks,
            region=None if zoom is None else box_of(zoom["region"]),
        )
    advantage = record.get("advantage")
    return ShownCompletion(
        title=title,
        text=record["text"],
        first_turn="" if zoom is None else zoom["text"],
        reward=f"{record['reward']:.2f}",
        advantage=signed(advantage) if advantage is not None else "",
        parts=tuple((label_of(name), f"{value:.2f}".replace("-", "−")) for name, value in record["parts"].items()),
        panel=drawn,
    )


def _masks(
    record: Mapping[str, Any], sample: Sample, view: Augmentation | None
) -> tuple[Sequence[Polygon], Sequence[Sequence[Polygon]]]:
    """Return the outlines of the target's masks, and of each mask that was compared with them, as the model saw them.

    None if no mask was.
    """
    size = sample.target_size

    def outlines_of(mask: Mask) -> list[Polygon]:
        found = mask_outlines(mask)
        return found if view is None else [augment_polygon(view, one, size) for one in found]

    if "masks" not in record or (target := target_mask(sample)) is None:
        return (), ()
    return outlines_of(target), [outlines_of(rle_to_mask(rle, size)) for rle in record["masks"]]


def _answer(record: Mapping[str, Any], task: str) -> Answer:
    """Return the boxes of a completion as the log recorded them."""
    boxes = TASKS[task].boxes
    if boxes is None:
        return Unreadable(reason="no box")
    return boxes.to_answer(
        [
            Detection(box=Box(x1=x1, y1=y1, x2=x2, y2=y2), confidence=score, label=label[0] if label else None)
            for x1, y1, x2, y2, score, *label in record.get("boxes", ())
        ]
    )


def _view(record: Mapping[str, Any]) -> Augmentation | None:
    if "augmentation" not in record:
        return None
    found = record["augmentation"]
    return Augmentation(**{**found, "crop": tuple(found["crop"])})
