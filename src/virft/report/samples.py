"""A data set as one HTML page: pictures with their targets, so that a person sees errors before training."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image, ImageDraw

from virft.data.images import load_image
from virft.masks import target_mask
from virft.report.page import data_uri, page_around
from virft.report.pictures import TARGET_COLOUR, boxes_of
from virft.types import Label, Sample

_STYLE = """
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .875rem; overflow-wrap: anywhere; } body { max-width: 80rem; }
"""
_SIDE = 320


def write_samples_page(samples: Iterable[Sample], *, title: str, intro: str) -> Iterator[str]:
    """The page in pieces, a figure for each sample; pictures are inside, at most 320 pixels a side."""
    head, tail = page_around(title, style=_STYLE)
    yield f"{head}<h1>{html.escape(title)}</h1><p>{html.escape(intro)}</p><main>\n"
    for sample in samples:
        yield _figure(sample)
    yield f"</main>{tail}"


def draw_target(image: Image.Image, sample: Sample, *, side: int = _SIDE) -> Image.Image:
    """The image with the target's boxes and mask, its longer side at most ``side``; a copy."""
    scale = min(1.0, side / max(image.size))
    picture = image.convert("RGB").resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    if (mask := target_mask(sample)) is not None:
        shade = Image.fromarray(mask.astype(np.uint8) * 90).resize(picture.size)
        picture.paste(TARGET_COLOUR, mask=shade)
    draw = ImageDraw.Draw(picture)
    for box in boxes_of(sample.target):
        draw.rectangle([scale * value for value in box.xyxy], outline=TARGET_COLOUR, width=2)
    return picture


def target_in_words(sample: Sample) -> str:
    """What is right, in a few words.

    >>> from virft.types import Detections, ImageSize, TaskName
    >>> target_in_words(Sample(id="", task=TaskName.DETECTION, images=("a",), image_sizes=(ImageSize(4, 4),),
    ...                        query="cat", target=Detections()))
    'not there'
    """
    target = sample.target
    if isinstance(target, Label):
        return " or ".join((target.text, *target.aliases))
    count = len(boxes_of(target))
    return "not there" if count == 0 else "1 box" if count == 1 else f"{count} boxes"


def _figure(sample: Sample) -> str:
    picture = draw_target(load_image(sample.images[sample.target_image], sample_id=sample.id), sample)
    size = sample.target_size
    asked = f"<b>{html.escape(sample.query)}</b>: {html.escape(target_in_words(sample))}"
    lines = [asked, f"{sample.task}, {size.width} x {size.height}", html.escape(sample.id)]
    if sample.question is not None:
        lines.insert(1, f"<q>{html.escape(sample.question)}</q>")
    text = html.escape(f"{sample.query}: {target_in_words(sample)}")
    uri = data_uri(picture, "JPEG")
    return f'<figure><img alt="{text}" src="{uri}"><figcaption>{"<br>".join(lines)}</figcaption></figure>\n'
