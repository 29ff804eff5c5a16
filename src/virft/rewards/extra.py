"""The user's own reward functions, loaded from Python files."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import sys
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from virft.errors import ConfigError, describe_type
from virft.types import Reading, RewardContext

ExtraReward = Callable[[Reading, Any, RewardContext], float]
"""The user's own reward function (reading, target, context) -> number in [-1, 1]. Its name is the function's name."""

_EXPECTED = 'expected "file.py:function", a function (reading, target, context) -> float in [-1, 1]'


def name_of_extra(function: ExtraReward) -> str:
    """Return the name of an extra reward in weights and logs.

    >>> def shortness(reading, target, context): return 0.0
    >>> name_of_extra(shortness)
    'shortness'
    """
    return getattr(function, "__name__", type(function).__name__)


def place_of_extra(function: ExtraReward) -> str:
    """Return file and name of an extra reward, as in the setting ``reward.extra``; the name alone without a file.

    >>> place_of_extra(abs)
    'abs'
    """
    file = _file_of(function)
    return f"{Path(file).name}:{name_of_extra(function)}" if file else name_of_extra(function)


def own_lines(error: BaseException, function: ExtraReward) -> list[str]:
    """Return the lines of a traceback that are in the folder of an extra reward's file, the last one last."""
    file = _file_of(function)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    frames = frames or traceback.extract_tb(error.__traceback__)[1:]
    return [f"  {Path(one.filename).name}:{one.lineno} in {one.name}: {one.line}" for one in frames]


def _file_of(function: ExtraReward) -> str | None:
    """Return the file that a function or the ``__call__`` of an object was defined in; None for a built-in one."""
    code = getattr(inspect.unwrap(function), "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return None if code is None else str(code.co_filename)


def load_function(spec: str, folder: Path = Path()) -> ExtraReward:
    """Return the function that ``spec`` ("file.py:function") names; a relative path is resolved against ``folder``.

    The file is imported as its own module. Any failure is a ``ConfigError``; an exception that the file raises is its
    cause, and the message has the line.

    >>> load_function("rewards.py")
    Traceback (most recent call last):
    virft.errors.ConfigError: extra: 'rewards.py' names no function; expected "file.py:function", \
a function (reading, target, context) -> float in [-1, 1]
    """
    file, colon, name = spec.rpartition(":")
    if not colon or not file or not name:
        raise ConfigError(f"extra: {spec!r} names no function; {_EXPECTED}")
    path = (folder / file).resolve()
    if not path.is_file() or path.suffix != ".py":
        raise ConfigError(f"extra: {spec!r}: there is no Python file {path}; {_EXPECTED}")
    module_name = f"virft_extra_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError(f"extra: {path} cannot be loaded as Python")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module  # dataclasses look their module up while the file runs
    try:
        module_spec.loader.exec_module(module)
    except SyntaxError as error:
        del sys.modules[module_name]
        raise ConfigError(f"extra: {path}:{error.lineno}: {error.msg}") from error
    except ImportError as error:
        del sys.modules[module_name]
        raise ConfigError(f"extra: {path} could not import something: {error}") from error
    except Exception as error:
        del sys.modules[module_name]
        lines = [one for one in traceback.extract_tb(error.__traceback__) if one.filename == str(path)]
        where = f":{lines[-1].lineno}" if lines else ""
        raise ConfigError(f"extra: {path}{where}: raised {type(error).__name__}: {error}") from error
    function: ExtraReward | None = getattr(module, name, None)
    if function is None:
        guess = difflib.get_close_matches(name, [known for known in vars(module) if not known.startswith("_")], n=1)
        hint = f"did you mean {guess[0]}?" if guess else _EXPECTED
        raise ConfigError(f"extra: {path} has no {name}; {hint}")
    if not callable(function):
        raise ConfigError(f"extra: {name} of {path} is {describe_type(function)}; {_EXPECTED}")
    return function
