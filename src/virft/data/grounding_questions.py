"""Grounding samples of a labelled set: one question per expression."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virft.data.annotations import Expression, ReferringSet, Skipped
from virft.data.sampling import SplitPlan, is_trained_on, shares, shuffled
from virft.data.store_writer import StoreWriter, check_parts_free
from virft.data.upright import UprightImages
from virft.errors import DataError
from virft.geometry.boxes import box_of, clip_xyxy
from virft.text.records import box_fault, polygons_fault
from virft.types import Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class GroundingPlan:
    """Which expressions to ask for. ``questions``: so many of the training part, drawn by seed; None: all of them.

    ``split``: shares of images; the parts for validation and test hold every expression of their images.
    """

    questions: int | None = None
    split: SplitPlan = field(default_factory=SplitPlan)


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
    """Write ``out`` (or ``out/train`` and the other parts) and return the card of each data set by folder."""
    parts = plan.split.parts(referring.images)
    check_parts_free(out, parts, overwrite=overwrite)
    looked = UprightImages(referring.images, skipped)
    by_name = {one.name: one for one in referring.expressions}
    chosen = {}
    for part, names in parts.items():
        questions = plan.questions if is_trained_on(part) else None
        inside = set(names)
        order = [one.name for one in referring.expressions if one.image in inside]
        if questions is not None:
            order = shuffled(order, seed=plan.split.seed, purpose="expressions")
        good = (name for name in order if _is_usable(by_name[name], looked, skipped))
        chosen[part] = sorted(name for _, name in zip(range(questions or len(order)), good, strict=False))
    same = looked.same_pictures(
        {part: dict.fromkeys(by_name[n].image for n in names) for part, names in chosen.items()}
    )
    cards = {}
    for part, chosen_names in chosen.items():
        with StoreWriter(out / part, overwrite=overwrite, link=link) as writer:
            for name in chosen_names:
                one = by_name[name]
                path = writer.add_image_file(one.image, referring.images[one.image].file)
                writer.add(_sample(path, one, looked, skipped))
            told = {
                "split": part or "all",
                "questions": plan.questions if is_trained_on(part) else None,
                **shares(plan.split),
                "num_ignored_shapes": referring.num_ignored,
                "num_images_annotated_unrotated": looked.num_unrotated,
            }
            cards[str(out / part)] = writer.finish(
                source=source | told | same, seed=plan.split.seed, skipped=skipped.records
            )
    return cards


def _is_usable(one: Expression, looked: UprightImages, skipped: Skipped) -> bool:
    """Whether the image can be used and the box lies in it; what does not is noted."""
    if not looked.is_usable(one.image):
        return False
    if fault := box_fault(looked.upright(one.image, one.box), looked.size(one.image)):
        skipped.note(one.name, fault)
        return False
    return True


def _sample(path: str, one: Expression, looked: UprightImages, skipped: Skipped) -> Sample:
    size = looked.size(one.image)
    x1, y1, x2, y2 = clip_xyxy(looked.upright(one.image, one.box), size.width, size.height)
    return Sample(
        id=one.name,
        task="grounding",
        images=(path,),
        image_sizes=(size,),
        query=one.text,
        target=box_of((round(x1, 3), round(y1, 3), round(x2, 3), round(y2, 3))),
        **_mask(one, looked, skipped),
    )


def _mask(one: Expression, looked: UprightImages, skipped: Skipped) -> dict[str, Any]:
    """The fields of the sample about its mask; none where they are no mask of its image, which is noted."""
    polygons, ignored = (
        tuple(looked.upright_points(one.image, polygon) for polygon in some) for some in (one.polygons, one.ignored)
    )
    try:
        if fault := polygons_fault(polygons + ignored, looked.size(one.image)):
            raise DataError(fault)
        rle = None if one.rle is None else looked.upright_rle(one.image, one.rle, where=one.name)
    except DataError as error:
        skipped.note(one.name, f"{str(error).removeprefix(f'{one.name}: ')}; kept without its mask")
        return {}
    return {"polygons": polygons, "rle": rle, "ignored": ignored}
