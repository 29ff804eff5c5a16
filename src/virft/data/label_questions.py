"""Classification samples of a labelled dataset: one question per image, few-shot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from virft.data.annotations import LabelledSet, Skipped
from virft.data.class_notes import check_noted_classes, facts_of_notes, notes_of
from virft.data.sampling import SplitPlan, choose_shots, folders_of_parts, is_trained_on, split_fractions
from virft.data.store_writer import StoreWriter, check_parts_free
from virft.data.upright import UprightImages
from virft.types import Label, Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelPlan:
    """Selection of classification questions."""

    domain: str
    """Query of each sample: "aircraft" becomes "Which aircraft is this?"."""
    shots: int | None = None
    """Number of images per label in the training set; None: all images."""
    split: SplitPlan = field(default_factory=SplitPlan)
    """Split of the images of each label."""


def write_label_stores(
    labelled: LabelledSet,
    out: Path,
    *,
    plan: LabelPlan,
    source: dict[str, Any],
    skipped: Skipped,
    overwrite: bool = False,
    link: bool = False,
    class_notes: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Write the dataset ``out``, or one in ``out/train`` and each other part; return the cards by folder.

    The images of each label are split separately, so that every label with enough images is in all parts. ``source`` is
    recorded in the cards; ``link`` makes symbolic links to the image files. ``class_notes``: class instructions. A
    question names no classes, so each holds the instructions of all. Raises ``DataError`` if a folder is occupied or no
    sample is left, and ``ConfigError`` for instructions of an unknown class.
    """
    check_noted_classes(class_notes or {}, labelled.labels)
    notes = notes_of(labelled.labels, class_notes or {})
    splits = {
        label: plan.split.split(name for name, other in labelled.label_of.items() if other == label)
        for label in labelled.labels
    }
    parts = folders_of_parts(
        {
            part: {label: split[part] for label, split in splits.items() if split[part]}
            for part in ("train", "validation", "test")
        }
    )
    check_parts_free(out, parts, overwrite=overwrite)
    files = UprightImages(labelled.images, skipped)
    chosen = {
        part: _choose(images_of, files, plan.shots if is_trained_on(part) else None, plan.split.seed)
        for part, images_of in parts.items()
    }
    duplicates = files.find_duplicates(chosen)
    cards = {}
    for part, names in chosen.items():
        with StoreWriter(out / part, overwrite=overwrite, link=link) as writer:
            for name in names:
                path = writer.add_image_file(name, labelled.images[name].file)
                writer.add(replace(_sample(path, name, labelled, files, plan.domain), notes=notes))
            facts = {
                "split": part or "all",
                "domain": plan.domain,
                "labels": list(labelled.labels),
                "shots": plan.shots if is_trained_on(part) else None,
                **split_fractions(plan.split),
                **facts_of_notes(class_notes or {}, labelled.labels, sum(len(note.text) for note in notes)),
            }
            cards[str(out / part)] = writer.finish(
                source=source | facts | duplicates, seed=plan.split.seed, skipped=skipped.records
            )
    return cards


def _choose(images_of: dict[str, list[str]], files: UprightImages, shots: int | None, seed: int) -> list[str]:
    """Return the sorted names of usable images; with ``shots``, that number for each label."""
    if shots is None:
        return sorted(name for names in images_of.values() for name in names if files.is_usable(name))
    return sorted(name for name, _ in choose_shots(images_of, shots=shots, seed=seed, is_usable=files.is_usable))


def _sample(path: str, name: str, labelled: LabelledSet, files: UprightImages, domain: str) -> Sample:
    label = labelled.label_of[name]
    return Sample(
        id=name,
        task="classification",
        images=(path,),
        image_sizes=(files.size(name),),
        query=domain,
        target=Label(text=label, aliases=labelled.aliases.get(label, ())),
    )
