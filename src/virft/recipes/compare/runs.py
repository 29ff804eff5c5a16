"""A comparison: train the systems, predict the tests, measure differences. What exists already is used again."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from virft.config.schema import Config
from virft.config.toml_file import dump, first_difference, load_config
from virft.config.wording import counted
from virft.data.store import Store
from virft.errors import ConfigError, RunError
from virft.evaluation.blind import (
    BlindScores,
    CommonAnswer,
    blind_difference,
    describe_margin,
    most_common_answer,
    score_blind,
)
from virft.evaluation.blind_data import BlindData, blind_data_of
from virft.evaluation.comparison import (
    Comparison,
    Measured,
    ScoreDifference,
    compare_systems,
    comparison_tree,
    measure_joined,
    measure_values,
)
from virft.evaluation.evaluated import baselines_tree, difference_tree, evaluate_predictions
from virft.evaluation.joined import join_predictions
from virft.evaluation.predictions import PREDICTIONS
from virft.files import UNFINISHED, check_output, write_text
from virft.recipes.compare.systems import SYSTEMS, format_rates, shared_settings, without_thinking
from virft.recipes.compare.training import SystemTraining, TrainedSystem, final_model, planned_runs
from virft.recipes.evaluate import predict_as_trained
from virft.tasks import TASKS
from virft.training.progress import Progress
from virft.training.run import CONFIG, require_current_format

COMPARE = "compare.toml"
RESULT = "compare.json"
REPEATED = "repeated"
"""Folder of repeated predictions, in that of the base model."""
WITHOUT_THINKING = "without_thinking"
"""Folder of predictions without thinking, in that of the base model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlindComparison:
    """Blind baselines of one task on a test, and the position of each system."""

    blind: BlindScores
    """The baselines, best first."""
    differences: Mapping[str, ScoreDifference]
    """System -> its headline metric (mean over seeds) minus that of the best baseline."""
    common_answers: Mapping[str, CommonAnswer]
    """System -> the answer that one of its seeds repeats; without systems that repeat none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Result of a comparison."""

    systems: tuple[TrainedSystem, ...]
    """The systems in the order of ``SYSTEMS``."""
    comparisons: Mapping[str, Mapping[tuple[str, str], tuple[Comparison, ...]]]
    """Test -> (first, second) system -> a comparison for each task."""
    predictions: Mapping[str, Mapping[str, tuple[Path, ...]]]
    """System -> test -> predictions of each seed."""
    blind: Mapping[str, Mapping[str, BlindComparison]] = field(default_factory=dict)
    """Test -> task -> blind baselines, and every system's margin over the best one."""
    repeatability: Mapping[str, RepeatabilityLimit] = field(default_factory=dict)
    """Test -> task -> metric -> repeatability limit; empty if predictions were not repeated."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Systems that could not be trained, with the reason."""
    without_thinking: frozenset[str] = frozenset()
    """Systems that are prompted without thinking, unlike the others; the base model of their pairs is so too."""

    @property
    def best_sft(self) -> TrainedSystem | None:
        """The system of SFT alone with the highest validation score; None without such a system.

        No test is used to choose it. Without validation data, the first one in the order of ``SYSTEMS``.
        """
        found = [one for one in self.systems if one.system.is_sft]
        return max(found, key=lambda one: -1.0 if one.validation is None else one.validation, default=None)


def run_compare(
    config: Config,
    *,
    resume: bool,
    log: Callable[[str], None],
    warnings: Sequence[str] = (),
    after_run: Callable[[], None] | None = None,
) -> Compared:
    """Train, evaluate and compare the systems of ``[compare]`` in ``run.dir``, and write ``compare.json``.

    ``warnings`` about the settings are printed first and recorded in that file. Runs and predictions that exist already
    are not repeated. ``after_run`` is called after each new training run; what it raises ends the comparison, which can
    be resumed. Raises ``ConfigError`` without tests, and ``RunError`` if ``run.dir`` holds something else.
    """
    plan = config.compare
    if not plan.tests:
        raise ConfigError("compare.tests is empty; expected the folders of the test sets")
    if config.grpo.warm_start_steps:
        raise ConfigError(
            f"grpo.warm_start_steps is {config.grpo.warm_start_steps}; expected 0 in a comparison: only sft_rft and "
            "sft_mix have a warm start, of compare.warm_start_frac of their steps"
        )
    tests = _open_tests(plan.tests)
    out = Path(config.run.dir)
    _begin(out, config, resume=resume)
    for warning in warnings:
        log(f"warning: {warning}")
    training = SystemTraining(config=config, out=out, log=log, after_run=after_run)
    training.skip_refused()
    log(describe_plan(config, {name: len(store) for name, store in tests.items()}, training.skipped))
    known: KnownBlind = {}
    systems = [TrainedSystem(name="base", runs=())]
    predictions: dict[str, dict[str, tuple[Path, ...]]] = {}
    for name in sorted(plan.systems, key=_training_order):
        if (system := training.train(name)) is None:
            continue
        systems.append(system)
        predictions[name] = {
            test: tuple(_predict(config, str(final_model(run)), run, store, known, log) for run in system.runs)
            for test, store in tests.items()
        }
    predictions["base"] = {
        test: (_predict(config, config.model.path, training.base, store, known, log),) for test, store in tests.items()
    }
    own_base = _without_thinking(config, systems)
    order = [name for name in SYSTEMS if name in predictions]
    found_by_test = {
        test: _measure_test(config, store, {name: predictions[name][test] for name in order}, known)
        for test, store in tests.items()
    }
    measured = {test: one.measured for test, one in found_by_test.items()}
    comparisons = {
        test: {(first, second): compare_systems(by_name[first], by_name[second]) for first, second in pairs(order)}
        for test, by_name in measured.items()
    }
    if own_base:
        own = without_thinking(config)
        for test, store in tests.items():
            path = _predict(own, own.model.path, training.base / WITHOUT_THINKING, store, known, log)
            base = [measure_joined(path, join_predictions(path, store))]
            for name in own_base:
                comparisons[test]["base", name] = compare_systems(base, measured[test][name])
    found = Compared(
        systems=tuple(sorted(systems, key=lambda one: order.index(one.name))),
        comparisons=comparisons,
        predictions=predictions,
        blind={test: one.blind for test, one in found_by_test.items()},
        repeatability=_measure_repeatability(config, tests, training.base, log),
        skipped=training.skipped,
        without_thinking=own_base,
    )
    write_text(out / RESULT, json.dumps(_tree(found, config, warnings), indent=2) + "\n")
    return found


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of systems that are compared: each with all before it, the base model first.

    >>> pairs(["base", "sft", "rft"])
    [('base', 'sft'), ('base', 'rft'), ('sft', 'rft')]
    """
    return [(first, second) for i, second in enumerate(names) for first in names[:i]]


def describe_plan(config: Config, tests: Mapping[str, int], skipped: Collection[str] = ()) -> str:
    """The size of a comparison as text: runs, steps and predictions; ``tests``: test -> its number of samples.

    ``skipped``: systems that cannot be trained on this data.
    """
    plan = config.compare
    num_repeats = 1 + plan.noise_repeats
    systems = [name for name in plan.systems if name not in skipped]
    num_runs = sum(planned_runs(config, skipped).values())
    evaluations = (num_repeats + len(systems) * plan.seeds) * sum(tests.values())
    names = ", ".join(SYSTEMS[name].title for name in ("base", *systems))
    return (
        f"compare: {names}; seeds: {plan.seeds}; {counted(num_runs, 'training run')} (RFT: "
        f"{counted(config.grpo.steps, 'step')}); {counted(evaluations, 'prediction', ',')} on {', '.join(tests)}. "
        "This takes minutes with a small model and one seed, otherwise up to hours; the first run prints its time "
        "left. Ctrl-C stops it, --resume resumes it"
    )


def _training_order(name: str) -> int:
    """RFT first, because its cost may be the budget of the others."""
    return -1 if name == "rft" else list(SYSTEMS).index(name)


KnownBlind: TypeAlias = dict[str, tuple[BlindScores, ...]]
"""Hash of a test -> its blind baselines: they are scored once, not for each system and seed."""


def _predict(
    config: Config, model: str, folder: Path, store: Store, known: KnownBlind, log: Callable[[str], None]
) -> Path:
    """Predictions of a model for a test set, in a run's folder, scored; the path of the file.

    A trained model is prompted as in its run. Predictions that exist already are not repeated.
    """
    own = load_config(folder / CONFIG).config if (folder / CONFIG).exists() else config
    out = folder / "eval" / store.folder.absolute().name
    if (out / PREDICTIONS).exists():
        return out / PREDICTIONS
    progress = Progress(len(store))
    path = predict_as_trained(own, model, store, out, resume=out.exists(), sampling=config.sampling)
    blind_data = _blind_data(config, store)
    evaluated = evaluate_predictions(path, store, blind_data, known_blind=known.get(store.hash, ()))
    known[store.hash] = evaluated.blind
    evaluated.write()
    scores = evaluated.scores
    names = [TASKS[one.task].headline for one in scores]
    headlines = ", ".join(f"{name} {one.values[name]:.3f}" for name, one in zip(names, scores, strict=True))
    log(f"{folder.relative_to(config.run.dir)} on {store.folder.name}: {headlines}  ({progress.describe(len(store))})")
    return path


def _without_thinking(config: Config, systems: Sequence[TrainedSystem]) -> frozenset[str]:
    """The trained systems that are prompted without thinking although the config has it: SFT without rationales."""
    if not config.prediction_thinking:
        return frozenset()
    return frozenset(
        one.name for one in systems if one.runs and not load_config(one.runs[0] / CONFIG).config.prediction_thinking
    )


class _MeasuredTest(NamedTuple):
    """Systems and blind baselines on one test."""

    measured: dict[str, list[Measured]]
    blind: dict[str, BlindComparison]


def _measure_test(
    config: Config, store: Store, paths: Mapping[str, Sequence[Path]], known: KnownBlind
) -> _MeasuredTest:
    """Score the predictions of each system and seed (``paths``: system -> seeds), and the blind baselines."""
    measured: dict[str, list[Measured]] = {name: [] for name in paths}
    common: dict[str, dict[str, CommonAnswer]] = {}
    scores = known.get(store.hash, ())
    for name, seeds in paths.items():
        for path in seeds:
            joined = join_predictions(path, store)  # one file at a time: a test may have 400,000 questions
            measured[name].append(measure_joined(path, joined))
            # the baselines depend on the questions alone, which all systems share
            scores = scores or score_blind(joined, store, _blind_data(config, store).samples)
            for task, answers in joined.by_task.items():
                one, counted = most_common_answer(answers), common.setdefault(task, {})
                if one is not None and (name not in counted or one.count > counted[name].count):
                    counted[name] = one
    blind = {
        one.task: BlindComparison(
            blind=one,
            differences={name: blind_difference(one, seeds) for name, seeds in measured.items()},
            common_answers=common[one.task],
        )
        for one in scores
    }
    return _MeasuredTest(measured, blind)


def _blind_data(config: Config, store: Store) -> BlindData:
    """The training data of the comparison, for the blind baselines."""
    return blind_data_of(config, store, near=Path(config.run.dir))


RepeatabilityLimit: TypeAlias = Mapping[str, Mapping[str, float]]
"""Task -> metric -> largest change of the metric when the same model predicts the same questions again."""


def _measure_repeatability(
    config: Config, tests: Mapping[str, Store], base: Path, log: Callable[[str], None]
) -> dict[str, RepeatabilityLimit]:
    """Test -> the repeatability limit of the base model's predictions (``compare.noise_repeats``).

    Decoding is greedy, so nothing is drawn; a repeat puts the questions into other batches, which changes the order of
    floating-point sums.
    """
    found: dict[str, RepeatabilityLimit] = {}
    for test, store in tests.items() if config.compare.noise_repeats else ():
        paths = [base / "eval" / test / PREDICTIONS]
        for repeat in range(1, config.compare.noise_repeats + 1):
            folder = base / REPEATED / f"{test}_{repeat}"
            if not (folder / PREDICTIONS).exists():
                path = config.model.path
                resume = folder.exists()
                predict_as_trained(
                    config, path, store, folder, resume=resume, batch_seed=repeat, sampling=config.sampling
                )
            paths.append(folder / PREDICTIONS)
        values = [measure_values(path, store) for path in paths]
        found[test] = {
            task: {
                name: max(abs(one[task][name] - first) for one in values[1:]) for name, first in values[0][task].items()
            }
            for task in values[0]
        }
        for task, floor in found[test].items():
            name = TASKS[task].headline
            log(
                f"repeatability on {test}: {len(values) - 1} repeated predictions of the base model change {name} by "
                f"at most {floor[name]:.4f}"
            )
    return found


def _open_tests(folders: Sequence[str]) -> dict[str, Store]:
    tests = {Path(folder).absolute().name: Store(folder) for folder in folders}
    if len(tests) < len(folders):
        raise ConfigError("compare.tests: two folders have the same name; expected a different name for each")
    for store in tests.values():
        store.check(decode=True)
    return tests


def _begin(out: Path, config: Config, *, resume: bool) -> None:
    """Create the folder, or resume in it. Raises ``RunError`` if it holds anything else."""
    if (out / COMPARE).exists():
        if not resume:
            raise RunError(f"{out}: already holds a comparison; resume with --resume, or choose another run.dir")
        # before the config is read: that of an older version has settings that this one does not know
        for run in sorted(out.glob(f"*/*/{CONFIG}")):
            require_current_format(run.parent)
        saved = load_config(out / COMPARE).config
        if (difference := first_difference(shared_settings(saved), shared_settings(config))) is not None:
            raise RunError(
                f"{out}: holds a comparison of another config: {difference.describe('saved', 'now')}; "
                "resume with the same settings, or choose another run.dir"
            )
        if first_difference(saved, config) is not None:
            write_text(out / COMPARE, dump(config))
    elif out.exists() and (not out.is_dir() or {one.name for one in out.iterdir()} - {COMPARE + UNFINISHED}):
        raise RunError(f"{out}: is not empty and holds no comparison; choose another run.dir")
    else:
        check_output(out)
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / COMPARE, dump(config))


def _tree(found: Compared, config: Config, warnings: Sequence[str]) -> dict[str, Any]:
    best = found.best_sft
    return {
        "budget": config.compare.budget,
        "warnings": list(warnings),
        "skipped": dict(found.skipped),
        "without_thinking": sorted(found.without_thinking),
        "best_sft": None if best is None else best.name,
        "systems": {
            one.name: {
                "runs": [str(run) for run in one.runs],
                "learning_rates": list(one.learning_rates),
                "validation_by_learning_rate": {format_rates(key): score for key, score in (one.tried or {}).items()},
                "validation": one.validation,
                "steps": one.steps,
                "warm_start_steps": one.warm_start_steps,
                "tokens": one.tokens,
                "seconds": round(one.seconds, 1),
                "base_tokens": one.base_tokens,
                "base_seconds": round(one.base_seconds, 1),
                "samples": one.samples,
            }
            for one in found.systems
        },
        "tests": {
            test: {
                f"{second} against {first}": {one.task: comparison_tree(one) for one in tasks}
                for (first, second), tasks in by_pair.items()
            }
            for test, by_pair in found.comparisons.items()
        },
        "blind": {
            test: {task: _blind_tree(one) for task, one in by_task.items()} for test, by_task in found.blind.items()
        },
        "repeatability": {
            test: {task: {name: round(value, 6) for name, value in floor.items()} for task, floor in by_task.items()}
            for test, by_task in found.repeatability.items()
        },
    }


def _blind_tree(one: BlindComparison) -> dict[str, Any]:
    blind = one.blind
    return {
        "metric": blind.metric,
        "baselines": baselines_tree(blind.baselines),
        "best": blind.best.name,
        "systems": {
            name: {
                "against_best": difference_tree(difference),
                "verdict": describe_margin(difference),
                "common_answer": None if (common := one.common_answers.get(name)) is None else str(common),
            }
            for name, difference in one.differences.items()
        },
    }
