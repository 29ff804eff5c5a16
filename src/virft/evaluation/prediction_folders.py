"""Find folders of predictions and the dataset that they were made on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from virft.data.store import CARD as DATA_CARD
from virft.data.store import Store
from virft.errors import DataError
from virft.evaluation.predictions import CARD, PARTS, PREDICTIONS, PredictionsCard

VALIDATION_FOLDER = re.compile(r"validation_(.+_)?\d{6}")
"""Name of a folder of validation predictions: its scores are points of a training curve, not a system."""
PART_NAMES = ("train", "test", "validation", "val", "valid")


def holds_predictions(folder: Path) -> bool:
    """Return True if the folder holds predictions, finished or not."""
    return (folder / CARD).is_file() and ((folder / PREDICTIONS).is_file() or any(folder.glob(PARTS.format("*"))))


def find_prediction_folders(run: Path) -> list[Path]:
    """Return every folder with predictions below ``run/eval``, at any depth, sorted; validations are excluded."""
    return [
        card.parent
        for card in sorted((run / "eval").rglob(CARD))
        if holds_predictions(card.parent)
        and not any(VALIDATION_FOLDER.fullmatch(part) for part in card.parent.relative_to(run).parts)
    ]


def data_name(card: PredictionsCard) -> str:
    """Return the name of the predictions' dataset: its folder, with the parent folder for a part such as ``test``.

    >>> from virft.geometry.boxes import BoxSpace
    >>> card = PredictionsCard(model="m", data="data/coins/test", data_hash="", num_samples=1, thinking=False,
    ...                        box_space=BoxSpace.RELATIVE_1000, settings={})
    >>> data_name(card)
    'coins/test'
    """
    parts = Path(card.data).parts
    return "/".join(parts[-2:] if parts[-1:] and parts[-1] in PART_NAMES else parts[-1:]) or card.data


def find_data(card: PredictionsCard, near: Path) -> Store:
    """Find the dataset of predictions, identified by its hash.

    The path in the card is tried from the current folder, then from ``near`` (a run folder or predictions folder) and
    its parents, so that runs and data can be moved together. ``DataError``: not found, or its content has changed.
    """
    changed = None
    for folder in places_of(Path(card.data), near):
        if (folder / DATA_CARD).is_file():
            store = Store(folder)
            if store.hash == card.data_hash:
                return store
            changed = changed or store
    if changed is not None:
        raise DataError(
            f"{changed.folder}: has changed since the predictions were made (hash {changed.hash[:12]}; expected "
            f"{card.data_hash[:12]})"
        )
    raise DataError(f"{card.data}: dataset not found (hash {card.data_hash[:12]})")


def places_of(data: Path, near: Path) -> Iterator[Path]:
    """Yield the folders in which a dataset may be: its path, from the current folder, then from ``near`` and above."""
    yield data
    for folder in (near, *near.absolute().parents):
        if not data.is_absolute():
            yield folder / data
        for number in (3, 2, 1):
            if len(data.parts) > number:
                yield folder.joinpath(*data.parts[-number:])
