"""Write a reward function of your own: any function of the parsed completion, the target and the context.

    python examples/02_own_reward.py

In a config: reward.extra = ["examples/02_own_reward.py:few_boxes"] and reward.weights.few_boxes = 0.5
"""

import virft


def few_boxes(reading, target, context):
    """Return 1 for at most as many boxes as objects, less for each additional box. Values are in [-1, 1]."""
    if not isinstance(reading.answer, virft.Detections):
        return 0.0
    return 1.0 / (1 + max(0, reading.answer.num_predicted - len(target.items)))


if __name__ == "__main__":
    for num_boxes in (0, 1, 3):
        boxes = [[100 * i, 0, 100 * i + 50, 50] for i in range(num_boxes)]
        reward = virft.reward(f"<answer>{boxes or 'No Objects'}</answer>", [], extra=[few_boxes])
        print(f"{num_boxes} boxes, no object: few_boxes {reward.parts['few_boxes']:.2f}, total {reward.total:.2f}")
