"""Batches of a run: one shuffled dataset or a weighted mixture, from any step on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import save_coco
from virft.cli.build_boxes import build_coco_or_lvis
from virft.config.schema import Config, DataConfig, MixtureConfig, RunConfig
from virft.data.store import Store
from virft.data.training_data import TrainingData, open_training_data
from virft.errors import DataError


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    """Datasets of 3, 5 and 7 questions."""
    root = tmp_path_factory.mktemp("sets")
    found = {}
    for name, number in (("cats", 3), ("few", 5), ("more", 7)):
        folder = root / name
        folder.mkdir()
        boxes = {f"{i}.png": [("cat", [4.0, 4.0, 20.0, 20.0])] for i in range(number)}
        path = save_coco(folder, boxes)
        build_coco_or_lvis(annotations=path, images=folder / "images", out=folder / "data")
        found[name] = Store(folder / "data")
    return found


def data(stores: dict[str, Store], size: int = 4, seed: int = 0, **weights: float) -> TrainingData:
    return TrainingData(stores, batch_size=size, seed=seed, weights=weights)


def test_one_dataset_is_reshuffled_in_each_epoch(stores: dict[str, Store]) -> None:
    single = TrainingData({"": stores["more"]}, batch_size=7, seed=0)
    epochs = [[sample.id for sample in single.batch(i)] for i in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(sample.id for sample in stores["more"])
    assert epochs[0] != epochs[1]
    assert single.hash == stores["more"].hash
    assert {sample.origin for sample in single} == {""}
    # a mixture may have one dataset, whose settings are found by its name
    named = TrainingData({"cats": stores["more"]}, batch_size=7, seed=0)
    assert {sample.origin for sample in named} == {"cats"}
    assert [sample.id for sample in named.batch(0)] == epochs[0]


@given(
    weights=st.tuples(*[st.floats(0.1, 10.0)] * 3),
    size=st.integers(1, 9),
    steps=st.integers(1, 40),
)
def test_after_any_number_of_steps_each_dataset_has_its_weight(
    stores: dict[str, Store], weights: tuple[float, float, float], size: int, steps: int
) -> None:
    mixed = data(stores, size, **dict(zip(stores, weights, strict=True)))
    drawn = Counter(sample.origin for i in range(steps) for sample in mixed.batch(i))
    for name, weight in zip(stores, weights, strict=True):
        assert drawn[name] == pytest.approx(size * steps * weight / sum(weights), abs=3.0)


def test_each_dataset_has_its_own_epochs(stores: dict[str, Store]) -> None:
    mixed = data(stores, 5, cats=3.0)
    samples = [sample for i in range(60) for sample in mixed.batch(i)]
    for name, store in stores.items():
        drawn = [sample.id for sample in samples if sample.origin == name]
        for start in range(0, len(drawn) - len(store) + 1, len(store)):
            assert sorted(drawn[start : start + len(store)]) == sorted(f"{name}/{sample.id}" for sample in store)


def test_a_batch_does_not_depend_on_those_before(stores: dict[str, Store]) -> None:
    whole = data(stores, more=2.0)
    batches = [whole.batch(i) for i in range(9)]
    assert data(stores, more=2.0).batch(8) == batches[8]
    assert data(stores, seed=1, more=2.0).batch(8) != batches[8]


def test_a_selection_of_samples_is_a_smaller_dataset(stores: dict[str, Store]) -> None:
    whole = data(stores, 5, cats=3.0)
    ids = {f"cats/{stores['cats'][1].id}", *(f"more/{stores['more'][place].id}" for place in (0, 4, 6))}
    some = whole.only(ids)
    drawn = [sample.id for number in range(12) for sample in some.batch(number)]
    assert set(drawn) == ids
    assert drawn.count(f"cats/{stores['cats'][1].id}") == pytest.approx(60 * 3 / 4, abs=1)
    assert [sample.id for sample in some] == [sample.id for sample in whole]
    assert some.hash == whole.hash


def test_the_hash_depends_on_the_datasets_and_their_names(stores: dict[str, Store]) -> None:
    other = dict(zip(("cats", "more", "few"), stores.values(), strict=True))
    assert data(stores).hash == data(dict(stores)).hash != data(other).hash


def test_a_config_names_one_dataset_or_several(stores: dict[str, Store]) -> None:
    run = RunConfig(dir="r")
    one = open_training_data(Config(data=DataConfig(train=str(stores["few"].folder)), run=run), batch_size=60)
    assert [sample.origin for sample in one.batch(0)] == [""] * 60
    mixture = {
        name: MixtureConfig(data=str(store.folder), weight=4.0 if name == "few" else 1.0)
        for name, store in stores.items()
    }
    several = open_training_data(Config(mixture=mixture, run=run), batch_size=60)
    assert Counter(sample.origin for sample in several.batch(0)) == {"few": 40, "cats": 10, "more": 10}
    assert len(list(several)) == 15
    several.check()


def test_an_invalid_dataset_of_several_is_reported(stores: dict[str, Store], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    mixture = {"a": MixtureConfig(data=str(stores["few"].folder)), "b": MixtureConfig(data=str(tmp_path / "empty"))}
    with pytest.raises(DataError, match=r"empty: has no card\.json"):
        open_training_data(Config(mixture=mixture, run=RunConfig(dir="r")), batch_size=1)


def test_training_data_needs_a_dataset() -> None:
    with pytest.raises(ValueError, match="without a dataset"):
        TrainingData({}, batch_size=1, seed=0)
