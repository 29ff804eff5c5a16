"""Coverage-guided fuzz test: the checks of ``answers.py`` and ``files.py`` with inputs from atheris (libFuzzer).

make fuzz FUZZ_SECONDS=600
python fuzz/guided.py answers -max_total_time=60
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["virft"]):
    import answers
    import files

TARGETS = {
    "answers": (lambda text: answers.try_text(text), answers.SEEDS),
    "configs": (lambda text: files.try_config(text), files.CONFIGS),
    "lines": (lambda text: files.try_line(text), files.LINES),
}


def main() -> None:
    """Fuzz one of the targets, starting from its valid texts."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        raise SystemExit(f"guided.py: {name!r} is not a target; expected one of {', '.join(TARGETS)}")
    check, seeds = TARGETS[name]
    with tempfile.TemporaryDirectory() as corpus:
        for number, text in enumerate(seeds):
            (Path(corpus) / str(number)).write_text(text, encoding="utf-8")
        options = ["-max_len=20000", "-timeout=10", *sys.argv[2:], corpus]

        def try_bytes(data: bytes) -> None:
            check(data.decode("utf-8", errors="surrogateescape"))

        atheris.Setup([sys.argv[0], *options], try_bytes)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
