"""Find the training samples that blind baselines are fitted on: never those of the test set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virft.config.schema import Config
from virft.config.toml_file import load_config
from virft.data.store import CARD, SAMPLES, Store
from virft.errors import DataError, VirftError
from virft.evaluation.prediction_folders import places_of
from virft.types import Sample

_RUN_CONFIG = "config.toml"
_BUILD_FACTS = ("kind", "file", "sha256", "test_frac", "validation_frac")
"""Facts about the source in a dataset's card that the parts of one build share."""


MAX_SAMPLES = 20_000
"""Number of training samples of a dataset that baselines are fitted on: more change no box by a thousandth."""
TRAINED_ON = "the model was trained on this very dataset"
"""Reason why there is no training data if the test set is the training set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlindData:
    """Training samples for the blind baselines."""

    stores: tuple[Store, ...]
    """The training datasets; none if they were not found."""
    note: str = ""
    """Reason why there are none; "" if there are some."""

    @property
    def samples(self) -> list[Sample]:
        """Training samples: at most ``MAX_SAMPLES`` of each dataset, evenly spaced."""
        return [sample for store in self.stores for sample in _evenly_spaced(store)]

    def record(self) -> dict[str, Any]:
        """Return the training data as JSON, with the reason why there is none."""
        found = [{"data": str(store.folder), "hash": store.hash} for store in self.stores]
        return {"train": found, **({"note": self.note} if self.note else {})}

    def __str__(self) -> str:
        return ", ".join(str(store.folder) for store in self.stores) or f"no training set ({self.note})"


def open_blind_data(folder: Path | str, test: Store) -> BlindData:
    """Open a training set that the user names; ``DataError`` if it cannot be read or is the test set."""
    store = Store(folder)
    if store.hash == test.hash:
        raise DataError(
            f"{folder}: has the same samples as the test set {test.folder} (hash {store.hash[:12]}); blind baselines "
            "are fitted on training samples; expected the training set"
        )
    return BlindData(stores=(store,))


def blind_data_of(config: Config, test: Store, *, near: Path) -> BlindData:
    """Open the training data of a run's config, every dataset of a mixture; parts with the test's samples are skipped.

    ``near``: folder of the run, for datasets that were moved together with it.
    """
    train = config.data.train
    stores = []
    for folder in [part.data for part in config.mixture.values()] if train is None else [train]:
        place = next((one for one in places_of(Path(folder), near) if (one / CARD).is_file()), None)
        if place is None:
            return BlindData(stores=(), note=f"{folder}: the training data of the run was not found")
        stores.append(Store(place))
    others = tuple(store for store in stores if store.hash != test.hash)
    return BlindData(stores=others, note="" if others else TRAINED_ON)


def find_blind_data(test: Store, *, model: str, place: Path) -> BlindData:
    """Find the training data for the predictions of ``model`` in the folder ``place``.

    In this order: the data of the run that made the model, that of the run whose folder holds the predictions, and a
    folder ``train`` next to the test set that was made by the same build. ``BlindData.note`` says why none was found.
    """
    try:
        if (run := _find_run(model, place)) is not None:
            found = blind_data_of(load_config(run / _RUN_CONFIG).config, test, near=run)
            if found.stores:
                return found
        else:
            found = BlindData(
                stores=(), note=f"{model} is no model of a run, and no training set is next to {test.folder}"
            )
        return find_sibling_data(test) or found
    except VirftError as error:
        return BlindData(stores=(), note=f"training data cannot be used: {error}")


def _evenly_spaced(store: Store) -> Iterable[Sample]:
    number = len(store)
    return store if number <= MAX_SAMPLES else (store[i * number // MAX_SAMPLES] for i in range(MAX_SAMPLES))


def _find_run(model: str, place: Path) -> Path | None:
    """Return the folder of the run that made a model, or that holds the predictions in ``place``."""
    evaluated = [folder.parent for folder in place.absolute().parents if folder.name == "eval"]
    folders = [Path(model).parent, *evaluated] if Path(model).is_dir() else evaluated
    return next((folder for folder in folders if (folder / _RUN_CONFIG).is_file()), None)


def find_sibling_data(test: Store) -> BlindData | None:
    """Return the dataset ``train`` next to the test set, if it is another part of the same build."""
    folder = (test.folder if test.folder.name not in ("", "..") else test.folder.absolute()).parent / "train"
    if not (folder / SAMPLES).is_file():
        return None
    store = Store(folder)
    is_train = store.card.get("source", {}).get("split") == "train"
    return (
        BlindData(stores=(store,)) if is_train and store.hash != test.hash and _build(store) == _build(test) else None
    )


def _build(store: Store) -> list[Any]:
    """Return what the parts of one build have in common."""
    source = store.card.get("source", {})
    return [store.card.get("seed"), *(source.get(key) for key in _BUILD_FACTS)]
