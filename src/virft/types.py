"""The central types of virft, without torch. Read this file first.

Each stage creates a new type; no stage fills in a field of an earlier one:
``Sample`` -> ``Prompt`` -> ``Completion`` -> ``Reading`` -> ``RewardReport`` -> ``RolloutGroup``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeAlias


class ImageSize(NamedTuple):
    """Width and height of an image in pixels, always in this order."""

    width: int
    """Number of pixel columns, after the EXIF orientation unless stated otherwise."""
    height: int
    """Number of pixel rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """Axis-aligned box in float pixels of the *original* image, ``x1 < x2`` and ``y1 < y2``.

    The origin is the top left corner of the image; pixel (i, j) covers [i, i + 1] x [j, j + 1].

    >>> Box(x1=0, y1=0, x2=4, y2=3).area
    12
    """

    x1: float
    """Left edge, pixels."""
    y1: float
    """Top edge, pixels."""
    x2: float
    """Right edge, pixels."""
    y2: float
    """Bottom edge, pixels."""

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """Corners as ``(x1, y1, x2, y2)``, pixels."""
        return (self.x1, self.y1, self.x2, self.y2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """One detected or annotated object."""

    box: Box
    """Bounding box in pixels of the original image."""
    confidence: float = 1.0
    """Confidence in [0, 1]; 1 for a target and for a prediction that states none."""
    label: str | None = None
    """Class name that the completion gives this box; None if it gives none. In a target: its class if the question is
    about several, None if the query is its class."""
    span: tuple[int, int] | None = None
    """Start and end (exclusive) of the characters of the completion that this box was read from; None for a target."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InvalidElement:
    """Element of a detection answer that cannot be read as a box. It counts as a false positive."""

    reason: str
    """Description of the fault, such as "2 values in a box; expected 4 numbers"."""
    piece: str
    """Text of the element, shortened for logs."""
    span: tuple[int, int] | None = None
    """Start and end (exclusive) of its characters in the completion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detections:
    """Detection answer or target. No items and no invalid elements means "no objects"."""

    items: tuple[Detection, ...] = ()
    """Boxes, of an answer in the order of the text."""
    invalid: tuple[InvalidElement, ...] = ()
    """Elements of an answer that are not boxes; empty for a target."""
    num_clipped: int = 0
    """Number of boxes that reached outside the image by at most 1 % of its extent and were clipped."""
    crowd: tuple[Box, ...] = ()
    """Regions of a target, COCO's crowds, in which a predicted box is neither right nor wrong; empty for an answer."""

    @property
    def num_predicted(self) -> int:
        """Number of predictions N in the reward formulas: valid boxes and invalid elements."""
        return len(self.items) + len(self.invalid)


Polygon = tuple[float, ...]
"""Corners of a closed outline, flat: (x1, y1, x2, y2, ..) in pixels, at least three corners."""


class Point(NamedTuple):
    """Point in float pixels of the *original* image; the origin is the top left corner."""

    x: float
    """Distance from the left edge, pixels."""
    y: float
    """Distance from the top edge, pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Points:
    """Pointing answer or target. No items and no invalid elements means "no objects"."""

    items: tuple[Point, ...] = ()
    """Points of an answer in the order of the text; of a target, one on each object, at its centre if possible."""
    invalid: tuple[InvalidElement, ...] = ()
    """Elements of an answer that are not points; empty for a target."""
    num_clipped: int = 0
    """Number of points that were outside the image by at most 1 % of its extent and were moved to its edge."""
    objects: tuple[Box, ...] = ()
    """Boxes of a target, in the order of ``items``: a point inside one points to the object. Empty for an answer."""
    outlines: tuple[tuple[Polygon, ...], ...] = ()
    """Outlines of each object of a target; a point must be inside one of them, too. Empty if only boxes are known; an
    object without any has its box alone."""
    crowd: tuple[Box, ...] = ()
    """Regions of a target, COCO's crowds, in which a point is neither right nor wrong; empty for an answer."""

    @property
    def num_predicted(self) -> int:
        """Number of predictions N in the reward formulas: valid points and invalid elements."""
        return len(self.items) + len(self.invalid)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledDetections:
    """Answer or target of multiclass detection: boxes with a label each.

    No items and no invalid elements means "no objects".
    """

    items: tuple[Detection, ...] = ()
    """Boxes with a label, of an answer in the order of the text. Labels of a target are among ``classes``; those of an
    answer may be any text."""
    invalid: tuple[InvalidElement, ...] = ()
    """Elements of an answer that are not boxes, or have no label; empty for a target."""
    num_clipped: int = 0
    """Number of boxes that were clipped to the image, as in ``Detections``."""
    classes: tuple[str, ...] = ()
    """Class names of the question, those of absent classes too; empty for an answer."""
    crowd: tuple[Detection, ...] = ()
    """Crowd regions of a target with their class, as in ``Detections``; empty for an answer."""
    incomplete: tuple[str, ...] = ()
    """Classes of a target with objects that are not annotated (LVIS), as ``Sample.exhaustive`` states it for a question
    about one class. For metrics only."""

    @property
    def num_predicted(self) -> int:
        """Number of predictions N in the reward formulas: valid boxes and invalid elements."""
        return len(self.items) + len(self.invalid)


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """Class name, as an answer or a target of classification."""

    text: str
    """The name."""
    aliases: tuple[str, ...] = ()
    """Additional names that a target accepts as correct; an answer has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShortAnswer:
    """Short text, as an answer or a target. An answer has one text and no other field."""

    answers: tuple[str, ...]
    """Texts that a target accepts; the items of a target of kind ``list``, the letters of one of kind ``choice``."""
    kind: str = "text"
    """Rule that compares an answer with a target, a key of ``virft.metrics.short_answers.SCORE_OF_KIND``."""
    options: tuple[str, ...] = ()
    """Texts of the options A, B, .. of a target of kind ``choice``."""
    relative_tolerance: float = 0.0
    """Largest error of a number as a fraction of the target."""
    absolute_tolerance: float = 0.0
    """Largest error of a number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreadable:
    """Result of parsing a completion that holds no valid answer. Not the same as "no objects"."""

    reason: str
    """Description of the fault, such as "no answer block"."""
    piece: str = ""
    """Text in which the fault was found, shortened for logs."""


Answer: TypeAlias = object
"""Parsed answer of a completion: a frozen value of the task's ``target_type``, or ``Unreadable``."""
Target: TypeAlias = object
"""Ground truth of a sample: a frozen value of its task's ``target_type``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Parsed completion: the input of rewards and metrics."""

    text: str
    """Text of the completion."""
    well_formed: bool
    """True if the text consists of exactly the requested blocks, each of them non-empty."""
    answer: Answer
    """Content of the answer block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """Parameters of one image augmentation, applied in field order. The image size does not change."""

    crop: tuple[float, float, float, float]
    """Region (x1, y1, x2, y2), in pixels of the upright original image, that is resized to the size of the image."""
    horizontal_flip: bool = False
    """Mirror the cropped image left to right."""
    saturation: float = 1.0
    """Factor of each colour channel's distance to grey; 1 changes nothing."""
    contrast: float = 1.0
    """Factor of each value's distance to mid-grey; 1 changes nothing."""
    brightness: float = 0.0
    """Value added to each channel, as a fraction of the range from black to white; 0 changes nothing."""


class ClassNote(NamedTuple):
    """Instructions about one class: the appearance of its objects, and what does not count."""

    name: str
    """Class name."""
    text: str
    """The instructions; may have several lines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One question about one image, stored as facts: the query and its ground truth, but no prompt text.

    Six fields are not part of the target: ``areas`` and ``exhaustive`` are for evaluation metrics only, ``polygons``,
    ``rle``, ``ignored`` and ``outlines`` for mask metrics and the reward part ``mask``.
    """

    id: str
    """Name of the sample, unique in its dataset."""
    task: str
    """Name of the task, a key of ``virft.tasks.TASKS``."""
    images: tuple[str, ...]
    """Paths of the image files."""
    image_sizes: tuple[ImageSize, ...]
    """Size of each image in pixels, after the EXIF orientation is applied."""
    query: str
    """Class name (detection, counting, pointing), class names (multiclass detection), domain such as "animal"
    (classification), an expression (grounding), or a question (short answers)."""
    target: Target
    """Ground truth; boxes are in pixels of the target image, and if ``augmentation`` is set, of the augmented image."""
    target_image: int = 0
    """Index of the image in ``images`` that the target refers to."""
    question: str | None = None
    """Question text of a dataset that has its own; None: the text is made from ``query`` and a prompt template."""
    notes: tuple[ClassNote, ...] = ()
    """Class instructions, which every prompt holds before the question."""
    augmentation: Augmentation | None = None
    """Augmentation of the target image; None: the image is used unchanged."""
    polygons: tuple[Polygon, ...] = ()
    """Outlines of a grounding target in pixels of the upright original image, not of the augmented one. The mask of the
    target is the union of ``polygons`` and ``rle``; it has no mask if both are missing."""
    rle: str | None = None
    """COCO's compressed run lengths of a grounding target's mask, on the upright original image."""
    ignored: tuple[Polygon, ...] = ()
    """Outlines of pixels that count neither as correct nor as wrong in mask metrics and in the reward part ``mask``."""
    outlines: tuple[tuple[Polygon, ...], ...] = ()
    """Outlines of each object of a target of detection, in the order of its boxes, in pixels of the upright original
    image, not of the augmented one. An object without outlines has an empty tuple; empty if no object has any."""
    areas: tuple[float, ...] = ()
    """Area in square pixels of each object of a target of detection, from its outline if the source has one; empty: the
    areas of the boxes are used. For metrics only."""
    exhaustive: bool = True
    """False if some objects of the class are not annotated, so that an unmatched prediction is not counted as a false
    positive (LVIS). For metrics only."""
    queried: bool = True
    """False if an evaluation protocol does not query this sample although it has objects: they count as missed."""
    origin: str = ""
    """Name of the dataset that the sample comes from, in a run on a mixture of several; "" in a run on one."""
    rationale: str | None = None
    """Reasoning before the answer, for supervised fine-tuning with thinking; None if the dataset has none."""
    region: Box | None = None
    """Region of the target image that the answer depends on, in pixels: the region of a supervised zoom call. None: a
    square around the boxes of the target, if it has any."""

    @property
    def crowd(self) -> tuple[Box, ...]:
        """Crowd regions of a target of detection; empty for other tasks."""
        if isinstance(self.target, LabelledDetections):
            return tuple(region.box for region in self.target.crowd)
        return self.target.crowd if isinstance(self.target, Detections) else ()

    @property
    def has_mask(self) -> bool:
        """True if each object of the target has a mask, by ``polygons`` or ``rle``, or by ``outlines``; False without
        objects."""
        return bool(self.polygons) or self.rle is not None or (bool(self.outlines) and all(self.outlines))

    @property
    def target_size(self) -> ImageSize:
        """Size of the image that the target refers to, in pixels."""
        return self.image_sizes[self.target_image]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRef:
    """Reference to an image of a prompt, with its sizes before and after the image processor."""

    path: str
    """Path of the image file."""
    original: ImageSize
    """Size of the upright image in pixels."""
    resized: ImageSize
    """Size in pixels after the model's image processor has resized it."""
    augmentation: Augmentation | None = None
    """Augmentation that is applied when the image is loaded; None: the image is used unchanged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """Input of a generator: token ids with expanded image placeholders; no tensors."""

    sample_id: str
    """Id of the sample that the prompt was made from."""
    text: str
    """Text of the prompt after the chat template, before image placeholders are expanded."""
    token_ids: tuple[int, ...]
    """Token ids, one placeholder token for each image token."""
    images: tuple[ImageRef, ...]
    """Images in the order of their placeholders."""
    opened: str = ""
    """Prefix of the completion that the chat template writes at the end of the prompt, such as an open think tag."""


class FinishReason(StrEnum):
    """Reason for the end of a completion: the model's end token, or the token limit."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, kw_only=True, slots=True)
class Zoom:
    """First turn of a completion that ended with a zoom call, and the tool turn that answered the call."""

    text: str
    """Text of the first turn, with the call."""
    num_tokens: int
    """Sampled tokens of the first turn, its end token included: the first ones of ``Completion.token_ids``."""
    region: Box
    """Region of the image that was enlarged, in whole pixels of the original image."""
    tool_ids: tuple[int, ...]
    """Token ids of the tool turn, with the placeholders of the enlarged region. They were not sampled."""
    image: ImageRef
    """The enlarged region: ``path`` is that of the image, ``original`` the size to which the region was scaled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One sampled completion of a prompt."""

    token_ids: tuple[int, ...]
    """Sampled token ids, of both turns with ``zoom``, each with the end token if the model produced it."""
    token_ends: tuple[int, ...]
    """For each token, the number of characters of ``text`` up to its end; 0 in a first turn that is not in it."""
    sampler_logprobs: tuple[float, ...]
    """Log-probability of each token under the sampler's distribution (temperature and token filters applied), nats."""
    text: str
    """Decoded text, including the prefix that the prompt has ``opened``; with ``zoom``, that of the second turn."""
    finish_reason: FinishReason
    """Reason for the end."""
    zoom: Zoom | None = None
    """First turn with a zoom call; None if the completion has one turn."""

    @property
    def truncated(self) -> bool:
        """True if the token limit ended the completion, not the model."""
        return self.finish_reason is FinishReason.LENGTH


class BoxPair(NamedTuple):
    """A predicted box and the object of the target that it is matched with."""

    box: Box
    """The predicted box, in pixels of the image that the model saw: the original, or the augmented one."""
    target: int
    """Index of the object among the boxes of the target; 0 for the only one of grounding."""
    iou: float
    """IoU of the two boxes."""


class BoxPairs(NamedTuple):
    """The matched boxes of a completion."""

    pairs: tuple[BoxPair, ...]
    """One pair for each predicted box that has a target."""
    num: int
    """max(N, M), at least 1, of N predicted and M target boxes: unmatched ones count 0 in a mean over the pairs."""


class SegmentedBox(NamedTuple):
    """Mask that a segmenter made of a predicted box, compared with the mask of the object that the box matches."""

    pair: BoxPair
    """The box and the object."""
    iou: float
    """Intersection over union of the two masks in pixels, in [0, 1]."""
    rle: str
    """COCO's compressed run lengths of the predicted mask, on the upright original image."""


class SegmentedAnswer(NamedTuple):
    """Masks of the predicted boxes of a completion."""

    boxes: tuple[SegmentedBox, ...]
    """Mask of each predicted box that has a target."""
    num: int
    """max(N, M), as in ``BoxPairs``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardContext:
    """Additional inputs of a reward function, next to the reading and the target."""

    step_frac: float = 0.0
    """Progress of the run: 0 at the first step, 1 at the last."""
    num_tokens: int | None = None
    """Number of tokens of the completion, with its end token; None if it is not known."""
    max_tokens: int | None = None
    """Limit of the number of tokens of a completion; None if it is not known."""
    query: str | None = None
    """Query of the sample, such as the class name of a detection question; None if it is not known."""
    segmented: SegmentedAnswer | None = None
    """Masks of the matched boxes; None without a segmenter, and for a target with an object that has no mask."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardReport:
    """Reward of one completion, with its parts."""

    total: float
    """Weighted sum of ``parts``: the reward that the advantages are computed from."""
    parts: Mapping[str, float]
    """Value of each reward function by its name, before its weight."""
    reading: Reading
    """Parsed completion that was rewarded."""
    masks: tuple[str, ...] = ()
    """COCO's compressed run lengths of each mask that the part ``mask`` compared with one of the target."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutGroup:
    """Group of G completions of one prompt with their rewards."""

    sample: Sample
    """Sample that the prompt was made from."""
    prompt: Prompt
    """Prompt that all completions of the group share."""
    completions: tuple[Completion, ...]
    """The G completions."""
    reports: tuple[RewardReport, ...]
    """Reward of each completion, in the same order."""
    policy_step: int
    """Training step whose weights sampled the completions."""

    @property
    def rewards(self) -> tuple[float, ...]:
        """Total reward of each completion."""
        return tuple(report.total for report in self.reports)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Completion of one sample in an evaluation: one line of ``predictions.jsonl``."""

    sample_id: str
    """Id of the sample."""
    text: str
    """Text of the completion."""
    finish_reason: FinishReason
    """Reason for the end of the completion."""
    token_logprobs: tuple[float, ...] = ()
    """Log-probability of each token in nats; empty if the file does not store them."""
    token_ends: tuple[int, ...] = ()
    """For each token, the number of characters of ``text`` up to its end; empty if the file does not store them."""
    yes_probs: tuple[float, ...] = ()
    """P(yes) to the question about each predicted box, in [0, 1]; empty if there is no box or it was not computed."""
    zoom_text: str = ""
    """Text of the first turn of a completion with a zoom call; "" if there was one turn."""
    zoom_region: Box | None = None
    """Region of the original image that was enlarged, in pixels; None if there was one turn."""


class JoinedPrediction(NamedTuple):
    """A sample with the prediction for it and its parsed answer."""

    sample: Sample
    """Sample that the prediction is for."""
    prediction: Prediction
    """Completion of the model."""
    reading: Reading
    """Parsed completion."""

    @property
    def image(self) -> str:
        """Path of the image that boxes refer to."""
        return self.sample.images[self.sample.target_image]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Metrics of one evaluation, with the data they were computed on."""

    task: str
    """Task of the samples."""
    protocol: str
    """Rules that decide which classes were queried on which images."""
    data_hash: str
    """Hash of the evaluated dataset."""
    num_samples: int
    """Number of samples of this task."""
    values: Mapping[str, float]
    """Metric values by name."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Counts that the metrics are based on, by name, such as the number of unreadable completions."""
    tables: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Additional values, such as one per class: table -> row -> value."""
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """95 % bootstrap confidence interval of a metric, resampling images: name -> (low, high)."""
