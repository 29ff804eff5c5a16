"""Images and splits of Hugging Face datasets. Needs the extra ``hf``."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from virft.data.images import is_file
from virft.errors import DataError

_IMAGE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "image_path")
"""Usual names of the column with the images: of CIFAR (img), of WebDataset (jpg, png)."""
_ENDINGS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp"}


def open_splits(source: str) -> dict[str, Any]:
    """Open a saved dataset, parquet files (one, or a folder of them), or a hub id: ``datasets.Dataset`` by split.

    Images are not decoded. A dataset without splits has the split "". Raises ``DataError`` if it cannot be read.
    """
    try:
        import datasets
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise DataError(
            f'{source}: reading it needs Hugging Face datasets; pip install -e ".[hf]" in a clone of virft'
        ) from error
    if Path(source).suffix.lower() in (".json", ".jsonl"):
        raise DataError(
            f"{source}: a JSON file; expected a dataset here, and for JSON: virft build rows FILE IMAGES OUT"
        )
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
    splits = dict(found) if isinstance(found, dict) else {"": found}
    return {name: _with_image(rows, datasets.Image) for name, rows in splits.items()}


def _with_image(rows: Any, image_type: Any) -> Any:
    """Return the rows with their column of images named ``image`` and not decoded; unchanged if they have none.

    The column has a usual name, or is the only one of the type ``image_type``.
    """
    of_type = [name for name, feature in rows.features.items() if isinstance(feature, image_type)]
    named = [name for name in _IMAGE_COLUMNS if name in rows.column_names]
    # A column of images has the priority over a text of the same kind, such as a path.
    column = next((name for name in named if name in of_type), None)
    column = column or (of_type[0] if len(of_type) == 1 else next(iter(named), None))
    if column is None:
        return rows
    if column != "image":
        rows = rows.remove_columns("image") if "image" in rows.column_names else rows
        rows = rows.rename_column(column, "image")
    return rows.cast_column("image", image_type(decode=False))


def one_split(splits: dict[str, Any], source: str, split: str | None) -> Any:
    """Return the rows of the named split; without a name, of the only split. Raises ``DataError`` if there is none."""
    if list(splits) == [""]:
        if split is not None:
            raise DataError(f"{source}: has no splits; expected no --hf-split, found {split}")
        return splits[""]
    name = split if split is not None else next(iter(splits)) if len(splits) == 1 else None
    if name not in splits:
        found = f"no split {split}" if split is not None else "several splits"
        raise DataError(f"{source}: has {found}; expected --hf-split {' or '.join(splits)}")
    return splits[name]


def image_bytes(image: Any) -> bytes:
    """Return the encoded image of a row: stored in the dataset, as base64 text, or in a file that it names.

    Raises ``DataError`` without any.
    """
    record = image if isinstance(image, dict) else {"path": image}
    if record.get("bytes"):
        return bytes(record["bytes"])
    text = record.get("path")
    data = b"" if not isinstance(text, str) else Path(text).read_bytes() if text and is_file(text) else _decoded(text)
    if not data:
        shown = f"{text!r:.60}" if text else "empty"
        raise DataError(f"image is {shown}; expected the bytes of an image")
    return data


def image_ending(data: bytes) -> str:
    """Return the suffix of a file for an encoded image.

    >>> image_ending(b"GIF89a"), image_ending(b"?")
    ('.gif', '.img')
    """
    return next((ending for start, ending in _ENDINGS.items() if data.startswith(start)), ".img")


def _decoded(text: str) -> bytes:
    """Return the image of a base64 text, also one of a data URL; empty for any other text."""
    try:
        data = base64.b64decode(text.rpartition("base64,")[2], validate=True)
    except ValueError:
        return b""
    return data if any(data.startswith(start) for start in _ENDINGS) else b""
