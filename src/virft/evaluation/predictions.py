"""``predictions.jsonl``: what a model wrote about each sample, and ``card.json`` beside it: how it was asked."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from virft.errors import DataError
from virft.files import write_text
from virft.geometry.boxes import BoxSpace
from virft.types import FinishReason, ImageSize, Prediction

PREDICTIONS, CARD = "predictions.jsonl", "card.json"
PARTS = "predictions.part-{}.jsonl"
"""What the processes of a run that is not finished have written, in the order they came."""
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


def write_predictions(folder: Path, card: PredictionsCard, predictions: Iterable[SizedPrediction]) -> Path:
    """Write both files and return the path of the predictions."""
    folder.mkdir(parents=True, exist_ok=True)
    write_card(folder, card)
    path = folder / PREDICTIONS
    with path.open("w", encoding="utf-8") as file:
        file.writelines(line_of(one) for one in predictions)
    return path


def line_of(sized: SizedPrediction) -> str:
    """A line of ``predictions.jsonl``, with its end."""
    prediction, resized = sized
    record = {
        "sample_id": prediction.sample_id,
        "text": prediction.text,
        "finish_reason": prediction.finish_reason.value,
        "resized": list(resized),
        "token_logprobs": list(prediction.token_logprobs),
        "token_ends": list(prediction.token_ends),
    }
    return json.dumps(record) + "\n"


def write_card(folder: Path, card: PredictionsCard) -> None:
    """``card.json`` of a folder of predictions."""
    record = {"schema_version": SCHEMA_VERSION} | {name: getattr(card, name) for name in PredictionsCard.__slots__}
    write_text(folder / CARD, json.dumps(record, indent=2) + "\n")


def read_predictions_card(path: Path) -> PredictionsCard:
    """The card beside a predictions file."""
    where = path.with_name(CARD)
    try:
        record = json.loads(where.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{where}: cannot be read ({error.strerror}); expected the card `virft predict` writes"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error})") from error
    found = record.pop("schema_version", None) if isinstance(record, dict) else None
    if found != SCHEMA_VERSION or record.keys() != set(PredictionsCard.__slots__):
        raise DataError(f"{where}: no card of predictions of schema_version {SCHEMA_VERSION}")
    if record["box_space"] not in tuple(BoxSpace):
        raise DataError(f"{where}: box_space is {record['box_space']!r}; expected one of {', '.join(BoxSpace)}")
    return PredictionsCard(**record | {"box_space": BoxSpace(record["box_space"])})


def read_predictions(path: Path) -> dict[str, SizedPrediction]:
    """Predictions by sample id; each id once. Where the file is not there yet, what an unfinished run has written."""
    if not path.exists() and (parts := sorted(path.parent.glob(PARTS.format("*")))):
        return {name: one for part in parts for name, one in _read_lines(part, unfinished=True).items()}
    return _read_lines(path, unfinished=False)


def _read_lines(path: Path, *, unfinished: bool) -> dict[str, SizedPrediction]:
    found: dict[str, SizedPrediction] = {}
    name = str(path)
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if unfinished and not line.endswith("\n"):
                    break  # being written, or cut
                one = _from_line(line, where=f"{name}:{number}")
                if one.prediction.sample_id in found:
                    raise DataError(f"{path}:{number}: sample {one.prediction.sample_id!r} was answered before")
                found[one.prediction.sample_id] = one
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected predictions.jsonl") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text; expected predictions.jsonl") from error
    return found


def find_predictions(place: Path, *, data_name: str) -> Path:
    """The predictions file that a path means: itself, one in the folder, or one of a run about that data set.

    Of a run that is not finished, the file that is to be.
    """
    if place.is_file():
        return place
    for folder in (place, place / "eval" / data_name):
        if (folder / PREDICTIONS).is_file() or any(folder.glob(PARTS.format("*"))):
            return folder / PREDICTIONS
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
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: no prediction ({type(error).__name__}: {error}); "
            "expected sample_id, text, finish_reason and resized"
        ) from error
