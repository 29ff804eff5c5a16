"""The largest choice that fits a device, and smaller pictures where none does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from virft.config.schema import Config, Method
from virft.planning.memory import Choice, Memory, Planner, RowShape
from virft.types import ImageSize

USED = 0.9
"""Share of a device that is planned with; the rest is for the runtime's own needs and for gaps between tensors."""
_LEAST_PIXELS = 56 * 56


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A choice with its memory, and the pixels a picture may have if those of the config are too many."""

    choice: Choice
    memory: Memory
    max_pixels: int | None = None


def find_fit(config: Config, planner: Planner, *, memory: int, image: ImageSize, text_tokens: int) -> Fit | None:
    """What fits into ``memory`` bytes, with such pictures, else of half the pixels, and so on; None: nothing does."""
    budget = int(USED * memory)
    if (found := _largest(planner, budget)) is not None:
        return found
    pixels = image.width * image.height
    trainer: Method = planner.trainer
    while (pixels := pixels // 2) >= _LEAST_PIXELS and sum(planner.held.values()) <= budget:
        low = config.model.min_pixels
        model = replace(config.model, max_pixels=pixels, min_pixels=None if low is None else min(low, pixels))
        smaller = Planner(
            replace(config, model=model),
            image=image,
            text_tokens=text_tokens,
            trainer=trainer,
            on_cpu=planner.on_cpu,
        )
        if (found := _largest(smaller, budget)) is not None:
            return replace(found, max_pixels=pixels)
    return None


def _largest(planner: Planner, budget: int) -> Fit | None:
    """The largest row and the most prompts at once under this many bytes; checkpointing only where it is needed.

    A whole group in a row without checkpointing comes first, as computing layers twice costs time; then one with
    it, then a part of a group, whose prompt is computed again in each row.
    """
    for checkpointing in (False, True):
        if (row := _most_groups(planner, budget, checkpointing)) is not None:
            return _fit(planner, budget, row, checkpointing)
    for row in _parts_of_a_group(planner):
        if _fits(planner, budget, row, True):
            return _fit(planner, budget, row, True)
    return None


def _most_groups(planner: Planner, budget: int, checkpointing: bool) -> RowShape | None:
    """Whole groups of a row. Memory grows evenly with them, so two counts tell how many there may be."""
    one, two = (RowShape(groups=n, completions=planner.group_size) for n in (1, 2))
    first = _peak(planner, one, checkpointing)
    if first > budget:
        return None
    if planner.prompts_per_step == 1:
        return one
    each = max(1, _peak(planner, two, checkpointing) - first)
    groups = min(1 + (budget - first) // each, planner.prompts_per_step)
    while groups > 1 and not _fits(planner, budget, replace(one, groups=groups), checkpointing):
        groups -= 1
    return replace(one, groups=groups)


def _parts_of_a_group(planner: Planner) -> Iterator[RowShape]:
    completions = planner.group_size
    while (completions := completions // 2) >= 1:
        yield RowShape(groups=1, completions=completions)


def _fit(planner: Planner, budget: int, row: RowShape, checkpointing: bool) -> Fit | None:
    """With as many prompts sampled at once as there is room for; None if there is none for a single one."""
    for prompts in range(planner.prompts_per_step, 0, -1):
        choice = Choice(
            gradient_checkpointing=checkpointing,
            microbatch_tokens=planner.row_tokens(row),
            prompts_per_batch=prompts,
        )
        if (memory := planner.memory(choice)).peak <= budget:
            return Fit(choice=choice, memory=memory)
    return None


def _fits(planner: Planner, budget: int, row: RowShape, checkpointing: bool) -> bool:
    return _peak(planner, row, checkpointing) <= budget


def _peak(planner: Planner, row: RowShape, checkpointing: bool) -> int:
    """With one prompt sampled at a time, so that it is the row that decides."""
    choice = Choice(
        gradient_checkpointing=checkpointing, microbatch_tokens=planner.row_tokens(row), prompts_per_batch=1
    )
    return planner.memory(choice).peak
