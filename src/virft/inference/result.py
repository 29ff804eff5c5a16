"""The result of one query: for a person as lines and as an annotated image, for a program as a record and a table."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from virft.inference.annotated_image import require_writable, save_marked
from virft.inference.optional import import_optional
from virft.inference.queries import ImageQuery
from virft.report.render.images import draw_answer
from virft.tasks import TASKS
from virft.text.answers import split_reasoning
from virft.types import Answer, Completion, Detection, Detections, ImageSize, Reading, Unreadable

_SIDES = (448, 1280)
"""Pixels of the longer side of an annotated image: at least (boxes of a small image must be visible) and at most."""

_ANSWER = "answer: "


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Result:
    """A model's answer to a query. In a notebook it shows itself: the image with the predicted boxes.

    ``image`` is upright (EXIF orientation applied); boxes are in its pixels.
    """

    query: ImageQuery
    image: Image.Image
    completion: Completion
    reading: Reading

    @property
    def answer(self) -> Answer:
        """The parsed answer: of the task's type, such as ``Detections``, or ``Unreadable`` with the reason."""
        return self.reading.answer

    @property
    def detections(self) -> Detections:
        """The predicted boxes. Empty if there are none: no objects, a label, points, or an unreadable answer."""
        if isinstance(self.answer, Detections):
            return self.answer
        task = TASKS[self.query.task]
        marked = () if task.has_points else task.answer_boxes(self.answer)
        return Detections(
            items=tuple(Detection(box=one.box, confidence=one.confidence, label=one.label) for one in marked)
        )

    @property
    def text(self) -> str:
        """The completion as the model wrote it."""
        return self.completion.text

    def annotated(self, *, min_confidence: float = 0.0) -> Image.Image:
        """Draw the predicted boxes with query and confidence, or the text of an answer without boxes, over the image.

        ``min_confidence``: boxes of a lower confidence, from 0 to 1, are not drawn.
        """
        side = min(max(*self.image.size, _SIDES[0]), _SIDES[1])
        return draw_answer(
            self.image,
            None,
            self.answer,
            task=self.query.task,
            side=side,
            label=self.query.query,
            min_confidence=min_confidence,
        )

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the annotated image as a PNG file and return its path.

        Raises ``DataError`` if the file exists and is not an annotated image, unless ``overwrite``.
        """
        image = self.query.image
        require_writable(Path(path), image=image if isinstance(image, Path) else None, overwrite=overwrite)
        save_marked(Path(path), self.annotated())
        return Path(path)

    def to_supervision(self) -> Any:
        """Return the predicted boxes as ``supervision.Detections`` with confidences and ``class_name``.

        The class name is the query, or the label of a box if the query names several classes; ``class_id`` numbers the
        names in their order in the answer. Raises ``ConfigError`` if the package supervision is not installed.
        """
        supervision = import_optional("supervision", needed_by="to_supervision()")
        items = self.detections.items
        names = [self._class_name(item) for item in items]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        return supervision.Detections(
            xyxy=np.array([item.box.xyxy for item in items], dtype=np.float32).reshape(-1, 4),
            confidence=np.array([item.confidence for item in items], dtype=np.float32),
            class_id=np.array([numbers[name] for name in names], dtype=int),
            data={"class_name": np.array(names, dtype=str)},
        )

    def _class_name(self, item: Detection) -> str:
        """Return the label of a box if the task has boxes of several classes, else the query."""
        boxes = TASKS[self.query.task].boxes
        has_labels = boxes is not None and boxes.labels_of_target is not None
        return item.label if has_labels and item.label is not None else self.query.query

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` with one row for each predicted box; an answer without boxes is one row.

        Columns: ``image``, ``query``, ``answer`` (of an answer without boxes), ``x1``, ``y1``, ``x2``, ``y2`` (pixels
        of the original image), ``confidence`` and ``label`` (class name of the box). Raises ``ConfigError`` if pandas
        is not installed.
        """
        pandas = import_optional("pandas", needed_by="to_pandas()")
        columns = ["image", "query", "answer", "x1", "y1", "x2", "y2", "confidence", "label"]
        facts = (self.query.image_name, self.query.query)
        rows: list[tuple[object, ...]]
        rows = [
            (*facts, None, *item.box.xyxy, item.confidence, self._class_name(item)) for item in self.detections.items
        ]
        return pandas.DataFrame(rows or [(*facts, self._summary(), *[float("nan")] * 5, None)], columns=columns)

    def __repr__(self) -> str:
        query = self.query
        return f"<Result {query.task} {query.query!r} in {query.image_name}: {self._summary()}>"

    def __str__(self) -> str:
        return "\n".join(result_lines(self))

    def _summary(self) -> str:
        return next(line for line in reading_lines(self) if line.startswith(_ANSWER)).removeprefix(_ANSWER)

    def _repr_png_(self) -> bytes:
        return self._encoded("PNG")

    def _repr_html_(self) -> str:
        image = base64.b64encode(self._encoded("JPEG", quality=90, subsampling=0)).decode()
        caption = html.escape(f"{self.query.task}: {self.query.query}")
        return (
            f'<figure style="margin:0"><figcaption><b>{caption}</b><pre>{html.escape(str(self))}</pre></figcaption>'
            f'<img alt="{caption}" style="max-width:100%" src="data:image/jpeg;base64,{image}"></figure>'
        )

    def _encoded(self, file_format: str, **options: Any) -> bytes:
        data = io.BytesIO()
        self.annotated().save(data, format=file_format, **options)
        return data.getvalue()


def result_lines(result: Result) -> list[str]:
    """Format a result: the reasoning, the parsed answer and, if the answer is unreadable, the text."""
    text = result.completion.text
    reasoning, _ = split_reasoning(text)
    lines = [f"reasoning: {reasoning}"] if reasoning else []
    lines += reading_lines(result)
    return [*lines, f"text: {text}"] if isinstance(result.reading.answer, Unreadable) else lines


def reading_lines(result: Result) -> list[str]:
    """Format the parsed answer, invalid elements and truncation."""
    lines = []
    if (zoom := result.completion.zoom) is not None:
        x1, y1, x2, y2 = zoom.region.xyxy
        lines.append(f"zoom: {x1:g}, {y1:g}, {x2:g}, {y2:g} (pixels)")
    if result.completion.truncated:
        lines.append(f"truncated at {len(result.completion.token_ids)} tokens: see --max-completion-tokens")
    task = TASKS[result.query.task]
    return lines + task.list_answer(result.answer, ImageSize(*result.image.size))


def as_record(result: Result) -> dict[str, Any]:
    """Return plain values for JSON: the query, the parsed answer with boxes in pixels of the image, the text."""
    query, completion = result.query, result.completion
    return {
        "image": query.image_name,
        "question": query.query,
        "task": query.task,
        "image_size": list(result.image.size),
        "reading": TASKS[query.task].record_answer(result.answer),
        "reasoning": split_reasoning(completion.text)[0],
        "text": completion.text,
        **({} if completion.zoom is None else {"zoom_region": list(completion.zoom.region.xyxy)}),
        "well_formed": result.reading.well_formed,
        "truncated": completion.truncated,
    }
