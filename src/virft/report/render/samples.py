"""Render a dataset as one HTML page: images with their targets, to find annotation errors before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from virft.config.wording import counted
from virft.data.images import load_image
from virft.geometry.masks import target_mask
from virft.report.render.images import TARGET_COLOUR
from virft.report.render.page import stream
from virft.report.render.page_images import PageImage, data_uri, shrink_image
from virft.report.render.panels import MOST_LETTERS, Panel, make_shape, outlines, place_labels
from virft.tasks import TASKS
from virft.tasks.box_answers import count_boxes
from virft.types import ClassNote, Sample

CARD_SIDE = 480
ABSENT = "absent"
"""Kind of a question about a class that is not in the image."""
NO_OBJECTS = "no objects"
"""Class of a question about several classes none of which is in the image."""
MOST_DOTS = 2000
MOST_LABELS = 5
"""Up to this number of boxes of a class on an image, each has a label; of more boxes the first one has."""
_MOST_BARS = 12


class Question(NamedTuple):
    """One question about an image. ``notes``: its class instructions. ``tone``: index of the colour of its boxes."""

    query: str
    question: str
    notes: tuple[ClassNote, ...]
    target: str
    sample_id: str
    tone: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCard:
    """An image with the targets of all its questions."""

    panel: Panel
    """The image with a box for each target, in the colour of its class."""
    caption: str
    """Caption of the enlarged image."""
    size: str
    """Width and height in pixels, and the name of the split."""
    questions: tuple[Question, ...]
    """The questions about the image."""
    labels: tuple[str, ...]
    """Classes, for the filter."""
    kinds: tuple[str, ...]
    """The split, tasks, and ``ABSENT``, for the filter."""


class Bar(NamedTuple):
    """A bar of a histogram. ``height``: fraction of the highest bar."""

    text: str
    num_images: int
    height: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSummary:
    """Counts of a whole dataset."""

    facts: tuple[str, ...]
    """Numbers of images, questions, boxes and absent classes."""
    classes: tuple[tuple[str, int, int, int], ...]
    """Class, questions, boxes and absent ones, the most frequent first."""
    kinds: tuple[str, ...]
    """Splits, tasks, and ``ABSENT``."""
    dots: tuple[tuple[float, float, int], ...]
    """Width and height of each box as fractions of its image, and the index of its colour."""
    num_boxes: int
    """Number of all boxes; ``dots`` are at most ``MOST_DOTS`` of them, evenly spaced."""
    boxes_per_image: tuple[Bar, ...]
    """Number of images by number of boxes."""

    def tone_of(self, label: str) -> int:
        """Return the index of the colour of a class."""
        return next((place for place, row in enumerate(self.classes, start=1) if row[0] == label), 1)


def summarize(samples: Iterable[Sample], *, splits: Iterable[str] = ()) -> DatasetSummary:
    """Count the images, questions and boxes of a dataset. ``splits``: names of its parts, if it has any."""
    questions: Counter[str] = Counter()
    boxes_of: Counter[str] = Counter()
    absent: Counter[str] = Counter()
    tasks: Counter[str] = Counter()
    by_image: Counter[str] = Counter()
    found: list[tuple[float, float, str]] = []
    for one in samples:
        boxes, labels = TASKS[one.task].target_boxes(one.target), _box_labels(one)
        questions.update(set(labels) or {_label(one)})
        boxes_of.update(labels)
        absent[_label(one)] += _is_absent(one)
        tasks[one.task] += 1
        by_image[one.images[one.target_image]] += len(boxes)
        width, height = one.target_size
        found += [
            ((box.x2 - box.x1) / width, (box.y2 - box.y1) / height, label)
            for box, label in zip(boxes, labels, strict=True)
        ]
    order = sorted(questions, key=lambda label: (-boxes_of[label], -questions[label], label))
    tones = {label: place for place, label in enumerate(order, start=1)}
    step = max(1, -(-len(found) // MOST_DOTS))
    total, num_absent = tasks.total(), absent.total()
    facts = [counted(len(by_image), "image"), counted(total, "question")]
    facts += [count_boxes(len(found))] if found else []
    facts += [f"{num_absent} about an absent class ({num_absent / total:.0%})"] if num_absent else []
    return DatasetSummary(
        facts=tuple(facts),
        classes=tuple((label, questions[label], boxes_of[label], absent[label]) for label in order),
        kinds=(*splits, *sorted(tasks), *([ABSENT] if num_absent else [])),
        dots=tuple((round(width, 3), round(height, 3), tones[label]) for width, height, label in found[::step]),
        num_boxes=len(found),
        boxes_per_image=_bars(by_image.values()) if found else (),
    )


def write_samples_page(
    samples: Iterable[tuple[str, Sequence[Sample]]], *, title: str, summary: DatasetSummary, intro: str
) -> Iterator[str]:
    """Yield the page in pieces: a card for each image, embedded at no more than ``CARD_SIDE`` pixels a side.

    ``samples``: of each image that is shown, the name of its split ("" if there is none) and the questions about it.
    ``summary``: of the whole dataset.
    """
    return stream(
        "samples.html.jinja",
        title=title,
        intro=intro,
        summary=summary,
        cards=(image_card(group, summary, split=split) for split, group in samples),
    )


def image_card(samples: Sequence[Sample], summary: DatasetSummary, *, split: str = "") -> ImageCard:
    """Return the card of an image with the targets of these samples; masks are shaded on the image.

    ``split``: name of the split that the image is in.
    """
    first = samples[0]
    size = first.target_size
    picked = load_image(first.images[first.target_image], sample_id=first.id)
    image = PageImage(id="", size=size, uri=data_uri(shade_masks(shrink_image(picked, CARD_SIDE), samples)))
    shapes, questions = [], []
    for one in samples:
        boxes, labels = TASKS[one.task].target_boxes(one.target), _box_labels(one)
        # The colour is that of the class.
        labelled = range(len(boxes)) if len(boxes) <= MOST_LABELS else {labels.index(name) for name in labels}
        shapes += [
            make_shape(
                "class",
                box,
                size,
                text=labels[place][:MOST_LETTERS] if place in labelled and labels[place] != one.task else "",
                tone=summary.tone_of(labels[place]),
            )
            for place, box in enumerate(boxes)
        ]
        target = TASKS[one.task].describe_target(one.target, "caption")
        tone = summary.tone_of(_label(one))
        questions.append(Question(one.query, one.question or "", one.notes, target, one.id, tone))
    alt_text = "; ".join(f"{one.query}: {one.target}" for one in questions)
    return ImageCard(
        panel=Panel(
            image=image,
            shapes=place_labels(shapes, size),
            outlines=outlines([polygon for one in samples for polygon in TASKS[one.task].target_outlines(one.target)]),
            alt_text=alt_text,
            is_alone=True,
        ),
        caption=alt_text,
        size=f"{size.width} x {size.height}" + f" · {split}" * bool(split),
        questions=tuple(questions),
        labels=tuple(dict.fromkeys(label for one in samples for label in _box_labels(one) or (_label(one),))),
        kinds=(
            *filter(None, [split]),
            *dict.fromkeys([*(one.task for one in samples), *(ABSENT for one in samples if _is_absent(one))]),
        ),
    )


def shade_masks(image: Image.Image, samples: Sequence[Sample]) -> Image.Image:
    """Return a copy of an image, shaded where the targets of samples have a mask."""
    canvas = image.convert("RGB")
    for one in samples:
        if (mask := target_mask(one)) is not None:
            canvas.paste(TARGET_COLOUR, mask=Image.fromarray(mask.astype(np.uint8) * 90).resize(canvas.size))
    return canvas


def _label(sample: Sample) -> str:
    """Return the class of a sample; of a task without classes, the name of the task.

    Where each box has its own class, it is ``NO_OBJECTS``: only a target without boxes needs it.
    """
    task = TASKS[sample.task]
    if task.class_of is not None:
        return task.class_of(sample)
    return sample.task if task.boxes is None or task.boxes.labels_of_target is None else NO_OBJECTS


def _box_labels(sample: Sample) -> tuple[str, ...]:
    """Return the class of each box of a target: that of the sample, unless each box has its own."""
    return tuple(label or _label(sample) for label in TASKS[sample.task].target_labels(sample.target))


def _is_absent(sample: Sample) -> bool:
    absent = TASKS[sample.task].absent
    return absent is not None and sample.target == absent


def _bars(numbers: Iterable[int]) -> tuple[Bar, ...]:
    """Return a histogram of numbers of boxes; numbers above the limit share the last bar.

    >>> [(bar.text, bar.num_images) for bar in _bars([1, 1, 3])]
    [('0', 0), ('1', 2), ('2', 0), ('3', 1)]
    """
    counts = Counter(min(number, _MOST_BARS) for number in numbers)
    highest = max(counts.values())
    return tuple(
        Bar(f"{number}+" if number == _MOST_BARS else str(number), counts[number], counts[number] / highest)
        for number in range(max(counts) + 1)
    )
