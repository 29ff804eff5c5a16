"""Hugging Face datasets with the columns of Visual-RFT: ``image``, ``problem`` and ``solution``.

The question is used unchanged; the solution is parsed like the answer of a completion. Needs the extra ``hf``.
Source: Visual-RFT (arXiv 2503.01785) and its public datasets.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from virft.data.annotations import Skipped
from virft.data.sampling import SplitPlan, split_fractions
from virft.data.sources.hf_images import image_bytes, image_ending, one_split, open_splits
from virft.data.sources.text_answers import sample_of_texts
from virft.data.store_writer import StoreWriter, check_parts_free
from virft.data.upright import ImageFolder
from virft.errors import DataError
from virft.geometry.boxes import BoxSpace

VISUAL_RFT_COLUMNS = ("image", "problem", "solution")
"""Columns that a dataset needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VisualRFTPlan:
    """Settings of a build."""

    task: str | None = None
    """Task of all rows; None: inferred from the form of each solution."""
    space: BoxSpace = BoxSpace.RELATIVE_1000
    """Coordinate space of the boxes in solutions."""
    split: SplitPlan
    """Split of the images."""


def open_rows(source: str, *, split: str | None = None) -> Any:
    """Open a saved dataset, parquet files (one, or a folder of them), or a hub id, as a ``datasets.Dataset``.

    ``split``: name of the split, needed if the dataset has several. Images are not decoded. Raises ``DataError`` if the
    dataset cannot be read, the split is ambiguous or a column is missing.
    """
    rows = one_split(open_splits(source), source, split)
    if missing := [column for column in VISUAL_RFT_COLUMNS if column not in rows.column_names]:
        raise DataError(
            f"{source}: has no column {missing[0]}; expected {', '.join(VISUAL_RFT_COLUMNS)}, "
            f"found {', '.join(rows.column_names)}"
        )
    return rows


def write_visual_rft_stores(
    rows: Any,
    out: Path,
    *,
    plan: VisualRFTPlan,
    source: dict[str, Any],
    skipped: Skipped,
    overwrite: bool = False,
) -> dict[str, dict[str, Any]]:
    """Write the dataset ``out``, or one in ``out/train`` and each other part; return the cards by folder.

    ``rows``: the result of ``open_rows``. ``source`` is recorded in the cards. Images are read twice, one at a time.
    Rows without a usable image or solution are added to ``skipped``. Raises ``DataError`` if a folder is occupied or no
    sample is left.
    """
    names = {name for row in rows if (name := _name_of(row)) is not None}
    parts = plan.split.parts(names)
    check_parts_free(out, parts, overwrite=overwrite)
    part_of = {name: part for part, inside in parts.items() for name in inside}
    used: dict[str, dict[str, None]] = {part: {} for part in parts}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = ImageFolder(folder)
        writers = {part: stack.enter_context(StoreWriter(out / part, overwrite=overwrite)) for part in parts}
        for number, row in enumerate(rows):
            name = _name_of(row)
            try:
                data = image_bytes(row["image"])
                assert name is not None, "an image has a name"
                part = part_of[name]
                if name not in used[part]:
                    (folder / name).write_bytes(data)
                sample = sample_of_texts(
                    row["problem"],
                    row["solution"],
                    name=f"row {number}",
                    images=(name,),
                    sizes=(files.size(name),),
                    task=plan.task,
                    space=plan.space,
                )
                path = writers[part].add_image_file(name, folder / name)
                used[part][name] = None
                writers[part].add(replace(sample, images=(path,)))
            except DataError as error:
                skipped.note(f"row {number}", str(error))
            finally:
                if name is not None:
                    (folder / name).unlink(missing_ok=True)
        facts = source | {"box_space": plan.space.value, **split_fractions(plan.split), **files.find_duplicates(used)}
        return {
            str(out / part): writer.finish(
                source=facts | {"split": part or "all"}, seed=plan.split.seed, skipped=skipped.records
            )
            for part, writer in writers.items()
        }


def _name_of(row: dict[str, Any]) -> str | None:
    """Return a file name made from the content of the row's image; None if the row has no image."""
    try:
        data = image_bytes(row["image"])
    except DataError:
        return None
    return hashlib.sha256(data).hexdigest()[:16] + image_ending(data)
