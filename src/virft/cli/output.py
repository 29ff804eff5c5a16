"""Output of the command line: lines, a progress bar, records of JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from virft.errors import PartlyDone
from virft.models.model_folders import find_model_folder, model_of_run
from virft.training.progress import progress_bar as progress_bar


def say(line: str) -> None:
    """Print a line immediately, also into a pipe."""
    print(line, flush=True)


def resolve_model(model: str) -> str:
    """Return the model to load: of a run folder, its best or last one, which is named on standard error.

    Raises ``ModelError`` for what can be no model, before PyTorch is imported.
    """
    found = model_of_run(model)
    find_model_folder(found)
    if found != model and os.environ.get("RANK", "0") == "0":
        print(f"model of the run {model}: {found}", file=sys.stderr, flush=True)
    return found


def print_records(records: Iterable[Mapping[str, Any]]) -> None:
    """Print one JSON object per line as each arrives; raise ``PartlyDone`` at the end if some hold an error."""
    num_records = num_errors = 0
    for record in records:
        say(json.dumps(record))
        num_records += 1
        num_errors += "error" in record
    if num_errors:
        raise PartlyDone(f"{num_errors} of {num_records} lines could not be used; each has its record with an error")


def describe_skipped(number: int) -> str:
    """Return the end of a line about a dataset: the number of source records that were skipped, "" for 0.

    >>> describe_skipped(2)
    '; 2 records of the source were skipped, see card.json'
    """
    return f"; {number} records of the source were skipped, see card.json" if number else ""
