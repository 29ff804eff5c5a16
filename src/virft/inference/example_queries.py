"""Queries that the page of ``virft app`` offers as examples."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from virft.data.store import Store
from virft.inference.queries import ImageQuery
from virft.scenes.sets import SceneKind, evaluation_set

NUM_EXAMPLES = 6
_SCENES = (("detection", ("dog", "cat", "car", "apple")), ("grounding", ("dog", "banana")))


def scene_examples() -> tuple[ImageQuery, ...]:
    """Return queries about rendered scenes in the style that ``virft-tiny`` was trained on."""
    return tuple(
        ImageQuery(
            image=Image.fromarray(sample.scene.image), query=question.query, task=question.task, name=sample.name
        )
        for task, classes in _SCENES
        for sample in evaluation_set(0, task, classes, len(classes), SceneKind.SAME_SPRITES, absent_frac=0.0)
        for question in sample.questions[:1]
    )


def data_notes(folder: Path) -> dict[str, str]:
    """Return the class instructions in the prompts of a dataset, by class."""
    return {note.name: note.text for sample in Store(folder) for note in sample.notes}


def data_examples(folder: Path | None) -> tuple[ImageQuery, ...]:
    """Return the first queries of a dataset, one for each image; none without a dataset.

    Raises ``DataError`` if the folder is not a dataset, or has no images.
    """
    if folder is None:
        return ()
    store = Store(folder)
    store.check()
    found: dict[Path, ImageQuery] = {}
    for sample in store:
        path = Path(sample.images[sample.target_image])
        found.setdefault(path, ImageQuery(image=path, query=sample.query, task=sample.task))
        if len(found) == NUM_EXAMPLES:
            break
    return tuple(found.values())
