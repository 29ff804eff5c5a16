"""Train the systems of a comparison: equal budgets, equally many learning rates. Finished runs are used again."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from virft.config.schema import CompareConfig, Config, Method
from virft.config.toml_file import first_difference, load_config
from virft.config.wording import counted
from virft.data.base_completions import BaseGroup
from virft.errors import DataError, RunError
from virft.files import write_text
from virft.recipes.compare.systems import (
    SYSTEMS,
    Rates,
    Steps,
    System,
    format_rates,
    grpo_config,
    has_possible_thinking,
    learning_rates,
    sft_config,
    without_demonstrations,
)
from virft.recipes.preflight import require_demonstrations, require_rationales, training_data
from virft.recipes.setup import load_for_training, make_prompting, make_runtime
from virft.recipes.train import run_training
from virft.recipes.trainers import make_grpo_trainer, make_sft_trainer, open_grpo_trainer
from virft.training.grpo.base_filter import sample_base
from virft.training.monitors import VALIDATION_SCORE
from virft.training.progress import duration
from virft.training.run import BEST, CONFIG, METRICS, MODEL, TIMINGS, RunFolder
from virft.training.sft.base_targets import describe_selection, describe_threshold, selected_ids

BUDGET = "budget.json"
"""Steps that a measured budget allows, in the folder of a system: a resumed comparison must not measure others."""


@dataclass(frozen=True, slots=True)
class RunCost:
    """Work: tokens of prompts and completions, and seconds."""

    tokens: float
    seconds: float

    def __add__(self, other: RunCost) -> RunCost:
        return RunCost(self.tokens + other.tokens, self.seconds + other.seconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedSystem:
    """A system of a comparison: the base model, or one trained with several seeds."""

    name: str
    """Key of ``SYSTEMS``."""
    runs: tuple[Path, ...]
    """The run folder of each seed; none for the base model."""
    learning_rates: Rates = ()
    """The learning rates with the best validation score among ``tried``."""
    tried: Mapping[Rates, float] | None = None
    """Learning rates -> validation score with the first seed; None if there was nothing to choose from."""
    validation: float | None = None
    """Mean over seeds of the best validation score of a run; None without validation data."""
    steps: int = 0
    """Steps of a run."""
    warm_start_steps: int = 0
    """Number of these in the warm start."""
    tokens: int = 0
    """RunCost: mean number of tokens that a run has processed, with ``base_tokens``."""
    seconds: float = 0.0
    """RunCost: mean time that a run spent in its steps, with ``base_seconds``."""
    base_tokens: int = 0
    """RunCost: tokens of sampling the base model's completions, for systems whose targets depend on them."""
    base_seconds: float = 0.0
    """RunCost: time of sampling the base model's completions."""
    samples: str = ""
    """Training samples that the base model's completions have selected, as text; "": all."""

    @property
    def system(self) -> System:
        """The way it was trained."""
        return SYSTEMS[self.name]


class _Selection(NamedTuple):
    """Training samples that the base model's completions have selected, and what these cost."""

    number: int
    total: int
    threshold: str
    cost: RunCost

    @property
    def description(self) -> str:
        """Such as "3 of 8 samples"; "" without a selection."""
        return describe_selection(self.number, self.total) if self.threshold else ""


_ALL = _Selection(-1, -1, "", RunCost(0, 0))
"""No selection: all samples."""


@dataclass(kw_only=True)
class SystemTraining:
    """Trains the systems of a comparison, one after the other. RFT first: its cost may be the budget of the others."""

    config: Config
    """The config of the comparison."""
    out: Path
    """Folder of the comparison."""
    log: Callable[[str], None]
    """Prints a line."""
    after_run: Callable[[], None] | None = None
    """Called after each training run that was not finished before."""
    trained: dict[str, TrainedSystem] = field(default_factory=dict)
    """The systems that are trained, by name."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Systems that cannot be trained on this data, with the reason."""

    def __post_init__(self) -> None:
        self._base_groups: dict[str, BaseGroup] | None = None
        # thinking mode -> the first run that has it: all start from the base model
        self._same_start: dict[bool, Path] = {}
        self._progress = RunProgress(planned_runs(self.config))

    def skip_refused(self) -> None:
        """Skip the systems that the training data does not allow, before anything is trained."""
        for name in self.config.compare.systems:
            if (reason := self._refusal(name)) is not None:
                self._skip(name, reason)

    def _skip(self, name: str, reason: str) -> None:
        self.skipped[name] = reason
        self._progress.drop(SYSTEMS[name].method, num_runs(name, self.config))
        self.log(f"{SYSTEMS[name].title} is skipped: {reason}")

    def train(self, name: str) -> TrainedSystem | None:
        """Train every seed of a system, with the learning rates that are best on the validation data.

        None if it is skipped: the training data or the base model's completions do not allow it.
        """
        if name in self.skipped:
            return None
        system = SYSTEMS[name]
        selection = self._select(name) if system.needs_base_completions else _ALL
        if selection.number == 0:
            self._skip(name, f"no training sample has a {selection.threshold}")
            return None
        if (same := self._same_as_sft(system, selection)) is not None:
            self.log(f"{system.title} is the same as SFT: no sample is excluded")
            self._progress.drop(system.method, num_runs(name, self.config))
            return self._add(replace(same, name=name), selection)
        if system.targets == "labels" and not has_possible_thinking(self.config):
            self.log("the data has no rationales: SFT trains on targets alone and is prompted without thinking")
        steps = self.steps_of(name, selection.cost)
        rates, tried = self._choose_rates(name, steps)
        runs = [self._train_one(self._config_of(name, rates, steps, seed), name, rates) for seed in self._seeds]
        costs = [cost_of(run) for run in runs]
        scores = [best_validation(run) for run in runs]
        found = TrainedSystem(
            name=name,
            runs=tuple(runs),
            learning_rates=rates,
            tried=tried or None,
            validation=None if None in scores else fmean(score for score in scores if score is not None),
            steps=steps.number,
            warm_start_steps=steps.warm_start,
            tokens=round(fmean(cost.tokens for cost in costs)),
            seconds=fmean(cost.seconds for cost in costs),
        )
        return self._add(found, selection)

    def _refusal(self, name: str) -> str | None:
        """The reason for which the training data does not allow a GRPO system; None if it does."""
        system, config = SYSTEMS[name], self.config
        try:
            if system.is_warm_started:
                require_rationales(training_data(config, "grpo"), config.prompt, config.mixture)
            if system.is_mixed:
                require_demonstrations(training_data(config, "grpo"), config.prompt, config.mixture)
        except DataError as error:
            return str(error)
        return None

    def _add(self, found: TrainedSystem, selection: _Selection) -> TrainedSystem:
        """Add a system with the cost of sampling the base model's completions."""
        cost = selection.cost
        found = replace(
            found,
            tokens=found.tokens + round(cost.tokens),
            seconds=found.seconds + cost.seconds,
            base_tokens=round(cost.tokens),
            base_seconds=cost.seconds,
            samples=selection.description,
        )
        self.trained[found.name] = found
        return found

    @property
    def base(self) -> Path:
        """Folder of the base model's predictions and completions."""
        return self.out / "base"

    @property
    def _seeds(self) -> range:
        return range(self.config.seed, self.config.seed + self.config.compare.seeds)

    @property
    def _is_measured(self) -> bool:
        return self.config.compare.budget in ("tokens", "seconds")

    # --- learning rates ---

    def _choose_rates(self, name: str, steps: Steps) -> tuple[Rates, dict[Rates, float]]:
        """The learning rates of a system, and the validation score of each trial; none if there is one choice."""
        trials = learning_rates(name, self.config)
        if len(trials) == 1:
            return trials[0], {}
        tried = {}
        for rates in trials:
            one = self._config_of(name, rates, steps, self.config.seed)
            score = best_validation(self._train_one(one, name, rates))
            assert score is not None, "the config has validation data"
            tried[rates] = score
            self.log(f"{SYSTEMS[name].title} with learning rate {format_rates(rates)}: validation {score:.3f}")
        # of equal scores, the smaller rates
        return max(trials, key=lambda rates: (tried[rates], [-rate for rate in rates])), tried

    # --- runs ---

    def _config_of(self, name: str, rates: Rates, steps: Steps, seed: int) -> Config:
        """The config of a run of a system."""
        folder = self.out / name / f"lr_{'_'.join(f'{rate:g}' for rate in rates)}_seed_{seed}"
        if SYSTEMS[name].is_sft:
            return sft_config(self.config, name, steps, rates=rates, seed=seed, base=self.base, folder=folder)
        return grpo_config(self.config, name, steps, rates=rates, seed=seed, folder=folder)

    def _train_one(self, one: Config, name: str, rates: Rates) -> Path:
        """Train one run, unless it is finished; its folder. Raises ``RunError`` if that holds another run."""
        folder, system = Path(one.run.dir), SYSTEMS[name]
        difference = _difference(folder, one)
        if difference:
            raise RunError(
                f"{folder}: holds a run of another config: {difference}; resume with the same settings, delete this "
                "folder, or choose another run.dir"
            )
        if difference is None:
            self.log(f"{system.title}, learning rate {format_rates(rates)}, seed {one.seed}")
            before = time.monotonic()
            run_training(
                one,
                system.method,
                resume=(folder / CONFIG).exists(),
                log=self.log,
                same_start=self._same_start.get(one.prediction_thinking),
            )
            self.log(self._progress.add(folder, system.method, time.monotonic() - before))
            if self.after_run is not None:
                self.after_run()
        else:
            self._progress.add(folder, system.method, None)
        self._same_start.setdefault(one.prediction_thinking, folder)
        return folder

    # --- base completions ---

    def _select(self, name: str) -> _Selection:
        """The training samples that an SFT system uses, by the base model's completions."""
        groups = self._sample_base()
        # every run of the system has these targets and thresholds
        sft = self._config_of(name, learning_rates(name, self.config)[0], Steps(1, 1), self.config.seed).sft
        number = len(selected_ids(sft, groups))
        return _Selection(
            number=number,
            total=len(groups),
            threshold=describe_threshold(sft),
            cost=RunCost(sum(one.num_tokens for one in groups.values()), sum(one.seconds for one in groups.values())),
        )

    def _same_as_sft(self, system: System, selection: _Selection) -> TrainedSystem | None:
        """The SFT system if curation excludes no sample, and sampling takes none of the steps; else None."""
        is_all = system.targets == "curated" and selection.number == selection.total
        return self.trained.get("sft") if is_all and not self._is_measured else None

    def _sample_base(self) -> dict[str, BaseGroup]:
        """The base model's completions of all training samples, ``group_size`` each, sampled once."""
        if self._base_groups is None:
            # nothing is trained: no reference model, no demonstrations
            grpo = replace(without_demonstrations(self.config.grpo), kl_coef=0.0, kl_coef_end=None)
            config = replace(self.config, grpo=grpo, compare=CompareConfig())
            data = training_data(config, "grpo")
            self.base.mkdir(parents=True, exist_ok=True)
            with closing(open_grpo_trainer(config)) as trainer:
                self._base_groups = sample_base(
                    trainer,
                    list(data),
                    self.base,
                    batch_size=config.grpo.prompts_per_step,
                    ranks=trainer.ranks,
                    log=self.log,
                )
        return self._base_groups

    # --- budget ---

    def steps_of(self, name: str, base_cost: RunCost) -> Steps:
        """The steps that the budget of RFT allows a system (``compare.budget``)."""
        system, kind = SYSTEMS[name], self.config.compare.budget
        is_measured = self._is_measured and name != "rft"
        steps = self._measured_steps(name, base_cost) if is_measured else self._set_steps(name)
        number = counted(steps.number, "step")
        if system.is_sft and kind != "own":
            self.log(f"{system.title} gets the same {kind} as RFT: {number} of {counted(steps.samples, 'sample')}")
        if system.is_warm_started:
            self.log(f"{system.title}: {number}, with a warm start of {counted(steps.warm_start, 'step')}")
        return steps

    def _set_steps(self, name: str) -> Steps:
        """The steps of a system by the settings alone."""
        config, system = self.config, SYSTEMS[name]
        if system.is_sft and config.compare.budget == "own":
            return Steps(config.sft.steps, config.sft.samples_per_step)
        number = config.grpo.steps
        # at least one step of either kind
        first = min(max(1, round(number * config.compare.warm_start_frac)), number - 1)
        return Steps(number, config.grpo.prompts_per_step, first if system.is_warm_started else 0)

    def _measured_steps(self, name: str, base_cost: RunCost) -> Steps:
        """The steps of a system by their measured cost, which a resumed comparison reads from a file."""
        path = self.out / name / BUDGET
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            steps = self._affordable_sft(name, base_cost) if SYSTEMS[name].is_sft else self._affordable_grpo(name)
            write_text(path, json.dumps(steps))
        return Steps(*json.loads(path.read_text(encoding="utf-8")))

    def _affordable_sft(self, name: str, base_cost: RunCost) -> Steps:
        """Steps of an SFT system that cost as much as a run of RFT, less the base model's completions."""
        sft = self.config.sft
        steps = Steps(sft.steps, sft.samples_per_step)
        affordable = (self._cost_of_rft - self._of_budget(base_cost)) / self._cost_of_step(name, steps)
        return steps._replace(number=max(sft.warmup_steps + 1, round(affordable)))

    def _affordable_grpo(self, name: str) -> Steps:
        """Steps of a GRPO system that cost as much as a run of RFT.

        A warm start has as many steps as RFT, if one step of GRPO is left; steps of GRPO use the rest of the budget.
        """
        system, grpo = SYSTEMS[name], self.config.grpo
        steps = Steps(grpo.steps, grpo.prompts_per_step)
        per_step = self._cost_of_rft / grpo.steps
        if system.is_mixed:
            per_step *= self._cost_of_step("mix", steps) / self._cost_of_step("rft", steps)
        left, first = self._cost_of_rft, 0
        if system.is_warm_started:
            supervised = self._cost_of_step("sft", steps)
            first = min(grpo.steps, max(1, int((left - per_step) / supervised)))
            left -= first * supervised
        return steps._replace(number=first + max(1, round(left / per_step)), warm_start=first)

    @property
    def _cost_of_rft(self) -> float:
        return self._of_budget(RunCost(self.trained["rft"].tokens, self.trained["rft"].seconds))

    def _cost_of_step(self, name: str, steps: Steps) -> float:
        one = self._config_of(name, learning_rates(name, self.config)[0], steps, self.config.seed)
        return self._of_budget(cost_of_step(one, SYSTEMS[name].method))

    def _of_budget(self, cost: RunCost) -> float:
        return cost.tokens if self.config.compare.budget == "tokens" else cost.seconds


class RunProgress:
    """Number of finished runs of a comparison, and an estimate of the time that the others take."""

    def __init__(self, planned: Mapping[Method, int]) -> None:
        """``planned``: number of runs of each training method."""
        self._planned = Counter(planned)
        self._done: dict[Path, Method] = {}
        self._seconds: dict[Method, list[float]] = {}

    def drop(self, method: Method, number: int) -> None:
        """Remove runs that are not needed from the plan."""
        self._planned[method] -= number

    def add(self, folder: Path, method: Method, seconds: float | None) -> str:
        """Add a finished run, if it is not added yet; a line about the progress.

        ``seconds``: its time; None if an earlier process trained it: then that of its steps.
        """
        if folder not in self._done:
            self._done[folder] = method
            self._seconds.setdefault(method, []).append(cost_of(folder).seconds if seconds is None else seconds)
        return self.describe()

    def describe(self) -> str:
        """Number of finished runs and time left, as text. A method without a finished run counts as the slowest one."""
        total = sum(self._planned.values())
        if not self._done:
            return f"0 of {counted(total, 'training run')} done"
        done = Counter(self._done.values())
        means = {method: fmean(found) for method, found in self._seconds.items()}
        left = sum(
            max(0, count - done[method]) * means.get(method, max(means.values()))
            for method, count in self._planned.items()
        )
        return f"{len(self._done)} of {counted(total, 'training run')} done, about {duration(left)} left for the others"


def planned_runs(config: Config, skipped: Collection[str] = ()) -> dict[Method, int]:
    """Number of training runs of each method, at most: curated SFT may be the same as SFT.

    ``skipped``: systems that are not trained.
    """
    planned: Counter[Method] = Counter()
    for name in config.compare.systems:
        if name not in skipped:
            planned[SYSTEMS[name].method] += num_runs(name, config)
    return dict(planned)


def num_runs(name: str, config: Config) -> int:
    """Number of training runs of a system. The trial of the chosen learning rate is the run of the first seed."""
    return len(learning_rates(name, config)) - 1 + config.compare.seeds


def final_model(run: Path) -> Path:
    """The best model by validation; the last one without validation, or if no validation exceeded the base model's."""
    return run / BEST if (run / BEST).exists() else run / MODEL


def best_validation(run: Path) -> float | None:
    """The highest validation score of a trained model of a run; None without validation data."""
    records = RunFolder(run).records(METRICS)
    # the first record is the validation of the base model
    return max((float(record[VALIDATION_SCORE]) for record in records[1:] if VALIDATION_SCORE in record), default=None)


def cost_of(run: Path) -> RunCost:
    """Tokens of prompts and completions that a run has processed, and seconds in its steps."""
    folder = RunFolder(run)
    tokens = sum(record.get("num_tokens", 0) for record in folder.records(METRICS))
    return RunCost(tokens, sum(sum(v for k, v in record.items() if k != "step") for record in folder.records(TIMINGS)))


def cost_of_step(config: Config, method: Method) -> RunCost:
    """Mean tokens and seconds of a step, measured on a model that is then discarded."""
    runtime = make_runtime(config.model, config.parallel)
    loaded = load_for_training(config.model, runtime, seed=config.seed)
    prompting = make_prompting(config.prompt, config.mixture, loaded)
    data = training_data(config, method)
    make = make_grpo_trainer if method == "grpo" else make_sft_trainer
    with closing(make(config, loaded, prompting, runtime, (sample.query for sample in data))) as trainer:
        reports = [trainer.step(number, data.batch(number)) for number in range(4)][1:]  # the first one is a warm-up
    return RunCost(
        fmean(report.metrics["num_tokens"] for report in reports),
        fmean(sum(report.timings.values()) for report in reports),
    )


def _difference(folder: Path, config: Config) -> str | None:
    """The first setting in which the finished run in a folder differs; "" if none does, None if no run is finished."""
    if not (folder / MODEL).exists():
        return None
    saved = replace(load_config(folder / CONFIG).config, compare=CompareConfig())
    difference = first_difference(replace(saved, run=config.run), config)
    return "" if difference is None else difference.describe("saved", "now")
