"""Options of every build from files, the origin of the data for its card, and the summary of what was built.

Readers are imported inside the functions: the command line reads the options before it knows the source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from virft.config.wording import counted
from virft.errors import ConfigError, DataError

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
    class_notes: Path | None = None
    """JSON or TOML file of class instructions, for datasets with classes; see ``read_class_notes``."""

    def __post_init__(self) -> None:
        """Raise ``ConfigError`` for fractions that leave nothing to train on."""
        for name, fraction in (("test_frac", self.test_frac), ("validation_frac", self.validation_frac)):
            if not 0.0 <= fraction < 1.0:
                raise ConfigError(f"{name} is {fraction}; expected a number of at least 0 and below 1")
        if self.test_frac + self.validation_frac >= 1.0:
            total = self.test_frac + self.validation_frac
            raise ConfigError(f"test_frac and validation_frac are {total:g} together; expected a sum below 1")

    def split(self, published: Mapping[str, str] | None = None) -> SplitPlan:
        """Return the fractions of the parts. ``published``: part of each image, for a source that is split already.

        Raises ``ConfigError`` for a fraction of a part that is published.
        """
        from virft.data.sampling import SplitPlan

        known = set((published or {}).values())
        for part, fraction in (("test", self.test_frac), ("validation", self.validation_frac)):
            if fraction > 0.0 and part in known:
                raise ConfigError(
                    f"--{part}-frac {fraction:g}: the source has a {part} split, which is used; remove the option, or "
                    "build the folder of one split alone"
                )
        return SplitPlan(
            test_frac=self.test_frac,
            validation_frac=self.validation_frac,
            seed=self.seed,
            published=published or {},
        )

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
        """Call ``write_stores`` with these options and return the cards.

        ``arguments`` and ``plan`` are those of ``write_stores``; ``source`` is the origin for the card, see
        ``source_of``.
        """
        if self.link:  # only writers of image files have it
            plan["link"] = True
        origin = {**source, "licence": self.licence}
        if self.class_notes is not None:  # only writers of datasets with classes have it
            from virft.data.class_notes import read_class_notes

            plan["class_notes"] = read_class_notes(self.class_notes)
            origin["class_notes"] = source_of("class_notes", self.class_notes)
        return write_stores(*arguments, source=origin, skipped=skipped, overwrite=self.overwrite, **plan)


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


def require_images(folder: Path, annotations: Path) -> None:
    """Raise ``DataError`` unless the folder of the images exists."""
    if not folder.is_dir():
        found = "is a file" if folder.is_file() else "no such folder"
        swapped = " (the annotations come first)" if folder.is_file() and annotations.is_dir() else ""
        raise DataError(f"{folder}: {found}; expected the folder of the images{swapped}")


def count_lines(cards: Cards) -> list[str]:
    """Format a line for each dataset: samples, images and absent classes."""
    lines = []
    for folder, card in cards.items():
        line = f"{folder}: {counted(card['num_samples'], 'question')} on {counted(card['num_images'], 'image')}"
        if number := card["source"].get("num_class_questions"):
            per_image = card["num_samples"] / card["num_images"]
            line += f" ({per_image:.3g} per image, in place of {number / card['num_images']:.3g} about one class each)"
        if card["negatives_frac"] is not None:
            line += f", {card['negatives_frac']:.0%} about an absent class"
        lines.append(f"{line}, hash {card['hash'][:12]}")
    return lines


def problem_lines(cards: Cards) -> list[str]:
    """Format what a user should verify: missing negatives, first skipped records, boxes that were changed, and so on.

    Empty if all records were read as they are. Of a build of several datasets, lines begin with the name of one.
    """
    datasets: dict[str, Cards] = {}
    for folder, card in cards.items():
        datasets.setdefault(str(card["source"].get("name", "")), {})[folder] = card
    if len(datasets) == 1:
        return _problems(cards)
    return [f"{name}: {line}" for name, some in datasets.items() for line in _problems(some)]


def _problems(cards: Cards) -> list[str]:
    """Format the problems of one dataset and its splits."""
    skipped = [record for card in cards.values() for record in card["skipped"]]
    unique = list(dict.fromkeys((record["where"], record["reason"]) for record in skipped))
    lines = [line for folder, card in cards.items() if (line := _missing_negatives(folder, card)) is not None]
    source = next(iter(cards.values()))["source"]
    if splits := source.get("published_splits"):
        lines.append(f"the published splits are used: {', '.join(splits)}")
    lines += [f"skipped {where}: {reason}" for where, reason in unique[:5]]
    if len(unique) > 5:
        lines.append(f"and {len(unique) - 5} more skipped: see card.json")
    lines += _changed(cards)
    if number := source.get("num_duplicate_images", 0):
        first, second = source["duplicate_images"][0]
        lines.append(f"{number} near-duplicate images in two parts, such as {first} and {second}: see card.json")
    return lines


_CHANGES = {
    "num_undetermined": "pairs of an image and a class that are not queried, as a box or the number of objects is "
    "unknown: {}",
    "num_repeated_boxes": "boxes removed that repeat another one of the same class: {}",
    "num_images_annotated_unrotated": "images annotated without their EXIF orientation, whose boxes were rotated: {}; "
    "check one with virft preview (--exif upright leaves their boxes as they are)",
}
"""Sentence about a number in the source of a card, the same in all parts of a build."""


def _changed(cards: Cards) -> list[str]:
    sources = [card["source"] for card in cards.values()]
    lines = list(dict.fromkeys(note for source in sources for note in source.get("notes", ())))
    lines += [text.format(number) for key, text in _CHANGES.items() if (number := sources[0].get(key, 0))]
    lines += _about_notes(sources)
    if number := sum(source.get("num_clipped_boxes", 0) for source in sources):
        lines.append(f"boxes clipped that reach more than a pixel outside their image: {number}")
    return lines


def _about_notes(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """Format the number of classes with instructions, and a warning about questions with long ones."""
    from virft.data.class_notes import LONG_NOTES

    first = sources[0]
    if "num_noted_classes" not in first:
        return []
    number = len(first.get("classes", first.get("labels", ())))
    lines = [f"classes with instructions in the prompts: {first['num_noted_classes']} of {number}"]
    if (longest := max(source.get("longest_notes", 0) for source in sources)) > LONG_NOTES:
        lines.append(
            f"a question has up to {longest:,} characters of class instructions (about {longest // 4:,} tokens), in "
            "every prompt; expected shorter texts, or fewer classes in a question (--max-classes-per-question)"
        )
    return lines


def next_lines(cards: Cards) -> list[str]:
    """Format the commands that usually follow a build."""
    folder = next(iter(cards))
    if not next(iter(cards.values())).get("has_images", True):
        return []
    whole = folder if len(cards) == 1 else str(Path(folder).parent)
    return [f"next: virft preview {folder} (to check the boxes), then virft init --data {whole}"]


def _missing_negatives(folder: str, card: Mapping[str, Any]) -> str | None:
    """Explain why a dataset has fewer questions about absent classes than requested; None if it has as many."""
    source, found = card["source"], card["negatives_frac"]
    requested = source.get("negatives_frac_requested", 0.0)
    if not requested or found is None:
        return None
    num_absent = round(card["num_samples"] * found)
    num_requested = round((card["num_samples"] - num_absent) * requested / (1.0 - requested))
    if num_absent >= num_requested:
        return None
    classes = source["classes"]
    line = f"{folder}: requested {requested:.0%} of questions about absent classes, got {found:.0%}: "
    one_class = f"the only class ({classes[0]})"
    if len(classes) > 1:
        line += f"these images have {num_absent} pairs of an image and an absent class; {num_requested} are needed"
    else:
        line += f"every image shows {one_class}" if not num_absent else f"only {num_absent} images lack {one_class}"
    if source.get("shots") is not None:
        return f"{line}; build without --shots from images that lack a class too, or with more --classes"
    return f"{line}; add images that lack a class to the source, or more classes"
