"""Check of the questions that a dataset brings: they must demand the thinking and the coordinates that are parsed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from virft.errors import ConfigError
from virft.geometry.boxes import BoxSpace
from virft.text.question_texts import demanded_spaces, demands_thinking
from virft.types import Box, Detections, Sample


def require_thinking(samples: Iterable[Sample], *, default: bool, by_origin: Mapping[str, bool]) -> None:
    """Raise ``ConfigError`` if the questions of a dataset demand a think block and its setting does not.

    Half of the questions decide. ``by_origin``: the setting of each dataset of a mixture; ``default``: of all others.
    """
    for origin, own in _own_questions(samples).items():
        demanding = [sample for sample in own if demands_thinking(sample.question or "")]
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
        spaces = {sample.id: demanded_spaces(sample.question or "") for sample in about_boxes}
        wrong = [name for name, fitting in spaces.items() if fitting is not None and space not in fitting]
        if wrong and len(wrong) * 2 >= len(about_boxes):
            raise ConfigError(
                f"{len(wrong)} of {len(about_boxes)} questions demand other coordinates than {space}, in which this "
                f"model writes boxes, such as that of sample {wrong[0]}; remove the coordinates from the questions, or "
                "choose a model that writes them"
            )


def _own_questions(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Return the samples with a question of their own by the name of their dataset; "" without a mixture."""
    by_origin: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.question is not None:
            by_origin.setdefault(sample.origin, []).append(sample)
    return by_origin
