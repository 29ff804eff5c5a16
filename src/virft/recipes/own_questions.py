"""Check of the questions that a dataset brings: they must demand the thinking and the coordinates that are parsed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from virft.errors import ConfigError
from virft.geometry.boxes import BoxSpace
from virft.types import Box, Detections, Sample

_THOUSANDTHS = re.compile(r"\b0\s*(?:to|and|-|–|,|~)\s*(?:1000|999)\b", re.IGNORECASE)
_FRACTIONS = re.compile(r"\b0(?:\.0)?\s*(?:to|and|-|–|,|~)\s*1(?:\.0)?(?![\d.])", re.IGNORECASE)
_PIXELS = re.compile(r"\b(?:in|absolute)\s+(?:absolute\s+)?pixels?\b|\bpixel (?:coordinates|values)\b", re.IGNORECASE)
_KINDS = (
    ("boxes from 0 to 1000", _THOUSANDTHS, (BoxSpace.RELATIVE_1000,)),
    ("boxes from 0 to 1", _FRACTIONS, ()),
    ("boxes in pixels", _PIXELS, (BoxSpace.RESIZED_PIXELS, BoxSpace.ORIGINAL_PIXELS)),
)
"""What a question may demand, its wording, and the coordinate spaces that it fits."""


def require_thinking(samples: Iterable[Sample], *, default: bool, by_origin: Mapping[str, bool]) -> None:
    """Raise ``ConfigError`` if the questions of a dataset demand a think block and its setting does not.

    Half of the questions decide. ``by_origin``: the setting of each dataset of a mixture; ``default``: of all others.
    """
    for origin, own in _own_questions(samples).items():
        demanding = [sample for sample in own if "<think>" in (sample.question or "")]
        if len(demanding) * 2 < len(own) or by_origin.get(origin, default):
            continue
        setting = f"mixture.{origin}.thinking" if origin else "prompt.thinking"
        raise ConfigError(
            f"{len(demanding)} of {len(own)} questions demand <think>, such as that of sample {demanding[0].id}, but "
            f"{setting} is false, so that no completion would have the right format; set {setting} = true"
        )


def require_box_space(samples: Iterable[Sample], space: BoxSpace) -> None:
    """Raise ``ConfigError`` if the questions of a dataset demand boxes in coordinates that the model does not use.

    Half of the questions about boxes decide; ``space``: the coordinate space in which completions are parsed.
    """
    for own in _own_questions(samples).values():
        about_boxes = [sample for sample in own if isinstance(sample.target, Detections | Box)]
        for demand, wording, spaces in _KINDS:
            demanding = [sample for sample in about_boxes if wording.search(sample.question or "")]
            if demanding and len(demanding) * 2 >= len(about_boxes) and space not in spaces:
                raise ConfigError(
                    f"{len(demanding)} of {len(about_boxes)} questions demand {demand}, such as that of sample "
                    f"{demanding[0].id}, but this model writes boxes in {space}; remove the coordinates from the "
                    "questions, or choose another model"
                )


def _own_questions(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Return the samples with a question of their own by the name of their dataset; "" without a mixture."""
    by_origin: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.question is not None:
            by_origin.setdefault(sample.origin, []).append(sample)
    return by_origin
