"""Output of the command line: lines, a progress bar, records of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from virft.errors import PartlyDone


def say(line: str) -> None:
    """Print a line immediately, also into a pipe."""
    print(line, flush=True)


@contextmanager
def progress_bar(unit: str = "predictions") -> Iterator[Callable[[int, int], None]]:
    """Give a function ``(num_done, num_all)`` that draws a bar with rate and time left, from its first call on.

    Only the main process draws.
    """
    from tqdm import tqdm

    from virft.training.distributed import is_main_process

    with ExitStack() as stack:
        bars: list[Any] = []

        def show(num_done: int, num_all: int) -> None:
            if not bars:
                bar = tqdm(total=num_all, desc=unit, unit="", disable=not is_main_process())
                bars.append(stack.enter_context(bar))
            bars[0].update(num_done - bars[0].n)

        yield show


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
