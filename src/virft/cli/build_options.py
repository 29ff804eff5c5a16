"""Options of every build from files, and the parts that all sources share: log, summary, origin of the data."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from virft import __version__
from virft.cli import arguments
from virft.errors import DataError

if TYPE_CHECKING:
    from virft.data.annotations import Skipped
    from virft.data.sampling import SplitPlan

Cards: TypeAlias = dict[str, dict[str, Any]]
"""Card of each dataset by its folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """Options of every build from files."""

    test_frac: float = 0.0
    """Fraction of images in ``OUT/test``."""
    validation_frac: float = 0.0
    """Fraction of images in ``OUT/validation``."""
    seed: int = 0
    """Random seed of split, shots and negatives."""
    strict: bool = False
    """Stop at the first record that cannot be used, instead of skipping it."""
    link: bool = False
    """Create symbolic links to the images, instead of copies."""
    overwrite: bool = False
    """Replace datasets that exist."""
    licence: str | None = None
    """Licence of the images, recorded in the card."""

    def split(self) -> SplitPlan:
        """Return the fractions of the parts."""
        from virft.data.sampling import SplitPlan

        return SplitPlan(test_frac=self.test_frac, validation_frac=self.validation_frac, seed=self.seed)

    def skipped(self) -> Skipped:
        """Return a new list for skipped records."""
        from virft.data.annotations import Skipped

        return Skipped(strict=self.strict)

    def write(
        self,
        write_stores: Callable[..., Cards],
        *arguments: Any,
        source: Mapping[str, Any],
        skipped: Skipped,
        **plan: Any,
    ) -> Cards:
        """Call ``write_stores`` with these options; log the command, print what was built, and return the cards.

        ``arguments`` and ``plan`` are those of ``write_stores``; ``source`` is the origin for the card, see
        ``source_of``.
        """
        if self.link:  # only writers of image files have it
            plan["link"] = True
        return report_build(
            write_stores(
                *arguments,
                source={**source, "licence": self.licence},
                skipped=skipped,
                overwrite=self.overwrite,
                **plan,
            )
        )


DEFAULT_OPTIONS = BuildOptions()


def source_of(kind: str, file: Path | None = None, **facts: Any) -> dict[str, Any]:
    """Return the origin of a dataset for its card; ``file`` is recorded by name and SHA-256.

    Raises ``DataError`` for a file that cannot be read.
    """
    from virft.data.store_writer import file_hash

    if file is not None:
        try:
            facts = {"file": file.name, "sha256": file_hash(file).hex(), **facts}
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    return {"kind": kind, **facts}


def report_build(cards: Cards) -> Cards:
    """Log the command next to each dataset, print what was built, and return the cards.

    Command and date go into ``build.log``, so that cards of equal builds are equal.
    """
    line = f"{datetime.now(UTC).isoformat(timespec='seconds')}  virft {__version__}  {shlex.join(sys.argv)}\n"
    for folder in cards:
        (Path(folder) / "build.log").write_text(line, encoding="utf-8", errors="surrogateescape")
    _print_cards(cards)
    return cards


def _print_cards(cards: Cards) -> None:
    """Print one line per dataset, the first skipped records, and the first images that are in two parts."""
    for folder, card in cards.items():
        line = f"{folder}: {card['num_samples']} questions on {card['num_images']} images"
        if card["negatives_frac"] is not None:
            line += f", {card['negatives_frac']:.0%} about an absent class"
        print(f"{line}, hash {card['hash'][:12]}")
    skipped = [record for card in cards.values() for record in card["skipped"]]
    unique = list(dict.fromkeys((record["where"], record["reason"]) for record in skipped))
    for where, reason in unique[:5]:
        print(f"skipped {where}: {reason}")
    if len(unique) > 5:
        print(f"and {len(unique) - 5} more skipped: see card.json")
    source = next(iter(cards.values()))["source"]
    if number := source.get("num_duplicate_images", 0):
        first, second = source["duplicate_images"][0]
        print(f"{number} near-duplicate images in two parts, such as {first} and {second}: see card.json")


def add_options(verb: argparse.ArgumentParser, *, can_link: bool = True) -> None:
    """Add the fields of ``BuildOptions``; images that are not files cannot be linked."""
    verb.add_argument(
        "--test-frac",
        type=arguments.fraction,
        metavar="F",
        default=0.0,
        help="fraction of images held out in OUT/test; 0 makes no test split",
    )
    verb.add_argument(
        "--validation-frac",
        type=arguments.fraction,
        metavar="F",
        default=0.0,
        help="fraction of images held out in OUT/validation, none of the test split; 0 makes no validation split",
    )
    verb.add_argument(
        "--seed",
        type=arguments.not_negative,
        metavar="N",
        default=0,
        help="random seed of split, few-shot selection and absent classes",
    )
    verb.add_argument(
        "--strict", action="store_true", help="stop at the first invalid record; without it, invalid ones are skipped"
    )
    verb.add_argument("--overwrite", action="store_true", help="replace a dataset that exists")
    verb.add_argument("--licence", help="licence of the images, recorded in card.json")
    if can_link:
        verb.add_argument("--link", action="store_true", help="link images instead of copying them")
