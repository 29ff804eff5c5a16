"""Annotated images of a rollout group for experiment trackers."""

from __future__ import annotations

from pathlib import Path

from factories import detections, reading, sample, save_image
from group_factories import completion, prompt
from virft.recipes.rollout_images import rollout_images
from virft.report.render.images import ANSWER_COLOUR, TARGET_COLOUR
from virft.types import Augmentation, RewardReport, RolloutGroup, Unreadable


def test_a_rollout_is_drawn_as_best_and_worst_completion_on_the_augmented_image(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", (64, 32))
    seen = sample(
        detections((8, 8, 24, 24)),
        image=str(tmp_path / "a.png"),
        size=(64, 32),
        augmentation=Augmentation(crop=(0.0, 0.0, 32.0, 16.0)),
    )
    answers = {"<answer>no</answer>": Unreadable(reason="?"), "<answer>one</answer>": detections((32, 8, 56, 24))}
    group = RolloutGroup(
        sample=seen,
        prompt=prompt(),
        completions=tuple(completion((1,), text=text) for text in answers),
        reports=tuple(
            RewardReport(total=total, parts={}, reading=reading(answer))
            for total, answer in zip((0.0, 1.5), answers.values(), strict=True)
        ),
        policy_step=0,
    )
    best, worst = rollout_images(group)
    assert (best.rank, best.reward, best.text, best.query) == ("best", 1.5, "<answer>one</answer>", "fox")
    assert (worst.rank, worst.reward) == ("worst", 0.0)
    # 64 x 32 pixels are shown as 336 x 168: 5.25 each, so left edges are at 8 * 5.25 = 42 and 32 * 5.25 = 168
    assert best.image.size == worst.image.size == (336, 168)
    assert best.image.getpixel((42, 84)) == worst.image.getpixel((42, 84)) == TARGET_COLOUR
    assert best.image.getpixel((168, 84)) == ANSWER_COLOUR
    assert worst.image.getpixel((168, 84)) != ANSWER_COLOUR
