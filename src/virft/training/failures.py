"""What goes wrong around a step and is nobody's bug: memory, pictures, processes. Told with what is saved."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from virft.errors import DataError, RunError

_LOST = re.compile(
    r"connection (was )?(closed|reset)|broken pipe|socket (timeout|closed)|timed out|remote process exited"
    r"|unhandled system error|NCCL communicator was aborted",
    re.IGNORECASE,
)
"""What gloo and NCCL say of a process that is gone."""


@contextmanager
def faults_told(step: Callable[[], int], saved: Callable[[], str], *, count: int = 1) -> Iterator[None]:
    """``RunError`` for memory that does not suffice, and for a process that is gone; ``DataError`` as it is.

    All say which step it was, by what is ``step`` then, and what is saved. Whatever else is raised passes.
    """
    try:
        yield
    except DataError as error:
        raise DataError(f"step {step() + 1}: {error}; {saved()}") from error
    except RuntimeError as error:
        if _is_out_of_memory(error):
            raise RunError(
                f"step {step() + 1}: out of memory ({_first_line(error)}); {saved()}. A smaller grpo.microbatch_tokens "
                "(or sft.microbatch_tokens) needs less in the update, a smaller sampling.prompts_per_batch less in "
                "sampling, model.gradient_checkpointing = true less in both; each may be changed on resume"
            ) from error
        if count > 1 and _LOST.search(str(error)):
            raise RunError(
                f"step {step() + 1}: another process of the run has ended ({_first_line(error)}); {saved()}. "
                "What ended it stands in its own messages, or in the system's log if it was killed"
            ) from error
        raise


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _first_line(error: Exception) -> str:
    """What a library says first, and not too much of it."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
