"""Class names that differ in spelling alone, such as ``Cat`` and ``cat``: a question about one is about the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from virft.data.annotations import AnnotatedSet
from virft.text.labels import normalize_label

_NUM_LISTED = 5


def doubt_variants(annotated: AnnotatedSet) -> AnnotatedSet:
    """Return the set with each class doubtful on the images that show another spelling of it.

    Spellings are the same as for answers, see ``normalize_label``. A note names them.
    """
    names = set(annotated.classes).union(*(image.boxes for image in annotated.images.values()))
    variants = _variants(names.union(*(image.doubtful for image in annotated.images.values())))
    if not any(label in variants for label in annotated.classes):
        return annotated
    images = {}
    for name, image in annotated.images.items():
        shown = {label for label, boxes in image.boxes.items() if boxes} | image.crowd.keys() | image.doubtful
        doubtful = {label for one in shown & variants.keys() for label in variants[one] if label != one}
        images[name] = replace(image, doubtful=image.doubtful | doubtful) if doubtful else image
    groups = list(dict.fromkeys(variants[label] for label in annotated.classes if label in variants))
    listed = "; ".join(", ".join(map(repr, group)) for group in groups[:_NUM_LISTED])
    note = (
        f"class names that differ in spelling alone: {listed}; a class is not queried on an image that shows another "
        "spelling of it; give them one name to make them one class"
    )
    return replace(annotated, images=images, notes=(*annotated.notes, note))


def _variants(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return all spellings of each name that has several."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(normalize_label(name) or name, []).append(name)
    return {name: tuple(group) for group in groups.values() if len(group) > 1 for name in group}
