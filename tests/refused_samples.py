"""Datasets with a sample that virft-tiny refuses, each with the message about it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from factories import detections, sample, save_image
from virft.data.store_writer import StoreWriter


class Refused(NamedTuple):
    """Size of the image in pixels, the question, and a part of the message."""

    size: tuple[int, int]
    question: str | None
    message: str


REFUSED = {
    "thin image": Refused(
        (4100, 20), None, "images/bad.png: 4100 x 20 pixels, an aspect ratio of 205; expected at most 200"
    ),
    "placeholder": Refused(
        (64, 48), "<|image_pad|> What is it?", "bad: the question holds 1 image placeholders of its own; expected none"
    ),
    "long question": Refused((64, 48), "fox " * 3000, "the 2048 that the model takes (max_position_embeddings)"),
}


def save_questions(folder: Path, refused: Refused, *, num_good: int = 3) -> Path:
    """Save a dataset of good samples whose last one, ``bad``, is refused."""
    with StoreWriter(folder) as writer:
        for number in range(num_good):
            image = save_image(folder.parent / f"{folder.name}_images" / f"{number}.png", seed=number)
            path = writer.add_image_file(image.name, image)
            writer.add(sample(id=str(number), image=path))
        image = save_image(folder.parent / f"{folder.name}_images" / "bad.png", refused.size)
        path = writer.add_image_file(image.name, image)
        writer.add(sample(detections(), id="bad", image=path, size=refused.size, question=refused.question))
        writer.finish(source={"kind": "coco"}, seed=0)
    return folder
