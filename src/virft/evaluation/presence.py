"""Query a model for the classes present in each image: the map that Visual-RFT evaluates with (``map:FILE``)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

from virft.data.store import IMAGES, Store
from virft.evaluation.predictions import SizedPrediction
from virft.files import write_text
from virft.tasks import TASKS
from virft.types import Detections, ImageSize, Sample

QUESTION = "Is there {query} in this image? Answer yes or no."


class PresenceQuestions(Sequence[Sample]):
    """A yes-or-no question for each pair of an image and a class of a dataset, created on access."""

    def __init__(self, store: Store, *, question: str = QUESTION) -> None:
        images: dict[str, ImageSize] = {}
        labels: set[str] = set()
        for sample in store:
            if TASKS[sample.task].absent is not None:
                images[sample.images[sample.target_image]] = sample.target_size
                labels.add(sample.query)
        self._images, self._labels = list(images.items()), sorted(labels)
        self._folder = store.folder / IMAGES
        self._question = question

    def __len__(self) -> int:
        return len(self._images) * len(self._labels)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        image, label = divmod(range(len(self))[index], len(self._labels))
        path, size = self._images[image]
        query = self._labels[label]
        return Sample(
            id=f"{self.name_of(path)}:{query}",
            task="detection",
            images=(path,),
            image_sizes=(size,),
            query=query,
            target=Detections(),
            question=self._question.replace("{query}", query),
        )

    def name_of(self, path: str) -> str:
        """Return an image's path relative to the dataset's image folder."""
        return Path(path).relative_to(self._folder).as_posix()


def says_yes(text: str) -> bool:
    """Return True if the first word of a completion, outside of a think block and tags, is "yes".

    >>> says_yes("<think>No hat, but</think><answer>Yes, one.</answer>"), says_yes("There is none"), says_yes("yes")
    (True, False, True)
    """
    words = text.rpartition("</think>")[2].replace("<answer>", " ").split()
    return bool(words) and words[0].strip(".,!'\"*").casefold().startswith("yes")


def query_map(questions: PresenceQuestions, predictions: Iterable[tuple[str, SizedPrediction]]) -> dict[str, list[str]]:
    """Return, for every image, the classes that the model reports as present."""
    yes = {name for name, one in predictions if says_yes(one.prediction.text)}
    found: dict[str, list[str]] = {}
    for sample in questions:
        named = found.setdefault(questions.name_of(sample.images[0]), [])
        if sample.id in yes:
            named.append(sample.query)
    return found


def write_query_map(path: Path, found: dict[str, list[str]]) -> None:
    """Write the map in the format of ``virft build coco --protocol map:FILE``."""
    write_text(path, json.dumps(found, indent=1) + "\n")
