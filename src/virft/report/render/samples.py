"""Render a dataset as one HTML page: images with their targets, to find annotation errors before training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from PIL import Image, ImageDraw

from virft.data.images import load_image
from virft.geometry.masks import target_mask
from virft.report.render.images import TARGET_COLOUR
from virft.report.render.page import stream
from virft.report.render.page_images import data_uri
from virft.tasks import TASKS
from virft.types import Sample

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
    for box in TASKS[sample.task].target_boxes(sample.target):
        draw.rectangle([scale * value for value in box.xyxy], outline=TARGET_COLOUR, width=2)
    return canvas


def _figure(sample: Sample) -> Figure:
    drawn = draw_target(load_image(sample.images[sample.target_image], sample_id=sample.id), sample)
    size = sample.target_size
    target = TASKS[sample.task].describe_target(sample.target, "caption")
    caption = Markup("<b>{}</b>: {}").format(sample.query, target)
    lines = [caption, f"{sample.task}, {size.width} x {size.height}", sample.id]
    if sample.question is not None:
        lines.insert(1, Markup("<q>{}</q>").format(sample.question))
    return Figure(uri=data_uri(drawn), alt_text=f"{sample.query}: {target}", lines=lines)
