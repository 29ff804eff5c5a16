"""Errors that a user can cause. Every other exception is a bug of virft and ends with its traceback."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class VirftError(Exception):
    """Base class of the errors that the command line prints as one message instead of a traceback.

    A message states where the fault is, what was found, and what is allowed.
    """


class ConfigError(VirftError):
    """A setting is unknown, has the wrong type, or has no effect."""


class DataError(VirftError):
    """A dataset, an image or a predictions file is missing or invalid."""


class ModelError(VirftError):
    """A model folder is missing, incomplete, or of an architecture that virft does not support."""


class SamplerLost(ModelError):
    """No engine is left to sample with; ``Generator.generate`` waits for one that starts again, if one does."""


class RunError(VirftError):
    """A run folder holds another run or cannot be written, or a training state must not be resumed."""


class NonFiniteReward(VirftError):
    """A reward function of the user returned a number that is not finite."""


class RewardFailed(VirftError):
    """A reward function of the user raised an exception, which is the cause of this one."""

    def __init__(self, message: str, *, lines: Iterable[str] = (), sample: str = "") -> None:
        """``lines``: the user's own lines of the traceback. ``sample``: id of the sample that was graded, if known."""
        self.message, self.lines = message, tuple(lines)
        super().__init__("\n".join([f"{message} for sample {sample}" if sample else message, *self.lines]))


class RunStopped(VirftError):
    """The user stopped a run. It is saved and can be resumed."""


@contextmanager
def stopped_by_user(state: Callable[[], str]) -> Iterator[None]:
    """Context manager that raises ``RunStopped`` for Ctrl-C in its block; ``state()``: what is saved, how to resume.

    >>> with stopped_by_user(lambda: "2 of 3 samples are scored; resume with --resume"):
    ...     raise KeyboardInterrupt
    Traceback (most recent call last):
    virft.errors.RunStopped: stopped: 2 of 3 samples are scored; resume with --resume
    """
    try:
        yield
    except KeyboardInterrupt:
        raise RunStopped(f"stopped: {state()}") from None


class PartlyDone(VirftError):
    """Some items of a batch job failed and were reported one by one; all others are done."""


class CheckFailed(VirftError):
    """A check failed; its findings are already printed."""


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str) -> str:
    """Return the end of a message about an unknown name: the closest known name, else ``otherwise``.

    >>> did_you_mean("dgo", ["cat", "dog"], otherwise="it has cat, dog")
    "did you mean 'dog'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else otherwise


def describe_type(value: object) -> str:
    """Return the type of a value, with its article.

    >>> describe_type(1), describe_type({})
    ('an int', 'a dict')
    """
    name = type(value).__name__
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"


_IN_PYTHON = {"--resume": "resume=True", "--overwrite": "overwrite=True", "--skip-refused": "skip_refused=True"}
"""Option of the command line -> keyword argument of the public functions."""


@contextmanager
def named_as_keywords() -> Iterator[None]:
    """Let messages of ``VirftError`` advise keyword arguments in place of command-line options.

    >>> with named_as_keywords():
    ...     raise RunError("runs/a: already holds a run; resume with --resume, or choose another run.dir")
    Traceback (most recent call last):
    virft.errors.RunError: runs/a: already holds a run; resume with resume=True, or choose another run.dir
    """
    try:
        yield
    except VirftError as error:
        text = str(error)
        for option, keyword in _IN_PYTHON.items():
            text = text.replace(option, keyword)
        error.args = (text,)
        raise
