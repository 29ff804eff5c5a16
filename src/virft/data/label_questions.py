"""Classification samples of a labelled set: one question per image, few-shot."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virft.data.annotations import LabelledSet, Skipped
from virft.data.sampling import SplitPlan, choose_shots, is_trained_on, one_folder_if_whole, shares
from virft.data.store_writer import StoreWriter, check_parts_free
from virft.data.upright import UprightImages
from virft.types import Label, Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelPlan:
    """Which questions to ask, and of what domain: "aircraft" makes "Which aircraft is this?".

    ``shots`` None asks about every image. ``split``: shares of each label's images.
    """

    domain: str
    shots: int | None = None
    split: SplitPlan = field(default_factory=SplitPlan)


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
    """Write ``out`` (or ``out/train`` and the other parts) and return the card of each data set by folder.

    The split is made inside each label, so that every one with images enough is in all parts.
    """
    splits = {
        label: plan.split.split(name for name, other in labelled.label_of.items() if other == label)
        for label in labelled.labels
    }
    parts = one_folder_if_whole(
        {
            part: {label: split[part] for label, split in splits.items() if split[part]}
            for part in ("train", "validation", "test")
        }
    )
    check_parts_free(out, parts, overwrite=overwrite)
    looked = UprightImages(labelled.images, skipped)
    chosen = {
        part: _choose(images_of, looked, plan.shots if is_trained_on(part) else None, plan.split.seed)
        for part, images_of in parts.items()
    }
    same = looked.same_pictures(chosen)
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
                "shots": plan.shots if is_trained_on(part) else None,
                **shares(plan.split),
            }
            cards[str(out / part)] = writer.finish(
                source=source | told | same, seed=plan.split.seed, skipped=skipped.records
            )
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
        task="classification",
        images=(path,),
        image_sizes=(looked.size(name),),
        query=domain,
        target=Label(text=label, aliases=labelled.aliases.get(label, ())),
    )
