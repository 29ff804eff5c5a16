"""Which folders hold predictions, whose they are, and where the data set is that was asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from virft.data.store import CARD as DATA_CARD
from virft.data.store import Store
from virft.errors import DataError
from virft.evaluation.predictions import CARD, PARTS, PREDICTIONS, PredictionsCard

VALIDATION = re.compile(r"validation_(.+_)?\d{6}")
"""A folder of answers during a run. Its scores are points of a curve, not a system."""
PART_NAMES = ("train", "test", "validation", "val", "valid")


def holds_predictions(folder: Path) -> bool:
    """Whether answers lie there, finished or not."""
    return (folder / CARD).is_file() and ((folder / PREDICTIONS).is_file() or any(folder.glob(PARTS.format("*"))))


def find_prediction_folders(run: Path) -> list[Path]:
    """Every folder with predictions below ``run/eval``, at any depth, sorted; validations of the run are left out."""
    return [
        card.parent
        for card in sorted((run / "eval").rglob(CARD))
        if holds_predictions(card.parent)
        and not any(VALIDATION.fullmatch(part) for part in card.parent.relative_to(run).parts)
    ]


def data_name(card: PredictionsCard) -> str:
    """What to call the data set that was asked: its folder, with the folder above where it is but a part.

    >>> from virft.geometry.boxes import BoxSpace
    >>> card = PredictionsCard(model="m", data="data/coins/test", data_hash="", num_samples=1, thinking=False,
    ...                        box_space=BoxSpace.RELATIVE_1000, settings={})
    >>> data_name(card)
    'coins/test'
    """
    parts = Path(card.data).parts
    return "/".join(parts[-2:] if parts[-1:] and parts[-1] in PART_NAMES else parts[-1:]) or card.data


def find_data(card: PredictionsCard, near: Path) -> Store:
    """The data set that was asked, by its content.

    Looked for where the card says, from here and from ``near`` (a run folder, or that of the predictions) and the
    folders above it, so that runs and data can be moved together. ``DataError`` if it is nowhere.
    """
    changed = None
    for folder in _places(Path(card.data), near):
        if (folder / DATA_CARD).is_file():
            store = Store(folder)
            if store.hash == card.data_hash:
                return store
            changed = changed or store
    if changed is not None:
        raise DataError(
            f"{changed.folder}: has changed since it was asked (hash {changed.hash[:12]}; the answers are to "
            f"{card.data_hash[:12]})"
        )
    raise DataError(f"{card.data}: the data set is not there (hash {card.data_hash[:12]})")


def _places(data: Path, near: Path) -> Iterator[Path]:
    yield data
    for folder in (near, *near.absolute().parents):
        if not data.is_absolute():
            yield folder / data
        for number in (3, 2, 1):
            if len(data.parts) > number:
                yield folder.joinpath(*data.parts[-number:])
