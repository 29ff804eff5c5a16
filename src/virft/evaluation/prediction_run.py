"""Write predictions so that they can be interrupted, resumed and sharded over processes.

Complete batches are appended to part files, and sorted into the order of the dataset at the end. The batches are a pure
function of the dataset, and an incomplete batch is generated again. So an interrupted or sharded run writes the same
file as one process that ran without interruption.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from virft.config.wording import counted
from virft.errors import RunError
from virft.evaluation.predictions import (
    CARD,
    PARTS,
    PREDICTIONS,
    PredictionsCard,
    SizedPrediction,
    line_of,
    read_predictions_card,
    write_card,
)
from virft.files import UNFINISHED, sync
from virft.types import Sample

CONCURRENT = 32
"""Samples that are predicted concurrently, each of which takes memory for its KV cache."""
_LARGEST_BATCH = 8 * CONCURRENT


def plan_batches(
    samples: Iterable[Sample], batch_size: int | None = None, *, seed: int | None = None
) -> list[list[int]]:
    """Return the sample indices of each batch; samples of similar length share a batch, to reduce padding.

    Length is estimated by pixels and characters, so that no prompt has to be rendered. With a ``seed``, batches are
    drawn at random instead.

    ``batch_size``: None for the samples that are predicted concurrently, and up to 8 times as many if there are at
    least four such batches: in a larger batch, more waiting prompts take the places of completions that have ended.
    """
    sizes = [
        (sum(size.width * size.height for size in one.image_sizes), one.task, _num_characters(one), number)
        for number, one in enumerate(samples)
    ]
    order = [number for *_, number in sorted(sizes)]
    if seed is not None:
        random.Random(seed).shuffle(order)
    if batch_size is None:
        batch_size = min(max(CONCURRENT, len(order) // 4 // CONCURRENT * CONCURRENT), _LARGEST_BATCH)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _num_characters(sample: Sample) -> int:
    """Return the number of characters of a sample's question and class instructions, without the template."""
    return len(sample.question or sample.query) + sum(len(note.text) for note in sample.notes)


def describe_workload(samples: Iterable[Sample]) -> str:
    """Format the number of predictions and of images that a run needs.

    >>> describe_workload([])
    '0 predictions on 0 images'
    """
    number, images = 0, set()
    for one in samples:
        if one.queried:
            number += 1
            images.add(one.images)
    return f"{counted(number, 'prediction', ',')} on {counted(len(images), 'image', ',')}"


class PredictionRun:
    """A folder of predictions for the samples ``ids`` (in dataset order), planned in ``batches`` of indices into them.

    Only one process may call ``begin`` and ``finish``; in between, each process appends batches to its own part file.
    """

    def __init__(self, folder: Path, card: PredictionsCard, *, ids: Sequence[str], batches: Sequence[Sequence[int]]):
        self._folder, self._card, self._ids = folder, card, ids
        self._batches = batches

    def begin(self, *, resume: bool) -> None:
        """Start in a new folder or resume one with the same card; ``RunError`` for any other folder."""
        require_new_predictions(self._folder, resume=resume)
        if (self._folder / CARD).exists():
            _require_same(self._folder, read_predictions_card(self._folder / PREDICTIONS), self._card)
        else:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_card(self._folder, self._card)
        if not self.is_finished:
            self._write(self._folder / PARTS.format(0), self._whole_batches())
            for path in self._parts():
                if path.name != PARTS.format(0):
                    path.unlink()

    @property
    def is_finished(self) -> bool:
        """True if the predictions are complete and sorted."""
        return (self._folder / PREDICTIONS).exists()

    def missing(self) -> list[Sequence[int]]:
        """Return the batches without predictions."""
        if self.is_finished:
            return []
        lines = self._read_parts()
        return [batch for batch in self._batches if any(self._ids[i] not in lines for i in batch)]

    def num_saved(self) -> int:
        """Return the number of predictions in complete batches, which a resumed run does not repeat."""
        return len(self._ids) - sum(map(len, self.missing()))

    def append(self, batch: Iterable[SizedPrediction], *, process: int) -> None:
        """Append the predictions of one batch to the part file of ``process``."""
        with (self._folder / PARTS.format(process)).open("a", encoding="utf-8") as file:
            file.write("".join(line_of(one) for one in batch))

    def finish(self) -> Path:
        """Sort all predictions into dataset order; return the path of the file."""
        path = self._folder / PREDICTIONS
        if not self.is_finished:
            lines = self._read_parts()
            self._write(path, (lines[one] for one in self._ids))
            for part in self._parts():
                part.unlink()
        return path

    def _whole_batches(self) -> Iterator[str]:
        lines = self._read_parts()
        for batch in self._batches:
            if all(self._ids[i] in lines for i in batch):
                yield from (lines[self._ids[i]] for i in batch)

    def _read_parts(self) -> dict[str, str]:
        """Return the lines of all part files by sample id, without truncated lines."""
        lines = {}
        for path in self._parts():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
                try:
                    lines[json.loads(line)["sample_id"]] = line
                except ValueError:
                    continue  # truncated when the run was killed
        return {name: line for name, line in lines.items() if line.endswith("\n")}

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob(PARTS.format("*")))

    def _write(self, path: Path, lines: Iterable[str]) -> None:
        """Replace a file atomically.

        If the process is killed before the rename, the new file is left as one more part file; its lines are
        duplicates of lines in other parts.
        """
        text = "".join(lines)
        new = self._folder / PARTS.format("new")
        new.write_text(text, encoding="utf-8")
        sync(new)
        new.rename(path)
        sync(self._folder)


def require_new_predictions(folder: Path, *, resume: bool) -> None:
    """Raise ``RunError`` unless the folder is new, is empty, or holds predictions to resume."""
    present = {path.name for path in folder.iterdir()} - {CARD + UNFINISHED} if folder.is_dir() else set()
    own = {CARD, PREDICTIONS, "scores.json", "map.json"}
    foreign = [name for name in present - own if not fnmatch(name, PARTS.format("*"))]
    if folder.is_file() or foreign or (present and CARD not in present):
        raise RunError(f"{folder}: holds other files; name a new folder for the predictions")
    if PREDICTIONS in present and not resume:
        raise RunError(f"{folder}: already holds predictions; name another folder")
    if present and not resume:
        raise RunError(f"{folder}: holds unfinished predictions; resume with --resume, or name another folder")


def _require_same(folder: Path, saved: PredictionsCard, new: PredictionsCard) -> None:
    """Raise ``RunError`` if cards differ in more than the path of the dataset."""
    for name in PredictionsCard.__slots__:
        before, after = getattr(saved, name), getattr(new, name)
        if name == "settings":
            for key in sorted(before.keys() | after.keys()):
                if before.get(key) != after.get(key):
                    name, before, after = key, before.get(key), after.get(key)
                    break
        if name != "data" and before != after:
            raise RunError(
                f"{folder}: holds predictions made with other settings: {name} is {before!r} (saved) and {after!r} "
                "(now); resume with the same settings, or name another folder"
            )
