"""The errors a user can cause. Everything else is our own bug and crashes with its own traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VirftError(Exception):
    """Base of every error that the command line prints as one message instead of a traceback.

    A message says where, what was found, and what is allowed.
    """


class ConfigError(VirftError):
    """A setting is unknown, has the wrong type, or has no effect."""


class DataError(VirftError):
    """A data set, an image or a predictions file cannot be used as it is."""


class ModelError(VirftError):
    """A model folder is missing, incomplete, or of a kind that virft cannot drive."""


class RunError(VirftError):
    """A run folder already holds another run, or a training state that must not go on."""


class NonFiniteReward(VirftError):
    """A user's own reward is not a finite number."""


class RunStopped(VirftError):
    """The user stopped a run; it was saved and can be resumed."""


class PartlyDone(VirftError):
    """Some of many pieces of work failed, each told in its place; the rest is done."""


class CheckFailed(VirftError):
    """Something was looked at and is not as it should be; what was found was printed."""


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str) -> str:
    """How a message about an unknown name ends: the nearest that is known, else ``otherwise``.

    >>> did_you_mean("dgo", ["cat", "dog"], otherwise="it has cat, dog")
    "did you mean 'dog'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else otherwise
