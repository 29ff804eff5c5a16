"""Load a config for a verb: settings that it does not set are fitted to its model and data (``config.fitting``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from virft.config.fitting import (
    FITTED_KEYS,
    Facts,
    FittedMethod,
    FittedValue,
    fitted_values,
)
from virft.config.schema import Config
from virft.config.toml_file import KEYWORDS, LoadedConfig, complete, load_config, parse, value_at
from virft.data.store import read_card
from virft.errors import ConfigError, DataError
from virft.models.size import model_size


def load_fitted_config(
    path: Path | None,
    overrides: Sequence[str] = (),
    *,
    method: FittedMethod = "grpo",
    keywords: Mapping[str, Any] = MappingProxyType({}),
    saved: str | None = None,
) -> LoadedConfig:
    """Return the tree of a TOML file (None: of ``keywords`` alone), with fitted values for what it does not set.

    ``saved``: name of the config in ``run.dir`` of a run that is resumed; its fitted values are used again, so that a
    resumed run is the same whatever this version would choose.

    Raises ``ConfigError`` as ``load_config`` does.
    """
    loaded = (
        parse("", origin=KEYWORDS, keywords=keywords)
        if path is None
        else load_config(path, overrides, keywords=keywords)
    )
    return fit(loaded, method=method, saved=saved)


def fit(loaded: LoadedConfig, *, method: FittedMethod, saved: str | None = None) -> LoadedConfig:
    """Return a loaded config with fitted values for what it does not set. ``saved``: as ``load_fitted_config``."""
    if saved is not None and (file := Path(loaded.config.run.dir) / saved).exists():
        with suppress(ConfigError):  # one that this version cannot read is reported when the run is opened
            return complete(loaded, _saved_values(load_config(file).config, loaded))
    facts = facts_of(loaded.config)
    return complete(loaded, fitted_values(loaded.config, loaded.explicit, facts, method=method))


def facts_of(config: Config) -> Facts:
    """Return what the files of model and data say, without loading either. What cannot be read is unknown."""
    size = model_size(config.model.path)
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
