"""Detect the dog in a synthetic scene with the built-in model, and save the image with the predicted box.

python examples/03_ask_the_model.py [ANSWER.png]
"""

import sys

import numpy as np

import virft
from virft.scenes.patches import PlanItem
from virft.scenes.render import render_scene

scene = render_scene(np.random.default_rng(0), [PlanItem("dog"), PlanItem("cat"), PlanItem("apple")])
result = virft.load("virft-tiny").detect(scene.image, "dog")  # a file name or a PIL image works, too
print(result)
print("saved:", result.save(sys.argv[1] if len(sys.argv) > 1 else "answer.png"))
