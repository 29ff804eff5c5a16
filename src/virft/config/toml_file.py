"""Read and write the tree of ``virft.config.schema`` as TOML: strict, suggesting the nearest name for unknown keys."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, get_origin

import tomli_w

from virft.config.fitting import FittedValue, describe_origin
from virft.config.nearest import suggest_setting
from virft.config.schema import (
    MIXTURE,
    Config,
    MixtureConfig,
    sections,
    setting_at,
    settings,
    values,
    without_effect,
)
from virft.config.setting import REQUIRED, Setting, format_value
from virft.errors import ConfigError

COMMAND_LINE = "command line"
KEYWORDS = "keyword arguments"
LARGEST_BYTES = 2**20
DEEPEST = 8
"""Largest nesting of tables and lists; settings need four."""


DEFAULT = "default"
"""Origin of a setting that has the default of ``virft.config.schema``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedConfig:
    """A tree, and where its values come from."""

    config: Config
    """The settings."""

    explicit: frozenset[str]
    """Dotted keys that the file or the command line set explicitly."""

    origins: Mapping[str, str]
    """Where each value comes from, by dotted key, in the order of the tree: the file, "command line", "keyword
    arguments", "default", or "fitted: " and a reason. Entries of a table are listed too: ``reward.weights.iou``."""


class SettingDifference(NamedTuple):
    """A setting that has different values in two trees."""

    key: str
    left: Any
    right: Any

    def describe(self, left: str, right: str) -> str:
        """Describe both values, with names for the two trees.

        >>> SettingDifference("grpo.steps", 5, 9).describe("saved", "now")
        'grpo.steps is 5 (saved) and 9 (now)'
        """
        return f"{self.key} is {format_value(self.left)} ({left}) and {format_value(self.right)} ({right})"


class _Entry(NamedTuple):
    """A value, and the file or command line that set it."""

    value: Any
    origin: str


def load_config(
    path: Path | None, overrides: Sequence[str] = (), *, keywords: Mapping[str, Any] = MappingProxyType({})
) -> LoadedConfig:
    """Return the tree of a TOML file with ``key=value`` overrides applied. ``keywords``: see ``parse``.

    ``path`` None: there are only the overrides.

    Raises ``ConfigError`` for a file that cannot be read, and as ``parse`` does.
    """
    if path is None:
        return parse("", origin=COMMAND_LINE, overrides=overrides, keywords=keywords)
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        near = difflib.get_close_matches(path.name, [file.name for file in path.parent.glob("*.toml")], n=1)
        expected = f"did you mean {path.with_name(near[0])}?" if near else "expected a TOML file"
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {expected}") from error
    if len(data) > LARGEST_BYTES:
        raise ConfigError(f"{path}: larger than {LARGEST_BYTES // 2**20} MiB; expected a TOML file of settings")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text; expected a TOML file") from error
    return parse(text, origin=str(path), overrides=overrides, keywords=keywords)


def parse(
    text: str,
    *,
    origin: str,
    overrides: Sequence[str] = (),
    keywords: Mapping[str, Any] = MappingProxyType({}),
) -> LoadedConfig:
    """Return the tree of a TOML text; ``origin`` names the text in messages.

    Raises ``ConfigError`` for invalid TOML, unknown keys, and values that are not allowed or have no effect.

    >>> toml = 'data.train = "coco8"\\nrun.dir = "runs/a"\\ngrpo.steps = 5'
    >>> parse(toml, origin="x.toml", overrides=["grpo.group_size=4"]).config.grpo.group_size
    4
    >>> parse(toml, origin="x.toml", overrides=["grpo.group_sise=4"])
    Traceback (most recent call last):
    virft.errors.ConfigError: command line: grpo.group_sise is not a setting; did you mean grpo.group_size?

    ``keywords``: settings from Python, by dotted keys or as nested mappings; they are applied last.

    >>> parse(toml, origin="x.toml", keywords={"grpo": {"steps": 9}, "seed": 3}).config.grpo.steps
    9
    """
    try:
        table = tomllib.loads(text)
    except ValueError as error:  # a number of 5,000 digits is one too
        raise ConfigError(f"{origin}: not valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{origin}: not valid TOML: brackets are nested too deeply") from error
    _refuse_monsters(table, origin)
    entries = {key: _Entry(value, origin) for key, value in _flatten(table, origin)}
    for override in overrides:
        key, value = _parse_override(override)
        entries[key] = _Entry(value, COMMAND_LINE)
    for key, value in _flatten(keywords, KEYWORDS):
        entries[key] = _Entry(str(value) if isinstance(value, Path) else value, KEYWORDS)
    checked = {key: _checked(key, entry) for key, entry in entries.items()}
    config = _build(_with_part_weights(checked), origin)
    _refuse_without_effect(config, entries)
    origins = {key: entry.origin for key, entry in entries.items()}
    return LoadedConfig(config=config, explicit=frozenset(entries), origins=_all_origins(config, origins))


def complete(loaded: LoadedConfig, fitted: Mapping[str, FittedValue]) -> LoadedConfig:
    """Return the tree with fitted values for settings that are not explicit.

    Explicit settings win. A value that would have no effect next to the others is not used.

    >>> smallest = parse('data.train = "d"\\nrun.dir = "r"', origin="x.toml")
    >>> found = complete(smallest, {"grpo.steps": FittedValue(value=500, reason="8,000 samples")})
    >>> found.config.grpo.steps, found.origins["grpo.steps"], found.origins["run.dir"]
    (500, 'fitted: 8,000 samples', 'x.toml')
    """
    proposed = {key: one.value for key, one in fitted.items() if key not in loaded.explicit}
    idle = without_effect(_with_values(loaded.config, proposed))
    used = {key: value for key, value in proposed.items() if key not in idle}
    config = _with_values(loaded.config, used)
    known = {key: loaded.origins[key] for key in loaded.explicit}
    known |= {key: describe_origin(fitted[key]) for key in used}
    return LoadedConfig(config=config, explicit=loaded.explicit, origins=_all_origins(config, known))


def given_value(key: str, overrides: Sequence[str], keywords: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Return the value that settings without a file give to a key, as ``parse`` reads them; None if they do not.

    >>> given_value("run.dir", ["seed=1", "run.dir=2024"]), given_value("run.dir", [], {"run": {"dir": "runs/a"}})
    ('2024', 'runs/a')
    """
    found = dict(map(_parse_override, overrides)) | dict(_flatten(keywords, KEYWORDS))
    return found.get(key)


def value_at(config: Config, key: str) -> Any:
    """Return the value of a dotted key; of an entry of a table that is not in it, None.

    >>> value_at(parse('data.train = "d"\\nrun.dir = "r"', origin="x.toml").config, "grpo.steps")
    200
    """
    table = _table_of(key)
    section, _, name = (table or key).rpartition(".")
    value = getattr(getattr(config, section) if section else config, name)
    return value.get(key.removeprefix(f"{table}.")) if table else value


def _with_values(config: Config, chosen: Mapping[str, Any]) -> Config:
    """Return the tree with other values by dotted key; an entry of a table is added to the table."""
    changes: dict[str, dict[str, Any]] = {}
    for key, value in chosen.items():
        section, _, name = (_table_of(key) or key).rpartition(".")
        part = changes.setdefault(section, {})
        if table := _table_of(key):
            before = part.get(name, getattr(getattr(config, section), name))
            value = {**before, key.removeprefix(f"{table}."): value}
        part[name] = value
    sections_changed = {name: replace(getattr(config, name), **part) for name, part in changes.items()}
    return replace(config, **sections_changed)


def _all_origins(config: Config, known: Mapping[str, str]) -> dict[str, str]:
    """Return the origin of every setting, and of each entry of a table, in the order of the tree."""
    origins: dict[str, str] = {}
    for setting, _ in values(config):
        entries = [key for key in known if _table_of(key) == setting.key]
        origins[setting.key] = known[entries[-1]] if entries else known.get(setting.key, DEFAULT)
        origins |= {key: known[key] for key in entries}
    return origins


def changed(config: Config, keywords: Mapping[str, Any]) -> Config:
    """Return a tree with other values for some settings; ``keywords`` as for ``parse``.

    Settings with their default value count as not set: they may lose their effect by a keyword.

    >>> base = parse('data.train = "coco8"\\nrun.dir = "runs/a"\\ngrpo.steps = 5', origin="x.toml").config
    >>> changed(base, {"run.dir": "runs/b"}).run.dir, changed(base, {"run.dir": "runs/b"}).grpo.steps
    ('runs/b', 5)
    """
    own: dict[str, Any] = {}
    for setting, value in values(config):
        if value != setting.default:
            own |= (
                {f"{setting.key}.{k}": v for k, v in value.items()}
                if _is_table(setting.key, value)
                else {setting.key: value}
            )
    return parse("", origin=KEYWORDS, keywords=own | dict(_flatten(keywords, KEYWORDS))).config


def dump(config: Config) -> str:
    """Return the resolved tree as TOML: every setting that has an effect. Reading it returns the same tree."""
    idle = without_effect(config)
    tables: dict[str, dict[str, Any]] = {name: {} for name in ("", *sections()) if name != MIXTURE}
    notes: list[str] = []
    for setting, value in values(config):
        section, _, name = setting.key.rpartition(".")
        if setting.key in idle:
            notes.append(f"# {setting.key} has no effect: {idle[setting.key]}")
        elif value is None:
            notes.append(f"# {setting.key} is not set")
        else:
            tables.setdefault(section, {})[name] = _as_toml_value(value)
    tree: dict[str, Any] = tables.pop("")
    for section, table in tables.items():
        if section.startswith("mixture."):
            tree.setdefault("mixture", {})[section.removeprefix("mixture.")] = table
        elif table:
            tree[section] = table
    return "\n".join([tomli_w.dumps(tree), *notes, ""])


def first_difference(left: Config, right: Config) -> SettingDifference | None:
    """Return the first setting, in the order of the tree, in which two trees differ; None if they are equal.

    Settings without effect in both trees are ignored.
    """
    idle = without_effect(left).keys() & without_effect(right).keys()
    there, here = ({setting.key: value for setting, value in values(config)} for config in (left, right))
    for key in there | here:
        if key not in idle and there.get(key) != here.get(key):
            return SettingDifference(key, there.get(key), here.get(key))
    return None


def _refuse_monsters(tree: Any, origin: str) -> None:
    """Raise ``ConfigError`` for values that no message could show: unlimited nesting, integers of hundreds of digits.

    Dotted keys nest tables without brackets, and ``tomllib`` does not limit hexadecimal digits.
    """
    level = [tree]
    for _ in range(DEEPEST):
        values = [one for item in level for one in (item.values() if isinstance(item, Mapping) else item)]
        if any(isinstance(value, int) and value.bit_length() > 1023 for value in values):
            raise ConfigError(f"{origin}: has an integer of more than 300 digits; expected one that a float can hold")
        level = [value for value in values if isinstance(value, (Mapping, list))]
    if level:
        raise ConfigError(f"{origin}: has tables or lists nested over {DEEPEST} deep; expected settings in sections")


def _flatten(table: Mapping[str, Any], origin: str) -> list[tuple[str, Any]]:
    """Return dotted key and value of every leaf. A table-valued setting has one key per entry."""
    leaves: list[tuple[str, Any]] = []
    for name, value in table.items():
        if name == "mixture":
            leaves += _flatten_mixture(value, origin)
        elif name not in sections():
            leaves += _flatten_unknown(name, value)
        elif not isinstance(value, Mapping):
            raise ConfigError(f"{origin}: {name} is {value!r}; expected a table [{name}]")
        else:
            leaves += [(f"{name}.{key}", item) for key, item in value.items() if not _is_table(f"{name}.{key}", item)]
            leaves += [
                (f"{name}.{key}.{entry}", number)
                for key, item in value.items()
                if _is_table(f"{name}.{key}", item)
                for entry, number in item.items()
            ]
    return leaves


def _flatten_unknown(name: str, value: Any) -> list[tuple[str, Any]]:
    """Return the dotted keys of an unknown table, such as ``[actor.optim]``: another trainer's section."""
    if not isinstance(value, Mapping) or not value:
        return [(name, value)]
    return [leaf for key, item in value.items() for leaf in _flatten_unknown(f"{name}.{key}", item)]


def _flatten_mixture(value: Any, origin: str) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping) or not all(isinstance(part, Mapping) for part in value.values()):
        raise ConfigError(f"{origin}: mixture is {value!r}; expected tables [mixture.NAME], one for each data set")
    return [(f"mixture.{name}.{key}", item) for name, part in value.items() for key, item in part.items()]


def _is_table(key: str, value: Any) -> bool:
    return isinstance(value, Mapping) and key in _table_keys()


@cache
def _table_keys() -> tuple[str, ...]:
    return tuple(setting.key for setting in settings() if get_origin(setting.kind) is Mapping)


def _table_of(key: str) -> str | None:
    """Return the table-valued setting that a key such as ``reward.weights.iou`` belongs to."""
    return next((table for table in _table_keys() if key.startswith(table + ".")), None)


def _parse_override(text: str) -> tuple[str, Any]:
    """Return key and value of ``key=value``. A text that is not a TOML value is a string without quotes."""
    key, equals, raw = text.partition("=")
    key, raw = key.strip(), raw.strip()
    if not equals or not key:
        raise ConfigError(f"{COMMAND_LINE}: {text!r} is no override; expected key=value, such as grpo.steps=10")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except (ValueError, RecursionError):
        return key, raw
    _refuse_monsters([value], COMMAND_LINE)
    # a folder may be named 2024 or true
    setting = _setting(key)
    wants_text = setting is not None and setting.takes(str)
    return key, raw if wants_text and not isinstance(value, str) else value


def _checked(key: str, entry: _Entry) -> Any:
    """Return the value of an entry, checked and converted to the type of its setting."""
    table = _table_of(key)
    setting = _setting(table or key)
    if setting is None:
        raise ConfigError(f"{entry.origin}: {key:.80} is not a setting; {suggest_setting(key)}")
    value = tuple(entry.value) if isinstance(entry.value, list) else entry.value
    try:
        setting.check({key.removeprefix(f"{table}."): value} if table else value)
    except ConfigError as error:
        raise ConfigError(f"{entry.origin}: {error}") from error
    return float(value) if type(value) is int and (table or setting.takes(float)) else value


def _setting(key: str) -> Setting | None:
    try:
        return setting_at(key)
    except KeyError:
        return None


def _with_part_weights(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Collect keys such as ``reward.weights.iou`` in the table that they belong to."""
    gathered: dict[str, Any] = {}
    for key, value in flat.items():
        if table := _table_of(key):
            gathered.setdefault(table, {})[key.removeprefix(f"{table}.")] = value
        else:
            gathered[key] = value
    return gathered


def _build(flat: Mapping[str, Any], origin: str) -> Config:
    """Return the tree of checked values by dotted key."""
    for setting in settings():
        section = setting.key.rpartition(".")[0]
        if setting.default is REQUIRED and section != MIXTURE and setting.key not in flat:
            raise ConfigError(f"{origin}: {setting.key} is missing; expected a {setting.unit} ({setting.help})")
    parts: dict[str, dict[str, Any]] = {name: {} for name in ("", *sections()) if name != MIXTURE}
    mixture: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        section, _, name = key.rpartition(".")
        if section.startswith("mixture."):
            mixture.setdefault(section.removeprefix("mixture."), {})[name] = value
        else:
            parts[section][name] = value
    for name, part in mixture.items():
        if "data" not in part:
            raise ConfigError(f"{origin}: mixture.{name}.data is missing; expected a folder that `virft build` made")
    try:
        return Config(
            **parts.pop(""),
            mixture={name: MixtureConfig(**part) for name, part in mixture.items()},
            **{name: sections()[name](**part) for name, part in parts.items()},
        )
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from error


def _refuse_without_effect(config: Config, entries: Mapping[str, _Entry]) -> None:
    for key, reason in without_effect(config).items():
        if key in entries:
            raise ConfigError(f"{entries[key].origin}: {key} has no effect: {reason}; remove it")


def _as_toml_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value
