"""Render a dataset as one HTML page: images with their targets, to find annotation errors before training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from PIL import Image, ImageDraw

from virft.data.images import load_image
from virft.geometry.masks import target_mask
from virft.report.render.images import TARGET_COLOUR, boxes_of
from virft.report.render.page import stream
from virft.report.render.page_images import data_uri
from virft.types import Label, Sample

_SIDE = 320


class Figure(NamedTuple):
    """An embedded image with its caption. ``alt_text``: for readers who cannot see the image."""

    uri: str
    alt_text: str
    lines: list[str]


def write_samples_page(samples: Iterable[Sample], *, title: str, intro: str) -> Iterator[str]:
    """Yield the page in pieces: a figure for each sample, images embedded at no more than 320 pixels a side."""
    return stream("samples.html.jinja", title=title, intro=intro, figures=(_figure(sample) for sample in samples))


def draw_target(image: Image.Image, sample: Sample, *, side: int = _SIDE) -> Image.Image:
    """Draw the target's boxes and mask on a copy whose longer side is at most ``side`` pixels."""
    scale = min(1.0, side / max(image.size))
    canvas = image.convert("RGB").resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    if (mask := target_mask(sample)) is not None:
        shade = Image.fromarray(mask.astype(np.uint8) * 90).resize(canvas.size)
        canvas.paste(TARGET_COLOUR, mask=shade)
    draw = ImageDraw.Draw(canvas)
    for box in boxes_of(sample.target):
        draw.rectangle([scale * value for value in box.xyxy], outline=TARGET_COLOUR, width=2)
    return canvas


def describe_sample_target(sample: Sample) -> str:
    """Describe the ground truth of a sample in a few words.

    >>> from virft.types import Detections, ImageSize, TaskName
    >>> describe_sample_target(Sample(id="", task=TaskName.DETECTION, images=("a",), image_sizes=(ImageSize(4, 4),),
    ...                               query="cat", target=Detections()))
    'absent'
    """
    target = sample.target
    if isinstance(target, Label):
        return " or ".join((target.text, *target.aliases))
    count = len(boxes_of(target))
    return "absent" if count == 0 else "1 box" if count == 1 else f"{count} boxes"


def _figure(sample: Sample) -> Figure:
    drawn = draw_target(load_image(sample.images[sample.target_image], sample_id=sample.id), sample)
    size = sample.target_size
    caption = Markup("<b>{}</b>: {}").format(sample.query, describe_sample_target(sample))
    lines = [caption, f"{sample.task}, {size.width} x {size.height}", sample.id]
    if sample.question is not None:
        lines.insert(1, Markup("<q>{}</q>").format(sample.question))
    return Figure(uri=data_uri(drawn), alt_text=f"{sample.query}: {describe_sample_target(sample)}", lines=lines)
