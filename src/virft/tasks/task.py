"""What a problem is to the rest of virft: how its answers are read, written, rewarded and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from virft.geometry.boxes import BoxSpace
from virft.metrics.measurement import Measurement
from virft.rewards.combine import PARTS
from virft.types import ImageSize, Reading, Sample, Target, TaskName


class ReadText(Protocol):
    """Text of a completion to a ``Reading``; ``original`` and ``resized`` are sizes of the target image."""

    def __call__(
        self, text: str, *, thinking: bool, space: BoxSpace, original: ImageSize, resized: ImageSize
    ) -> Reading: ...


class RenderTarget(Protocol):
    """A target as the canonical completion, with a think block if there is a text for it."""

    def __call__(
        self, target: Any, /, *, space: BoxSpace, original: ImageSize, resized: ImageSize, thinking_text: str | None
    ) -> str: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One row of ``virft.tasks.TASKS``. ``example``: an answer, for messages."""

    name: TaskName
    example: str
    target_type: type
    read: ReadText
    render: RenderTarget
    measure_pairs: Callable[[Sequence[tuple[Reading, Any]]], Measurement]

    def read_for(self, text: str, sample: Sample, *, thinking: bool, space: BoxSpace, resized: ImageSize) -> Reading:
        """The reading of a completion about this sample."""
        return self.read(text, thinking=thinking, space=space, original=sample.target_size, resized=resized)

    def render_for(
        self, sample: Sample, *, space: BoxSpace, resized: ImageSize, thinking_text: str | None = None
    ) -> str:
        """The completion that is right for this sample."""
        return self.render(
            sample.target, space=space, original=sample.target_size, resized=resized, thinking_text=thinking_text
        )

    def measure(self, pairs: Sequence[tuple[Reading, Target]]) -> Measurement:
        """The task's metrics over many (reading, target); the share of well-formed texts is among them."""
        if wrong := next((target for _, target in pairs if not isinstance(target, self.target_type)), None):
            raise TypeError(f"a {type(wrong).__name__} is no target of {self.name}")
        measured = self.measure_pairs(pairs)
        num_well_formed = sum(reading.well_formed for reading, _ in pairs)
        return Measurement(
            values={**measured.values, "well_formed_frac": num_well_formed / len(pairs) if pairs else 0.0},
            counts={**measured.counts, "num_well_formed": num_well_formed},
            tables=measured.tables,
        )

    def reward_parts(self, preset: str) -> tuple[str, ...]:
        """Names of the reward's parts under a preset, in the order they are logged."""
        return tuple(PARTS[preset][self.name])
