"""Read and write ``predictions.jsonl`` (a model's completion of each sample) and its ``card.json`` (the settings)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from virft.errors import DataError
from virft.files import write_text
from virft.geometry.boxes import BoxSpace, box_of
from virft.text.records import bool_of, check_keys, is_image_side, text_of
from virft.types import Box, FinishReason, ImageSize, Prediction

PREDICTIONS, CARD = "predictions.jsonl", "card.json"
PARTS = "predictions.part-{}.jsonl"
"""Part files of unfinished predictions, one per process, in the order of generation."""
PREDICTIONS_SCHEMA_VERSION = 1
DTYPE, IN_4BIT = "dtype", "load_in_4bit"
"""Keys of ``settings``: the precision of the model."""
ENGINE = "engine"
"""Key of ``settings``: the engine that made the predictions; absent if it is the built-in generator."""
YES_NO = "yes_no_question"
"""Key of ``settings``: the question whose P(yes) the boxes have, if they have one."""
ZOOM = "zoom_calls"
"""Key of ``settings``: true if zoom calls are answered; absent if not."""
SKIPPED_SAMPLES = "skipped"
"""Key of ``settings``: ids of the samples that were not predicted, as the model refuses their prompts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionsCard:
    """Provenance of predictions, and the facts that parsing their completions needs."""

    model: str
    """Path or hub id of the model."""
    data: str
    """Path of the dataset."""
    data_hash: str
    """Hash of the dataset's content."""
    num_samples: int
    """Number of samples that the run covers, counted from the first."""
    box_space: BoxSpace
    """Coordinates in which the model writes boxes."""
    thinking: bool
    """True if the prompt requests a think block."""
    settings: dict[str, Any]
    """Additional provenance: template, limit, seed, commit, versions and the like."""

    @property
    def dtype(self) -> str:
        """Precision of the model. Predictions of versions that did not record it are float32."""
        return str(self.settings.get(DTYPE, "float32"))

    @property
    def in_4bit(self) -> bool:
        """True if the linear layers of the language model had weights of 4 bits."""
        return bool(self.settings.get(IN_4BIT, False))

    @property
    def engine(self) -> str:
        """The engine that made the predictions: "builtin", or vLLM with its version."""
        return str(self.settings.get(ENGINE, "builtin"))

    @property
    def skipped(self) -> tuple[str, ...]:
        """Ids of the samples that were not predicted, as the model refuses their prompts."""
        found = self.settings.get(SKIPPED_SAMPLES, ()) if isinstance(self.settings, dict) else ()
        return tuple(map(str, found)) if isinstance(found, list) else ()


class SizedPrediction(NamedTuple):
    """A prediction and the size of the target image after resizing, which some box spaces need."""

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
    """Return a record as a line of ``predictions.jsonl``, with its newline."""
    prediction, resized = sized
    record: dict[str, Any] = {
        "sample_id": prediction.sample_id,
        "text": prediction.text,
        "finish_reason": prediction.finish_reason.value,
        "resized": list(resized),
        "token_logprobs": list(prediction.token_logprobs),
        "token_ends": list(prediction.token_ends),
    }
    if prediction.yes_probs:
        record["yes_probs"] = list(prediction.yes_probs)
    if prediction.zoom_region is not None:
        record["zoom"] = {"text": prediction.zoom_text, "region": list(prediction.zoom_region.xyxy)}
    return json.dumps(record) + "\n"


def write_card(folder: Path, card: PredictionsCard) -> None:
    """Write ``card.json`` of a folder of predictions."""
    record = {"schema_version": PREDICTIONS_SCHEMA_VERSION} | {
        name: getattr(card, name) for name in PredictionsCard.__slots__
    }
    write_text(folder / CARD, json.dumps(record, indent=2) + "\n")


def read_predictions_card(path: Path) -> PredictionsCard:
    """Read the card next to a predictions file; ``DataError`` if it cannot be read or is not valid."""
    where = path.with_name(CARD)
    try:
        record = json.loads(where.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(
            f"{where}: cannot be read ({error.strerror}); expected the card `virft predict` writes"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error})") from error
    found = record.pop("schema_version", None) if isinstance(record, dict) else None
    if found != PREDICTIONS_SCHEMA_VERSION or record.keys() != set(PredictionsCard.__slots__):
        raise DataError(f"{where}: not a predictions card of schema_version {PREDICTIONS_SCHEMA_VERSION}")
    for key in ("model", "data", "data_hash"):
        text_of(record[key], key, where=str(where))
    bool_of(record["thinking"], "thinking", where=str(where))
    if type(record["num_samples"]) is not int or record["num_samples"] < 1:
        raise DataError(f"{where}: num_samples is {record['num_samples']!r:.80}; expected an integer of at least 1")
    if record["box_space"] not in tuple(BoxSpace):
        raise DataError(f"{where}: box_space is {record['box_space']!r}; expected one of {', '.join(BoxSpace)}")
    if not isinstance(record["settings"], dict):
        raise DataError(f"{where}: settings is {record['settings']!r:.80}; expected an object, {{}} if there are none")
    return PredictionsCard(**record | {"box_space": BoxSpace(record["box_space"])})


def read_predictions(path: Path) -> dict[str, SizedPrediction]:
    """Read predictions by sample id; if the file does not exist yet, read the part files of the unfinished run.

    ``DataError``: a file cannot be read, a line is not a prediction, or a sample occurs twice.
    """
    if not path.exists() and (parts := sorted(path.parent.glob(PARTS.format("*")))):
        return {name: one for part in parts for name, one in _read_lines(part, unfinished=True).items()}
    return _read_lines(path, unfinished=False)


def _read_lines(path: Path, *, unfinished: bool) -> dict[str, SizedPrediction]:
    found: dict[str, SizedPrediction] = {}
    name = str(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if unfinished and not line.endswith("\n"):
                    break  # still being written, or truncated
                if line.isspace():
                    continue
                one = _from_line(line, where=f"{name}:{number}")
                if one.prediction.sample_id in found:
                    raise DataError(f"{path}:{number}: sample {one.prediction.sample_id!r} occurs twice")
                found[one.prediction.sample_id] = one
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected predictions.jsonl") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text; expected predictions.jsonl") from error
    return found


def find_predictions(place: Path, *, data_name: str) -> Path:
    """Resolve a path to a predictions file: the file itself, one in the folder, or a run's file for that dataset.

    For unfinished predictions, the path that the file will have. ``DataError``: there are no predictions.
    """
    if place.is_file():
        return place
    for folder in (place, place / "eval" / data_name):
        if (folder / PREDICTIONS).is_file() or any(folder.glob(PARTS.format("*"))):
            return folder / PREDICTIONS
    raise DataError(
        f"{place}: no predictions; expected a file, {PREDICTIONS} in a folder, or eval/{data_name} in a run"
    )


_KEYS = {"sample_id", "text", "finish_reason", "resized"}


def _from_line(line: str, *, where: str) -> SizedPrediction:
    """Return the prediction of a line. Keys that are not known have no meaning: other engines write their own."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error}); expected a prediction in each line") from error
    check_keys(record, _KEYS, record.keys() if isinstance(record, dict) else frozenset(), where=where)
    name = text_of(record["sample_id"], "sample_id", where=where)
    if not isinstance(text := record["text"], str):
        raise DataError(f'{where}: text is {text!r:.80}; expected the completion, "" if there is none')
    if (finish := record["finish_reason"]) not in tuple(FinishReason):
        raise DataError(f"{where}: finish_reason is {finish!r:.80}; expected {' or '.join(FinishReason)}")
    resized = record["resized"]
    if not isinstance(resized, list) or len(resized) != 2 or not all(map(is_image_side, resized)):
        raise DataError(f"{where}: resized is {resized!r:.80}; expected [width, height] in pixels")
    token_logprobs, token_ends = _tokens(record, text, where=where)
    zoom_text, zoom_region = _zoom(record, where=where)
    return SizedPrediction(
        Prediction(
            sample_id=name,
            text=text,
            finish_reason=FinishReason(finish),
            token_logprobs=token_logprobs,
            token_ends=token_ends,
            yes_probs=_probabilities(record, where=where),
            zoom_text=zoom_text,
            zoom_region=zoom_region,
        ),
        ImageSize(*resized),
    )


def _probabilities(record: Mapping[str, Any], *, where: str) -> tuple[float, ...]:
    values = record.get("yes_probs") or []
    if not isinstance(values, list) or not all(type(one) in (int, float) and 0 <= one <= 1 for one in values):
        raise DataError(f"{where}: yes_probs is {values!r:.80}; expected a list of numbers from 0 to 1")
    return tuple(map(float, values))


def _zoom(record: Mapping[str, Any], *, where: str) -> tuple[str, Box | None]:
    """Return text of the first turn and enlarged region of a prediction with a zoom call; "" and None without one."""
    if (zoom := record.get("zoom")) is None:
        return "", None
    check_keys(zoom, {"text", "region"}, zoom.keys() if isinstance(zoom, dict) else frozenset(), where=f"{where}: zoom")
    if not isinstance(text := zoom["text"], str):
        raise DataError(f"{where}: text of zoom is {text!r:.80}; expected the text of the first turn")
    region = zoom["region"]
    if (
        not isinstance(region, list)
        or len(region) != 4
        or not all(type(one) in (int, float) and isfinite(one) for one in region)
        or not (region[0] < region[2] and region[1] < region[3])
    ):
        raise DataError(f"{where}: region of zoom is {region!r:.80}; expected [x1, y1, x2, y2] in pixels")
    return text, box_of((region[0], region[1], region[2], region[3]))


def _tokens(record: Mapping[str, Any], text: str, *, where: str) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return log-probabilities and ends of the tokens, both empty if there are none."""
    values, ends = (record.get(key) or [] for key in ("token_logprobs", "token_ends"))
    # Infinity is a log-probability, NaN and true are none.
    if not isinstance(values, list) or not all(type(one) in (int, float) and one == one for one in values):
        raise DataError(f"{where}: token_logprobs is {values!r:.80}; expected a list of numbers in nats")
    if not isinstance(ends, list) or not all(type(one) is int for one in ends) or len(ends) not in (0, len(values)):
        raise DataError(f"{where}: token_ends is {ends!r:.80}; expected {len(values)} integers, one for each token")
    if ends and (ends[-1] < len(text) or any(after < before for before, after in pairwise(ends))):
        raise DataError(
            f"{where}: token_ends is {ends!r:.80}; expected increasing numbers of characters of the text, the last one "
            f"{len(text)}"
        )
    return tuple(map(float, values)), tuple(ends)
