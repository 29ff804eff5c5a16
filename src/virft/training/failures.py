"""Convert out-of-memory, unreadable-image and lost-worker failures into errors that name the last good checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from virft.errors import DataError, ModelError, RunError

_LOST = re.compile(
    r"connection (was )?(closed|reset)|\bbroken pipe|socket (timeout|closed)|timed out|remote process exited"
    r"|unhandled system error|NCCL communicator was aborted",
    re.IGNORECASE,
)
"""Messages of gloo and NCCL about a rank that has ended."""


@contextmanager
def translate_failures(step: Callable[[], int], saved: Callable[[], str], *, world_size: int = 1) -> Iterator[None]:
    """Give failures inside the block their step, and what is saved.

    ``step()`` and ``saved()`` are called when a failure happens: the number of the step, from 0, and a clause about
    the last checkpoint. Raises ``RunError`` for out of memory, a lost rank and a lost sampler (``ModelError``),
    ``DataError`` for a ``DataError``.
    Any other exception is a bug and passes unchanged, with its traceback.
    """
    try:
        yield
    except DataError as error:
        raise DataError(f"step {step() + 1}: {error}; {saved()}") from error
    except ModelError as error:
        raise RunError(f"step {step() + 1}: {error}\n{saved()}") from error
    except RuntimeError as error:
        if _is_out_of_memory(error):
            raise RunError(
                f"step {step() + 1}: out of memory ({_first_line(error)}); {saved()}. A smaller grpo.microbatch_tokens "
                "(or sft.microbatch_tokens) needs less in the update, a smaller sampling.prompts_per_batch less in "
                "sampling, model.gradient_checkpointing = true less in both; each may be changed on resume"
            ) from error
        if world_size > 1 and _LOST.search(str(error)):
            raise RunError(
                f"step {step() + 1}: another process of the run has ended ({_first_line(error)}); {saved()}. "
                "Its own messages name the cause, or the system's log if it was killed"
            ) from error
        raise


def _is_out_of_memory(error: RuntimeError) -> bool:
    # on a GPU torch has an error of its own; on a CPU it raises a plain RuntimeError with this text
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _first_line(error: Exception) -> str:
    """The first line of a library's message, at most 200 characters of it."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
