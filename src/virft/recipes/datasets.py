"""Datasets from annotation files: the options of a build, and the folders that it made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from virft.data.annotations import Skipped
from virft.data.class_sets import expand_class_sets
from virft.data.detection_questions import QuestionPlan, write_detection_stores
from virft.data.query_map import read_asked_map
from virft.data.sampling import SplitPlan
from virft.data.sources.coco import open_coco, read_coco
from virft.data.store_writer import file_hash
from virft.errors import ConfigError, DataError
from virft.report.render.page import html_table

Cards = dict[str, dict[str, Any]]
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
        return SplitPlan(test_frac=self.test_frac, validation_frac=self.validation_frac, seed=self.seed)

    def skipped(self) -> Skipped:
        """Return a new list for skipped records."""
        return Skipped(strict=self.strict)

    def write(
        self,
        write_stores: Callable[..., Cards],
        *arguments: Any,
        source: Mapping[str, Any],
        skipped: Skipped,
        **plan: Any,
    ) -> Cards:
        """Call ``write_stores`` with these options and return the cards.

        ``arguments`` and ``plan`` are those of ``write_stores``; ``source`` is the origin for the card, see
        ``source_of``.
        """
        if self.link:  # only writers of image files have it
            plan["link"] = True
        origin = {**source, "licence": self.licence}
        return write_stores(*arguments, source=origin, skipped=skipped, overwrite=self.overwrite, **plan)


DEFAULT_OPTIONS = BuildOptions()


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class BuiltDatasets:
    """The datasets of one build. In a notebook they show their folders with counts.

    ``cards``: the card of each dataset by its folder, as in its ``card.json``.
    """

    cards: Cards

    @property
    def train(self) -> Path:
        """The folder to train on; of a build without a split, its only folder."""
        return self._folder("train") or Path(next(iter(self.cards)))

    @property
    def validation(self) -> Path | None:
        """The folder to validate on; None if there is none."""
        return self._folder("validation")

    @property
    def test(self) -> Path | None:
        """The folder to evaluate on; None if there is none."""
        return self._folder("test")

    def __repr__(self) -> str:
        return f"<BuiltDatasets {', '.join(self.cards)}>"

    def __str__(self) -> str:
        return "\n".join([*count_lines(self.cards), *problem_lines(self.cards)])

    def _repr_html_(self) -> str:
        rows = [
            (folder, f"{card['num_samples']}", f"{card['num_images']}", f"{card['negatives_frac'] or 0:.0%}")
            for folder, card in self.cards.items()
        ]
        table = html_table(["dataset", "samples", "images", "absent classes"], rows)
        problems = "\n".join(problem_lines(self.cards))
        return str(table + Markup("<pre>{}</pre>").format(problems) if problems else table)

    def _folder(self, part: str) -> Path | None:
        return next((Path(folder) for folder, card in self.cards.items() if card["source"].get("split") == part), None)


def build_from_coco(
    annotations: Path,
    images: Path | None,
    out: Path,
    *,
    classes: Sequence[str] = (),
    shots: int | None = None,
    negatives_frac: float = 0.0,
    federated: bool = False,
    protocol: str | None = None,
    options: BuildOptions = DEFAULT_OPTIONS,
) -> Cards:
    """Build detection datasets from a COCO file, or (``federated``) an LVIS file; return their cards by folder.

    ``images`` None: build without images, see ``Store.has_pictures``. ``classes``: names, or an ``@set`` of
    ``virft.data.class_sets``. ``protocol``: ``all`` or ``map:FILE``, see ``QuestionPlan``; ``ConfigError`` for others.
    """
    if images is not None:
        require_images(images, annotations)
    if protocol is not None and protocol != "all" and not protocol.startswith("map:"):
        raise ConfigError(f"protocol {protocol}: expected all, or map:FILE")
    map_file = Path(protocol.removeprefix("map:")) if protocol is not None and protocol != "all" else None
    skipped = options.skipped()
    names = expand_class_sets(classes)
    annotated = read_coco(open_coco(annotations), images, classes=names, federated=federated, skipped=skipped)
    plan = QuestionPlan(
        shots=shots,
        negatives_frac=negatives_frac,
        every_class=protocol == "all",
        asked_map=read_asked_map(map_file) if map_file else None,
        split=options.split(),
    )
    source = source_of("lvis" if federated else "coco", annotations)
    if map_file is not None:
        source["map"] = source_of("map", map_file)
    return options.write(write_detection_stores, annotated, out, plan=plan, source=source, skipped=skipped)


def source_of(kind: str, file: Path | None = None, **facts: Any) -> dict[str, Any]:
    """Return the origin of a dataset for its card; ``file`` is recorded by name and SHA-256.

    Raises ``DataError`` for a file that cannot be read.
    """
    if file is not None:
        try:
            facts = {"file": file.name, "sha256": file_hash(file).hex(), **facts}
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    return {"kind": kind, **facts}


def require_images(folder: Path, annotations: Path) -> None:
    """Raise ``DataError`` unless the folder of the images exists."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected the folder of the images of {annotations.name}")


def count_lines(cards: Cards) -> list[str]:
    """Format a line for each dataset: samples, images and absent classes."""
    lines = []
    for folder, card in cards.items():
        line = f"{folder}: {card['num_samples']} questions on {card['num_images']} images"
        if card["negatives_frac"] is not None:
            line += f", {card['negatives_frac']:.0%} about an absent class"
        lines.append(f"{line}, hash {card['hash'][:12]}")
    return lines


def problem_lines(cards: Cards) -> list[str]:
    """Format the first skipped records, and the first images that are in two parts; empty if there are none."""
    skipped = [record for card in cards.values() for record in card["skipped"]]
    unique = list(dict.fromkeys((record["where"], record["reason"]) for record in skipped))
    lines = [f"skipped {where}: {reason}" for where, reason in unique[:5]]
    if len(unique) > 5:
        lines.append(f"and {len(unique) - 5} more skipped: see card.json")
    source = next(iter(cards.values()))["source"]
    if number := source.get("num_same_pictures", 0):
        first, second = source["same_pictures"][0]
        lines.append(f"{number} images are duplicates in two parts, such as {first} and {second}: see card.json")
    return lines
