"""What a run trains on: one data set, or several in given shares, in a seeded order."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from virft.config.schema import Config
from virft.data.store import Store
from virft.data.stream import ShuffledStream
from virft.types import Sample

GOLDEN = 0.6180339887498949
"""Its multiples, taken modulo 1, fill [0, 1) evenly: after any number of turns each share is nearly met."""


class TrainingData:
    """The batches of a run: batch i is a pure function of the data, the weights, the seed and i.

    ``stores``: set -> its samples. With several sets, ``weights`` (set -> a number above 0, 1 if not named) are their
    shares of the questions, whatever their sizes; a sample then carries its set as ``origin`` and in its id. Every set
    is gone through in shuffles of its own, so a small one comes again sooner. ``kept``: ids, as iteration gives them,
    of the samples that batches are made of; all, if None.
    """

    def __init__(
        self,
        stores: Mapping[str, Store],
        *,
        batch_size: int,
        seed: int,
        weights: Mapping[str, float] | None = None,
        kept: Collection[str] | None = None,
    ) -> None:
        if not stores:
            raise ValueError("training data without a set")
        self.stores = dict(stores)
        self._batch_size, self._seed, self._weights = batch_size, seed, weights or {}
        self._places = {name: self._kept_places(name, kept) for name in stores}
        self._names = [name for name in stores if self._places[name]]
        shares = np.array([self._weights.get(name, 1.0) for name in self._names])
        self._ends = np.cumsum(shares / shares.sum())

    def only(self, kept: Collection[str]) -> TrainingData:
        """The same data with batches of these samples alone (at least one); a set without any has no share."""
        return TrainingData(self.stores, batch_size=self._batch_size, seed=self._seed, weights=self._weights, kept=kept)

    def _kept_places(self, name: str, kept: Collection[str] | None) -> Sequence[int]:
        store = self.stores[name]
        if kept is None:
            return range(len(store))
        return [place for place, sample in enumerate(store) if self._named(sample, name).id in kept]

    @property
    def hash(self) -> str:
        """The hash of the one set, or one over the names and hashes of all."""
        if len(self.stores) == 1:
            return next(iter(self.stores.values())).hash
        lines = "".join(f"{name} {store.hash}\n" for name, store in self.stores.items())
        return hashlib.sha256(lines.encode()).hexdigest()

    def __iter__(self) -> Iterator[Sample]:
        for name, store in self.stores.items():
            for sample in store:
                yield self._named(sample, name)

    def check(self) -> None:
        """Read every set whole, pictures too; ``DataError`` at the first fault."""
        for store in self.stores.values():
            store.check(decode=True)

    def batch(self, number: int) -> list[Sample]:
        """The samples of a step."""
        start = number * self._batch_size
        turns = self._turns(start + self._batch_size)
        done = np.bincount(turns[:start], minlength=len(self._names))
        orders = [
            ShuffledStream(num_samples=len(self._places[name]), batch_size=1, seed=self._seed) for name in self._names
        ]
        samples = []
        for turn in turns[start:].tolist():
            (index,) = orders[turn].batch(int(done[turn]))
            done[turn] += 1
            name = self._names[turn]
            samples.append(self._named(self.stores[name][self._places[name][index]], name))
        return samples

    def _turns(self, stop: int) -> NDArray[np.int64]:
        """Which set's turn it is at each place before ``stop``."""
        points = np.arange(stop) * GOLDEN % 1.0
        return np.minimum(np.searchsorted(self._ends, points, side="right"), len(self._ends) - 1)

    def _named(self, sample: Sample, name: str) -> Sample:
        if len(self.stores) == 1:
            return sample
        return replace(sample, id=f"{name}/{sample.id}", origin=name)


def open_training_data(config: Config, *, batch_size: int) -> TrainingData:
    """What a run trains on: ``data.train``, or the sets of its mixture. ``batch_size``: samples of a step."""
    weights: dict[str, float] = {}
    if config.data.train is not None:
        stores = {"": Store(config.data.train)}
    else:
        stores = {name: Store(part.data) for name, part in config.mixture.items()}
        weights = {name: part.weight for name, part in config.mixture.items()}
    return TrainingData(stores, weights=weights, batch_size=batch_size, seed=config.seed)
