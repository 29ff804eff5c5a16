"""Fuzz test of config files and lines of datasets: each is accepted, or refused with a message that names its place.

make fuzz                            # a minute of each, guided by coverage (atheris)
python fuzz/files.py N --seed 0      # N mutated texts without atheris, from a seed
"""

from __future__ import annotations

import random
from pathlib import Path

from mutations import arguments, counted, cut

from virft.config.toml_file import dump, parse
from virft.data.samples import sample_from_line, sample_to_line
from virft.errors import ConfigError, DataError

CONFIGS = tuple(path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parents[1] / "configs").glob("*")))
LINES = (
    '{"id":"a","task":"detection","images":[{"path":"images/a.png","width":64,"height":48}],"query":"fox",'
    '"target":{"boxes":[[1,2,30,40]],"crowd":[[1,1,5,5]],"areas":[12.5]}}',
    '{"id":"b","task":"classification","images":[{"path":"b.png","width":64,"height":48}],"query":"animal",'
    '"target":{"label":"fox","aliases":["red fox"]}}',
    '{"id":"c","task":"grounding","images":[{"path":"c.png","width":64,"height":48}],"query":"the fox",'
    '"target":{"box":[1,2,30,40],"polygons":[[1,2,30,2,30,40]]},"rationale":"it is red"}',
)
PIECES = (
    "[", "]", "{", "}", '"', "'", ",", ":", "=", ".", "\n", "#", "null", "true", "NaN", "Infinity", "-1", "1e999",
    "1e308", "9" * 400, "9" * 5000, "[" * 3000, '{"a":' * 3000, "\\u0000", "\ud800", "\x00", "../../etc/passwd",
    "/etc/passwd", "C:\\x", "grpo.steps = 0", "[grpo]", "[mixture.a]", '"""', "0x10", "1_000", "inf", "2026-01-01",
    '"path"', '"size"', '"id"', "{}", "[]", "-0.0", "1e-320",
)  # fmt: skip
WHERE = "the_file:7"


def try_config(text: str) -> None:
    """Check that a config is refused with ``ConfigError`` and the file's name, or survives ``dump`` and ``parse``."""
    try:
        config = parse(text, origin=WHERE).config
    except ConfigError as error:
        assert WHERE in str(error), (str(error), text)
        return
    assert parse(dump(config), origin="dumped").config == config, text


def try_line(text: str) -> None:
    """Check that a line is refused with ``DataError`` and its place, or survives writing and reading."""
    try:
        sample = sample_from_line(text, where=WHERE)
    except DataError as error:
        assert WHERE in str(error), (str(error), text)
        return
    assert sample_from_line(sample_to_line(sample), where=WHERE) == sample, text


def mutated(rng: random.Random, seeds: tuple[str, ...]) -> str:
    """Return a valid text with pieces removed, duplicated, inserted or replaced."""
    return cut(rng, rng.choice(seeds), PIECES, times=4, longest=12)


def main() -> None:
    """Check mutated configs and lines in turn, from a seed."""
    given = arguments(__doc__).parse_args()
    rng = random.Random(given.seed)
    for index in counted(given.number):
        if index % 2:
            try_line(mutated(rng, LINES))
        else:
            try_config(mutated(rng, CONFIGS))
    print(f"{given.number:,} texts: each accepted, or refused with its place")


if __name__ == "__main__":
    main()
