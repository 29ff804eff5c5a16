"""Sources of ``virft build`` with a class for each image: folders, and a CSV file of paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from virft.cli.build_options import (
    add_images,
    add_label_arguments,
    add_source,
)
from virft.cli.parsers import Verbs
from virft.recipes.build_options import DEFAULT_OPTIONS, BuildOptions, Cards, require_images, source_of


def add_folders(sources: Verbs) -> None:
    """Add the parser of ``folders``."""
    verb = add_source(sources, "folders", "a folder of images for each class: classification", build_folders)
    verb.add_argument("root", metavar="FOLDER", type=Path, help="folder that holds one folder per class")
    add_label_arguments(verb)


def build_folders(
    *,
    root: Path,
    out: Path,
    domain: str,
    classes: Sequence[str] = (),
    aliases: Path | None = None,
    shots: int | None = None,
    options: BuildOptions = DEFAULT_OPTIONS,
) -> Cards:
    """Build classification datasets from a folder of images for each class; return their cards by folder."""
    from virft.data.label_questions import LabelPlan, write_label_stores
    from virft.data.sources.labels import read_aliases, read_label_folders

    skipped = options.skipped()
    known = read_aliases(aliases) if aliases else {}
    labelled = read_label_folders(root, classes=classes, aliases=known, skipped=skipped)
    plan = LabelPlan(domain=domain, shots=shots, split=options.split(labelled.published))
    source = source_of("folders", name=root.absolute().name)
    return options.write(write_label_stores, labelled, out, plan=plan, source=source, skipped=skipped)


def add_csv(sources: Verbs) -> None:
    """Add the parser of ``csv``."""
    verb = add_source(sources, "csv", "a CSV file of paths and labels: classification", build_csv)
    verb.add_argument("table", metavar="CSV", type=Path, help="CSV file with the columns path and label")
    add_images(verb)
    add_label_arguments(verb)


def build_csv(
    *,
    table: Path,
    images: Path,
    out: Path,
    domain: str,
    classes: Sequence[str] = (),
    aliases: Path | None = None,
    shots: int | None = None,
    options: BuildOptions = DEFAULT_OPTIONS,
) -> Cards:
    """Build classification datasets from a CSV file with the columns path and label; return their cards by folder."""
    from virft.data.label_questions import LabelPlan, write_label_stores
    from virft.data.sources.labels import read_aliases, read_label_csv

    require_images(images, table)
    skipped = options.skipped()
    known = read_aliases(aliases) if aliases else {}
    labelled = read_label_csv(table, images, classes=classes, aliases=known, skipped=skipped)
    plan = LabelPlan(domain=domain, shots=shots, split=options.split())
    source = source_of("csv", table)
    return options.write(write_label_stores, labelled, out, plan=plan, source=source, skipped=skipped)
