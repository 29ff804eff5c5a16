"""The runs and answers of a comparison: made, or found where they are there already."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from virft.config.schema import CompareConfig, Config
from virft.config.toml_file import dump, first_difference, load
from virft.data.store import Store
from virft.errors import ConfigError, RunError
from virft.evaluation.comparison import Comparison, compare, comparison_tree, measure
from virft.evaluation.predictions import PREDICTIONS
from virft.evaluation.score import write_scores
from virft.files import UNFINISHED, write_text
from virft.models.load import load_model
from virft.recipes.evaluate import Asking, evaluate
from virft.recipes.setup import load_for_training, make_sft_trainer
from virft.recipes.train import TrainerName, train, training_data
from virft.tasks import TASKS
from virft.training.monitors import VALIDATION_SCORE
from virft.training.progress import Progress
from virft.training.run import BEST, CONFIG, METRICS, MODEL, TIMINGS, RunFolder

COMPARE = "compare.toml"
RESULT = "compare.json"
TRAINERS: Mapping[str, TrainerName] = {"sft": "sft", "rft": "grpo", "sft_rft": "grpo"}
IN_WORDS = {"base": "base", "sft": "SFT", "rft": "RFT", "sft_rft": "SFT then RFT"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedSystem:
    """A system with what it was trained by: a run folder for each seed (none: the base), and what they took together.

    ``learning_rate``: the one chosen by validation, of ``tried``.
    """

    name: str
    runs: tuple[Path, ...]
    learning_rate: float | None = None
    tried: Mapping[float, float] | None = None
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """What came out. ``comparisons``: test -> (first, second) system -> one of each task."""

    systems: tuple[TrainedSystem, ...]
    comparisons: Mapping[str, Mapping[tuple[str, str], tuple[Comparison, ...]]]
    answers: Mapping[str, Mapping[str, tuple[Path, ...]]]


def run_compare(config: Config, *, resume: bool, say: Callable[[str], None]) -> Compared:
    """All of it, below ``run.dir``; what is there already is not done again. Ends with ``compare.json``."""
    plan = config.compare
    if not plan.tests:
        raise ConfigError("compare.tests is empty; expected the folders of the test sets")
    tests = _open_tests(plan.tests)
    out = Path(config.run.dir)
    _begin(out, config, resume=resume)
    say(plan_in_words(config, {name: len(store) for name, store in tests.items()}))
    systems: list[TrainedSystem] = []
    answers: dict[str, dict[str, tuple[Path, ...]]] = {}
    for name in ("rft", "sft", "sft_rft"):  # RFT first: the others' budget may be what it took
        if name not in plan.systems:
            continue
        system = _train_system(name, config, systems, out, say)
        systems.append(system)
        answers[name] = {
            test: tuple(_answer(config, str(_kept_model(run)), run, store, say) for run in system.runs)
            for test, store in tests.items()
        }
    systems.append(TrainedSystem(name="base", runs=()))
    answers["base"] = {
        test: (_answer(config, config.model.path, out / "base", store, say),) for test, store in tests.items()
    }
    order = [name for name in IN_WORDS if name in answers]
    measured = {
        test: {name: [measure(path, store) for path in answers[name][test]] for name in order}
        for test, store in tests.items()
    }
    comparisons = {
        test: {(first, second): compare(by_name[first], by_name[second]) for first, second in pairs(order)}
        for test, by_name in measured.items()
    }
    found = Compared(
        systems=tuple(sorted(systems, key=lambda one: order.index(one.name))), comparisons=comparisons, answers=answers
    )
    write_text(out / RESULT, json.dumps(_tree(found, config), indent=2) + "\n")
    return found


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """What is held against what: everything against the base, and each against those before it.

    >>> pairs(["base", "sft", "rft"])
    [('base', 'sft'), ('base', 'rft'), ('sft', 'rft')]
    """
    return [(first, second) for i, second in enumerate(names) for first in names[:i]]


def plan_in_words(config: Config, tests: Mapping[str, int]) -> str:
    """What is about to be done, so that no one waits for it unprepared."""
    plan = config.compare
    num_rates = {name: max(1, len(_rates(plan, TRAINERS[name]))) for name in plan.systems if name != "sft_rft"}
    runs = sum(number - 1 + plan.seeds for number in num_rates.values())
    runs += plan.seeds if "sft_rft" in plan.systems else 0
    evaluations = (1 + len(plan.systems) * plan.seeds) * sum(tests.values())
    names = ", ".join(IN_WORDS[name] for name in plan.systems)
    return (
        f"compare: base, {names}; seeds: {plan.seeds}; {runs} training runs (RFT: {config.grpo.steps} steps); "
        f"{evaluations:,} answers on {', '.join(tests)}. Minutes with a small model and one seed, else it may take "
        "hours: the first run tells how long. Ctrl-C stops it, --resume goes on"
    )


def _train_system(
    name: str, config: Config, before: Sequence[TrainedSystem], out: Path, say: Callable[[str], None]
) -> TrainedSystem:
    """Every seed of a system, after its learning rate was chosen on the validation split."""
    trainer = TRAINERS[name]
    by_name = {one.name: one for one in before}
    if trainer == "sft":
        config = _without_thinking_if_untold(_with_budget(config, by_name.get("rft"), out, say), say)
    tried: dict[float, float] = {}
    if name == "sft_rft":
        rates: tuple[float, ...] = (by_name["rft"].learning_rate or config.grpo.learning_rate,)
    else:
        rates = _rates(config.compare, trainer) or (_rate(config, trainer),)
    if len(rates) > 1:
        for rate in rates:
            run = _train_one(name, config, rate, config.seed, by_name, out, say)
            tried[rate] = best_validation(run)
            say(f"{IN_WORDS[name]} with learning rate {rate:g}: validation {tried[rate]:.3f}")
    chosen = max(rates, key=lambda rate: (tried.get(rate, 0.0), -rate))
    seeds = range(config.seed, config.seed + config.compare.seeds)
    runs = tuple(_train_one(name, config, chosen, seed, by_name, out, say) for seed in seeds)
    spent = [_spent(run) for run in runs]
    return TrainedSystem(
        name=name,
        runs=runs,
        learning_rate=chosen,
        tried=tried or None,
        steps=config.grpo.steps if trainer == "grpo" else config.sft.steps,
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
    say: Callable[[str], None],
) -> Path:
    """One run; nothing is done where its model is there."""
    folder = out / name / f"lr_{rate:g}_seed_{seed}"
    model = config.model
    if name == "sft_rft":
        model = replace(model, path=str(_kept_model(before["sft"].runs[seed - config.seed])))
    one = replace(config, seed=seed, model=model, run=replace(config.run, dir=str(folder)))
    if TRAINERS[name] == "grpo":
        one = replace(one, grpo=replace(one.grpo, learning_rate=rate))
    else:
        one = replace(one, sft=replace(one.sft, learning_rate=rate))
    if not (folder / MODEL).exists():
        say(f"{IN_WORDS[name]}, learning rate {rate:g}, seed {seed}")
        train(one, TRAINERS[name], resume=(folder / CONFIG).exists(), say=say)
    return folder


def _with_budget(config: Config, rft: TrainedSystem | None, out: Path, say: Callable[[str], None]) -> Config:
    """SFT with as many steps as its budget says (``compare.budget``); what was measured for it is kept."""
    sft, kind = config.sft, config.compare.budget
    if kind == "own" or rft is None:
        return config
    kept = out / "sft" / "budget.json"
    if kept.exists():
        steps, per_step = json.loads(kept.read_text(encoding="utf-8"))
    elif kind == "samples":
        steps, per_step = config.grpo.steps, config.grpo.prompts_per_step
    else:
        tokens, seconds = _cost_of_sft_step(config)
        wanted = rft.tokens / tokens if kind == "tokens" else rft.seconds / seconds
        steps, per_step = max(sft.warmup_steps + 1, round(wanted)), sft.samples_per_step
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_text(kept, json.dumps([steps, per_step]))
    say(f"SFT gets the same {kind} as RFT: {steps} steps of {per_step} samples")
    return replace(config, sft=replace(sft, steps=steps, samples_per_step=per_step))


def _cost_of_sft_step(config: Config) -> tuple[float, float]:
    """Mean tokens and seconds of a supervised step, measured now on a model that is thrown away."""
    loaded = load_for_training(config)
    data = training_data(config, "sft")
    trainer = make_sft_trainer(config, loaded, (sample.query for sample in data))
    reports = [trainer.step(number, data.batch(number)) for number in range(4)][1:]  # the first one warms up
    tokens = fmean(report.metrics["num_tokens"] for report in reports)
    return tokens, fmean(sum(report.timings.values()) for report in reports)


def _without_thinking_if_untold(config: Config, say: Callable[[str], None]) -> Config:
    """Supervised training has nothing to think where samples hold no rationales: it learns and answers without."""
    if not config.prompt.thinking or all(sample.rationale for sample in training_data(config, "sft")):
        return config
    say("the data holds no rationales: SFT learns the answers alone, and is asked without thinking")
    return replace(config, prompt=replace(config.prompt, thinking=False))


def _answer(config: Config, model: str, folder: Path, store: Store, say: Callable[[str], None]) -> Path:
    """Answers to a test set below a run's folder, scored; those that are there are kept."""
    asked = load(folder / CONFIG).config if (folder / CONFIG).exists() else config
    where = folder / "eval" / store.folder.absolute().name
    if not (where / PREDICTIONS).exists():
        progress = Progress(len(store))
        scores = evaluate(
            load_model(model, pixels=(asked.model.min_pixels, asked.model.max_pixels)),
            store,
            where,
            asking=Asking(
                template=asked.prompt.template,
                thinking=asked.prompt.thinking,
                max_completion_tokens=asked.sampling.max_completion_tokens,
                model_name=model,
                resume=where.exists(),
            ),
            with_intervals=True,
        )
        write_scores(scores, where / "scores.json", predictions=where / PREDICTIONS)
        headlines = ((TASKS[one.task].headline, one.values) for one in scores)
        told = ", ".join(f"{name} {values[name]:.3f}" for name, values in headlines)
        say(f"{folder.relative_to(config.run.dir)} on {store.folder.name}: {told}  ({progress.tell(len(store))})")
    return where / PREDICTIONS


def _kept_model(run: Path) -> Path:
    """The best model by validation, or the last one where nothing was validated or nothing got better."""
    return run / BEST if (run / BEST).exists() else run / MODEL


def best_validation(run: Path) -> float:
    """The highest validation score after the first step."""
    records = RunFolder(run).records(METRICS)
    return max(float(record[VALIDATION_SCORE]) for record in records[1:] if VALIDATION_SCORE in record)


def _spent(run: Path) -> tuple[int, float]:
    """Tokens of prompts and answers that were trained on, and seconds in steps."""
    folder = RunFolder(run)
    tokens = sum(record.get("num_tokens", 0) for record in folder.records(METRICS))
    return round(tokens), sum(sum(v for k, v in record.items() if k != "step") for record in folder.records(TIMINGS))


def _rates(plan: CompareConfig, trainer: TrainerName) -> tuple[float, ...]:
    return plan.sft_learning_rates if trainer == "sft" else plan.rft_learning_rates


def _rate(config: Config, trainer: TrainerName) -> float:
    return config.sft.learning_rate if trainer == "sft" else config.grpo.learning_rate


def _open_tests(folders: Sequence[str]) -> dict[str, Store]:
    tests = {Path(folder).absolute().name: Store(folder) for folder in folders}
    if len(tests) < len(folders):
        raise ConfigError("compare.tests: two folders have the same name; expected names that tell them apart")
    for store in tests.values():
        store.check(decode=True)
    return tests


def _begin(out: Path, config: Config, *, resume: bool) -> None:
    """Take the folder, or go on in it; ``RunError`` for any other."""
    if (out / COMPARE).exists():
        if not resume:
            raise RunError(f"{out}: already holds a comparison; go on with --resume, or name another run.dir")
        if (difference := first_difference(load(out / COMPARE).config, config)) is not None:
            raise RunError(
                f"{out}: holds a comparison of another config: {difference.in_words('there', 'now')}; "
                "resume with the same settings, or name another run.dir"
            )
    elif out.exists() and (not out.is_dir() or {one.name for one in out.iterdir()} - {COMPARE + UNFINISHED}):
        raise RunError(f"{out}: is not empty and holds no comparison; name another run.dir")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / COMPARE, dump(config))


def _tree(found: Compared, config: Config) -> dict[str, Any]:
    return {
        "budget": config.compare.budget,
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
    }
