"""Load a config for a verb: settings that it does not set are fitted to its model and data (``config.fitting``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from virft.config.fitting import (
    FITTED_KEYS,
    TOO_FAR,
    Facts,
    FittedMethod,
    FittedValue,
    fitted_learning_rate,
    fitted_values,
)
from virft.config.schema import Config, Method
from virft.config.toml_file import KEYWORDS, LoadedConfig, complete, given_value, load_config, parse, value_at
from virft.data.store import read_card
from virft.errors import ConfigError, DataError, RunError
from virft.models.model_folders import model_of_run
from virft.models.size import read_model_size
from virft.training.run import require_current_format


def load_fitted_config(
    path: Path | None,
    overrides: Sequence[str] = (),
    *,
    method: FittedMethod = "grpo",
    keywords: Mapping[str, Any] = MappingProxyType({}),
    saved: str | None = None,
) -> LoadedConfig:
    """Return the tree of a TOML file (None: of the others alone), with fitted values for what it does not set.

    ``saved``: name of the config in ``run.dir`` of a run that is resumed; its fitted values are used again, so that a
    resumed run is the same whatever this version would choose. Without ``path`` all of its settings are.

    Raises ``ConfigError`` as ``load_config`` does, and ``RunError`` if another version saved that config or there is
    nothing to resume.
    """
    if path is None and saved is not None:
        path = _saved_config(saved, overrides, keywords)
    loaded = (
        parse("", origin=KEYWORDS, keywords=keywords)
        if path is None and not overrides
        else load_config(path, overrides, keywords=keywords)
    )
    return fit(loaded, method=method, saved=saved)


def _saved_config(name: str, overrides: Sequence[str], keywords: Mapping[str, Any]) -> Path | None:
    """The config of the run in ``run.dir``, which settings without a file name; None if there is no run.

    Raises ``RunError`` if there is none and the settings name no training data, which a new run needs.
    """
    folder = given_value("run.dir", overrides, keywords)
    if not isinstance(folder, (str, Path)):
        return None
    if not (file := Path(folder) / name).is_file():
        given = [one.strip().strip("\"'") for one in overrides] + list(keywords)
        if given_value("data.train", overrides, keywords) is None and not any(
            one.startswith("mixture") for one in given
        ):
            what = f"holds no {name}" if Path(folder).is_dir() else "does not exist"
            raise RunError(
                f"{folder}: {what}, so there is nothing to resume; expected the run.dir of an earlier call, or a config"
            )
        return None
    # before the config is read: that of an older version has settings that this one does not know
    require_current_format(file.parent)
    return file


def fit(loaded: LoadedConfig, *, method: FittedMethod, saved: str | None = None) -> LoadedConfig:
    """Return a loaded config with fitted values for what it does not set. ``saved``: as ``load_fitted_config``.

    A run folder as ``model.path`` becomes the model in it; ``ModelError`` if there is none.
    """
    model = replace(loaded.config.model, path=model_of_run(loaded.config.model.path))
    loaded = replace(loaded, config=replace(loaded.config, model=model))
    if saved is not None and (file := Path(loaded.config.run.dir) / saved).exists():
        with suppress(ConfigError):  # one that this version cannot read is reported when the run is opened
            return complete(loaded, _saved_values(load_config(file).config, loaded))
    facts = facts_of(loaded.config)
    return complete(loaded, fitted_values(loaded.config, loaded.explicit, facts, method=method))


def facts_of(config: Config) -> Facts:
    """Return what the files of model and data say, without loading either. What cannot be read is unknown."""
    size = read_model_size(config.model.path)
    folders = [part.data for part in config.mixture.values()] if config.mixture else [config.data.train]
    try:
        cards = [read_card(Path(folder)) for folder in folders if folder is not None]
    except DataError:
        cards = []  # reported when the data is opened
    return Facts(
        num_parameters=size.num_parameters,
        max_pixels=size.max_pixels,
        num_samples=_total(cards, "num_samples"),
        num_images=_total(cards, "num_images"),
        tasks=frozenset(task for card in cards for task in card.get("counts", {})),
    )


def _total(cards: Sequence[Mapping[str, Any]], key: str) -> int | None:
    numbers = [card[key] for card in cards if isinstance(card.get(key), int)]
    return sum(numbers) if numbers and len(numbers) == len(cards) else None


def _saved_values(saved: Config, loaded: LoadedConfig) -> dict[str, FittedValue]:
    """The values of a started run for settings that may be fitted."""
    found = {key: (value_at(saved, key), value_at(loaded.config, key)) for key in FITTED_KEYS}
    reason = f"as when the run in {loaded.config.run.dir} was started"
    return {
        key: FittedValue(value=then, reason=reason)
        for key, (then, now) in found.items()
        if then is not None and then != now
    }


def rate_warning(config: Config, method: Method) -> str | None:
    """Return a warning if the learning rate is far from that of models of this size and ``model.train``; else None.

    Far: by a factor of ``TOO_FAR`` or more.
    """
    key = f"{method}.learning_rate"
    rate = value_at(config, key)
    fitted = _fitted_rate(config, method)
    factor = max(rate / fitted.value, fitted.value / rate)
    # 1e-5 / 1e-6 is 9.999...
    if factor < TOO_FAR * (1 - 1e-9):
        return None
    side, effect = ("above", "may diverge") if rate > fitted.value else ("below", "may learn nothing")
    return (
        f"{key} is {rate:g}, {factor:,.0f} times {side} {fitted.value:g}, which fits ({fitted.reason}: "
        f"{fitted.source}); the run {effect}"
    )


def _fitted_rate(config: Config, method: Method) -> FittedValue:
    return fitted_learning_rate(method, config.model.train, read_model_size(config.model.path).num_parameters)


def _is_fitted_rate(config: Config, method: Method) -> bool:
    return bool(value_at(config, f"{method}.learning_rate") == _fitted_rate(config, method).value)


def untuned_warnings(loaded: LoadedConfig) -> list[str]:
    """Return warnings about the learning rates of a comparison: one far from what fits, and rates not tuned alike."""
    config, plan = loaded.config, loaded.config.compare
    is_listed = bool(plan.rft_learning_rates)
    warnings = [] if is_listed else [one for method in _METHODS if (one := rate_warning(config, method))]
    if "sft" not in plan.systems or "rft" not in plan.systems or is_listed:
        return warnings
    is_set = {method: f"{method}.learning_rate" in loaded.explicit for method in _METHODS}
    # `virft init` writes the fitted rate of one method: it is not tuned, and the other method gets its fitted rate too
    is_tuned = {method: is_set[method] and not _is_fitted_rate(config, method) for method in _METHODS}
    names: dict[Method, str] = {"grpo": "RFT", "sft": "SFT"}
    for method, other in (_METHODS, _METHODS[::-1]):
        if is_tuned[method] and not is_set[other]:
            warnings.append(
                f"{method}.learning_rate is set and {other}.learning_rate is not: {names[other]} is not tuned and gets "
                f"{value_at(config, f'{other}.learning_rate'):g}, so the comparison may favour {names[method]}; set "
                "both, or compare.sft_learning_rates and compare.rft_learning_rates"
            )
    return warnings


_METHODS: tuple[Method, Method] = ("grpo", "sft")
