"""Grounding samples of a dataset of referring expressions: one question per expression."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virft.data.annotations import Expression, ReferringSet, Skipped
from virft.data.sampling import SplitPlan, is_trained_on, shuffled, split_fractions
from virft.data.store_writer import StoreWriter, check_parts_free
from virft.data.upright import UprightImages
from virft.errors import DataError
from virft.geometry.boxes import box_of, clip_xyxy
from virft.text.records import box_fault, is_inside, polygons_fault
from virft.types import Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class GroundingPlan:
    """Selection of grounding questions."""

    questions: int | None = None
    """Number of expressions in the training set, drawn by the seed of ``split``; None: all."""
    split: SplitPlan = field(default_factory=SplitPlan)
    """Split of the images; validation and test sets have every expression about their images."""


def write_grounding_stores(
    referring: ReferringSet,
    out: Path,
    *,
    plan: GroundingPlan,
    source: dict[str, Any],
    skipped: Skipped,
    overwrite: bool = False,
    link: bool = False,
) -> dict[str, dict[str, Any]]:
    """Write the dataset ``out``, or one in ``out/train`` and each other part; return the cards by folder.

    ``source`` is recorded in the cards; ``link`` makes symbolic links to the image files. Raises ``DataError`` if a
    folder is occupied or no sample is left.
    """
    parts = plan.split.parts(referring.images)
    check_parts_free(out, parts, overwrite=overwrite)
    files = UprightImages(referring.images, skipped)
    by_name = {one.name: one for one in referring.expressions}
    chosen = {}
    for part, names in parts.items():
        questions = plan.questions if is_trained_on(part) else None
        inside = set(names)
        order = [one.name for one in referring.expressions if one.image in inside]
        if questions is not None:
            order = shuffled(order, seed=plan.split.seed, purpose="expressions")
        good = (name for name in order if _is_usable(by_name[name], files, skipped))
        chosen[part] = sorted(name for _, name in zip(range(questions or len(order)), good, strict=False))
    duplicates = files.find_duplicates(
        {part: dict.fromkeys(by_name[n].image for n in names) for part, names in chosen.items()}
    )
    cards = {}
    for part, chosen_names in chosen.items():
        with StoreWriter(out / part, overwrite=overwrite, link=link) as writer:
            for name in chosen_names:
                one = by_name[name]
                path = writer.add_image_file(one.image, referring.images[one.image].file)
                writer.add(_sample(path, one, files, skipped))
            facts = {
                "split": part or "all",
                "questions": plan.questions if is_trained_on(part) else None,
                **split_fractions(plan.split),
                "num_ignored_shapes": referring.num_ignored,
                "num_images_annotated_unrotated": files.num_unrotated,
            }
            boxes = [(by_name[name].image, by_name[name].box) for name in chosen_names]
            num_clipped = sum(not is_inside(files.upright(image, box), files.size(image)) for image, box in boxes)
            if num_clipped:
                facts["num_clipped_boxes"] = num_clipped
            cards[str(out / part)] = writer.finish(
                source=source | facts | duplicates, seed=plan.split.seed, skipped=skipped.records
            )
    return cards


def _is_usable(one: Expression, files: UprightImages, skipped: Skipped) -> bool:
    """Return True if the image is usable and contains the box; faults are added to ``skipped``."""
    if not files.is_usable(one.image):
        return False
    if fault := box_fault(files.upright(one.image, one.box), files.size(one.image)):
        skipped.note(one.name, fault)
        return False
    return True


def _sample(path: str, one: Expression, files: UprightImages, skipped: Skipped) -> Sample:
    size = files.size(one.image)
    x1, y1, x2, y2 = clip_xyxy(files.upright(one.image, one.box), size.width, size.height)
    return Sample(
        id=one.name,
        task="grounding",
        images=(path,),
        image_sizes=(size,),
        query=one.text,
        target=box_of((round(x1, 3), round(y1, 3), round(x2, 3), round(y2, 3))),
        **_mask(one, files, skipped),
    )


def _mask(one: Expression, files: UprightImages, skipped: Skipped) -> dict[str, Any]:
    """Return the mask fields of the sample; none, and a note in ``skipped``, if they are not a mask of its image."""
    polygons, ignored = (
        tuple(files.upright_points(one.image, polygon) for polygon in some) for some in (one.polygons, one.ignored)
    )
    try:
        if fault := polygons_fault(polygons + ignored, files.size(one.image)):
            raise DataError(fault)
        rle = None if one.rle is None else files.upright_rle(one.image, one.rle, where=one.name)
    except DataError as error:
        skipped.note(one.name, f"{str(error).removeprefix(f'{one.name}: ')}; used without its mask")
        return {}
    return {"polygons": polygons, "rle": rle, "ignored": ignored}
