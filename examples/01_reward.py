"""What is a text worth? Reads a completion and prints its reward, part by part.

python examples/01_reward.py
"""

from __future__ import annotations

from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.tasks.explain import explain_reward
from virft.tasks.reward import RewardRule, compute_reward
from virft.types import Box, Detection, Detections, ImageSize

SIZE = ImageSize(640, 480)
TARGET = Detections(items=(Detection(box=Box(x1=64, y1=48, x2=320, y2=240)),))

TEXTS = {
    "right": "<answer>[{'Position': [100, 100, 500, 500], 'Confidence': 0.9}]</answer>",
    "one too many": "<answer>[{'Position': [100, 100, 500, 500]}, {'Position': [600, 600, 900, 900]}]</answer>",
    "nothing seen": "<answer>No Objects</answer>",
    "no answer block": "[100, 100, 500, 500]",
}


def main() -> None:
    task = TASKS["detection"]
    rule = RewardRule(preset="robust")
    for name, text in TEXTS.items():
        # coordinates from 0 to 1000, as Qwen2-VL writes them; everything behind the reader is in pixels
        reading = task.read(text, thinking=False, space=BoxSpace.RELATIVE_1000, original=SIZE, resized=SIZE)
        report = compute_reward(rule, task.name, reading, TARGET)
        parts = "  ".join(f"{part} {value:.2f}" for part, value in report.parts.items())
        print(f"{name:16} {report.total:5.2f}   {parts}")
    reading = task.read(
        TEXTS["one too many"], thinking=False, space=BoxSpace.RELATIVE_1000, original=SIZE, resized=SIZE
    )
    print(explain_reward(rule, task.name, reading, TARGET))


if __name__ == "__main__":
    main()
