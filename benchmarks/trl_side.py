"""TRL's side of ``step_against_trl.py``: its GRPOTrainer, one step per turn. It runs without virft installed.

python benchmarks/trl_side.py FOLDER_OF_THE_MODEL_AND_TASK
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers
import trl
from datasets import Dataset, Image
from sides import Server
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Turns(TrainerCallback):
    """Waits after each step until the next is requested."""

    def __init__(self, server: Server, completion: int) -> None:
        self._server = server
        self._completion = completion
        self.lengths: set[int] = set()

    def on_train_begin(self, *args: object, **kwargs: object) -> None:
        """Report that the trainer is set up."""
        self._server.ready(trl=trl.__version__, transformers=transformers.__version__, torch=torch.__version__)

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        """Report that the weights are updated."""
        assert self.lengths == {self._completion}, self.lengths
        self._server.done()


def main(folder: Path) -> None:
    """Train until the pipe is closed."""
    server = Server()
    task = json.loads((folder / "task.json").read_text())
    torch.set_num_threads(task["threads"])
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=getattr(torch, task["dtype"]))
    model.model.visual.requires_grad_(not task["frozen_vision"])
    turns = Turns(server, task["completion"])

    def reward(completions: list[list[dict[str, str]]], completion_ids: list[list[int]], **_: object) -> list[float]:
        turns.lengths.update(map(len, completion_ids))
        texts = [one[0]["content"] for one in completions]
        return [sum(map(ord, text)) / (1000 * max(1, len(text))) for text in texts]

    questions = [[{"role": "user", "content": text}] for text in task["questions"]]
    images = [str(folder / name) for name in task["images"]]
    dataset = Dataset.from_dict({"prompt": questions, "image": images}).cast_column("image", Image())
    processor = AutoProcessor.from_pretrained(folder, padding_side="left")
    for question, row in zip(task["questions"], dataset, strict=True):
        content = [{"type": "image", "image": row["image"]}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        encoded = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
        assert len(encoded["input_ids"][0]) == task["prompt"], len(encoded["input_ids"][0])
    config = GRPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=task["group"] * task["groups_per_backward"],  # completions of one backward pass
        gradient_accumulation_steps=len(questions) // task["groups_per_backward"],
        num_generations=task["group"],
        max_completion_length=task["completion"],
        generation_kwargs={"min_new_tokens": task["completion"], "suppress_tokens": task["forbidden_ids"]},
        temperature=1.0,
        beta=0.0,
        loss_type="grpo",
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        max_steps=100_000,
        bf16=False,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=dataset,
        processing_class=processor,
        callbacks=[turns],
    ).train()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
