"""A reward of your own: any function of the reading, the target and the context.

    python examples/02_own_reward.py

In a config: reward.extra = ["examples/02_own_reward.py:few_boxes"] and reward.weights.few_boxes = 0.5
"""

from __future__ import annotations

from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.tasks.reward import RewardRule, compute_reward
from virft.types import Detections, ImageSize, Reading, RewardContext, Target


def few_boxes(reading: Reading, target: Target, context: RewardContext) -> float:
    """1 for at most as many boxes as there are objects, less for every further one. In [-1, 1], as every reward."""
    if not (isinstance(reading.answer, Detections) and isinstance(target, Detections)):
        return 0.0
    extra = max(0, reading.answer.num_predicted - len(target.items))
    return 1.0 / (1 + extra)


def main() -> None:
    task = TASKS["detection"]
    rule = RewardRule(extra=(few_boxes,), weights={"few_boxes": 0.5})
    size = ImageSize(1000, 1000)
    for count in (0, 1, 3):
        boxes = [{"Position": [100 * i, 0, 100 * i + 50, 50], "Confidence": 0.5} for i in range(count)]
        text = f"<answer>{boxes or 'No Objects'}</answer>"
        reading = task.read(text, thinking=False, space=BoxSpace.RELATIVE_1000, original=size, resized=size)
        report = compute_reward(rule, task.name, reading, Detections(), RewardContext(step_frac=0.5))
        print(f"{count} boxes on an image without objects: few_boxes {report.parts['few_boxes']:.2f}, "
              f"total {report.total:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
