"""``predictions.jsonl``: what a model wrote about each sample, and ``card.json`` beside it: how it was asked."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from virft.boxes import BoxSpace
from virft.errors import DataError, RunError
from virft.types import FinishReason, ImageSize, Prediction

PREDICTIONS, CARD = "predictions.jsonl", "card.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionsCard:
    """What reading the texts again needs to know, and where they come from.

    ``settings``: anything else worth keeping, such as template, limit, seed, commit and versions.
    """

    model: str
    data: str
    data_hash: str
    num_samples: int
    box_space: BoxSpace
    thinking: bool
    settings: dict[str, Any]


class SizedPrediction(NamedTuple):
    """A prediction with the size that the target image had for the model: some box spaces need it."""

    prediction: Prediction
    resized: ImageSize


def require_free(folder: Path) -> None:
    """``RunError`` unless predictions may be written there: it is new, empty, or holds those of a run that was cut."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if {PREDICTIONS, CARD} <= there:
        raise RunError(f"{folder}: already holds predictions; name another folder")
    if there - {PREDICTIONS} or folder.is_file():
        raise RunError(f"{folder}: holds other files; name a new folder for the predictions")


def write_predictions(folder: Path, card: PredictionsCard, predictions: Iterable[SizedPrediction]) -> Path:
    """Write both files and return the path of the predictions. The card comes last: without it, a run was cut."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PREDICTIONS
    with path.open("w", encoding="utf-8") as file:
        for prediction, resized in predictions:
            record = {
                "sample_id": prediction.sample_id,
                "text": prediction.text,
                "finish_reason": prediction.finish_reason.value,
                "resized": list(resized),
                "token_logprobs": list(prediction.token_logprobs),
                "token_ends": list(prediction.token_ends),
            }
            file.write(json.dumps(record) + "\n")
    record = {"schema_version": SCHEMA_VERSION} | {name: getattr(card, name) for name in PredictionsCard.__slots__}
    (folder / CARD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path


def read_predictions_card(path: Path) -> PredictionsCard:
    """The card beside a predictions file."""
    where = path.with_name(CARD)
    try:
        record = json.loads(where.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{where}: cannot be read ({error.strerror}); expected the card `virft predict` writes"
        ) from error
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON ({error})") from error
    found = record.pop("schema_version", None) if isinstance(record, dict) else None
    if found != SCHEMA_VERSION or record.keys() != set(PredictionsCard.__slots__):
        raise DataError(f"{where}: no card of predictions of schema_version {SCHEMA_VERSION}")
    if record["box_space"] not in tuple(BoxSpace):
        raise DataError(f"{where}: box_space is {record['box_space']!r}; expected one of {', '.join(BoxSpace)}")
    return PredictionsCard(**record | {"box_space": BoxSpace(record["box_space"])})


def read_predictions(path: Path) -> dict[str, SizedPrediction]:
    """Predictions by sample id; each id once."""
    found: dict[str, SizedPrediction] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                one = _from_line(line, where=f"{path}:{number}")
                if one.prediction.sample_id in found:
                    raise DataError(f"{path}:{number}: sample {one.prediction.sample_id!r} was answered before")
                found[one.prediction.sample_id] = one
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected predictions.jsonl") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text; expected predictions.jsonl") from error
    return found


def find_predictions(place: Path, *, data_name: str) -> Path:
    """The predictions file that a path means: itself, one in the folder, or one of a run about that data set."""
    if place.is_file():
        return place
    candidates = (place / PREDICTIONS, place / "eval" / data_name / PREDICTIONS)
    for path in candidates:
        if path.is_file():
            return path
    raise DataError(
        f"{place}: no predictions; expected a file, {PREDICTIONS} in a folder, or eval/{data_name} in a run"
    )


def _from_line(line: str, *, where: str) -> SizedPrediction:
    try:
        record = json.loads(line)
        width, height = record["resized"]
        return SizedPrediction(
            Prediction(
                sample_id=str(record["sample_id"]),
                text=str(record["text"]),
                finish_reason=FinishReason(record["finish_reason"]),
                token_logprobs=tuple(record.get("token_logprobs", ())),
                token_ends=tuple(record.get("token_ends", ())),
            ),
            ImageSize(int(width), int(height)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}: no prediction ({type(error).__name__}: {error}); "
            "expected sample_id, text, finish_reason and resized"
        ) from error
