"""Classification samples of a labelled set: one question per image, few-shot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virft.data.annotations import LabelledSet, Skipped
from virft.data.sampling import choose_shots, split_names
from virft.data.store_writer import StoreWriter, check_parts_free
from virft.data.upright import UprightImages
from virft.types import Label, Sample, TaskName


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelPlan:
    """Which questions to ask, and of what domain: "aircraft" makes "Which aircraft is this?".

    ``shots`` None asks about every image. ``test_frac``: share of each label's images kept for a test set.
    """

    domain: str
    shots: int | None = None
    test_frac: float = 0.0
    seed: int = 0


def write_label_stores(
    labelled: LabelledSet,
    out: Path,
    *,
    plan: LabelPlan,
    source: dict[str, Any],
    skipped: Skipped,
    overwrite: bool = False,
    link: bool = False,
) -> dict[str, dict[str, Any]]:
    """Write ``out`` (or ``out/train`` and ``out/test``) and return the card of each data set by folder.

    The split is made inside each label, so that every one with two images or more is in both.
    """
    splits = {
        label: split_names(
            [name for name, other in labelled.label_of.items() if other == label],
            test_frac=plan.test_frac,
            seed=plan.seed,
        )
        for label in labelled.labels
    }
    train = {label: names for label, (names, _) in splits.items()}
    test = {label: names for label, (_, names) in splits.items() if names}
    parts = {"train": (train, plan.shots), "test": (test, None)} if test else {"": (train, plan.shots)}
    check_parts_free(out, parts, overwrite=overwrite)
    looked = UprightImages(labelled.images, skipped)
    chosen = {part: _choose(images_of, looked, shots, plan.seed) for part, (images_of, shots) in parts.items()}
    cards = {}
    for part, names in chosen.items():
        with StoreWriter(out / part, overwrite=overwrite, link=link) as writer:
            for name in names:
                path = writer.add_image_file(name, labelled.images[name].file)
                writer.add(_sample(path, name, labelled, looked, plan.domain))
            told = {
                "split": part or "all",
                "domain": plan.domain,
                "labels": list(labelled.labels),
                "shots": plan.shots if part != "test" else None,
                "test_frac": plan.test_frac,
            }
            cards[str(out / part)] = writer.finish(source=source | told, seed=plan.seed, skipped=skipped.records)
    return cards


def _choose(images_of: dict[str, list[str]], looked: UprightImages, shots: int | None, seed: int) -> list[str]:
    """Names of usable images, sorted; with ``shots`` as many of every label."""
    if shots is None:
        return sorted(name for names in images_of.values() for name in names if looked.is_usable(name))
    return sorted(name for name, _ in choose_shots(images_of, shots=shots, seed=seed, is_usable=looked.is_usable))


def _sample(path: str, name: str, labelled: LabelledSet, looked: UprightImages, domain: str) -> Sample:
    label = labelled.label_of[name]
    return Sample(
        id=name,
        task=TaskName.CLASSIFICATION,
        images=(path,),
        image_sizes=(looked.size(name),),
        query=domain,
        target=Label(text=label, aliases=labelled.aliases.get(label, ())),
    )
