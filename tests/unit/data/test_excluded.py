"""``data.exclude``: samples that are not trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from factories import save_coco
from virft.cli.build_boxes import build_coco_or_lvis
from virft.config.schema import Config, DataConfig, RunConfig
from virft.data.excluded import read_sample_ids
from virft.data.store import Store
from virft.data.training_data import TrainingData, open_training_data
from virft.errors import DataError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Five questions."""
    folder = tmp_path_factory.mktemp("cats")
    path = save_coco(folder, {f"{i}.png": [("cat", [4.0, 4.0, 20.0, 20.0])] for i in range(5)})
    build_coco_or_lvis(annotations=path, images=folder / "images", out=folder / "data")
    return Store(folder / "data")


def opened(store: Store, exclude: Path | None) -> TrainingData:
    section = DataConfig(train=str(store.folder), exclude=None if exclude is None else str(exclude))
    return open_training_data(Config(data=section, run=RunConfig(dir="unused")), batch_size=3)


def test_excluded_samples_are_in_no_batch(store: Store, tmp_path: Path) -> None:
    ids = [sample.id for sample in store]
    path = tmp_path / "suspects.jsonl"
    path.write_text(f'{{"sample_id": "{ids[1]}", "score": 0.9}}\n\n{ids[3]}\n')
    data = opened(store, path)
    kept = {ids[0], ids[2], ids[4]}
    assert {sample.id for number in range(20) for sample in data.batch(number)} == kept
    assert {sample.id for sample in data} == kept
    assert data.only([ids[0], ids[1]]).excluded == {ids[1], ids[3]}
    assert {sample.id for sample in data.only([ids[0], ids[1]]).batch(0)} == {ids[0]}


def test_the_hash_depends_on_the_excluded_samples(store: Store, tmp_path: Path) -> None:
    ids = [sample.id for sample in store]
    path, other = tmp_path / "ids.txt", tmp_path / "others.txt"
    path.write_text(ids[1])
    other.write_text(ids[2])
    assert opened(store, None).hash == store.hash
    assert len({store.hash, opened(store, path).hash, opened(store, other).hash}) == 3


def test_an_empty_file_excludes_nothing(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "suspects.jsonl"
    path.write_text("")
    assert opened(store, path).hash == store.hash
    assert len(list(opened(store, path))) == 5


def test_an_unknown_sample_is_named(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text(f"{store[0].id}\nnobody\n")
    with pytest.raises(DataError, match=r"ids\.txt:2: 'nobody' is not a sample of the training data; expected"):
        opened(store, path)


def test_not_all_samples_may_be_excluded(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("\n".join(sample.id for sample in store))
    with pytest.raises(DataError, match="excludes all 5 samples of the training data; expected fewer"):
        opened(store, path)


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none: cannot be read \(No such file or directory\); expected a suspects"):
        read_sample_ids(tmp_path / "none")
    path = tmp_path / "suspects.jsonl"
    for line, fault in (("{", "not a JSON object"), ('{"id": 1}', "has no sample_id")):
        path.write_text(f"a\n{line}\n")
        with pytest.raises(DataError, match=rf"suspects\.jsonl:2: {fault}"):
            read_sample_ids(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_sample_ids(path)
