"""Training data of a run: one dataset or a weighted mixture of several, in a seeded order."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from virft.config.schema import Config
from virft.data.excluded import read_sample_ids, require_known
from virft.data.shuffle import shuffled_index
from virft.data.store import Store
from virft.types import Sample

GOLDEN = 0.6180339887498949
"""Fractional part of the golden ratio. Its multiples modulo 1 fill [0, 1) evenly, so that after any number of samples
each dataset's number of samples is close to its weight."""


class TrainingData:
    """Batches of a run: batch i is a pure function of the datasets, the weights, the seed and i.

    With several datasets, a sample has the name of its dataset as ``origin`` and in its id. Each dataset is shuffled
    separately, so a small one is repeated more often.
    """

    def __init__(
        self,
        stores: Mapping[str, Store],
        *,
        batch_size: int,
        seed: int,
        weights: Mapping[str, float] | None = None,
        ids: Collection[str] | None = None,
        excluded: Collection[str] = (),
    ) -> None:
        """``stores``: the datasets by name. ``batch_size``: samples per step.

        ``weights``: relative number of samples of each dataset, above 0 and independent of its size; 1 if not given.
        ``ids``: ids of the samples that batches are made of, as iteration yields them; None: all samples.
        ``excluded``: ids of samples that neither batches nor iteration contain (``data.exclude``). Raises
        ``ValueError`` if ``stores`` is empty.
        """
        if not stores:
            raise ValueError("training data without a dataset")
        self.stores = dict(stores)
        self.excluded = frozenset(excluded)
        self._batch_size, self._seed, self._weights = batch_size, seed, weights or {}
        self._indices = {name: self._indices_of(name, ids) for name in stores}
        self._names = [name for name in stores if self._indices[name]]
        fractions = np.array([self._weights.get(name, 1.0) for name in self._names])
        self._ends = np.cumsum(fractions / fractions.sum())

    def only(self, ids: Collection[str]) -> TrainingData:
        """Return the same data with batches of only these samples (at least one); datasets without any are unused."""
        return TrainingData(
            self.stores,
            batch_size=self._batch_size,
            seed=self._seed,
            weights=self._weights,
            ids=ids,
            excluded=self.excluded,
        )

    def _indices_of(self, name: str, ids: Collection[str] | None) -> Sequence[int]:
        store = self.stores[name]
        if ids is None and not self.excluded:
            return range(len(store))
        named = enumerate(self._named(sample, name).id for sample in store)
        return [index for index, own in named if own not in self.excluded and (ids is None or own in ids)]

    @property
    def hash(self) -> str:
        """Hash of the dataset; of several, and with excluded samples, the sha256 of names, hashes and excluded ids."""
        if len(self.stores) == 1 and not self.excluded:
            return next(iter(self.stores.values())).hash
        lines = "".join(f"{name} {store.hash}\n" for name, store in self.stores.items())
        lines += "".join(f"exclude {one}\n" for one in sorted(self.excluded))
        return hashlib.sha256(lines.encode()).hexdigest()

    def __iter__(self) -> Iterator[Sample]:
        for name, store in self.stores.items():
            for sample in store:
                if (named := self._named(sample, name)).id not in self.excluded:
                    yield named

    def check(self) -> None:
        """Read every dataset completely and decode its images. Raises ``DataError`` at the first fault."""
        for store in self.stores.values():
            store.check(decode=True)

    def batch(self, number: int) -> list[Sample]:
        """Return the samples of step ``number``."""
        start = number * self._batch_size
        datasets = self._datasets_before(start + self._batch_size)
        num_used = np.bincount(datasets[:start], minlength=len(self._names))
        samples = []
        for dataset in datasets[start:].tolist():
            name = self._names[dataset]
            indices = self._indices[name]
            place = shuffled_index(int(num_used[dataset]), num_samples=len(indices), seed=self._seed)
            num_used[dataset] += 1
            samples.append(self._named(self.stores[name][indices[place]], name))
        return samples

    def _datasets_before(self, stop: int) -> NDArray[np.int64]:
        """Return the index of the dataset of each sample before position ``stop``, an int64 array of shape [stop]."""
        points = np.arange(stop) * GOLDEN % 1.0
        return np.minimum(np.searchsorted(self._ends, points, side="right"), len(self._ends) - 1)

    def _named(self, sample: Sample, name: str) -> Sample:
        if not name:
            return sample
        return replace(sample, id=f"{name}/{sample.id}" if len(self.stores) > 1 else sample.id, origin=name)


def open_training_data(config: Config, *, batch_size: int) -> TrainingData:
    """Open ``data.train`` or the datasets of the mixture. ``batch_size``: samples per step.

    Raises ``DataError`` if a folder is not a dataset, or ``data.exclude`` names a sample that is in none of them.
    """
    weights: dict[str, float] = {}
    if config.data.train is not None:
        stores = {"": Store(config.data.train)}
    else:
        stores = {name: Store(part.data) for name, part in config.mixture.items()}
        weights = {name: part.weight for name, part in config.mixture.items()}
    data = TrainingData(stores, weights=weights, batch_size=batch_size, seed=config.seed)
    if config.data.exclude is None:
        return data
    path = Path(config.data.exclude)
    excluded = require_known(read_sample_ids(path), (sample.id for sample in data), path)
    return TrainingData(stores, weights=weights, batch_size=batch_size, seed=config.seed, excluded=excluded)
