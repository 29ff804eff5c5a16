"""From ``[reward]`` to the reward rule of a run. Imports no torch."""

from __future__ import annotations

from virft.config.schema import RewardConfig
from virft.errors import ConfigError
from virft.rewards.extra import load_function
from virft.rewards.options import Preset
from virft.tasks.reward import RewardRule


def make_reward_rule(reward: RewardConfig, preset: Preset | None = None) -> RewardRule:
    """The reward of ``[reward]``, or with another preset; loads the user's own reward functions.

    Raises ``ConfigError`` if a weight names no part, or a function cannot be loaded.
    """
    try:
        return RewardRule(
            preset=preset or reward.preset,
            weights=reward.weights,
            iou_threshold=reward.iou_threshold,
            iou_threshold_end=reward.iou_threshold_end,
            check_labels=reward.check_labels,
            overlong_tokens=reward.overlong_tokens,
            uses_masks=reward.segmenter is not None,
            extra=tuple(load_function(spec) for spec in reward.extra),
        )
    except ConfigError as error:
        raise ConfigError(f"reward.{error}") from error
