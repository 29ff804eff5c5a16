"""Copies of a dataset with corrupted labels, as labelling errors are: a shifted box, a wrong class, a missing box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.geometry.boxes import intersection_over_union
from virft.types import Box, Detections, ImageSize, Label, Sample

KINDS = ("box", "class", "missing")
"""A box that is shifted, a class name that is replaced, a box that is dropped."""
_MOST_IOU = 0.4
"""Largest IoU of a shifted box with the original one: the headline metrics count a hit from 0.5."""


def write_corrupted(store: Store, folder: Path, *, frac: float, seed: int) -> dict[str, str]:
    """Write a copy of a dataset with ``frac`` of its samples corrupted, the kinds in equal numbers; sample id -> kind.

    Questions about absent classes are counted in ``frac``, but are not corrupted themselves.
    """
    rng = np.random.default_rng([seed, 5])
    samples = list(store)
    corruptible = [place for place, sample in enumerate(samples) if _kinds_for(sample)]
    number = max(1, round(frac * len(samples)))
    corrupted: dict[str, str] = {}
    for place in rng.permutation(corruptible).tolist():
        if len(corrupted) == number:
            break
        sample = samples[place]
        # the kind that is rarest so far
        kinds = sorted(_kinds_for(sample), key=lambda kind: list(corrupted.values()).count(kind))
        for kind in kinds:
            if (changed := corrupt(sample, kind, samples, rng)) is not None:
                samples[place] = changed
                corrupted[sample.id] = kind
                break
    with StoreWriter(folder, link=True) as writer:
        for sample in samples:
            paths = tuple(_add_image(writer, store, path) for path in sample.images)
            writer.add(replace(sample, images=paths))
        writer.finish(source={"kind": "corrupted", "frac": frac, "of": store.hash}, seed=seed)
    return corrupted


def corrupt(sample: Sample, kind: str, samples: Sequence[Sample], rng: np.random.Generator) -> Sample | None:
    """Return the sample with a label error of this kind; None if it cannot have one."""
    target = sample.target
    if kind == "class":
        return _with_other_class(sample, samples, rng)
    if isinstance(target, Detections):
        place = int(rng.integers(len(target.items)))
        if kind == "missing":
            items = target.items[:place] + target.items[place + 1 :]
        elif (moved := _shifted(target.items[place].box, sample.target_size, rng)) is not None:
            items = (*target.items[:place], replace(target.items[place], box=moved), *target.items[place + 1 :])
        else:
            return None
        return replace(sample, target=replace(target, items=items), areas=())
    assert isinstance(target, Box)
    box = _shifted(target, sample.target_size, rng)
    return None if box is None else replace(sample, target=box, rle=None, polygons=())


def _kinds_for(sample: Sample) -> tuple[str, ...]:
    if isinstance(sample.target, Detections):
        return KINDS if sample.target.items else ()
    if isinstance(sample.target, Box):
        return ("box",)
    return ("class",) if isinstance(sample.target, Label) else ()


def _with_other_class(sample: Sample, samples: Sequence[Sample], rng: np.random.Generator) -> Sample | None:
    if isinstance(sample.target, Label):
        # of the same domain, such as "animal": an annotator confuses a fox with a wolf, not with a bus
        same = [one.target.text for one in samples if isinstance(one.target, Label) and one.query == sample.query]
        names = sorted({*same} - {sample.target.text})
        return replace(sample, target=Label(text=names[int(rng.integers(len(names)))])) if names else None
    taken = {one.query for one in samples if one.images == sample.images}
    names = sorted({one.query for one in samples if one.task == sample.task} - taken)
    return replace(sample, query=names[int(rng.integers(len(names)))]) if names else None


def _shifted(box: Box, size: ImageSize, rng: np.random.Generator) -> Box | None:
    """Return the box moved by 0.4 to 1 of its sides, inside the image; None if there is no room."""
    width, height = box.x2 - box.x1, box.y2 - box.y1
    for _ in range(200):
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.0)
        dx, dy = float(distance * np.cos(angle) * width), float(distance * np.sin(angle) * height)
        moved = Box(x1=box.x1 + dx, y1=box.y1 + dy, x2=box.x2 + dx, y2=box.y2 + dy)
        is_inside = moved.x1 >= 0 and moved.y1 >= 0 and moved.x2 <= size.width and moved.y2 <= size.height
        if is_inside and intersection_over_union(moved.xyxy, box.xyxy) <= _MOST_IOU:
            return moved
    return None


def _add_image(writer: StoreWriter, store: Store, path: str) -> str:
    inside = PurePosixPath(path).relative_to(store.folder.as_posix())
    return writer.add_image_file(str(PurePosixPath(*inside.parts[1:])), Path(path))
