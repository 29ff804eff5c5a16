"""The public functions of ``virft`` that build datasets, train and evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from virft.config.fitting import TrainingVerb, method_of
from virft.config.schema import Config, Dtype
from virft.config.toml_file import changed
from virft.data.store import Store
from virft.data.upright import ExifReading
from virft.errors import ConfigError, named_as_keywords
from virft.evaluation.blind_data import find_blind_data, open_blind_data
from virft.evaluation.evaluated import evaluate_predictions
from virft.inference.model import Model, load
from virft.recipes.build_options import BuildOptions
from virft.recipes.datasets import BuiltDatasets, build_from_coco
from virft.recipes.evaluate import PredictionSettings, predict_store, runtime_of
from virft.recipes.fitting import load_fitted_config
from virft.recipes.results import Evaluation, Run
from virft.recipes.train import run_training
from virft.training.progress import progress_bar
from virft.training.run import CONFIG, MODEL


@named_as_keywords()
def build_coco(
    annotations: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    classes: Sequence[str] = (),
    shots: int | None = None,
    negatives_frac: float = 0.0,
    test_frac: float = 0.0,
    validation_frac: float = 0.0,
    exif: ExifReading = "auto",
    seed: int = 0,
    overwrite: bool = False,
) -> BuiltDatasets:
    """Build detection datasets from a COCO file: ``out``, or with a split ``out/train`` and the other parts.

    ``classes``: default is all of the file. ``shots``: training images per class (few-shot); default: all.
    ``negatives_frac``: fraction of samples that query a class which the image does not show. ``test_frac``,
    ``validation_frac``: fractions of the images. ``exif``: pixels that the boxes of images with an EXIF orientation are
    in, of the stored image ("raw") or of the upright one ("upright"); "auto" decides by the stated sizes, and by what
    all boxes of the file fit. ``overwrite``: replace datasets that exist.

    Raises ``DataError`` for files that cannot be used, and ``ConfigError`` for unknown classes or if a class has too
    few images.
    """
    options = BuildOptions(test_frac=test_frac, validation_frac=validation_frac, seed=seed, overwrite=overwrite)
    cards = build_from_coco(
        Path(annotations),
        Path(images),
        Path(out),
        classes=classes,
        shots=shots,
        negatives_frac=negatives_frac,
        exif=exif,
        options=options,
    )
    return BuiltDatasets(cards=cards)


@named_as_keywords()
def train(
    config: str | Path | Config | None = None,
    method: TrainingVerb = "train",
    resume: bool = False,
    **settings: Any,
) -> Run:
    """Train a model and return its run. Each step is printed.

    ``config``: a TOML file, a ``Config``, or None. ``settings``: the settings of docs/config.md, as nested mappings
    (``grpo={"steps": 10}``) or by dotted keys (``**{"grpo.steps": 10}``); they replace those of ``config``. Settings
    that neither sets are fitted to model and data (docs/config.md); only a ``Config`` is used as it is.
    ``method``: "train" is GRPO with the ground truth as fading demonstrations, as `virft train`; "grpo" is GRPO
    without, "sft" is supervised fine-tuning. ``resume``: continue a stopped run from its last checkpoint.

    Raises ``ConfigError`` for an invalid setting, ``RunError`` if the run folder holds another run, and ``RunStopped``
    after Ctrl-C (a checkpoint is saved).
    """
    if method not in get_args(TrainingVerb):
        raise ConfigError(f"method is {method!r}; expected {', '.join(get_args(TrainingVerb))}")
    resolved = _resolve(config, settings, method, resume=resume)
    run_training(resolved, method_of(method), resume=resume, log=_print)
    return Run(resolved.run.dir)


def open_run(folder: str | Path) -> Run:
    """Open the folder of a run, finished or not; ``RunError`` if it holds no run."""
    return Run(folder)


@named_as_keywords()
def evaluate(
    model: Model | Run | str | Path,
    data: str | Path,
    out: str | Path | None = None,
    limit: int | None = None,
    train: str | Path | None = None,
    skip_refused: bool = False,
    dtype: Dtype = "auto",
    load_in_4bit: bool | None = None,
) -> Evaluation:
    """Generate a model's predictions for a dataset and score them, with 95 % bootstrap confidence intervals.

    Blind baselines (answers that ignore the image, such as the mean box) are scored on the same questions.

    ``model``: a loaded model, a run, the folder of either, or a Hub id. If it is not loaded yet, it is loaded as by
    ``load``, with ``dtype`` and ``load_in_4bit``. ``data``: a dataset folder. ``out``: folder for
    ``predictions.jsonl`` and ``scores.json``. By default it is ``eval/DATASET`` of a run, where existing predictions
    are scored again; of a model the files are deleted.
    ``limit``: use the first samples only. ``train``: the training dataset that the blind baselines are fitted on;
    default: that of the run, else the folder ``train`` of the same build as ``data``. ``skip_refused``: predict without
    the samples whose prompt the model refuses, such as images of extreme aspect ratio; every score then has the
    coverage in its name.

    Raises ``DataError`` for a dataset that cannot be used, ``ModelError`` for such a model, ``RunError`` if ``out``
    holds other predictions or other files, and ``ConfigError`` for a precision of a model that is loaded already.
    """
    if isinstance(model, Model) and (dtype != "auto" or load_in_4bit is not None):
        raise ConfigError(
            f"dtype or load_in_4bit with a loaded model, which is {model.loaded.precision}; expected them in virft.load"
        )
    store = Store(data)
    store.check(decode=True)
    if isinstance(model, str | Path) and (Path(model) / CONFIG).is_file():
        model = Run(model)
    is_run = isinstance(model, Run)
    blind_data = (
        open_blind_data(train, store)
        if train
        else find_blind_data(store, model=_name_of(model), place=Path(out or "."))
    )
    with ExitStack() as stack:
        if isinstance(model, Run):
            out = out or model.folder / "eval" / store.folder.absolute().name
            as_trained = dtype == "auto" and load_in_4bit is None
            model = model.model if as_trained else load(model.folder, dtype=dtype, load_in_4bit=load_in_4bit)
        elif not isinstance(model, Model):
            model = load(model, dtype=dtype, load_in_4bit=load_in_4bit)
        folder = Path(out or stack.enter_context(TemporaryDirectory(prefix="virft-")))
        settings = PredictionSettings(
            prompting=model.prompting,
            max_completion_tokens=model.max_completion_tokens,
            model_name=model.name,
            resume=is_run,
            progress=stack.enter_context(progress_bar()),
            skip_refused=skip_refused,
            log=_print,
        )
        runtime = runtime_of(model.loaded)
        runtime = replace(runtime, ranks=replace(runtime.ranks, device=model.device))
        path = predict_store(model.loaded, store, folder, settings=settings, runtime=runtime, limit=limit)
        evaluated = evaluate_predictions(path, store, blind_data)
        evaluated.write()
    return Evaluation(model=model.name, data=str(data), predictions=evaluated)


def _name_of(model: Model | Run | str | Path) -> str:
    """The name or folder of a model."""
    if isinstance(model, Run):
        return str(model.folder / MODEL)
    return model.name if isinstance(model, Model) else str(model)


def _resolve(
    config: str | Path | Config | None, settings: Mapping[str, Any], method: TrainingVerb, *, resume: bool
) -> Config:
    if isinstance(config, Config):
        return changed(config, settings)
    path = None if config is None else Path(config)
    return load_fitted_config(path, method=method, keywords=settings, saved=CONFIG if resume else None).config


def _print(line: str) -> None:
    print(line, flush=True)
