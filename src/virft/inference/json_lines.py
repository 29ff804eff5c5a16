"""Answer many queries, one a line, with one record a line; an invalid line does not stop the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from virft.errors import DataError
from virft.inference.annotated_image import default_path, require_writable, save_marked
from virft.inference.model import Model
from virft.inference.queries import read_query_line
from virft.inference.result import as_record


def answer_lines(
    lines: Iterable[bytes],
    model: Model,
    *,
    task: str,
    folder: Path,
    overwrite: bool,
    notes: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield a record for each line that is not blank, before the next line is read.

    ``line`` counts from 1. The record of a query holds what ``as_record`` returns and ``annotated_image``, the path of
    the annotated image; each result of this call has a file of its own. The record of an invalid line holds ``error``.
    ``notes``: class instructions {class: text}.
    """
    taken: set[Path] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            query = read_query_line(line, task=task, notes=notes)
            image = Path(query.image_name)
            path = default_path(image, folder, taken)
            require_writable(path, image=image, overwrite=overwrite)
            result = model.answer(query, number=number - 1)
            save_marked(path, result.annotated())
        except DataError as error:
            yield {"line": number, "error": str(error)}
            continue
        taken.add(path)
        yield {"line": number, **as_record(result), "annotated_image": str(path)}
