"""The training data of blind baselines: that of the run, else the sibling of the same build, never the test set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from factories import box, detections, edit_json, sample
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.errors import DataError
from virft.evaluation import blind_data
from virft.evaluation.blind_data import find_blind_data, open_blind_data


def make_store(folder: Path, *, target: Any = None, seed: int = 0, **source: Any) -> Store:
    with StoreWriter(folder) as writer:
        path = writer.add_image_file("a.png", None)
        writer.add(sample(target or detections((0, 0, 8, 8)), image=path))
        writer.finish(source={"kind": "coco", "sha256": "1", **source}, seed=seed)
    return Store(folder)


TEST = detections((1, 1, 9, 9))


def make_run(folder: Path, settings: str) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "config.toml").write_text(f'{settings}\nrun.dir = "{folder}"\n')
    return folder


def folders_of(found: blind_data.BlindData) -> list[str]:
    return [store.folder.name for store in found.stores]


def test_the_training_data_of_the_run_that_made_the_model_is_used(tmp_path: Path) -> None:
    train = make_store(tmp_path / "mine")
    test = make_store(tmp_path / "test", target=TEST)
    run = make_run(tmp_path / "run", f'data.train = "{train.folder}"')
    found = find_blind_data(test, model=str(run / "model"), place=tmp_path / "elsewhere")
    assert folders_of(found) == ["mine"]
    assert found.samples == list(train)
    # predictions of the base model, in the run's folder
    assert folders_of(find_blind_data(test, model="virft-tiny", place=run / "eval" / "base_test")) == ["mine"]


def test_every_dataset_of_a_mixture_is_used_except_the_test_set(tmp_path: Path) -> None:
    parts = {name: make_store(tmp_path / name, target=detections((0, 0, 5, x))) for x, name in enumerate("abc", 5)}
    toml = "\n".join(f'mixture.{name}.data = "{store.folder}"' for name, store in parts.items())
    run = make_run(tmp_path / "run", toml)
    found = find_blind_data(parts["b"], model=str(run / "model"), place=tmp_path)
    assert folders_of(found) == ["a", "c"]


def test_a_run_that_was_moved_with_its_data_finds_it(tmp_path: Path) -> None:
    make_store(tmp_path / "data" / "mine" / "train")
    test = make_store(tmp_path / "data" / "mine" / "test", target=TEST)
    run = make_run(tmp_path / "runs" / "x", 'data.train = "data/mine/train"')
    assert folders_of(find_blind_data(test, model=str(run / "model"), place=tmp_path)) == ["train"]


def test_without_a_run_the_part_train_of_the_same_build_is_used(tmp_path: Path) -> None:
    make_store(tmp_path / "train", split="train", test_frac=0.2)
    test = make_store(tmp_path / "test", target=TEST, split="test", test_frac=0.2)
    assert folders_of(find_blind_data(test, model="m", place=tmp_path)) == ["train"]


@pytest.mark.parametrize("other", [{"sha256": "2"}, {"seed": 1}, {"test_frac": 0.5}, {"split": None}])
def test_a_sibling_of_another_build_is_not_used(tmp_path: Path, other: dict[str, Any]) -> None:
    make_store(tmp_path / "train", **{"split": "train", "test_frac": 0.2} | other)
    test = make_store(tmp_path / "test", target=TEST, split="test", test_frac=0.2)
    found = find_blind_data(test, model="m", place=tmp_path)
    assert found.stores == ()
    assert found.note.startswith("m is no model of a run, and no training set is next to ")


def test_a_model_that_was_trained_on_the_test_set_has_no_training_data(tmp_path: Path) -> None:
    test = make_store(tmp_path / "data")
    run = make_run(tmp_path / "run", f'data.train = "{test.folder}"')
    found = find_blind_data(test, model=str(run / "model"), place=tmp_path)
    assert (found.stores, found.note) == ((), "the model was trained on this very dataset")


def test_training_data_that_is_gone_is_named(tmp_path: Path) -> None:
    test = make_store(tmp_path / "test", target=TEST)
    run = make_run(tmp_path / "run", 'data.train = "gone"')
    found = find_blind_data(test, model=str(run / "model"), place=tmp_path)
    assert found.note == "gone: the training data of the run was not found"


def test_a_run_that_cannot_be_read_is_a_note_not_an_error(tmp_path: Path) -> None:
    test = make_store(tmp_path / "test", target=TEST)
    run = make_run(tmp_path / "run", "data.trai = 1")
    found = find_blind_data(test, model=str(run / "model"), place=tmp_path)
    assert found.note.startswith("training data cannot be used: ")


def test_the_test_set_is_refused_as_training_data(tmp_path: Path) -> None:
    test = make_store(tmp_path / "test")
    copy = make_store(tmp_path / "copy")
    with pytest.raises(DataError, match=r"copy: has the same samples as the test set .*; expected the training set"):
        open_blind_data(copy.folder, test)
    other = make_store(tmp_path / "other", target=TEST)
    assert open_blind_data(other.folder, test).stores[0].hash == other.hash


def test_a_large_dataset_is_sampled_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StoreWriter(tmp_path / "d") as writer:
        path = writer.add_image_file("a.png", None)
        for number in range(10):
            writer.add(sample(box(0, 0, 9, 1 + number), id=str(number), task="grounding", image=path))
        writer.finish(source={}, seed=0)
    test = make_store(tmp_path / "test")
    monkeypatch.setattr(blind_data, "MAX_SAMPLES", 5)
    assert [one.id for one in open_blind_data(tmp_path / "d", test).samples] == ["0", "2", "4", "6", "8"]


def test_the_record_names_data_and_hash(tmp_path: Path) -> None:
    train, test = make_store(tmp_path / "a"), make_store(tmp_path / "b", target=TEST)
    assert open_blind_data(train.folder, test).record() == {"train": [{"data": str(train.folder), "hash": train.hash}]}
    edit_json(train.folder / "card.json", lambda card: card.update(schema_version=0))
    with pytest.raises(DataError, match="schema_version is 0"):
        open_blind_data(train.folder, test)
