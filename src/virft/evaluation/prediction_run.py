"""Predictions in the making: whole batches are kept as they come, and put in the order of the data set at the end.

Which samples go together is a pure function of the data set. A batch is kept whole or made again, so a run that was
killed, or that several processes share, writes the same file as one that was left alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

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

BATCH_SIZE = 32


def plan_batches(samples: Iterable[Sample], batch_size: int = BATCH_SIZE) -> list[list[int]]:
    """Indices of samples that are answered together: of similar length, so that none waits long for the others.

    Length is told by pixels and characters: prompts need not be rendered to plan.
    """
    sizes = [
        (sum(size.width * size.height for size in one.image_sizes), one.task, len(one.question or one.query), number)
        for number, one in enumerate(samples)
    ]
    order = [number for *_, number in sorted(sizes)]
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def count_answers(samples: Iterable[Sample]) -> str:
    """What answering takes, in words.

    >>> count_answers([])
    '0 answers about 0 images'
    """
    number, images = 0, set()
    for one in samples:
        if one.queried:
            number += 1
            images.add(one.images)
    return f"{number:,} answers about {len(images):,} images"


class PredictionRun:
    """A folder for the answers to ``ids`` (of samples, in the order of the data set), planned in ``batches`` of them.

    ``begin`` and ``finish`` are for one process alone; in between, each process appends batches to a file of its own.
    """

    def __init__(self, folder: Path, card: PredictionsCard, *, ids: Sequence[str], batches: Sequence[Sequence[int]]):
        self._folder, self._card, self._ids = folder, card, ids
        self._batches = batches

    def begin(self, *, resume: bool) -> None:
        """Take a new folder, or go on in one of the same card; ``RunError`` for any other."""
        require_free(self._folder, resume=resume)
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
        """Whether every answer is in its place."""
        return (self._folder / PREDICTIONS).exists()

    def missing(self) -> list[Sequence[int]]:
        """The batches that no process has answered yet."""
        if self.is_finished:
            return []
        kept = self._kept()
        return [batch for batch in self._batches if any(self._ids[i] not in kept for i in batch)]

    def append(self, batch: Iterable[SizedPrediction], *, process: int) -> None:
        """Keep the answers to one batch."""
        with (self._folder / PARTS.format(process)).open("a", encoding="utf-8") as file:
            file.write("".join(line_of(one) for one in batch))

    def finish(self) -> Path:
        """Put all answers in the order of the data set; the path of the file."""
        path = self._folder / PREDICTIONS
        if not self.is_finished:
            kept = self._kept()
            self._write(path, (kept[one] for one in self._ids))
            for part in self._parts():
                part.unlink()
        return path

    def _whole_batches(self) -> Iterator[str]:
        kept = self._kept()
        for batch in self._batches:
            if all(self._ids[i] in kept for i in batch):
                yield from (kept[self._ids[i]] for i in batch)

    def _kept(self) -> dict[str, str]:
        """Line by sample id, cut lines left out."""
        kept = {}
        for path in self._parts():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
                try:
                    kept[json.loads(line)["sample_id"]] = line
                except ValueError:
                    continue  # cut when the run was killed
        return {name: line for name, line in kept.items() if line.endswith("\n")}

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob(PARTS.format("*")))

    def _write(self, path: Path, lines: Iterable[str]) -> None:
        """All at once. What a kill leaves behind is a part like the others: its lines are those of other parts."""
        text = "".join(lines)
        new = self._folder / PARTS.format("new")
        new.write_text(text, encoding="utf-8")
        sync(new)
        new.rename(path)
        sync(self._folder)


def require_free(folder: Path, *, resume: bool) -> None:
    """``RunError`` unless predictions may be written there: it is new, empty, or holds those of a run to go on with."""
    there = {path.name for path in folder.iterdir()} - {CARD + UNFINISHED} if folder.is_dir() else set()
    own = {CARD, PREDICTIONS, "scores.json", "map.json"}
    foreign = [name for name in there - own if not fnmatch(name, PARTS.format("*"))]
    if folder.is_file() or foreign or (there and CARD not in there):
        raise RunError(f"{folder}: holds other files; name a new folder for the predictions")
    if PREDICTIONS in there and not resume:
        raise RunError(f"{folder}: already holds predictions; name another folder")
    if there and not resume:
        raise RunError(f"{folder}: holds predictions of a run that was stopped; go on with --resume, or name another")


def _require_same(folder: Path, there: PredictionsCard, now: PredictionsCard) -> None:
    """The folder's name of the data set may have changed, its content and everything else may not."""
    for name in PredictionsCard.__slots__:
        before, wanted = getattr(there, name), getattr(now, name)
        if name == "settings":
            for key in sorted(before.keys() | wanted.keys()):
                if before.get(key) != wanted.get(key):
                    name, before, wanted = key, before.get(key), wanted.get(key)
                    break
        if name != "data" and before != wanted:
            raise RunError(
                f"{folder}: holds predictions made otherwise: {name} is {before!r} (there) and {wanted!r} (now); "
                "go on as it was begun, or name another folder"
            )
