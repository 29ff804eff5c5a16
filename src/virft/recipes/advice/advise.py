"""Advice for a dataset and a model: sample completions, measure features, apply the rule, plan the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from virft.data.store import Store
from virft.data.training_data import open_training_data
from virft.models.size import read_model_size
from virft.recipes.advice.completions import NUM_SAMPLES, choose_samples, make_request, sample_completions
from virft.recipes.advice.features import Features, measure_features
from virft.recipes.advice.plan import CONFIG_NAME, TrainingPlan, plan_training
from virft.recipes.advice.rule import RULE, Advice, Rule, give_advice
from virft.recipes.first_config import find_datasets


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingAdvice:
    """Features of a base model on training data, the advised training, its config and commands."""

    features: Features
    advice: Advice
    plan: TrainingPlan
    rule: Rule = RULE


def advise_training(
    data: Path,
    model: str,
    overrides: Sequence[str] = (),
    *,
    num_samples: int = NUM_SAMPLES,
    config_name: str | None = None,
    log: Callable[[str], None],
) -> TrainingAdvice:
    """Return the advice for training ``model`` on ``data``, a dataset or the folder of a build with a split.

    ``overrides``: settings ``KEY=VALUE``. ``num_samples``: maximum number of samples to evaluate. ``config_name``: file
    of the config in the commands. ``log`` prints a line of progress. Completions are cached by content, so a second
    call returns immediately. Samples of ``data.exclude`` are not used. Raises ``ConfigError``, ``DataError`` or
    ``ModelError``.
    """
    folder = find_datasets(data).train
    request = make_request(folder, model, overrides)
    store = Store(folder)
    store.check()
    samples = list(open_training_data(request.config, batch_size=1))
    chosen = choose_samples(samples, num_samples, seed=request.config.seed)
    groups = sample_completions(request, chosen, store, log=log)
    features = measure_features(groups, samples, thinking=request.config.prompt.thinking)
    advice = give_advice(features, num_parameters=read_model_size(model).num_parameters)
    plan = plan_training(request, features, advice, name=config_name or CONFIG_NAME)
    return TrainingAdvice(features=features, advice=advice, plan=plan)
