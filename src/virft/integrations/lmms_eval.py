"""Evaluate models with lmms-eval on a virft dataset, and score its outputs as ``virft score`` does.

`virft export --format lmms-eval` writes a folder for ``lmms_eval --include_path``: a task file (YAML) that refers to
the functions of this module, and one row per sample. The metrics that lmms-eval prints are those of ``virft score``,
from the same code. ``python -m virft.integrations.lmms_eval SAMPLES TASK_FOLDER OUT`` makes predictions of the samples
that lmms-eval logs, for intervals, blind baselines and reports.

Source: lmms-eval 0.7.3, `docs/task_guide.md`: ``doc_to_visual``, ``doc_to_text``, ``doc_to_target``,
``process_results`` (one dictionary per sample) and ``aggregation`` (one number from the values of all samples).
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from PIL import Image

from virft.data.images import load_image
from virft.data.store import Store
from virft.errors import ConfigError, DataError
from virft.evaluation.predictions import PredictionsCard, SizedPrediction, write_predictions
from virft.evaluation.score import score_predictions
from virft.geometry.boxes import BoxSpace
from virft.integrations.export import new_folder, require_known_space, write_pieces
from virft.tasks import TASKS
from virft.types import FinishReason, Prediction, Sample

ROWS_FILE, TASK_FILE = "rows.jsonl", "{name}.yaml"
_AGGREGATE = "aggregate_"


def export_lmms_eval(
    store: Store, out: Path, *, name: str, template: str, thinking: bool, space: BoxSpace, max_completion_tokens: int
) -> Path:
    """Write ``rows.jsonl`` and the task file of the lmms-eval task ``name``; return the path of the task file.

    Rows refer to dataset and images by absolute paths. Raises ``ConfigError`` for pixels of the resized image, which
    lmms-eval does not record, and for a name that is no word.
    """
    require_known_space(space)
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"--name {name!r:.60}: expected letters, digits, _, - and . (it becomes a file name)")
    folder = new_folder(out)
    found = sorted({sample.task for sample in store})
    metrics = [f"{task}_{metric.name}" for task in found for metric in TASKS[task].metrics if metric.in_comparison]
    rows = (json.dumps(_row(one, store, metrics, template, thinking, space)) + "\n" for one in store if one.queried)
    path = write_pieces(folder / ROWS_FILE, rows)
    better = {f"{task}_{one.name}": one.better for task in found for one in TASKS[task].metrics}
    return write_pieces(
        folder / TASK_FILE.format(name=name), _task_lines(name, path, metrics, better, max_completion_tokens)
    )


def _row(
    sample: Sample, store: Store, metrics: Sequence[str], template: str, thinking: bool, space: BoxSpace
) -> dict[str, Any]:
    question = TASKS[sample.task].format_question(sample, template=template, thinking=thinking, space=space)
    return {
        "sample_id": sample.id,
        "question": question,
        "images": [str(Path(path).resolve()) for path in sample.images],
        "metrics": list(metrics),
        "facts": json.dumps(
            {"data": str(store.folder.resolve()), "data_hash": store.hash, "box_space": space, "thinking": thinking}
        ),
    }


def _task_lines(
    name: str, rows: Path, metrics: Sequence[str], better: Mapping[str, int], max_completion_tokens: int
) -> Iterator[str]:
    module = __name__
    yield f"task: {name}\n"
    yield "dataset_path: json\n"
    # A JSON text is a valid YAML scalar, whatever the path holds.
    yield f"dataset_kwargs:\n  data_files:\n    test: {json.dumps(str(rows.resolve()))}\n"
    yield "test_split: test\n"
    yield "output_type: generate_until\n"
    yield from (f"{key}: !function {module}.{key}\n" for key in ("doc_to_visual", "doc_to_text", "process_results"))
    # the log of the samples has no other place for the id
    yield "doc_to_target: sample_id\n"
    yield f"generation_kwargs:\n  max_new_tokens: {max_completion_tokens}\n  temperature: 0\n  do_sample: false\n"
    yield "metric_list:\n"
    for one in metrics:
        yield f"  - metric: {one}\n    aggregation: !function {module}.{_AGGREGATE}{one}\n"
        yield f"    higher_is_better: {json.dumps(better[one] > 0)}\n"


def doc_to_visual(doc: Mapping[str, Any]) -> list[Image.Image]:
    """Return the images of a row, upright, in RGB."""
    return [load_image(path) for path in doc["images"]]


def doc_to_text(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Any = None) -> str:
    """Return the question of a row."""
    return str(doc["question"])


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the completion about a row for each metric: metrics of a dataset are no means over samples."""
    found = {"sample_id": doc["sample_id"], "text": results[0] if results else "", "facts": doc["facts"]}
    return dict.fromkeys(doc["metrics"], found)


def aggregate(items: Sequence[Mapping[str, Any]], *, metric: str) -> float:
    """Return a metric, such as ``detection_f1``, of the completions of a dataset, each from ``process_results``.

    Samples without a completion are not scored, as for ``virft score``. Raises ``DataError`` if the dataset is no
    longer the one that was exported.
    """
    values = _metrics(items[0]["facts"], tuple((one["sample_id"], one["text"]) for one in items))
    if metric not in values:
        data = json.loads(items[0]["facts"])["data"]
        raise DataError(f"{data}: no sample of the task of {metric}; expected the dataset of the export")
    return values[metric]


@lru_cache(maxsize=1)
def _metrics(facts: str, texts: tuple[tuple[str, str], ...]) -> dict[str, float]:
    """Return all metrics by task and name: lmms-eval requests one after the other, of the same completions."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = _write(Path(folder), json.loads(facts), dict(texts), model="lmms-eval")
        for scores in score_predictions(path, Store(Path(json.loads(facts)["data"]))):
            for name, value in scores.values.items():
                found[f"{scores.task}_{name.partition(' (')[0]}"] = value
    return found


def __getattr__(name: str) -> Callable[[Sequence[Mapping[str, Any]]], float]:
    """``aggregate_detection_f1`` and so on: a task file can name functions, but pass no arguments to them."""
    if not name.startswith(_AGGREGATE):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return partial(aggregate, metric=name.removeprefix(_AGGREGATE))


def predictions_of_log(samples: Path, task_folder: Path, out: Path, *, model: str = "lmms-eval") -> Path:
    """Write the samples that lmms-eval logged as a folder of predictions for ``virft score``; return its file.

    ``samples``: ``.._samples_NAME.jsonl`` of ``lmms_eval --log_samples``. ``task_folder``: the exported folder. Texts
    are those before filters, which remove thoughts. Raises ``DataError`` if a line is no sample of lmms-eval.
    """
    facts = json.loads(_first_line(task_folder / ROWS_FILE)["facts"])
    texts: dict[str, str] = {}
    try:
        lines = samples.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(
            f"{samples}: cannot be read ({error.strerror}); expected samples that lmms-eval logged"
        ) from error
    for number, line in enumerate(lines, start=1):
        where = f"{samples}:{number}"
        try:
            record = dict(json.loads(line))
            texts[str(record["target"])] = _text_of(record)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{where}: not a sample of lmms-eval ({type(error).__name__}: {error}); expected target and "
                "filtered_resps, as `lmms_eval --log_samples` writes them"
            ) from error
    return _write(out, facts, texts, model=model)


def _first_line(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            found: dict[str, Any] = json.loads(file.readline())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); expected a folder of `virft export --format lmms-eval`"
        ) from error
    return found


def _text_of(record: Mapping[str, Any]) -> str:
    """The completion of a logged sample: ``resps`` if filters changed it. lmms-eval omits lists of one element."""
    found = record["resps"] if "resps" in record else record["filtered_resps"]
    while isinstance(found, list):
        (found,) = found
    if not isinstance(found, str):
        raise TypeError(f"the completion is {found!r:.80}")
    return found


def _write(folder: Path, facts: Mapping[str, Any], texts: Mapping[str, str], *, model: str) -> Path:
    store = Store(Path(facts["data"]))
    if store.hash != facts["data_hash"]:
        raise DataError(f"{store.folder}: has changed since the export; export it again")
    sizes = {sample.id: sample.target_size for sample in store}
    predictions = [
        # the size matters for pixels of the resized image only, which are not exported
        SizedPrediction(Prediction(sample_id=name, text=text, finish_reason=FinishReason.STOP), sizes[name])
        for name, text in texts.items()
    ]
    card = PredictionsCard(
        model=model,
        data=facts["data"],
        data_hash=facts["data_hash"],
        num_samples=len(store),
        box_space=BoxSpace(facts["box_space"]),
        thinking=facts["thinking"],
        settings={"engine": "lmms-eval"},
    )
    return write_predictions(folder, card, predictions)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python -m virft.integrations.lmms_eval SAMPLES.jsonl TASK_FOLDER OUT")
    try:
        print(predictions_of_log(*map(Path, sys.argv[1:])))
    except DataError as error:
        sys.exit(f"error: {error}")
