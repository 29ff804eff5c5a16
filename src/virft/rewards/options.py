"""Settings of a reward that reward functions may read."""

from __future__ import annotations

from typing import Literal, Protocol

Preset = Literal["robust", "paper"]
PRESETS: tuple[Preset, ...] = ("robust", "paper")


class RewardOptions(Protocol):
    """Settings that the parts of a reward share; ``virft.tasks.reward.RewardRule`` holds them."""

    @property
    def preset(self) -> Preset:
        """Name of the set of formulas."""

    @property
    def iou_threshold(self) -> float:
        """A predicted box is a hit from this IoU with its target on, at the first step."""

    @property
    def iou_threshold_end(self) -> float | None:
        """The threshold at the last step; None if it does not change."""

    @property
    def check_labels(self) -> bool:
        """A box whose own label names another class than the question is invalid."""

    def weight(self, part: str) -> float:
        """Return the weight of a part in the total."""
