"""Runs and predictions of a comparison: base, SFT and RFT. Those that exist already are used again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from virft.config.schema import CompareConfig, Config, GRPOConfig, Method, SFTConfig
from virft.config.toml_file import dump, first_difference, load_config
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
)
from virft.evaluation.evaluated import baselines_tree, difference_tree, evaluate_predictions
from virft.evaluation.joined import join_predictions
from virft.evaluation.predictions import PREDICTIONS
from virft.files import UNFINISHED, check_output, write_text
from virft.recipes.evaluate import predict_as_trained
from virft.recipes.preflight import training_data
from virft.recipes.setup import load_for_training, make_prompting, make_runtime
from virft.recipes.train import run_training
from virft.recipes.trainers import make_sft_trainer
from virft.tasks import TASKS
from virft.training.monitors import VALIDATION_SCORE
from virft.training.progress import Progress
from virft.training.run import BEST, CONFIG, METRICS, MODEL, TIMINGS, RunFolder, require_current_format

COMPARE = "compare.toml"
RESULT = "compare.json"
METHODS: Mapping[str, Method] = {"sft": "sft", "rft": "grpo", "sft_rft": "grpo"}
SYSTEM_NAMES = {"base": "base", "sft": "SFT", "rft": "RFT", "sft_rft": "SFT then RFT"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedSystem:
    """A system of a comparison: the base model, or one trained with several seeds."""

    name: str
    """Key of ``SYSTEM_NAMES``."""
    runs: tuple[Path, ...]
    """A run folder for each seed; none for the base model."""
    learning_rate: float | None = None
    """The learning rate with the best validation score among ``tried``."""
    tried: Mapping[float, float] | None = None
    """Learning rate -> validation score; None if there was nothing to choose from."""
    steps: int = 0
    """Optimizer steps of a run."""
    tokens: int = 0
    """Cost: mean number of tokens that a run was trained on."""
    seconds: float = 0.0
    """Cost: mean time that a run spent in steps."""


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
    """The systems in the order of ``SYSTEM_NAMES``."""
    comparisons: Mapping[str, Mapping[tuple[str, str], tuple[Comparison, ...]]]
    """Test -> (first, second) system -> a comparison for each task."""
    predictions: Mapping[str, Mapping[str, tuple[Path, ...]]]
    """System -> test -> predictions of each seed."""
    blind: Mapping[str, Mapping[str, BlindComparison]] = field(default_factory=dict)
    """Test -> task -> blind baselines, and every system's margin over the best one."""


def run_compare(config: Config, *, resume: bool, log: Callable[[str], None], warnings: Sequence[str] = ()) -> Compared:
    """Train, evaluate and compare the systems of ``[compare]`` in ``run.dir``, and write ``compare.json``.

    ``warnings`` about the settings are printed first and recorded in that file. Runs and predictions that exist already
    are not repeated. Raises ``ConfigError`` without tests, and ``RunError`` if ``run.dir`` holds something else.
    """
    plan = config.compare
    if not plan.tests:
        raise ConfigError("compare.tests is empty; expected the folders of the test sets")
    tests = _open_tests(plan.tests)
    out = Path(config.run.dir)
    _begin(out, config, resume=resume)
    for warning in warnings:
        log(f"warning: {warning}")
    log(describe_plan(config, {name: len(store) for name, store in tests.items()}))
    systems: list[TrainedSystem] = []
    predictions: dict[str, dict[str, tuple[Path, ...]]] = {}
    for name in ("rft", "sft", "sft_rft"):  # RFT first: its cost may be the budget of the others
        if name not in plan.systems:
            continue
        system = _train_system(name, config, systems, out, log)
        systems.append(system)
        predictions[name] = {
            test: tuple(_predict(config, str(_final_model(run)), run, store, log) for run in system.runs)
            for test, store in tests.items()
        }
    systems.append(TrainedSystem(name="base", runs=()))
    predictions["base"] = {
        test: (_predict(config, config.model.path, out / "base", store, log),) for test, store in tests.items()
    }
    order = [name for name in SYSTEM_NAMES if name in predictions]
    found_by_test = {
        test: _measure_test(config, store, {name: predictions[name][test] for name in order})
        for test, store in tests.items()
    }
    measured = {test: one.measured for test, one in found_by_test.items()}
    comparisons = {
        test: {(first, second): compare_systems(by_name[first], by_name[second]) for first, second in pairs(order)}
        for test, by_name in measured.items()
    }
    found = Compared(
        systems=tuple(sorted(systems, key=lambda one: order.index(one.name))),
        comparisons=comparisons,
        predictions=predictions,
        blind={test: one.blind for test, one in found_by_test.items()},
    )
    write_text(out / RESULT, json.dumps(_tree(found, config, warnings), indent=2) + "\n")
    return found


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of systems that are compared: each with all before it, the base model first.

    >>> pairs(["base", "sft", "rft"])
    [('base', 'sft'), ('base', 'rft'), ('sft', 'rft')]
    """
    return [(first, second) for i, second in enumerate(names) for first in names[:i]]


def describe_plan(config: Config, tests: Mapping[str, int]) -> str:
    """The size of a comparison as text: runs, steps and predictions; ``tests``: test -> its number of samples."""
    plan = config.compare
    num_rates = {name: max(1, len(_rates(plan, METHODS[name]))) for name in plan.systems if name != "sft_rft"}
    runs = sum(number - 1 + plan.seeds for number in num_rates.values())
    runs += plan.seeds if "sft_rft" in plan.systems else 0
    evaluations = (1 + len(plan.systems) * plan.seeds) * sum(tests.values())
    names = ", ".join(SYSTEM_NAMES[name] for name in plan.systems)
    return (
        f"compare: base, {names}; seeds: {plan.seeds}; {runs} training runs (RFT: {config.grpo.steps} steps); "
        f"{evaluations:,} predictions on {', '.join(tests)}. This takes minutes with a small model and one seed, "
        "otherwise up to hours; the first run prints its time left. Ctrl-C stops it, --resume resumes it"
    )


def _train_system(
    name: str, config: Config, before: Sequence[TrainedSystem], out: Path, log: Callable[[str], None]
) -> TrainedSystem:
    """Train every seed of a system, with the learning rate that is best on the validation data."""
    method = METHODS[name]
    by_name = {one.name: one for one in before}
    if method == "sft":
        config = _with_possible_thinking(_with_budget(config, by_name.get("rft"), out, log), log)
    tried: dict[float, float] = {}
    if name == "sft_rft":
        rates: tuple[float, ...] = (by_name["rft"].learning_rate or config.grpo.learning_rate,)
    else:
        rates = _rates(config.compare, method) or (_section(config, method).learning_rate,)
    if len(rates) > 1:
        for rate in rates:
            run = _train_one(name, config, rate, config.seed, by_name, out, log)
            tried[rate] = best_validation(run)
            log(f"{SYSTEM_NAMES[name]} with learning rate {rate:g}: validation {tried[rate]:.3f}")
    chosen = max(rates, key=lambda rate: (tried.get(rate, 0.0), -rate))  # of equal scores, the smaller rate
    seeds = range(config.seed, config.seed + config.compare.seeds)
    runs = tuple(_train_one(name, config, chosen, seed, by_name, out, log) for seed in seeds)
    spent = [_spent(run) for run in runs]
    return TrainedSystem(
        name=name,
        runs=runs,
        learning_rate=chosen,
        tried=tried or None,
        steps=_section(config, method).steps,
        tokens=round(fmean(tokens for tokens, _ in spent)),
        seconds=fmean(seconds for _, seconds in spent),
    )


def _train_one(
    name: str,
    config: Config,
    rate: float,
    seed: int,
    before: Mapping[str, TrainedSystem],
    out: Path,
    log: Callable[[str], None],
) -> Path:
    """Train one run, unless its model exists already; its folder."""
    folder = out / name / f"lr_{rate:g}_seed_{seed}"
    model = config.model
    if name == "sft_rft":
        model = replace(model, path=str(_final_model(before["sft"].runs[seed - config.seed])))
    one = replace(config, seed=seed, model=model, run=replace(config.run, dir=str(folder)))
    if METHODS[name] == "grpo":
        one = replace(one, grpo=replace(one.grpo, learning_rate=rate))
    else:
        one = replace(one, sft=replace(one.sft, learning_rate=rate))
    if not (folder / MODEL).exists():
        log(f"{SYSTEM_NAMES[name]}, learning rate {rate:g}, seed {seed}")
        run_training(one, METHODS[name], resume=(folder / CONFIG).exists(), log=log)
    return folder


def _with_budget(config: Config, rft: TrainedSystem | None, out: Path, log: Callable[[str], None]) -> Config:
    """The config with the number of SFT steps that its budget allows (``compare.budget``).

    A budget in tokens or seconds is measured, so it is saved: a resumed comparison must not measure another one.
    """
    sft, kind = config.sft, config.compare.budget
    if kind == "own" or rft is None:
        return config
    path = out / "sft" / "budget.json"
    if path.exists():
        steps, per_step = json.loads(path.read_text(encoding="utf-8"))
    elif kind == "samples":
        steps, per_step = config.grpo.steps, config.grpo.prompts_per_step
    else:
        tokens, seconds = _cost_of_sft_step(config)
        affordable = rft.tokens / tokens if kind == "tokens" else rft.seconds / seconds
        steps, per_step = max(sft.warmup_steps + 1, round(affordable)), sft.samples_per_step
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps([steps, per_step]))
    log(f"SFT gets the same {kind} as RFT: {steps} steps of {per_step} samples")
    return replace(config, sft=replace(sft, steps=steps, samples_per_step=per_step))


def _cost_of_sft_step(config: Config) -> tuple[float, float]:
    """Mean tokens and seconds of a supervised step, measured on a model that is then discarded."""
    runtime = make_runtime(config.model, config.parallel)
    loaded = load_for_training(config.model, runtime, seed=config.seed)
    prompting = make_prompting(config.prompt, config.mixture, loaded)
    data = training_data(config, "sft")
    trainer = make_sft_trainer(config, loaded, prompting, runtime, (sample.query for sample in data))
    reports = [trainer.step(number, data.batch(number)) for number in range(4)][1:]  # the first one is a warm-up
    tokens = fmean(report.metrics["num_tokens"] for report in reports)
    return tokens, fmean(sum(report.timings.values()) for report in reports)


def _with_possible_thinking(config: Config, log: Callable[[str], None]) -> Config:
    """The config without thinking, if the data has no rationales that SFT could train on."""
    if not config.prompt.thinking or all(sample.rationale for sample in training_data(config, "sft")):
        return config
    log("the data has no rationales: SFT trains on targets alone and is prompted without thinking")
    return replace(config, prompt=replace(config.prompt, thinking=False))


def _predict(config: Config, model: str, folder: Path, store: Store, log: Callable[[str], None]) -> Path:
    """Predictions of a model for a test set, in a run's folder, scored; the path of the file.

    A trained model is prompted as in its run. Predictions that exist already are not repeated.
    """
    own = load_config(folder / CONFIG).config if (folder / CONFIG).exists() else config
    out = folder / "eval" / store.folder.absolute().name
    if (out / PREDICTIONS).exists():
        return out / PREDICTIONS
    progress = Progress(len(store))
    path = predict_as_trained(own, model, store, out, resume=out.exists())
    evaluated = evaluate_predictions(path, store, _blind_data(config, store))
    evaluated.write()
    scores = evaluated.scores
    names = [TASKS[one.task].headline for one in scores]
    headlines = ", ".join(f"{name} {one.values[name]:.3f}" for name, one in zip(names, scores, strict=True))
    log(f"{folder.relative_to(config.run.dir)} on {store.folder.name}: {headlines}  ({progress.describe(len(store))})")
    return path


class _MeasuredTest(NamedTuple):
    """Systems and blind baselines on one test."""

    measured: dict[str, list[Measured]]
    blind: dict[str, BlindComparison]


def _measure_test(config: Config, store: Store, paths: Mapping[str, Sequence[Path]]) -> _MeasuredTest:
    """Score the predictions of each system and seed (``paths``: system -> seeds), and the blind baselines."""
    samples = _blind_data(config, store).samples
    measured: dict[str, list[Measured]] = {name: [] for name in paths}
    common: dict[str, dict[str, CommonAnswer]] = {}
    scores: tuple[BlindScores, ...] = ()
    for name, seeds in paths.items():
        for path in seeds:
            joined = join_predictions(path, store)  # one file at a time: a test may have 400,000 questions
            measured[name].append(measure_joined(path, joined))
            # the baselines depend on the questions alone, which all systems share
            scores = scores or score_blind(joined, store, samples)
            for task, answers in joined.by_task.items():
                one, known = most_common_answer(answers), common.setdefault(task, {})
                if one is not None and (name not in known or one.count > known[name].count):
                    known[name] = one
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


def _final_model(run: Path) -> Path:
    """The best model by validation; the last one without validation, or if no validation exceeded the base model's."""
    return run / BEST if (run / BEST).exists() else run / MODEL


def best_validation(run: Path) -> float:
    """The highest validation score of a trained model of a run."""
    records = RunFolder(run).records(METRICS)
    # the first record is the validation of the base model
    return max(float(record[VALIDATION_SCORE]) for record in records[1:] if VALIDATION_SCORE in record)


def _spent(run: Path) -> tuple[int, float]:
    """Tokens of prompts and completions that a run was trained on, and seconds in its steps."""
    folder = RunFolder(run)
    tokens = sum(record.get("num_tokens", 0) for record in folder.records(METRICS))
    return round(tokens), sum(sum(v for k, v in record.items() if k != "step") for record in folder.records(TIMINGS))


def _rates(plan: CompareConfig, method: Method) -> tuple[float, ...]:
    return plan.sft_learning_rates if method == "sft" else plan.rft_learning_rates


def _section(config: Config, method: Method) -> GRPOConfig | SFTConfig:
    return config.sft if method == "sft" else config.grpo


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
        if (difference := first_difference(load_config(out / COMPARE).config, config)) is not None:
            raise RunError(
                f"{out}: holds a comparison of another config: {difference.describe('saved', 'now')}; "
                "resume with the same settings, or choose another run.dir"
            )
    elif out.exists() and (not out.is_dir() or {one.name for one in out.iterdir()} - {COMPARE + UNFINISHED}):
        raise RunError(f"{out}: is not empty and holds no comparison; choose another run.dir")
    else:
        check_output(out)
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / COMPARE, dump(config))


def _tree(found: Compared, config: Config, warnings: Sequence[str]) -> dict[str, Any]:
    return {
        "budget": config.compare.budget,
        "warnings": list(warnings),
        "systems": {
            one.name: {
                "runs": [str(run) for run in one.runs],
                "learning_rate": one.learning_rate,
                "validation_by_learning_rate": {f"{rate:g}": score for rate, score in (one.tried or {}).items()},
                "steps": one.steps,
                "tokens": one.tokens,
                "seconds": round(one.seconds, 1),
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
