"""Search for the settings that fit a device: the largest rows, and smaller images if nothing else fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from virft.config.schema import Config
from virft.planning.memory import FitOption, Memory, Planner, RowShape
from virft.types import ImageSize

USABLE_FRAC = 0.9
"""Fraction of a device's memory that is planned with. The rest is for the runtime and for fragmentation."""
_MIN_PIXELS = 56 * 56
"""Image area in pixels below which the search ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """Settings that fit."""

    option: FitOption
    """Settings of the largest rows that fit."""

    memory: Memory
    """Memory of a run with them."""

    max_pixels: int | None = None
    """Largest image area in pixels, if that of the config does not fit."""

    needs_exact_weights: bool = False
    """True if the merged copy of base and adapters, with which sampling is faster, does not fit."""


def find_fit(config: Config, planner: Planner, *, memory: int, image: ImageSize, text_tokens: int) -> Fit | None:
    """Return the settings that fit into ``memory`` bytes, or None if nothing does.

    ``image``: size in pixels of the images of the run. If they do not fit, sampling without a merged copy of the
    adapters is tried, then half as many pixels, and so on.
    """
    budget = int(USABLE_FRAC * memory)

    def largest(changed: Config) -> Fit | None:
        other = Planner(
            changed,
            image=image,
            text_tokens=text_tokens,
            method=planner.method,
            on_cpu=planner.on_cpu,
            num_processes=planner.processes.count,
            device_memory=planner.device_memory,
            report=planner.report,
        )
        return _largest(other, budget)

    if (found := _largest(planner, budget)) is not None:
        return found
    exact = planner.merges_adapters
    if exact:
        config = replace(config, sampling=replace(config.sampling, weights="exact"))
        if (found := largest(config)) is not None:
            return replace(found, needs_exact_weights=True)
    pixels = image.width * image.height
    while (pixels := pixels // 2) >= _MIN_PIXELS and sum(planner.held.values()) <= budget:
        low = config.model.min_pixels
        model = replace(config.model, max_pixels=pixels, min_pixels=None if low is None else min(low, pixels))
        if (found := largest(replace(config, model=model))) is not None:
            return replace(found, max_pixels=pixels, needs_exact_weights=exact)
    return None


def _largest(planner: Planner, budget: int) -> Fit | None:
    """The largest row, and the most prompts in a sampling batch, that fit into ``budget`` bytes."""
    # In the order of their cost in time: a whole group in a row; with gradient checkpointing, which computes layers
    # twice; a part of a group, whose prompt is computed again in each row.
    for checkpointing in (False, True):
        if (row := _most_groups(planner, budget, checkpointing)) is not None:
            return _fit(planner, budget, row, checkpointing)
    for row in _parts_of_a_group(planner):
        if _fits(planner, budget, row, True):
            return _fit(planner, budget, row, True)
    return None


def _most_groups(planner: Planner, budget: int, checkpointing: bool) -> RowShape | None:
    """The row with the most whole groups that fits; None if not even one does."""
    # Memory is linear in the number of groups, so two measurements give the number that fits.
    one, two = (RowShape(groups=n, completions=planner.row_members) for n in (1, 2))
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
    completions = planner.row_members
    while (completions := completions // 2) >= 1:
        yield RowShape(groups=1, completions=completions)


def _fit(planner: Planner, budget: int, row: RowShape, checkpointing: bool) -> Fit | None:
    """The row with the most prompts per sampling batch that fit; None if not even one does."""
    for prompts in range(planner.prompts_per_step, 0, -1):
        option = FitOption(
            gradient_checkpointing=checkpointing,
            microbatch_tokens=planner.row_tokens(row),
            prompts_per_batch=prompts,
        )
        if (memory := planner.memory(option)).peak <= budget:
            return Fit(option=option, memory=memory)
    return None


def _fits(planner: Planner, budget: int, row: RowShape, checkpointing: bool) -> bool:
    return _peak(planner, row, checkpointing) <= budget


def _peak(planner: Planner, row: RowShape, checkpointing: bool) -> int:
    """Peak bytes with one prompt per sampling batch, so that the row decides."""
    option = FitOption(
        gradient_checkpointing=checkpointing, microbatch_tokens=planner.row_tokens(row), prompts_per_batch=1
    )
    return planner.memory(option).peak
