"""Warnings about a dataset that a run was trained or validated on: scores on it are too high."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from virft.config.schema import Config
from virft.config.toml_file import load_config
from virft.data.overlap import shared_images
from virft.data.store import CARD, Store
from virft.errors import VirftError
from virft.evaluation.prediction_folders import places_of

_RUN_CONFIG = "config.toml"


def leakage_warnings(run: Path, test: Store) -> Iterator[str]:
    """Yield a warning if a dataset, or some of its images, are training data of a run, and one for validation data.

    Images are compared by content. Datasets that are not found, also next to the run, are skipped; so is a run whose
    config cannot be read.
    """
    try:
        config = load_config(run / _RUN_CONFIG).config
        used = {
            use: list(_stores(folders, run))
            for use, folders in (("training", _training_folders(config)), ("validation", _validation_folders(config)))
        }
    except VirftError:
        return
    effect = {
        "training": "its scores measure memorization, not generalization",
        "validation": "its scores are too high, because the best model was chosen on it",
    }
    for use, stores in used.items():
        if any(store.hash == test.hash for store in stores):
            yield f"{test.folder} is the {use} set of the run, not a test set: {effect[use]}"
            continue
        shared, number = shared_images(test, stores)
        if shared:
            yield (
                f"{len(shared)} of {number} images of {test.folder} are {use} images of the run, such as "
                f"{shared[0].name}: scores on them are too high"
            )


def _training_folders(config: Config) -> Iterator[str]:
    if config.data.train is not None:
        yield config.data.train
    else:
        yield from (part.data for part in config.mixture.values())


def _validation_folders(config: Config) -> Iterator[str]:
    folders = [config.data.validation, *(part.validation for part in config.mixture.values())]
    yield from (folder for folder in folders if folder is not None)


def _stores(folders: Iterable[str], near: Path) -> Iterator[Store]:
    for folder in folders:
        place = next((one for one in places_of(Path(folder), near) if (one / CARD).is_file()), None)
        if place is not None:
            yield Store(place)
