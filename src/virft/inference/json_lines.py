"""Many questions, one a line, to one record a line; a line that cannot be used does not stop the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from virft.errors import DataError
from virft.inference.annotated_image import default_path, require_free, save_picture
from virft.inference.asker import Asker
from virft.inference.questions import read_question_line
from virft.inference.result import as_record


def answer_lines(
    lines: Iterable[bytes], asker: Asker, *, task: str, folder: Path, overwrite: bool
) -> Iterator[dict[str, Any]]:
    """A record for each line that is not blank, before the next line is read.

    ``line`` counts from 1. A record of a question holds what ``as_record`` says and the path of its picture, which no
    other answer of this call takes; a record of a line that cannot be used holds ``error``.
    """
    taken: set[Path] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            question = read_question_line(line, task=task)
            path = default_path(question.image, folder, taken)
            require_free(path, image=question.image, overwrite=overwrite)
            answered = asker.answer(question, number=number - 1)
            save_picture(path, answered)
        except DataError as error:
            yield {"line": number, "error": str(error)}
            continue
        taken.add(path)
        yield {"line": number, **as_record(answered), "picture": str(path)}
