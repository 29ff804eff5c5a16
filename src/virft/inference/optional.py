"""Packages that a method needs and virft does not require."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from virft.errors import ConfigError


def import_optional(package: str, *, needed_by: str) -> Any:
    """Import a package; ``ConfigError`` if it is not installed.

    >>> import_optional("no_such_package", needed_by="to_table()")
    Traceback (most recent call last):
    virft.errors.ConfigError: to_table(): needs the package no_such_package, which is not installed
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ConfigError(f"{needed_by}: needs the package {package}, which is not installed") from error
