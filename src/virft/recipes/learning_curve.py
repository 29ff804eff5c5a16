"""Learning curve of a config: train on nested subsets of the training images, and extrapolate the validation score."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from virft.config.schema import Config, Method
from virft.config.toml_file import dump, first_difference, load_config
from virft.config.wording import counted
from virft.data.store import CARD, IMAGES, Store
from virft.data.store_writer import StoreWriter
from virft.errors import ConfigError, RunError
from virft.evaluation.comparison import Measured, measure
from virft.evaluation.predictions import PREDICTIONS
from virft.files import UNFINISHED, check_output, write_text
from virft.metrics.labels import label_of
from virft.metrics.learning_curve import CurvePoint, Extrapolation, FittedCurve, point_interval
from virft.recipes.preflight import check_run, validation_stores
from virft.tasks import TASKS
from virft.training.run import BEST, CONFIG, MODEL
from virft.types import Sample

CURVE, RESULT = "curve.toml", "curve.json"
OPTIONS = "curve_options.json"
"""File of ``CurveOptions``."""
IMAGE_FRACTIONS = (0.25, 0.5, 1.0)
"""Fractions of the training images, by default."""
FINAL_PREDICTIONS = Path("eval") / "validation"
"""Folder of the validation predictions of the final model, inside a run."""
FEW_QUESTIONS = 50
"""Fewer validation questions give intervals that say little."""


class CurveOptions(NamedTuple):
    """Options of a learning curve in addition to its config; a resumed one has the same unless others are given."""

    method: Method = "grpo"
    fractions: tuple[float, ...] = IMAGE_FRACTIONS
    seeds: int = 1


def saved_options(out: Path) -> CurveOptions:
    """Return the options of the learning curve in a folder; the defaults if there is none.

    Raises ``RunError`` for a file that cannot be read.
    """
    path = out / OPTIONS
    if not path.exists():
        return CurveOptions()
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return CurveOptions(method=tree["method"], fractions=tuple(tree["fractions"]), seeds=tree["seeds"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: cannot be read ({error!r}); delete it and give --method, --fractions and --seeds"
        ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredCurve:
    """Validation scores by number of training images, and the fitted curve."""

    method: Method
    """Training method of all runs."""
    metric: str
    """Headline metric of the validation set, such as F1; the mean over its tasks if there are several."""
    base: float
    """Score of the model that training started from."""
    points: tuple[CurvePoint, ...]
    """By increasing number of images; the last one has all."""
    runs: tuple[tuple[Path, ...], ...]
    """Run folders of each point, one for each seed."""
    fitted: FittedCurve
    """The curve through the points."""
    doubled: Extrapolation
    """Expected score with twice the images."""
    warnings: tuple[str, ...]
    """Reasons why the curve may say nothing."""


def run_curve(
    config: Config,
    method: Method,
    *,
    fractions: Sequence[float] = IMAGE_FRACTIONS,
    seeds: int = 1,
    resume: bool = False,
    log: Callable[[str], None],
) -> MeasuredCurve:
    """Train and evaluate a model for each fraction of the training images and each seed; write ``curve.json``.

    All runs have the settings of ``config``, so also the same number of steps. Subsets are nested. Runs and predictions
    in ``run.dir`` that are complete are used again. Raises ``ConfigError`` without a validation set, with a mixture, or
    if the fractions give fewer than two numbers of images; ``RunError`` if ``run.dir`` holds something else.
    """
    data, validation = _require_data(config)
    check_run(replace(config, run=replace(config.run, dir=str(Path(config.run.dir) / "check"))), method)
    train = Store(data)
    images = nested_images(train, seed=config.seed)
    sizes = sorted({math.ceil(fraction * len(images)) for fraction in fractions} | {len(images)})
    if len(sizes) < 2:
        raise ConfigError(
            f"{data}: has {counted(len(images), 'image')}, of which the fractions "
            f"{', '.join(f'{one:g}' for one in fractions)} are {sizes[0]}; expected at least two numbers of images"
        )
    out = Path(config.run.dir)
    _begin(out, config, resume=resume)
    write_text(out / OPTIONS, json.dumps(CurveOptions(method, tuple(fractions), seeds)._asdict()) + "\n")
    num_runs = len(sizes) * seeds
    log(
        f"learning curve: {', '.join(map(str, sizes))} images, seeds: {seeds}; {counted(num_runs, 'training run')} and "
        f"{num_runs + 1} times {counted(len(validation), 'validation question')}. Ctrl-C stops it, --resume resumes it"
    )
    runs = tuple(
        tuple(_train(config, method, train, images[:size], seed, out, log) for seed in _seeds(config, seeds))
        for size in sizes
    )
    base = measure(_predict(config, config.model.path, out / "base", validation, log), validation)
    points = tuple(
        _point(size, [measure(_predict_run(run, validation, log), validation) for run in own])
        for size, own in zip(sizes, runs, strict=True)
    )
    fitted = FittedCurve(points)
    doubled = fitted.extrapolate(2 * len(images))
    found = MeasuredCurve(
        method=method,
        metric="mean score" if len(base.values) > 1 else TASKS[next(iter(base.values))].headline,
        base=_headline(base),
        points=points,
        runs=runs,
        fitted=fitted,
        doubled=doubled,
        warnings=tuple(_warnings(points, fitted, doubled, base=_headline(base), num_questions=len(validation))),
    )
    write_text(out / RESULT, json.dumps(curve_tree(found), indent=2) + "\n")
    return found


def nested_images(samples: Iterable[Sample], *, seed: int) -> list[str]:
    """Return the target images in a random order of which every beginning has its classes in balance.

    Next comes an image of the class that has the fewest images so far, so that a quarter of the images shows every
    class if that is possible.
    """
    classes: dict[str, set[str]] = {}
    for sample in samples:
        classes.setdefault(sample.images[sample.target_image], set()).update(_classes_of(sample))
    left = list(classes)
    random.Random(seed).shuffle(left)
    counts: Counter[str] = Counter()
    order: list[str] = []
    while left:
        # min is stable: of equal images, the first in the random order
        best = min(left, key=lambda image: min((counts[name] for name in classes[image]), default=len(order)))
        left.remove(best)
        order.append(best)
        counts.update(classes[best])
    return order


def _classes_of(sample: Sample) -> set[str]:
    task = TASKS[sample.task]
    is_absent = task.absent is not None and sample.target == task.absent
    return set() if task.class_of is None or is_absent else {task.class_of(sample)}


def _require_data(config: Config) -> tuple[Path, Store]:
    if config.data.train is None or config.mixture:
        raise ConfigError("mixture: a learning curve needs one training dataset; expected data.train")
    stores = validation_stores(config.data, config.mixture)
    if not stores:
        raise ConfigError(
            "data.validation is not set; expected a validation dataset (virft build --validation-frac 0.2)"
        )
    return Path(config.data.train), next(iter(stores.values()))


def _begin(out: Path, config: Config, *, resume: bool) -> None:
    """Create the folder, or resume in it. Raises ``RunError`` if it holds anything else."""
    if (out / CURVE).exists():
        if not resume:
            raise RunError(f"{out}: already holds a learning curve; resume with --resume, or choose another run.dir")
        if (difference := first_difference(load_config(out / CURVE).config, config)) is not None:
            raise RunError(
                f"{out}: holds a learning curve of another config: {difference.describe('saved', 'now')}; "
                "resume with the same settings, or choose another run.dir"
            )
    elif out.exists() and (not out.is_dir() or {one.name for one in out.iterdir()} - {CURVE + UNFINISHED}):
        raise RunError(f"{out}: is not empty and holds no learning curve; choose another run.dir")
    else:
        check_output(out)
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / CURVE, dump(config))


def _seeds(config: Config, number: int) -> range:
    return range(config.seed, config.seed + number)


def _train(
    config: Config,
    method: Method,
    train: Store,
    images: Sequence[str],
    seed: int,
    out: Path,
    log: Callable[[str], None],
) -> Path:
    """Train on the samples of some images, unless the model exists already; the run folder."""
    from virft.recipes.train import run_training

    folder = out / f"images_{len(images)}" / f"seed_{seed}"
    if (folder / MODEL).exists():
        return folder
    data = _write_subset(train, images, out / "subsets" / f"images_{len(images)}")
    one = replace(
        config,
        seed=seed,
        data=replace(config.data, train=str(data)),
        run=replace(config.run, dir=str(folder)),
    )
    log(f"{counted(len(images), 'image')}, seed {seed}")
    run_training(one, method, resume=(folder / CONFIG).exists(), log=log)
    return folder


def _write_subset(store: Store, images: Sequence[str], folder: Path) -> Path:
    """Write the dataset of the samples about these images, unless it exists; its image files are links."""
    if (folder / CARD).exists():
        return folder
    chosen = set(images)
    with StoreWriter(folder, link=True) as writer:
        for sample in store:
            if sample.images[sample.target_image] in chosen:
                paths = tuple(
                    writer.add_image_file(str(Path(path).relative_to(store.folder / IMAGES)), Path(path))
                    for path in sample.images
                )
                writer.add(replace(sample, images=paths))
        writer.finish(source={"kind": "subset", "data_hash": store.hash, "num_images": len(images)}, seed=None)
    return folder


def _predict_run(run: Path, store: Store, log: Callable[[str], None]) -> Path:
    """Validation predictions of a run's best model; of the last one if none was better than the base model."""
    model = run / BEST if (run / BEST).is_dir() else run / MODEL
    return _predict(load_config(run / CONFIG).config, str(model), run, store, log)


def _predict(config: Config, model: str, folder: Path, store: Store, log: Callable[[str], None]) -> Path:
    """Predictions of a model for the validation set; those that exist already are not repeated."""
    from virft.recipes.evaluate import predict_as_trained

    out = folder / FINAL_PREDICTIONS
    if not (out / PREDICTIONS).exists():
        log(f"predictions of {model} on {store.folder}")
        predict_as_trained(config, model, store, out, resume=out.exists())
    return out / PREDICTIONS


def _headline(one: Measured) -> float:
    """The headline metric; of several tasks, their mean."""
    return fmean(values[TASKS[task].headline] for task, values in one.values.items())


def _point(num_images: int, seeds: Sequence[Measured]) -> CurvePoint:
    resampled = [
        np.mean([found.values[TASKS[task].headline] for task, found in one.resampled.items()], axis=0) for one in seeds
    ]
    return CurvePoint(
        num_images=num_images, scores=tuple(map(_headline, seeds)), resampled=np.asarray(resampled, dtype=np.float64)
    )


def _warnings(
    points: Sequence[CurvePoint], fitted: FittedCurve, doubled: Extrapolation, *, base: float, num_questions: int
) -> Iterable[str]:
    if not doubled.helps:
        yield (
            "the fit says nothing about more images: the score does not rise clearly with their number "
            f"(slope {fitted.curve.slope:.2f}, lower end of its interval {doubled.slope_low:.2f})"
        )
    if len(points) < 3:
        yield "two numbers of images determine the curve without any check; use three or more (--fractions)"
    elif (error := fitted.residual(points)) > abs(points[-1].mean - points[0].mean) / 2:
        yield f"the curve misses the measured scores by {error:.3f} on average, which is large against their range"
    if any(len(point.scores) < 2 for point in points):
        yield "one seed: the intervals contain little of the randomness of training and are too narrow (--seeds 3)"
    if num_questions < FEW_QUESTIONS:
        yield f"few validation questions ({num_questions}): the intervals are rough"
    if point_interval(points[-1])[0] <= base:
        yield f"with all images the score is not clearly above the base model's {base:.3f}"


# --- result ---


def curve_lines(found: MeasuredCurve) -> list[str]:
    """Return the scores and the extrapolation as lines of text."""
    lines = [f"validation {label_of(found.metric)}, 95 % confidence intervals", f"  base model: {found.base:.3f}"]
    lines += [f"  {counted(point.num_images, 'image')}: {_describe(point)}" for point in found.points]
    lines += [describe_doubled(found), *(f"warning: {text}" for text in found.warnings)]
    return lines


def describe_doubled(found: MeasuredCurve) -> str:
    """Return a sentence about the expected score with twice the images."""
    one = found.doubled
    sign = "-" if found.fitted.curve.slope >= 0 else "+"
    return (
        f"Twice the images ({one.num_images}) would give about {one.value:.2f} ({one.low:.2f} to {one.high:.2f}); fit: "
        f"{found.fitted.curve.limit:.3f} {sign} {abs(found.fitted.curve.slope):.3f} / sqrt(images)"
    )


def _describe(point: CurvePoint) -> str:
    low, high = point_interval(point)
    seeds = f", seeds {', '.join(f'{score:.3f}' for score in point.scores)}" if len(point.scores) > 1 else ""
    return f"{point.mean:.3f} ({low:.3f} to {high:.3f}{seeds})"


def curve_tree(found: MeasuredCurve) -> dict[str, Any]:
    """Return the result as JSON."""
    one = found.doubled
    return {
        "method": found.method,
        "metric": found.metric,
        "base": found.base,
        "points": [
            {"num_images": point.num_images, "scores": list(point.scores), "interval": list(point_interval(point))}
            for point in found.points
        ],
        "fit": {"limit": found.fitted.curve.limit, "slope": found.fitted.curve.slope},
        "doubled": {"num_images": one.num_images, "score": one.value, "interval": [one.low, one.high]},
        "warnings": list(found.warnings),
        "runs": [[str(run) for run in runs] for runs in found.runs],
    }
