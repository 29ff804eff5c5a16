"""Check of the questions that a dataset brings: they must demand the thinking and the coordinates that are parsed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from virft.errors import ConfigError
from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.text.question_texts import demanded_spaces, demands_thinking
from virft.types import Sample


def require_thinking(samples: Iterable[Sample], *, default: bool, by_origin: Mapping[str, bool]) -> None:
    """Raise ``ConfigError`` if the questions of a dataset demand a think block and its setting does not.

    Half of the questions decide. ``by_origin``: the setting of each dataset of a mixture; ``default``: of all others.
    """
    for origin, own in _own_questions(samples).items():
        if (fact := _demand_thinking(own)) is None or by_origin.get(origin, default):
            continue
        setting = f"mixture.{origin}.thinking" if origin else "prompt.thinking"
        raise ConfigError(
            f"{fact}, but {setting} is false, so that no completion would have the right format; set {setting} = true"
        )


def require_box_space(samples: Iterable[Sample], space: BoxSpace) -> None:
    """Raise ``ConfigError`` if the questions of a dataset demand boxes in coordinates that the model does not use.

    Half of the questions about boxes decide; ``space``: the coordinate space in which completions are parsed.
    """
    for own in _own_questions(samples).values():
        if (fact := _demand_other_space(own, space)) is not None:
            raise ConfigError(
                f"{fact}, in which this model writes boxes; remove the coordinates from the questions, or choose a "
                "model that writes them"
            )


def question_warnings(samples: Iterable[Sample], *, thinking: bool, space: BoxSpace | None) -> Iterator[str]:
    """Yield a sentence if half of the questions of a dataset demand what predictions do not have.

    ``thinking``: the prompts request a think block. ``space``: the coordinate space in which completions are parsed;
    None: not known.
    """
    for own in _own_questions(samples).values():
        if not thinking and (fact := _demand_thinking(own)) is not None:
            yield (
                f"{fact}, but thinking is false for these predictions: a completion with a think block is not "
                "well-formed; expected predictions with --thinking"
            )
        if space is not None and (fact := _demand_other_space(own, space)) is not None:
            yield f"{fact}, in which these predictions are parsed: their boxes are probably read wrongly"


def _demand_thinking(own: list[Sample]) -> str | None:
    """Return the begin of a message if half of the questions demand a think block; else None."""
    demanding = [sample for sample in own if demands_thinking(sample.question or "")]
    if len(demanding) * 2 < len(own):
        return None
    return f"{len(demanding)} of {len(own)} questions demand <think>, such as that of sample {demanding[0].id}"


def _demand_other_space(own: list[Sample], space: BoxSpace) -> str | None:
    """Return the begin of a message if half of the questions about boxes demand other coordinates; else None."""
    about_boxes = [sample for sample in own if TASKS[sample.task].boxes is not None]
    spaces = {sample.id: demanded_spaces(sample.question or "") for sample in about_boxes}
    wrong = [name for name, fitting in spaces.items() if fitting is not None and space not in fitting]
    if not wrong or len(wrong) * 2 < len(about_boxes):
        return None
    return (
        f"{len(wrong)} of {len(about_boxes)} questions, such as that of sample {wrong[0]}, demand other coordinates "
        f"than {space}"
    )


def _own_questions(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Return the samples with a question of their own by the name of their dataset; "" without a mixture."""
    by_origin: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.question is not None:
            by_origin.setdefault(sample.origin, []).append(sample)
    return by_origin
