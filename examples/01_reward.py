"""Print the rewards of three completions, part by part, with the matched boxes.

python examples/01_reward.py
"""

import virft

target = [[100, 100, 500, 500]]  # the ground truth, in the unit of the completions: 0 to 1000
for text in (
    "<answer>[{'Position': [100, 100, 500, 400], 'Confidence': 0.9}]</answer>",
    "<answer>[[100, 100, 500, 500], [600, 600, 900, 900]]</answer>",
    "<answer>No Objects</answer>",
):
    print(f"{text}\n{virft.reward(text, target)}\n")
