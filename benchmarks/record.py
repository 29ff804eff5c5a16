"""Result files of the benchmarks: numbers with machine, versions and command."""

from __future__ import annotations

import datetime
import os
import platform
import re
import time
from importlib.metadata import version
from pathlib import Path

import torch

from virft.origin import source_commit

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Return processor, number of cores and threads of PyTorch."""
    return f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def write_results(question: str, *, command: str, tables: str, date: str | None, folder: Path = RESULTS) -> Path:
    """Write ``<date>_<machine>_<question>.md`` with command, machine, versions and tables, and return its path.

    An existing file is replaced. ``date`` None: today.
    """
    day = date or datetime.date.today().isoformat()
    versions = ", ".join(f"{name} {version(name)}" for name in ("virft", "torch", "transformers"))
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)|cpu|processor|@.*", "", _processor().lower())).strip("-")
    name = f"{day}_{slug}-{torch.get_num_threads()}-threads_{question}.md"
    text = (
        f"# {question}\n\n`{command}`\n\n- {day}, commit {source_commit() or 'unknown'} (+: with changes)\n"
        f"- {machine()}\n- {versions}, Python {platform.python_version()}\n{_allocator()}\n{tables}\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def matrix_rate(dtype: torch.dtype, *, size: int = 2048) -> float:
    """Measure the operations per second of a product of two square matrices: the fastest of three."""
    left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds[1:])


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """Format rows as a Markdown table with aligned columns."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    lines = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in (head, *rows)]
    rule = ["-" * (width - 1) + ":" for width in widths]
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))


def _allocator() -> str:
    """Return the ``MALLOC_*`` environment variables as a line of the result file; "" if none is set."""
    found = " ".join(f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_"))
    return f"- {found}\n" if found else ""


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()
