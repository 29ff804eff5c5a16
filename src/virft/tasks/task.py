"""The interface of a task: everything that differs between the problems that virft trains and evaluates.

A task is one file with one row, a ``Task``, in ``virft.tasks.TASKS``. The rest of the package writes
``TASKS[sample.task].x`` and does not depend on the type of a target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

from virft.geometry.boxes import BoxSpace
from virft.metrics.measurement import Measurement
from virft.rewards.options import Preset, RewardOptions
from virft.text.prompts import PromptTexts, add_notes, fill_template
from virft.text.records import check_keys
from virft.types import (
    Answer,
    Box,
    BoxPairs,
    Detection,
    ImageSize,
    JoinedPrediction,
    Polygon,
    Reading,
    RewardContext,
    Sample,
    Target,
    Unreadable,
)

if TYPE_CHECKING:
    # NumPy stays unloaded: the command line imports the tasks for their names.
    from virft.metrics.bootstrap import Statistic

FORMAT = "format"
"""A part of every task's reward: whether the completion has exactly the requested blocks."""
FORMAT_BOUNDS = (0.0, 1.0)
CORRECT = "correct"
"""Name of the oracle answer that is the target itself."""
HALF_RIGHT = "half right"
"""Name of the oracle answer of medium quality: no reward-hacking probe may earn more than it."""


class ReadText(Protocol):
    """Parser of a completion; ``original`` and ``resized`` are sizes of the target image in pixels."""

    def __call__(
        self, text: str, *, thinking: bool, space: BoxSpace, original: ImageSize, resized: ImageSize
    ) -> Reading: ...


class RenderTarget(Protocol):
    """Writer of the canonical completion for a target, with a think block if there is a text for it."""

    def __call__(
        self, target: Any, /, *, space: BoxSpace, original: ImageSize, resized: ImageSize, thinking_text: str | None
    ) -> str: ...


class ParsedTarget(NamedTuple):
    """A target, and the fields of its ``Sample`` that come from the same record, such as ``areas``."""

    target: Target
    fields: Mapping[str, Any] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetFormat:
    """JSON of a target: one object, in ``samples.jsonl``, in rows for ``virft build rows`` and in exported rows."""

    required: AbstractSet[str]
    """Keys that a target always has. They distinguish it from the targets of all other tasks."""
    optional: AbstractSet[str] = frozenset()
    """Other keys that rewards need."""
    for_metrics: AbstractSet[str] = frozenset()
    """Other keys that only metrics need; exported rows omit them when they are graded."""
    properties: Mapping[str, Any]
    """JSON Schema of the keys of a row for ``virft build rows``."""
    to_record: Callable[[Sample], dict[str, Any]]
    """Record of a sample's target. Keys have a fixed order, so equal samples give equal bytes."""
    from_record: Callable[[dict[str, Any], ImageSize, str], ParsedTarget]
    """Parser of a record with known keys, given the size of the target image in pixels and the place
    (``file:line``) that begins the message of every ``DataError``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassAnnotation:
    """The labels of one class on one image of a labelled dataset, in pixels of the upright image."""

    boxes: tuple[Box, ...]
    """Boxes of the objects."""
    areas: tuple[float, ...] = ()
    """Area in square pixels of each object; empty if one is unknown."""
    outlines: tuple[tuple[Polygon, ...], ...] = ()
    """Outlines of each object, for a task that uses them (``Task.uses_outlines``); empty if none is known."""
    crowd: tuple[Box, ...] = ()
    """Regions of a crowd of objects."""
    is_exhaustive: bool = True
    """Whether all objects are labelled."""
    is_doubtful: bool = False
    """Whether some objects have no usable box: they are labelled as a crowd, or their boxes are invalid."""


class ComputeParts(Protocol):
    """Reward function: the parts of one completion by name, without the part ``format``."""

    def __call__(
        self, reading: Reading, target: Any, context: RewardContext, options: RewardOptions, /
    ) -> dict[str, float]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskReward:
    """Reward of a task under one preset; the part ``format`` is added for every task.

    ``bounds``: part -> smallest and largest value, in the order in which parts are logged. ``uses_threshold``: the
    parts depend on ``iou_threshold``, which may change over a run. ``secondary``: parts that can rise while no answer
    comes closer to its target, such as the calibration of confidences; the others measure accuracy.
    """

    bounds: Mapping[str, tuple[float, float]]
    compute: ComputeParts
    uses_threshold: bool = False
    secondary: tuple[str, ...] = ()

    @property
    def accuracy_bounds(self) -> dict[str, tuple[float, float]]:
        """The parts that measure how close an answer is to its target, with their bounds."""
        return {name: bounds for name, bounds in self.bounds.items() if name not in self.secondary}


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A metric in reports."""

    name: str
    """Key in ``Measurement.values``."""
    description: str
    """Definition in a few words."""
    better: int = 1
    """1 if higher is better, -1 if lower is, 0 if neither."""
    in_table: bool = False
    """Listed among the first rows of a report's score table."""
    in_card: bool = False
    """Listed in the model card."""
    in_comparison: bool = False
    """Listed by ``virft compare``, and first among the validation charts."""


UNREADABLE_FRAC = Metric(
    name="unreadable_frac",
    description="fraction of completions that cannot be parsed",
    better=-1,
    in_table=True,
    in_card=True,
)
AT_MOST_1_FRAC = Metric(
    name="at_most_1_frac",
    description="fraction of completions whose box coordinates are all at most 1: fractions of the image, unreadable",
    better=-1,
)
"""A metric of the tasks whose answers have boxes."""
TRUNCATED_FRAC = Metric(name="truncated_frac", description="fraction of completions cut at the token limit", better=-1)
WELL_FORMED_FRAC = Metric(
    name="well_formed_frac", description="fraction of completions in exactly the requested format"
)
COMMON_METRICS = (UNREADABLE_FRAC, TRUNCATED_FRAC, WELL_FORMED_FRAC)
"""Metrics that every task has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptions:
    """Texts about a target, or about a readable answer.

    ``full``: everything, boxes in whole pixels, such as an image's alternative text. ``short``: a line next to an
    image that shows the boxes. ``caption``: a line in or under an image; may be empty where the boxes say it all.
    """

    full: Callable[[Any], str]
    short: Callable[[Any], str]
    caption: Callable[[Any], str]


Form = Literal["full", "short", "caption"]
"""Name of one of the texts in ``Descriptions``."""


class MarkedBox(NamedTuple):
    """A box of an answer as a page draws it: ``text`` next to it, ``is_hit`` if it matches a target box.

    ``is_ignored``: it lies in a crowd region, so it is neither a hit nor a false positive. ``label``: its class, if
    the answer names it.
    """

    box: Box
    confidence: float = 1.0
    text: str = ""
    is_hit: bool = False
    is_ignored: bool = False
    label: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskBoxes:
    """Boxes of targets and answers, for a task whose answers have some; all in pixels of the original image."""

    of_target: Callable[[Any], tuple[Box, ...]]
    """Boxes of a target."""
    of_answer: Callable[[Any, Any | None], tuple[MarkedBox, ...]]
    """Boxes of a readable answer, compared with its target; without one, none is a hit."""
    to_answer: Callable[[Sequence[Detection]], Answer]
    """The answer that has these boxes, as ``rollouts.jsonl`` stores them."""
    move: Callable[[Any, Callable[[Box], Box]], Any]
    """A target with each of its boxes moved, for augmentation."""
    outlines_of_target: Callable[[Any], Sequence[Sequence[Polygon]]] | None = None
    """Outlines of each object of a target, if they are part of it and decide what a hit is."""
    labels_of_target: Callable[[Any], tuple[str, ...]] | None = None
    """Class of each box of a target, if a target has boxes of several classes."""
    are_points: bool = False
    """Whether answers have points where targets have boxes: ``of_answer`` then gives boxes without extent, which are
    drawn as points and have no IoU."""


class PairBoxes(Protocol):
    """Matching that the reward of a completion is computed from; ``num`` is at least 1, as the target has an object."""

    def __call__(
        self, reading: Reading, target: Any, context: RewardContext, options: RewardOptions, /
    ) -> BoxPairs: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskMasks:
    """Masks of a task whose targets may have some (``Sample.has_mask``)."""

    pair_boxes: PairBoxes
    """The boxes of a completion whose masks are rewarded."""
    by_class: Callable[[Sequence[JoinedPrediction]], Sequence[JoinedPrediction]] | None = None
    """Predictions of ``Detections`` about one class each, for the average precision of masks. None: a prediction is one
    box, and masks are measured by gIoU and cIoU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probes:
    """Reward-hacking probes of a task: contents of the answer block that ignore the image.

    ``usual``: the best constant answer of the dataset. ``answers``: name -> content for a sample.
    """

    usual: str
    answers: Mapping[str, Callable[[Sample], str]]


def constant_probes(usual: str, texts: Mapping[str, str]) -> Probes:
    """Return probes that write the same text for every sample, by name.

    >>> constant_probes("0", {"always 0": "0"}).answers["always 0"](None)
    '0'
    """

    def write(text: str) -> Callable[[Sample], str]:
        return lambda sample: text

    return Probes(usual=usual, answers={name: write(text) for name, text in texts.items()})


BlindAnswer: TypeAlias = Callable[[Sample], Answer]
"""An answer to a sample that depends on its question and image size at most, not on its image or target."""
BlindAnswers: TypeAlias = Mapping[str, BlindAnswer]
"""Name of a blind baseline -> its answer."""


def fit_blind(
    name: str,
    samples: Sequence[Sample],
    fit: Callable[[Sequence[Sample]], BlindAnswer | None],
    *,
    by_query: bool = False,
) -> dict[str, BlindAnswer]:
    """Return the answer that ``fit`` makes of training samples, by its name; nothing if it makes None of them.

    ``by_query``: with samples of several queries, such as class names, also ``NAME of the class``: an answer for each
    query, fitted on its own samples. A query without one gets the answer of all samples.
    """
    if not samples or (overall := fit(samples)) is None:
        return {}
    found = {name: overall}
    by_name: dict[str, list[Sample]] = {}
    for sample in samples if by_query else ():
        by_name.setdefault(sample.query, []).append(sample)
    if len(by_name) > 1:
        fitted = {query: fit(own) or overall for query, own in by_name.items()}
        found[f"{name} of the class"] = lambda sample: fitted.get(sample.query, overall)(sample)
    return found


def no_blind_answers(samples: Sequence[Sample]) -> BlindAnswers:
    """Return no blind baselines."""
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutMetrics:
    """Metrics of the sampled answers of a training step, without targets, for ``metrics.jsonl``.

    ``compute``: from the readable answers of a step, at least one. ``descriptions``: name -> text in reports.
    """

    compute: Callable[[Sequence[Any]], Mapping[str, float]]
    descriptions: Mapping[str, str]


def no_counts(target: Any) -> Mapping[str, int]:
    """Return no counts."""
    return {}


def no_fault(answer: Any) -> str | None:
    """Return None: every readable answer may be a target."""
    return None


def _itself(answer: Any) -> Target:
    return answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One row of ``virft.tasks.TASKS``. Fields without a default are required of every task."""

    name: str
    """The key of the row, and the value of ``Sample.task``."""
    target_type: type
    """Type of targets and of readable answers, a frozen dataclass."""

    # --- question and answer as text ---
    query_hint: str
    """Meaning of ``Sample.query`` with an example, for the page of ``virft app``."""
    prompts: PromptTexts
    """Question texts of the built-in templates."""
    example: str
    """Content of an answer block, for messages and as a probe."""
    read: ReadText
    """Parser of a completion."""
    render: RenderTarget
    """Writer of the canonical completion for a target."""
    to_target: Callable[[Any], Target] = _itself
    """The target that a readable answer states, for ground truth that is written like an answer."""
    read_target: ReadText | None = None
    """Parser of a target that is given as text, such as that of ``virft explain``; None: it is written like an
    answer."""
    target_example: str | None = None
    """Example of such a text; None: ``example``."""
    fault_of: Callable[[Any], str | None] = no_fault
    """Reason why a readable answer may not be a target, for targets that are written like an answer."""

    # --- data ---
    target_format: TargetFormat
    """JSON of a target."""
    class_of: Callable[[Sample], str] | None = None
    """Class of a sample, for counts, tables by class and class groups; None if samples have no classes."""
    count_target: Callable[[Any], Mapping[str, int]] = no_counts
    """Counts of ``virft check`` besides the number of questions, such as boxes."""
    absent: Target | None = None
    """The target, and answer, of a class that is not in the image. None if the query is not a class."""
    from_annotation: Callable[[ClassAnnotation], ParsedTarget | None] | None = None
    """The target for one class on one image of a labelled dataset, None if the labels do not determine it: the
    question is then skipped. Without one of these two functions ``virft build coco`` and its kind cannot build the
    task."""
    from_annotations: Callable[[Mapping[str, ClassAnnotation]], ParsedTarget] | None = None
    """The target of a question about several classes on one image, given the labels of each class of the question."""
    uses_outlines: bool = False
    """Whether targets from annotations always hold the outlines of objects, not only on request."""
    allows_crop: bool = False
    """Whether a random resized crop that cuts no target box leaves question and target correct."""
    allows_flip: bool = False
    """Whether a horizontal flip does, if the query names no side."""

    # --- rewards ---
    rewards: Mapping[Preset, TaskReward]
    """Parts of the reward under each preset."""
    explain: Callable[[Any, Any, RewardContext, RewardOptions], list[str]]
    """Lines of ``virft explain`` about a readable answer and its target."""

    # --- metrics ---
    metrics: tuple[Metric, ...]
    """Metrics with a description, in the order of reports. The first one is the headline."""
    measure_pairs: Callable[[Sequence[tuple[Reading, Any]]], Measurement]
    """Metrics over many (reading, target); ``unreadable_frac`` and the count ``num_questions`` are among them."""
    score_answer: Callable[[Any, Any], float]
    """Score of one readable answer against its target, in [0, 1]."""
    score_description: str
    """Quantity that ``score_answer`` computes, for the legend of a report."""
    ratios: Callable[[Measurement], Mapping[str, tuple[float, float]]]
    """Numerator and denominator, over the questions about one image, of each metric with a confidence interval."""
    measure_dataset: Callable[[Sequence[JoinedPrediction], Mapping[str, Any]], Measurement] | None = None
    """Additional metrics of a whole dataset, given the ``source`` of its card, such as average precision."""
    statistics: Callable[[Sequence[JoinedPrediction], Sequence[str]], list[Statistic]] | None = None
    """Additional bootstrap statistics as functions of how often each of the images is drawn."""
    class_tables: tuple[str, ...] = ()
    """Tables by class whose mean over a class group is reported next to the headline."""
    rollout_metrics: RolloutMetrics | None = None
    """Metrics of sampled answers in training."""
    masks: TaskMasks | None = None
    """Masks of predicted boxes, in rewards and in ``virft score --masks``; None for a task without masks."""

    # --- reports ---
    describe_targets: Descriptions
    """Texts about a target."""
    describe_answers: Descriptions
    """Texts about a readable answer."""
    answer_lines: Callable[[Any, ImageSize], list[str]] | None = None
    """Lines of ``virft ask`` about a readable answer, given the image size; None: ``answer:`` and the full text."""
    answer_to_record: Callable[[Any], dict[str, Any]]
    """JSON of a readable answer, for ``virft ask -``."""
    boxes: TaskBoxes | None = None
    """Boxes to draw; None for a task without boxes."""

    # --- audit ---
    probes: Callable[[Sequence[Sample]], Probes]
    """Reward-hacking probes for a dataset."""
    blind_answers: Callable[[Sequence[Sample]], BlindAnswers] = no_blind_answers
    """Blind baselines, fitted on training samples; without samples, those that need no fitting."""
    oracle: Callable[[Sequence[Sample]], Iterator[Mapping[str, Target]]]
    """Answers of graded quality to each sample in order, ``CORRECT`` and ``HALF_RIGHT`` among their names."""

    def __post_init__(self) -> None:
        """``ValueError`` if the row cannot work, so that a mistake is found at import."""
        if not self.metrics:
            raise ValueError(f"task {self.name}: metrics is empty; expected the headline first")
        if self.allows_crop and self.boxes is None:
            raise ValueError(f"task {self.name}: allows_crop needs boxes, which a crop must not cut")

    # --- text ---

    def read_for(self, text: str, sample: Sample, *, thinking: bool, space: BoxSpace, resized: ImageSize) -> Reading:
        """Return the reading of a completion about this sample; ``resized`` is the image size in the prompt."""
        return self.read(text, thinking=thinking, space=space, original=sample.target_size, resized=resized)

    def render_for(
        self, sample: Sample, *, space: BoxSpace, resized: ImageSize, thinking_text: str | None = None
    ) -> str:
        """Return the canonical completion for this sample's target."""
        return self.render(
            sample.target, space=space, original=sample.target_size, resized=resized, thinking_text=thinking_text
        )

    def format_question(
        self,
        sample: Sample,
        *,
        template: str,
        thinking: bool,
        zoom: bool = False,
        space: BoxSpace = BoxSpace.RELATIVE_1000,
    ) -> str:
        """Return the sample's question after its class instructions.

        The question is its dataset's own text, else one made from the template.
        """
        question = sample.question
        if question is None:
            question = fill_template(
                self.prompts, sample.query, template=template, thinking=thinking, zoom=zoom, space=space
            )
        return add_notes(question, sample.notes)

    def read_target_text(self, text: str, *, space: BoxSpace, original: ImageSize, resized: ImageSize) -> Reading:
        """Return the reading of a target that is given as the text of an answer block with its tags."""
        read = self.read_target or self.read
        return read(text, thinking=False, space=space, original=original, resized=resized)

    def target_fault(self, answer: Answer) -> str | None:
        """Return the reason why an answer may not be a target; None if it may."""
        if isinstance(answer, Unreadable):
            return answer.reason
        return self.fault_of(answer)

    # --- data ---

    @property
    def is_from_boxes(self) -> bool:
        """True if ``virft build coco`` and its kind can build the task: its targets follow from boxes of classes."""
        return self.from_annotation is not None or self.from_annotations is not None

    @property
    def can_have_outlines(self) -> bool:
        """True if targets can hold the outlines of each object."""
        return "outlines" in self.target_format.properties

    @property
    def queries_classes(self) -> bool:
        """True if a query is the name of a class, or of several."""
        return self.absent is not None or self.from_annotations is not None

    def parse_target(self, record: Any, size: ImageSize, *, where: str) -> ParsedTarget:
        """Return the target of a JSON record on an image of ``size`` pixels; ``DataError`` if it is no target."""
        keys = self.target_format
        check_keys(record, keys.required, keys.optional | keys.for_metrics, where=where, part="target")
        return keys.from_record(record, size, where)

    def move_boxes(self, target: Target, move: Callable[[Box], Box]) -> Target:
        """Return the target with each of its boxes moved."""
        return target if self.boxes is None else self.boxes.move(target, move)

    # --- rewards and metrics ---

    def reward_bounds(self, preset: Preset) -> dict[str, tuple[float, float]]:
        """Return the parts of the reward under a preset with their bounds, in the order in which they are logged."""
        return {**self.rewards[preset].bounds, FORMAT: FORMAT_BOUNDS}

    @property
    def headline(self) -> str:
        """Name of the metric that summarises the quality of a model."""
        return self.metrics[0].name

    def metric(self, name: str) -> Metric:
        """Return the description of a metric; an empty one if the task does not describe it."""
        unknown = Metric(name=name, description="", better=0)
        return next((one for one in self.described_metrics if one.name == name), unknown)

    @property
    def described_metrics(self) -> tuple[Metric, ...]:
        """The task's own metrics, then those that every task has, in the order of reports."""
        return tuple(dict.fromkeys((*self.metrics, *COMMON_METRICS)))

    def measure(self, pairs: Sequence[tuple[Reading, Target]]) -> Measurement:
        """Return the task's metrics over many (reading, target), and the fraction of well-formed completions.

        A target of another task is a bug and raises ``TypeError``.
        """
        for _, target in pairs:
            self.check_target(target)
        measured = self.measure_pairs(pairs)
        num_well_formed = sum(reading.well_formed for reading, _ in pairs)
        return Measurement(
            values={**measured.values, "well_formed_frac": num_well_formed / len(pairs) if pairs else 0.0},
            counts={**measured.counts, "num_well_formed": num_well_formed},
            tables=measured.tables,
        )

    def score(self, reading: Reading, target: Target) -> float:
        """Return the score of one reading in [0, 1]; 0 if it is unreadable, even if the target is empty."""
        return self.score_answer(reading.answer, target) if isinstance(reading.answer, self.target_type) else 0.0

    def check_target(self, target: Target) -> None:
        """Raise ``TypeError`` for a target of another task, which is a bug."""
        if not isinstance(target, self.target_type):
            raise TypeError(f"a {type(target).__name__} is no target of {self.name}")

    # --- reports ---

    def describe_target(self, target: Target, form: Form = "full") -> str:
        """Return a text about a target."""
        text: str = getattr(self.describe_targets, form)(target)
        return text

    def describe_answer(self, answer: Answer, form: Form = "full") -> str:
        """Return a text about an answer."""
        if isinstance(answer, Unreadable):
            return f"unreadable: {answer.reason}"
        text: str = getattr(self.describe_answers, form)(answer)
        return text

    def list_answer(self, answer: Answer, size: ImageSize) -> list[str]:
        """Return the lines of ``virft ask`` about an answer to a question about an image of ``size`` pixels."""
        if isinstance(answer, Unreadable) or self.answer_lines is None:
            return [f"answer: {self.describe_answer(answer)}"]
        return self.answer_lines(answer, size)

    def record_answer(self, answer: Answer) -> dict[str, Any]:
        """Return the JSON of an answer."""
        return {"unreadable": answer.reason} if isinstance(answer, Unreadable) else self.answer_to_record(answer)

    def target_boxes(self, target: Target | None) -> tuple[Box, ...]:
        """Return the boxes of a target, if it has any."""
        return () if self.boxes is None or target is None else self.boxes.of_target(target)

    def target_outlines(self, target: Target | None) -> list[Polygon]:
        """Return the outlines that are part of a target, of all its objects."""
        if self.boxes is None or self.boxes.outlines_of_target is None or target is None:
            return []
        return [polygon for polygons in self.boxes.outlines_of_target(target) for polygon in polygons]

    def target_labels(self, target: Target | None) -> tuple[str, ...]:
        """Return the class of each box of a target with boxes of several classes; "" for each box of others."""
        if self.boxes is None or self.boxes.labels_of_target is None or target is None:
            return ("",) * len(self.target_boxes(target))
        return self.boxes.labels_of_target(target)

    @property
    def has_points(self) -> bool:
        """True if the boxes of answers are points, without extent."""
        return self.boxes is not None and self.boxes.are_points

    def answer_boxes(self, answer: Answer, target: Target | None = None) -> tuple[MarkedBox, ...]:
        """Return the boxes of an answer, if it has any, compared with its target."""
        if self.boxes is None or not isinstance(answer, self.target_type):
            return ()
        return self.boxes.of_answer(answer, target)


def mean_ratios(*names: str) -> Callable[[Measurement], dict[str, tuple[float, float]]]:
    """Return the function ``Task.ratios`` for metrics that are means over questions.

    >>> measured = Measurement(values={"accuracy": 0.5}, counts={"num_questions": 4})
    >>> mean_ratios("accuracy")(measured)
    {'accuracy': (2.0, 4)}
    """

    def ratios(measured: Measurement) -> dict[str, tuple[float, float]]:
        number = measured.counts["num_questions"]
        return {name: (measured.values[name] * number, number) for name in names}

    return ratios
