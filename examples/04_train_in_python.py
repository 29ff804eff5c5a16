"""A few steps of GRPO without the command line: the parts of a run, put together and stepped by hand.

python examples/04_train_in_python.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from virft.config.schema import Config, DataConfig, GRPOConfig, RunConfig, SamplingConfig
from virft.data.sources.scenes import write_few_shot_scenes
from virft.data.training_data import open_training_data
from virft.models.tiny import IMAGE_SIZE
from virft.recipes.trainers import open_grpo_trainer


def main(steps: int = 3) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "train"
        write_few_shot_scenes(data, task="detection", classes=["panda", "cactus"], shots=2, seed=0, size=IMAGE_SIZE)
        config = Config(
            data=DataConfig(train=str(data)),
            sampling=SamplingConfig(max_completion_tokens=48),
            grpo=GRPOConfig(steps=steps, prompts_per_step=2, group_size=4, learning_rate=2e-4, kl_coef=0.0),
            run=RunConfig(dir=str(Path(folder) / "run")),
        )
        trainer = open_grpo_trainer(config)
        questions = open_training_data(config, batch_size=config.grpo.prompts_per_step)
        for number in range(steps):
            report = trainer.step(number, questions.batch(number))
            print(f"step {number + 1}: reward {report.metrics['reward']:.2f}, "
                  f"{report.metrics['completion_tokens']:.0f} tokens an answer")  # fmt: skip
            best = max(report.groups[0].reports, key=lambda one: one.total)
            print(f"  the best answer about a {report.groups[0].sample.query}: {best.reading.text}")


if __name__ == "__main__":
    main()
