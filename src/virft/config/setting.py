"""One setting as data: its type, limits and description, and how values are checked and printed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from virft.errors import ConfigError

REQUIRED: Any = MISSING
"""Default of a required setting."""


def setting_field(
    default: Any = MISSING,
    *,
    help: str,
    unit: str = "",
    source: str = "",
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    default_factory: Any = MISSING,
) -> Any:
    """Return a dataclass field with the metadata that checks and documentation use."""
    metadata = {
        "help": help,
        "unit": unit,
        "source": source,
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
    }
    if default_factory is not MISSING:
        return field(default_factory=default_factory, metadata=metadata)
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One setting as data."""

    key: str
    """Dotted key, such as ``grpo.steps``."""
    kind: Any
    """Annotated type of the value."""
    default: Any
    """Default value, or ``REQUIRED``."""
    help: str
    """Quantity, and the effect of 0 or "not set"."""
    unit: str
    """Unit of the value, "" for none."""
    source: str
    """Paper or code that the default or method comes from, "" for none."""
    at_least: float | None
    """Lower limit, inclusive."""
    above: float | None
    """Lower limit, exclusive."""
    at_most: float | None
    """Upper limit, inclusive."""

    @property
    def allowed(self) -> str:
        """Describe the allowed values.

        >>> from virft.config.schema import setting_at
        >>> setting_at("grpo.group_size").allowed
        'an integer of at least 2'
        """
        limits = []
        if self.at_least is not None:
            limits.append(f"of at least {self.at_least:g}")
        if self.above is not None:
            limits.append(f"above {self.above:g}")
        if self.at_most is not None and self.at_most < 2**53:
            limits.append(f"of at most {self.at_most:g}")
        return " ".join([_describe_kind(self.kind), " and ".join(limits)]).rstrip()

    def takes(self, kind: type) -> bool:
        """Return True if a plain value of this type is allowed.

        >>> from virft.config.schema import setting_at
        >>> setting_at("model.max_pixels").takes(int), setting_at("reward.extra").takes(str)
        (True, False)
        """
        options = alternatives(self.kind)
        return kind in options or (kind is str and any(get_origin(option) is Literal for option in options))

    def check(self, value: Any) -> None:
        """Raise ``ConfigError`` unless the value has the type of the setting and is inside its limits."""
        if not _is_kind(value, self.kind) or not all(self._inside(number) for number in _numbers(value)):
            raise ConfigError(f"{self.key} is {format_value(value)}; expected {self.allowed}")
        if isinstance(value, str) and not value.strip():
            raise ConfigError(f"{self.key} is empty; expected a {self.unit or 'text'}")

    def _inside(self, number: float) -> bool:
        return (
            math.isfinite(number)
            and (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
        )


def default_of(f: Field[Any]) -> Any:
    """Return the default of a dataclass field, ``REQUIRED`` without one."""
    return f.default_factory() if f.default_factory is not MISSING else f.default


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the options of a union, or the type itself.

    >>> alternatives(int | None), alternatives(str)
    ((<class 'int'>, <class 'NoneType'>), (<class 'str'>,))
    """
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _is_kind(value: Any, kind: Any) -> bool:
    """Return True if a value has an annotated type. True is no integer; an integer is also a number here."""
    if len(options := alternatives(kind)) > 1:
        return any(_is_kind(value, option) for option in options)
    origin = get_origin(kind)
    if origin is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if origin is tuple:
        item = get_args(kind)[0]
        return isinstance(value, tuple) and all(_is_kind(one, item) for one in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            isinstance(name, str) and type(number) in (int, float) for name, number in value.items()
        )
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


def _numbers(value: Any) -> list[float]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, tuple):
        return [one for one in value if type(one) in (int, float)]
    return [value] if type(value) in (int, float) else []


_KINDS = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def _describe_kind(kind: Any) -> str:
    kind = next(option for option in alternatives(kind) if option is not type(None))
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f'"{name}"' for name in get_args(kind))
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        if names := get_args(item):
            return "a list of " + ", ".join(f'"{name}"' for name in names)
        return "a list of strings" if item is str else "a list of numbers, each"
    if get_origin(kind) is Mapping:
        return "a table of numbers, each"
    return _KINDS[kind]


def format_value(value: Any) -> str:
    """Format a value for a message.

    >>> format_value(None), format_value(True), format_value("lora"), format_value(("a.py:f",))
    ('not set', 'true', '"lora"', "['a.py:f']")
    """
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return f'"{value}"' if isinstance(value, str) else str(value)
