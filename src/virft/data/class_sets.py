"""Named sets of classes, as in the Visual-RFT experiments.

Source: Visual-RFT (arXiv 2503.01785), section 4; COCO's 80 classes: https://cocodataset.org.
"""

from __future__ import annotations

from collections.abc import Iterable

from virft.errors import ConfigError, did_you_mean

_COCO = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, "
    "teddy bear, hair drier, toothbrush"
)
_COCO_NOVEL = (
    "mouse, fork, hot dog, cat, airplane, suitcase, parking meter, sandwich, train, hair drier, toilet, toaster, "
    "snowboard, frisbee, bear"
)
_COCO_FEW_SHOT = "bus, train, fire hydrant, stop sign, cat, dog, bed, toilet"
_LVIS_RARE = (
    "casserole, die, egg roll, futon, garbage, handsaw, hippopotamus, kitchen table, mallet, omelet, shot glass, "
    "stepladder, sugar bowl"
)
_LVIS_FEW_SHOT = "horse buggy, die, kitchen table, omelet, papaya, stepladder"


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


CLASS_SETS = {
    "coco-8": _names(_COCO_FEW_SHOT),
    "coco-base-65": tuple(name for name in _names(_COCO) if name not in _names(_COCO_NOVEL)),
    "coco-novel-15": _names(_COCO_NOVEL),
    "lvis-6": _names(_LVIS_FEW_SHOT),
    "lvis-rare-13": _names(_LVIS_RARE),
}
"""Name -> classes. LVIS names have spaces for underscores, as in datasets of ``virft build lvis``."""


def expand_class_sets(classes: Iterable[str]) -> tuple[str, ...]:
    """Return the names with each ``@set`` replaced by its classes. Raises ``ConfigError`` if a set is unknown.

    >>> expand_class_sets(["@lvis-6", "cup"])
    ('horse buggy', 'die', 'kitchen table', 'omelet', 'papaya', 'stepladder', 'cup')
    """
    found: list[str] = []
    for name in classes:
        if not name.startswith("@"):
            found.append(name)
            continue
        if name[1:] not in CLASS_SETS:
            known = [f"@{one}" for one in CLASS_SETS]
            hint = did_you_mean(name, known, otherwise=f"there are {', '.join(known)}")
            raise ConfigError(f"class set {name!r} is not known; {hint}")
        found += CLASS_SETS[name[1:]]
    return tuple(dict.fromkeys(found))
