"""Find suspect labels: samples whose completions agree with one another and disagree with the label.

Torch-free. ``virft.recipes.suspects`` samples the completions.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from virft.errors import DataError
from virft.files import write_text
from virft.geometry.boxes import intersection_over_union, match_greedily
from virft.tasks import TASKS
from virft.text.labels import normalize_label
from virft.types import Box, ImageSize, Label, Reading, Sample, Target

SUSPECTS = "suspects.jsonl"
"""File of suspect labels, one JSON line for each; ``data.exclude`` reads it."""
_HIT_IOU = 0.5
"""IoU from which a box of the label and one of the model are the same object, as in F1."""


class Kind(StrEnum):
    """Type of a suspected label error."""

    BOX = "box"
    """The model has another box for a labelled object: it overlaps the labelled one with an IoU below 0.5."""
    CLASS = "class"
    """The model names another class."""
    MISSING = "missing"
    """The model finds an object that the label does not have."""
    EXTRA = "extra"
    """The label has an object that the model does not find."""
    ANSWER = "answer"
    """The model answers otherwise, in a task without boxes and classes."""


REASONS = {
    Kind.BOX: "the model has another box",
    Kind.CLASS: "the model names another class",
    Kind.MISSING: "the model finds an object without a label",
    Kind.EXTRA: "the model does not find a labelled object",
    Kind.ANSWER: "the model has another answer",
}
"""Kind of a suspect -> description for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """A sample whose label the model contradicts."""

    sample: Sample
    """The sample with its label."""
    score: float
    """Suspicion in [-1, 1]: the score that a correct label is expected to have minus ``label_score``."""
    kind: Kind
    """Type of the error, if the model is correct."""
    consensus: Target
    """The answer of the completion that agrees most with the others: the proposed label."""
    agreement: float
    """Mean ``Task.score`` of ``consensus`` against the other completions."""
    label_score: float
    """Mean ``Task.score`` of the completions against the label."""
    reliability: float
    """Mean ``label_score`` of the other samples of the same class, of the label and of ``consensus``."""
    query: str | None = None
    """The class that the model finds at a labelled box, for kind ``class`` of a task whose query is a class."""

    @property
    def reason(self) -> str:
        """Describe the suspected error in a few words."""
        return REASONS[self.kind] + (f": {self.query}" if self.query is not None else "")


def expected_score(agreement: float, reliabilities: Sequence[float]) -> float:
    """Return the score that a correct label is expected to have: the mean of the agreement and the reliabilities.

    >>> expected_score(1.0, [0.5, 0.75])
    0.75
    """
    return fmean([agreement, *reliabilities])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judged:
    """Agreement of the completions of one sample with one another and with the label."""

    sample: Sample
    consensus: Target
    agreement: float
    label_score: float

    @property
    def classes(self) -> tuple[str, str]:
        """Class of the label and class of the consensus; equal where the query is the class."""
        class_of = TASKS[self.sample.task].class_of
        if class_of is None:
            return self.sample.task, self.sample.task
        return class_of(self.sample), class_of(replace(self.sample, target=self.consensus))


def rank_suspects(samples: Sequence[Sample], readings: Mapping[str, Sequence[Reading]]) -> list[Suspect]:
    """Return a suspect for each sample, the most suspicious first; ``outlier_score`` says which are suspicious.

    ``readings``: sample id -> its parsed completions, at least two. A label is suspect if the completions contradict
    it (low ``label_score``) although they agree with one another and usually agree with the labels of the class.
    Samples whose completions hold no answer that could be a label are omitted. Equal scores keep the order of
    ``samples``.
    """
    judged = [one for sample in samples if (one := _judge(sample, readings[sample.id])) is not None]
    found = []
    for one, reliabilities in zip(judged, _reliabilities(judged), strict=True):
        found.append(
            Suspect(
                sample=one.sample,
                score=expected_score(one.agreement, reliabilities) - one.label_score,
                kind=kind_of(one.sample, one.consensus),
                consensus=one.consensus,
                agreement=one.agreement,
                label_score=one.label_score,
                reliability=fmean(reliabilities),
            )
        )
    return sorted(found, key=lambda one: -one.score)


def outlier_score(ranked: Sequence[Suspect]) -> float:
    """Return the score from which a label is suspect: two standard deviations of all scores, at least 0.1.

    The scores of a model that knows its training data are close to 0, those of a weak one vary more.
    """
    return max(0.1, 2 * pstdev(one.score for one in ranked)) if ranked else 0.1


def _judge(sample: Sample, readings: Sequence[Reading]) -> _Judged | None:
    task = TASKS[sample.task]
    possible = [place for place, one in enumerate(readings) if task.target_fault(one.answer) is None]
    if not possible:
        return None

    def support(place: int) -> float:
        others = [task.score(one, readings[place].answer) for i, one in enumerate(readings) if i != place]
        return fmean(others)

    supports = {place: support(place) for place in possible}
    best = max(possible, key=supports.__getitem__)
    return _Judged(
        sample=sample,
        consensus=readings[best].answer,
        agreement=supports[best],
        label_score=fmean(task.score(one, sample.target) for one in readings),
    )


_PRIOR = 2
"""Weight of the mean over all samples in the reliability of a class, in samples: a class may have few."""


def _reliabilities(judged: Sequence[_Judged]) -> list[tuple[float, float]]:
    """Return for each sample the mean ``label_score`` of the other samples with its label's class, and with that of
    its consensus, each shrunk towards the mean of all samples of the task."""
    of_task: dict[str, list[float]] = defaultdict(list)
    of_class: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    for one in judged:
        of_task[one.sample.task].append(one.label_score)
        for side, name in enumerate(one.classes):
            of_class[one.sample.task, side, name].append(one.label_score)

    def mean_of_others(one: _Judged, side: int) -> float:
        own = of_class[one.sample.task, side, one.classes[side]]
        prior = _PRIOR * fmean(of_task[one.sample.task])
        return (sum(own) - one.label_score + prior) / (len(own) - 1 + _PRIOR)

    return [(mean_of_others(one, 0), mean_of_others(one, 1)) for one in judged]


def kind_of(sample: Sample, consensus: Target) -> Kind:
    """Return the type of the error in a sample's label if ``consensus`` is correct."""
    task = TASKS[sample.task]
    if task.boxes is None:
        return Kind.CLASS if isinstance(sample.target, Label) else Kind.ANSWER
    labelled, found = task.target_boxes(sample.target), task.target_boxes(consensus)
    matched = _match(labelled, found)
    lost = [box for i, box in enumerate(labelled) if i not in {row for row, _ in matched}]
    new = [box for i, box in enumerate(found) if i not in {column for _, column in matched}]
    if lost and new:
        # in another part of the image it is another object, unless there can be only one
        overlap = any(intersection_over_union(one.xyxy, other.xyxy) > 0 for one in lost for other in new)
        return Kind.BOX if overlap or task.absent is None else Kind.EXTRA
    if new:
        return Kind.MISSING
    if lost:
        return Kind.EXTRA
    names, others = ([normalize_label(name) for name in task.target_labels(one)] for one in (sample.target, consensus))
    return Kind.BOX if all(names[row] == others[column] for row, column in matched) else Kind.CLASS


def _match(labelled: Sequence[Box], found: Sequence[Box]) -> list[tuple[int, int]]:
    ious = [[intersection_over_union(one.xyxy, other.xyxy) for other in found] for one in labelled]
    return match_greedily(ious, range(len(labelled)), _HIT_IOU)


def other_classes(sample: Sample, queries: Sequence[str]) -> list[Sample]:
    """Return the sample with each of the other queries, for a label whose boxes the model does not find."""
    return [replace(sample, query=query, id=f"{sample.id}\0{query}") for query in queries if query != sample.query]


def with_other_class(suspect: Suspect, answers: Mapping[str, Target]) -> Suspect:
    """Return the suspect as kind ``class`` if the model finds another class at a labelled box that it contradicts.

    ``answers``: other query -> answer of the model about it. The answer with the most boxes on the labelled ones
    counts; without a hit the suspect is returned unchanged.
    """
    task = TASKS[suspect.sample.task]
    labelled = task.target_boxes(suspect.sample.target)
    kept = {row for row, _ in _match(labelled, task.target_boxes(suspect.consensus))}
    lost = [box for row, box in enumerate(labelled) if row not in kept]
    hits = {query: len(_match(lost, task.target_boxes(answer))) for query, answer in answers.items()}
    best = max(hits, key=hits.__getitem__, default=None)
    return suspect if best is None or not hits[best] else replace(suspect, kind=Kind.CLASS, query=best)


# --- file ---


def write_suspects(suspects: Sequence[Suspect], path: Path) -> None:
    """Write one JSON line for each suspect, in the given order."""
    lines = [json.dumps(_to_record(one), ensure_ascii=False, allow_nan=False) + "\n" for one in suspects]
    write_text(path, "".join(lines))


def _to_record(suspect: Suspect) -> dict[str, Any]:
    sample, task = suspect.sample, TASKS[suspect.sample.task]
    corrected = replace(sample, target=suspect.consensus, areas=())
    return {
        "sample_id": sample.id,
        "score": round(suspect.score, 4),
        "kind": str(suspect.kind),
        "image": sample.images[sample.target_image],
        "image_size": list(sample.target_size),
        "task": sample.task,
        "query": sample.query,
        "label": task.target_format.to_record(replace(sample, areas=())),
        "proposed_label": task.target_format.to_record(corrected),
        "proposed_query": suspect.query,
        "agreement": round(suspect.agreement, 4),
        "label_score": round(suspect.label_score, 4),
        "reliability": round(suspect.reliability, 4),
    }


def read_suspects(path: Path) -> list[Suspect]:
    """Read the file of ``write_suspects``. Raises ``DataError`` if it does not exist or a line is not a suspect."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected a file of `virft check --suspects`") from error
    return [_from_line(line, f"{path}:{i}") for i, line in enumerate(lines, start=1) if line.strip()]


def _from_line(line: str, where: str) -> Suspect:
    try:
        record = json.loads(line)
        task = TASKS[record["task"]]
        size = ImageSize(*record["image_size"])
        sample = Sample(
            id=record["sample_id"],
            task=task.name,
            images=(record["image"],),
            image_sizes=(size,),
            query=record["query"],
            target=task.parse_target(record["label"], size, where=where).target,
        )
        return Suspect(
            sample=sample,
            score=float(record["score"]),
            kind=Kind(record["kind"]),
            consensus=task.parse_target(record["proposed_label"], size, where=where).target,
            agreement=float(record["agreement"]),
            label_score=float(record["label_score"]),
            reliability=float(record["reliability"]),
            query=record["proposed_query"],
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{where}: not a suspect label ({error!r:.100}); expected a line of `virft check --suspects`"
        ) from error
