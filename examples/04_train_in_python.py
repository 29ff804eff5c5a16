"""Train the built-in model on four images of each of two new classes, a few steps of GRPO, and evaluate it.

python examples/04_train_in_python.py
"""

import tempfile
from pathlib import Path

import virft
from virft.data.sources.scenes import write_few_shot_scenes

with tempfile.TemporaryDirectory() as folder:
    data = Path(folder) / "data"  # virft.build_coco makes such a folder from your own images
    write_few_shot_scenes(
        data, task=virft.TASKS["detection"].name, classes=["panda", "cactus"], shots=4, seed=0, size=112
    )
    run = virft.train(
        data={"train": data},
        run={"dir": Path(folder) / "run"},
        sampling={"max_completion_tokens": 64},
        grpo={"steps": 3, "prompts_per_step": 4, "group_size": 4, "learning_rate": 2e-4, "kl_coef": 0.0},
    )
    print("rewards:", [round(record["reward"], 2) for record in run.metrics])
    print(virft.evaluate(run, data))
