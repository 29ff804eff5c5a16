"""The nouns of virft, free of torch. Read this file first.

Every stage makes a new type instead of filling in a field of an old one:
``Sample`` -> ``Prompt`` -> ``Completion`` -> ``Reading`` -> ``RewardReport`` -> ``RolloutGroup``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeAlias


class ImageSize(NamedTuple):
    """Width and height in pixels, in this order everywhere."""

    width: int
    height: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """An axis-aligned box in float pixels of the *original* image, ``x1 < x2`` and ``y1 < y2``.

    >>> Box(x1=0, y1=0, x2=4, y2=3).area
    12
    """

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def area(self) -> float:
        """Square pixels."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """``(x1, y1, x2, y2)``."""
        return (self.x1, self.y1, self.x2, self.y2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """One box with a confidence in [0, 1]; ``span`` are the characters of the completion it came from."""

    box: Box
    confidence: float = 1.0
    label: str | None = None
    span: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class InvalidElement:
    """An element of a detection answer that is no usable box. It counts as a false positive."""

    reason: str
    piece: str
    span: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Detections:
    """A detection answer or target. No items and no invalid elements means "no objects".

    ``num_clipped`` counts boxes that reached outside the image by at most 1 % and were clipped.
    """

    items: tuple[Detection, ...] = ()
    invalid: tuple[InvalidElement, ...] = ()
    num_clipped: int = 0

    @property
    def num_predicted(self) -> int:
        """N of the reward formulas: usable boxes and invalid elements."""
        return len(self.items) + len(self.invalid)


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """A class name. ``aliases`` are further names that a target accepts; an answer has none."""

    text: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreadable:
    """The text holds no answer that can be read. Not the same as "no objects"."""

    reason: str
    piece: str = ""


Answer: TypeAlias = object
"""The parsed content of a completion: a frozen value of the task's ``target_type``, or ``Unreadable``."""

Target: TypeAlias = object
"""The ground truth of a sample: a frozen value of its task's ``target_type``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A completion as the rewards and metrics see it.

    ``well_formed``: the whole text is exactly the blocks that were asked for, each one non-empty.
    """

    text: str
    well_formed: bool
    answer: Answer


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A changed look at a picture: ``crop`` (x1, y1, x2, y2 in pixels) enlarged to the picture's size, then mirrored,

    then in other tones: ``saturation`` and ``contrast`` are factors, ``brightness`` is added, as a share of the range.
    """

    crop: tuple[float, float, float, float]
    mirrored: bool = False
    saturation: float = 1.0
    contrast: float = 1.0
    brightness: float = 0.0


Polygon = tuple[float, ...]
"""Corners of a closed outline, flat: (x1, y1, x2, y2, ..), at least three of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One question about one image, as facts: what is asked for, never how it is asked.

    ``images`` are file paths, ``image_sizes`` their sizes in pixels after EXIF orientation.
    ``query`` is a class name (detection), the domain such as "animal" (classification), or a
    referring expression (grounding). ``question`` keeps the text of a data set that brings its own.
    ``view``: the target image is seen like this, and the target's boxes are in pixels of what is seen.
    ``polygons`` of a grounding target, each (x1, y1, x2, y2, ..) in pixels of the upright original image, view or
    not, and ``rle``, COCO's compressed run lengths of the same image: together they are its mask; ``ignored``: polygons
    where a mask is neither right nor wrong. ``areas`` of a detection target's objects in pixels (of their outlines,
    where the source knows them; empty: of the boxes), and ``crowd``: boxes of regions with more of them, where an
    answer is neither right nor wrong. ``exhaustive``: false where some objects are not marked, so a further box may be
    right. These six are for scores, no reward sees them. ``asked``: false where a protocol leaves the question out,
    though there is something to find: it is then missed. ``origin``: the set it comes from, in a run on several.
    ``rationale``: what one may think before the answer; supervised training with thinking needs it.
    """

    id: str
    task: str
    images: tuple[str, ...]
    image_sizes: tuple[ImageSize, ...]
    query: str
    target: Target
    target_image: int = 0
    question: str | None = None
    view: View | None = None
    polygons: tuple[Polygon, ...] = ()
    rle: str | None = None
    ignored: tuple[Polygon, ...] = ()
    areas: tuple[float, ...] = ()
    crowd: tuple[Box, ...] = ()
    exhaustive: bool = True
    asked: bool = True
    origin: str = ""
    rationale: str | None = None

    @property
    def target_size(self) -> ImageSize:
        """Size of the image that boxes refer to."""
        return self.image_sizes[self.target_image]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRef:
    """An image as a model will see it: where it is, how it is seen, its own size, and the size after resizing."""

    path: str
    original: ImageSize
    resized: ImageSize
    view: View | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What a generator is given: token ids with image placeholders expanded; no tensors.

    ``opened``: what of the answer the prompt has written already, at its end, such as an open think tag.
    """

    sample_id: str
    text: str
    token_ids: tuple[int, ...]
    images: tuple[ImageRef, ...]
    opened: str = ""


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One sampled answer. ``token_ids`` include the end token if there is one.

    ``text`` is the whole answer: what the prompt has ``opened``, and what the tokens say. ``token_ends[i]`` is the
    number of its characters up to the end of token i;
    ``sampler_logprobs`` are nats per token under the sampler's own distribution.
    """

    token_ids: tuple[int, ...]
    token_ends: tuple[int, ...]
    sampler_logprobs: tuple[float, ...]
    text: str
    finish_reason: FinishReason

    @property
    def truncated(self) -> bool:
        """Cut by the token limit, not ended by the model."""
        return self.finish_reason is FinishReason.LENGTH


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardContext:
    """What a reward may know beside the reading and the target.

    ``step_frac``: 0 at the first step, 1 at the last. ``num_tokens``: of the completion, its end token too, of
    ``max_tokens`` that it may have; None where nobody counts.
    """

    step_frac: float = 0.0
    num_tokens: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardReport:
    """``total`` is the weighted sum of ``parts``."""

    total: float
    parts: Mapping[str, float]
    reading: Reading


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutGroup:
    """G completions of one prompt, rewarded. ``policy_step``: the step whose weights sampled them."""

    sample: Sample
    prompt: Prompt
    completions: tuple[Completion, ...]
    reports: tuple[RewardReport, ...]
    policy_step: int

    @property
    def rewards(self) -> tuple[float, ...]:
        """Total reward of each completion."""
        return tuple(report.total for report in self.reports)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One line of ``predictions.jsonl``: what the model wrote about one sample."""

    sample_id: str
    text: str
    finish_reason: FinishReason
    token_logprobs: tuple[float, ...] = ()
    token_ends: tuple[int, ...] = ()


class JoinedPrediction(NamedTuple):
    """A sample, the text that a model wrote about it, and the reading of that text."""

    sample: Sample
    prediction: Prediction
    reading: Reading

    @property
    def image(self) -> str:
        """Path of the image that boxes refer to."""
        return self.sample.images[self.sample.target_image]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Numbers of one evaluation with what they rest on: ``values`` by name, ``counts`` by name.

    ``tables``: further numbers, such as one for each class: table -> row -> number. ``intervals``: 95 % of a value's
    resamples over images lie between these.
    """

    task: str
    protocol: str
    data_hash: str
    num_samples: int
    values: Mapping[str, float]
    counts: Mapping[str, int] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
