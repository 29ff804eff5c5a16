"""Detection datasets from a COCO file, and the folders that a build made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from markupsafe import Markup

from virft.data.class_sets import expand_class_sets
from virft.data.detection_questions import QuestionPlan, write_detection_stores
from virft.data.query_map import read_query_map
from virft.data.sources.coco import open_coco, read_coco
from virft.data.upright import ExifReading
from virft.errors import ConfigError
from virft.recipes.build_options import (
    DEFAULT_OPTIONS,
    BuildOptions,
    Cards,
    count_lines,
    problem_lines,
    require_images,
    source_of,
)
from virft.report.render.page import html_table


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
    task: str = "detection",
    max_classes_per_question: int | None = None,
    exif: ExifReading = "auto",
    outlines: bool = False,
    options: BuildOptions = DEFAULT_OPTIONS,
) -> Cards:
    """Build datasets from a COCO file, or (``federated``) an LVIS file; return their cards by folder.

    ``task``: one whose targets follow from boxes of classes. ``max_classes_per_question``: see ``QuestionPlan``.

    ``images`` None: build without images, see ``Store.has_images``. ``classes``: names, or an ``@set`` of
    ``virft.data.class_sets``. ``protocol``: ``all`` or ``map:FILE``, see ``QuestionPlan``; ``ConfigError`` for others.
    ``exif``: the pixels that boxes of images with an EXIF orientation are in, see ``settle_exif``. ``outlines``: store
    the outlines of objects, see ``QuestionPlan.with_outlines``.
    """
    if images is not None:
        require_images(images, annotations)
    if exif not in get_args(ExifReading):
        raise ConfigError(f"exif is {exif!r}; expected {', '.join(get_args(ExifReading))}")
    if isinstance(classes, str):
        raise ConfigError(f"classes is the text {classes!r}; expected a list of class names")
    if protocol is not None and protocol != "all" and not protocol.startswith("map:"):
        raise ConfigError(f"--protocol {protocol}: expected all, or map:FILE")
    map_file = Path(protocol.removeprefix("map:")) if protocol is not None and protocol != "all" else None
    skipped = options.skipped()
    names = expand_class_sets(classes)
    plan = QuestionPlan(
        task=task,
        shots=shots,
        negatives_frac=negatives_frac,
        every_class=protocol == "all",
        query_map=read_query_map(map_file) if map_file else None,
        max_classes=max_classes_per_question,
        with_outlines=outlines,
        split=options.split(),
    )
    annotated = read_coco(
        open_coco(annotations),
        images,
        classes=names,
        federated=federated,
        exif=exif,
        outlines=plan.uses_outlines,
        skipped=skipped,
    )
    source = source_of("lvis" if federated else "coco", annotations)
    if exif != "auto":
        source["exif"] = exif
    if map_file is not None:
        source["map"] = source_of("map", map_file)
    return options.write(write_detection_stores, annotated, out, plan=plan, source=source, skipped=skipped)
