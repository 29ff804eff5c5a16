"""Hugging Face datasets with the columns of Visual-RFT: ``image``, ``problem`` and ``solution``.

The question is used unchanged; the solution is parsed like the answer of a completion. Needs the extra ``hf``.
Source: Visual-RFT (arXiv 2503.01785) and its public datasets.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from virft.data.annotations import Skipped
from virft.data.images import is_file
from virft.data.sampling import SplitPlan, split_fractions
from virft.data.sources.text_answers import sample_of_texts
from virft.data.store_writer import StoreWriter, check_parts_free
from virft.data.upright import ImageFolder
from virft.errors import DataError
from virft.geometry.boxes import BoxSpace

VISUAL_RFT_COLUMNS = ("image", "problem", "solution")
"""Columns that a dataset needs."""
_ENDINGS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp"}


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
    try:
        import datasets
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise DataError(
            f'{source}: reading it needs Hugging Face datasets; pip install -e ".[hf]" in a clone of virft'
        ) from error
    try:
        # A hub id is downloaded to a folder of the local cache, unless it is cached already.
        path = Path(source) if Path(source).exists() else Path(snapshot_download(source, repo_type="dataset"))
        if path.is_file():
            found = datasets.load_dataset("parquet", data_files=str(path))
        elif any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
            found = datasets.load_from_disk(str(path))
        else:
            found = datasets.load_dataset(str(path))
    except (OSError, ValueError, HfHubHTTPError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{source}: cannot be read as a dataset ({str(error).splitlines()[0]}); "
            "expected a saved dataset, parquet files, or a hub id"
        ) from error
    rows = _one_split(found, source, split)
    if missing := [column for column in VISUAL_RFT_COLUMNS if column not in rows.column_names]:
        raise DataError(
            f"{source}: has no column {missing[0]}; expected {', '.join(VISUAL_RFT_COLUMNS)}, "
            f"found {', '.join(rows.column_names)}"
        )
    return rows.cast_column("image", datasets.Image(decode=False))


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
                if name is None:
                    found = (row["image"] or {}).get("path")
                    shown = f"{found!r:.60}" if found else "empty"
                    raise DataError(f"image is {shown}; expected the bytes of an image")
                part = part_of[name]
                if name not in used[part]:
                    (folder / name).write_bytes(_bytes_of(row))
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


def _one_split(found: Any, source: str, split: str | None) -> Any:
    """Return the rows of the named split; without a name, of the only split."""
    if not isinstance(found, dict):
        if split is not None:
            raise DataError(f"{source}: has no splits; expected no --hf-split, found {split}")
        return found
    name = split if split is not None else next(iter(found)) if len(found) == 1 else None
    if name not in found:
        splits = f"no split {split}" if split is not None else "several splits"
        raise DataError(f"{source}: has {splits}; expected --hf-split {' or '.join(found)}")
    return found[name]


def _name_of(row: dict[str, Any]) -> str | None:
    """Return a file name made from the content of the row's image; None if the row has no image."""
    data = _bytes_of(row)
    if not data:
        return None
    ending = next((ending for start, ending in _ENDINGS.items() if data.startswith(start)), ".img")
    return hashlib.sha256(data).hexdigest()[:16] + ending


def _bytes_of(row: dict[str, Any]) -> bytes:
    """Return the encoded image: stored in the dataset, as base64 text, or in a file that the dataset names.

    Empty without any.
    """
    image = row["image"] or {}
    if image.get("bytes"):
        return bytes(image["bytes"])
    text = image.get("path") or ""
    return Path(text).read_bytes() if is_file(text) else _decoded(text)


def _decoded(text: str) -> bytes:
    """Return the image of a base64 text, also one of a data URL; empty for any other text."""
    try:
        data = base64.b64decode(text.rpartition("base64,")[2], validate=True)
    except ValueError:
        return b""
    return data if any(data.startswith(start) for start in _ENDINGS) else b""
