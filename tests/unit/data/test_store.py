"""A dataset on disk: lazy, strict, complete or absent."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from factories import detections, edit_json, sample, save_image
from virft.data.samples import sample_to_line
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.errors import DataError
from virft.types import Box, Label


def write(folder: Path, *, num: int = 3, overwrite: bool = False, link: bool = False) -> Path:
    source = save_image(folder.parent / "source.png")
    with StoreWriter(folder, overwrite=overwrite, link=link) as writer:
        path = writer.add_image_file("a.png", source)
        for i in range(num):
            writer.add(sample(id=f"s{i}", image=path, query="fox" if i else "hen"))
        writer.finish(source={"kind": "test"}, seed=0, skipped=[("here", "a reason")])
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_samples_are_read_by_index_and_in_order(tmp_path: Path) -> None:
    store = Store(write(tmp_path / "d"))
    assert len(store) == 3
    assert [one.id for one in store] == ["s0", "s1", "s2"]
    assert store[1].id == "s1"
    assert store[-1].id == "s2"
    with pytest.raises(IndexError):
        store[3]


def test_image_paths_are_those_of_the_files(tmp_path: Path) -> None:
    store = Store(write(tmp_path / "d"))
    assert store[0].images == (str(tmp_path / "d" / "images" / "a.png"),)
    store.check(decode=True)


def test_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    assert bytes_of(write(tmp_path / "a")) == bytes_of(write(tmp_path / "b"))


def test_card_counts_by_task_and_class(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "d") as writer:
        path = writer.add_image("a.png", Image.new("RGB", (64, 48)))
        writer.add(sample(id="1", image=path))
        writer.add(sample(detections(), id="2", image=path))
        writer.add(sample(detections((1, 1, 2, 2), (3, 3, 4, 4)), id="3", image=path, query="hen"))
        writer.add(sample(Label(text="cat"), id="4", image=path, task="classification", query="animal"))
        writer.add(sample(Box(x1=1, y1=1, x2=2, y2=2), id="5", image=path, task="grounding"))
        card = writer.finish(source={}, seed=None)
    assert card["counts"] == {
        "classification": {"cat": {"questions": 1}},
        "detection": {
            "fox": {"questions": 2, "boxes": 1, "small": 1, "medium": 0, "large": 0, "absent": 1},
            "hen": {"questions": 1, "boxes": 2, "small": 2, "medium": 0, "large": 0, "absent": 0},
        },
        "grounding": {"all": {"questions": 1, "boxes": 1, "small": 1, "medium": 0, "large": 0}},
    }
    assert card["negatives_frac"] == 0.333333
    assert (card["num_samples"], card["num_images"]) == (5, 1)


def test_links_point_to_the_source(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", link=True)
    assert (folder / "images" / "a.png").is_symlink()
    Store(folder).check(decode=True)


def test_a_dataset_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    with pytest.raises(DataError, match=r"d: holds a dataset already; choose another folder, or .*--overwrite"):
        write(folder)
    assert len(Store(folder)) == 3
    write(folder, num=1, overwrite=True)
    assert len(Store(folder)) == 1


def test_another_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"d: holds files that are not a dataset; expected a new or empty folder"):
        write(tmp_path / "d", overwrite=True)
    with pytest.raises(DataError, match=r"thesis\.txt: is a file; expected a new folder"):
        write(tmp_path / "d" / "thesis.txt", overwrite=True)
    assert (tmp_path / "d" / "thesis.txt").read_text() == "years of work"


def test_the_parts_of_another_build_are_named(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write(tmp_path / "d" / part)
    with pytest.raises(DataError, match=r"d: holds the datasets test, train of another build; .* splits with --overwr"):
        write(tmp_path / "d", overwrite=True)


def test_a_folder_of_datasets_leads_to_its_parts_train_first(tmp_path: Path) -> None:
    for part in ("test", "train"):
        write(tmp_path / "d" / part)
    parts = f"{tmp_path / 'd' / 'train'} or {tmp_path / 'd' / 'test'}"
    with pytest.raises(DataError, match=rf"d: has no card\.json; did you mean {parts}\?"):
        Store(tmp_path / "d")


def test_a_misspelt_folder_leads_to_the_nearest_one(tmp_path: Path) -> None:
    write(tmp_path / "mine" / "train")
    with pytest.raises(DataError, match=rf"trian: does not exist; did you mean {tmp_path / 'mine' / 'train'}\?"):
        Store(tmp_path / "mine" / "trian")
    with pytest.raises(DataError, match=rf"mnie/train: does not exist; did you mean {tmp_path / 'mine' / 'train'}\?"):
        Store(tmp_path / "mnie" / "train")
    with pytest.raises(DataError, match=rf"mines: does not exist; did you mean {tmp_path / 'mine' / 'train'}\?"):
        Store(tmp_path / "mines")
    with pytest.raises(DataError, match="other: does not exist; expected a dataset"):
        Store(tmp_path / "other")


def test_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    assert len(Store(write(tmp_path / "d"))) == 3


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failed_build_changes_nothing(tmp_path: Path, overwrite: bool) -> None:
    folder = tmp_path / "d"
    if overwrite:
        write(folder)
    before = bytes_of(tmp_path)
    with pytest.raises(RuntimeError), StoreWriter(folder, overwrite=overwrite) as writer:
        path = writer.add_image("a.png", Image.new("RGB", (64, 48)))
        writer.add(sample(image=path))
        raise RuntimeError("the lights went out")
    assert bytes_of(tmp_path) == before
    assert folder.exists() == overwrite


def test_a_killed_build_leaves_no_dataset(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from PIL import Image;"
        "from virft.data.store_writer import StoreWriter\n"
        "with StoreWriter(Path(sys.argv[1])) as writer:\n"
        "    writer.add_image('a.png', Image.new('RGB', (8, 8))); print('half', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "d")], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"half\n"
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "d").exists()
    assert len(Store(write(tmp_path / "d"))) == 3


def test_build_without_samples_is_an_error(tmp_path: Path) -> None:
    message = r"d: no samples came out of the source.*first of 1 skipped: image 3: too blue"
    with pytest.raises(DataError, match=message), StoreWriter(tmp_path / "d") as writer:
        writer.finish(source={}, seed=0, skipped=[("image 3", "too blue")])
    assert not (tmp_path / "d").exists()


def test_misuse_of_the_writer_raises_value_error(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "d") as writer:
        path = writer.add_image("a.png", Image.new("RGB", (64, 48)))
        writer.add(sample(image=path))
        with pytest.raises(ValueError, match="was added before"):
            writer.add(sample(image=path))
        with pytest.raises(ValueError, match="was not added"):
            writer.add(sample(id="other", image="images/b.png"))
        for name in ("../a.png", "/etc/a.png", ""):
            with pytest.raises(ValueError, match="is not a path inside a folder"):
                writer.add_image(name, Image.new("RGB", (8, 8)))


def test_an_invalid_line_of_an_edited_file_is_reported(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    lines = (folder / "samples.jsonl").read_text().splitlines()
    lines[1] = lines[1].replace("[10, 10, 30, 40]", "[40, 10, 30, 40]")
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"samples\.jsonl:2: box \[40, 10, 30, 40\] has x2 <= x1; expected x1 < x2"):
        Store(folder)


def test_an_edited_file_is_refused_until_the_card_has_no_hash(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    text = (folder / "samples.jsonl").read_text()
    (folder / "samples.jsonl").write_text(text[: text.rindex('{"id"')])
    with pytest.raises(DataError, match=r"samples\.jsonl: changed since card\.json was written .* delete `hash` from"):
        Store(folder)
    edit_json(folder / "card.json", lambda card: card.pop("hash"))
    assert len(Store(folder)) == 2


def test_a_repeated_id_is_reported(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    text = (folder / "samples.jsonl").read_text()
    (folder / "samples.jsonl").write_text(text.replace('"s2"', '"s0"'))
    with pytest.raises(DataError, match=r"samples\.jsonl:3: id 's0' was used in line 1; expected every id once"):
        Store(folder)


def test_text_in_another_encoding_is_reported(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    with (folder / "samples.jsonl").open("ab") as file:
        file.write(b'{"id": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"samples\.jsonl:4: not UTF-8 text"):
        Store(folder)


def test_a_missing_image_is_reported_by_the_check(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    (folder / "images" / "a.png").unlink()
    with pytest.raises(DataError, match=r"samples\.jsonl:1: no such image: .*a\.png \(sample s0\)"):
        Store(folder).check()


def test_a_corrupt_image_is_reported_by_a_check_that_decodes(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    (folder / "images" / "a.png").write_bytes(b"no picture")
    Store(folder).check()
    with pytest.raises(DataError, match=r"a\.png: cannot be read as an image \(sample s0\)"):
        Store(folder).check(decode=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "card.json").unlink(), r"d: has no card\.json; expected a dataset made by `virft"),
        (lambda folder: (folder / "card.json").write_text("{"), r"card\.json: cannot be read as JSON"),
        (lambda folder: (folder / "card.json").write_text("[]"), r"card\.json: schema_version is None; expected 2"),
        (
            lambda folder: edit_json(folder / "card.json", lambda card: card.update(schema_version=9)),
            r"card\.json: schema_version is 9; expected 2; build the dataset again with `virft build`$",
        ),
        (
            lambda folder: edit_json(folder / "card.json", lambda card: card.update(schema_version=1)),
            r"card\.json: schema_version is 1; expected 2; build the dataset again with `virft build`$",
        ),
        (lambda folder: (folder / "samples.jsonl").unlink(), r"samples\.jsonl: cannot be read \(No such file"),
    ],
)
def test_a_folder_that_is_not_a_dataset_is_refused(tmp_path: Path, damage: object, message: str) -> None:
    folder = write(tmp_path / "d")
    damage(folder)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        Store(folder)


def test_the_card_of_a_run_is_not_mistaken_for_an_older_dataset(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text('{"schema_version": 1}')
    with pytest.raises(
        DataError, match=r"card\.json: there is no samples\.jsonl next to it; expected a dataset made by"
    ):
        Store(tmp_path)


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none: does not exist; expected a dataset made by `virft build`"):
        Store(tmp_path / "none")


def test_an_empty_dataset_is_reported(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    (folder / "samples.jsonl").write_bytes(b"")
    edit_json(folder / "card.json", lambda card: card.pop("hash"))
    with pytest.raises(DataError, match=r"samples\.jsonl: holds no samples; expected at least one"):
        Store(folder).check()


def test_the_card_has_no_absolute_path(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    card = (folder / "card.json").read_text()
    assert str(tmp_path) not in card
    assert str(tmp_path) not in (folder / "samples.jsonl").read_text()
    assert json.loads(card)["skipped"] == [{"where": "here", "reason": "a reason"}]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    """A separate process reads 100,000 samples in order, then some in shuffled order, with less than 150 MB."""
    line = json.loads(sample_to_line(sample()))
    with (tmp_path / "samples.jsonl").open("w") as file:
        for number in range(100_000):
            file.write(json.dumps(line | {"id": f"{number:06d}", "question": "where is it " * 20}) + "\n")
    digest = hashlib.sha256((tmp_path / "samples.jsonl").read_bytes()).hexdigest()
    (tmp_path / "card.json").write_text(json.dumps({"schema_version": 2, "hash": digest}))
    program = f"""
import re, resource
from pathlib import Path
from virft.data.store import Store
from virft.data.shuffle import shuffled_index
store = Store({str(tmp_path)!r})
assert sum(1 for _ in store) == 100_000
for position in range(1_440_000, 1_441_600):
    assert store[shuffled_index(position, num_samples=len(store), seed=0)].id
status = Path("/proc/self/status")  # where it exists: the other number counts the process that started this one too
peak = re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1] if status.exists() else 0
print(peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1024 < 150


@pytest.mark.parametrize("path", ["/etc/passwd", "../d2/a.png", "images/../../a.png", "..", "a/" * 2000 + "a.png"])
def test_an_image_path_cannot_lead_out_of_the_dataset(tmp_path: Path, path: str) -> None:
    folder = write(tmp_path / "d")
    lines = (folder / "samples.jsonl").read_text().replace('"images/a.png"', json.dumps(path), 1)
    (folder / "samples.jsonl").write_text(lines)
    edit_json(folder / "card.json", lambda card: card.pop("hash"))
    expected = (
        r"no such image" if len(path) > 100 else r"image path .* leads out of the dataset; expected a path inside"
    )
    with pytest.raises(DataError, match=rf"d/samples\.jsonl:1: {expected}"):
        Store(folder).check()


def test_dots_in_a_name_are_allowed(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    (folder / "images" / "a.png").rename(folder / "images" / "a..b.png")
    lines = (folder / "samples.jsonl").read_text().replace("images/a.png", "images/a..b.png")
    (folder / "samples.jsonl").write_text(lines)
    edit_json(folder / "card.json", lambda card: card.pop("hash"))
    Store(folder).check(decode=True)


def test_a_file_is_no_dataset(tmp_path: Path) -> None:
    file = tmp_path / "annotations.json"
    file.write_text("{}")
    with pytest.raises(
        DataError, match=rf"^{file}: is a file; expected the folder of a dataset made by `virft build`$"
    ):
        Store(file)
