"""TRL's side of ``step_against_trl.py`` and ``gpu_step.py``: its GRPOTrainer, one step per turn. virft is not needed.

python benchmarks/trl_side.py FOLDER_OF_THE_MODEL_AND_TASK
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset, Image
from sides import Server
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Turns(TrainerCallback):
    """Waits after each step until the next is requested."""

    def __init__(self, server: Server, completion: int, *, on_gpu: bool) -> None:
        self._server = server
        self._completion = completion
        self._on_gpu = on_gpu
        self.lengths: set[int] = set()

    def on_train_begin(self, *args: object, **kwargs: object) -> None:
        """Report that the trainer is set up."""
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        self._server.ready(trl=trl.__version__, transformers=transformers.__version__, torch=torch.__version__)

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        """Report that the weights are updated, and the peak of allocated bytes of a GPU since the first step began."""
        assert self.lengths == {self._completion}, self.lengths
        if not self._on_gpu:
            self._server.done()
            return
        torch.cuda.synchronize()
        self._server.done(peak_bytes=torch.cuda.max_memory_allocated())


def load_model(folder: Path, task: dict[str, Any]) -> Any:
    """Return the model of the folder; with random weights, made on the device, if the folder has none."""
    dtype = getattr(torch, task["dtype"])
    if any(folder.glob("*.safetensors")):
        return AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    torch.manual_seed(0)
    with torch.device(task["device"]):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
    model.name_or_path = model.config.name_or_path = str(folder)
    if task["vllm"]:
        model.save_pretrained(folder)  # vLLM reads them
    return model


def exact_length(task: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the engine that give completions of the task's length, without its forbidden tokens."""
    if not task["vllm"]:
        return {"min_new_tokens": task["completion"], "suppress_tokens": task["forbidden_ids"]}
    # Most ids of a random model are not in the vocabulary of its tokenizer, so vLLM must not decode them.
    biases = dict.fromkeys(task["forbidden_ids"], -100.0)
    return {"min_tokens": task["completion"], "logit_bias": biases, "detokenize": False}


def main(folder: Path) -> None:
    """Train until the pipe is closed."""
    server = Server()
    task = json.loads((folder / "task.json").read_text())
    torch.set_num_threads(task["threads"])
    model = load_model(folder, task)
    model.model.visual.requires_grad_(not task["frozen_vision"])
    turns = Turns(server, task["completion"], on_gpu=task["device"] == "cuda")

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
        generation_kwargs=exact_length(task),
        use_vllm=task["vllm"],
        vllm_max_model_length=task["prompt"] + task["completion"],
        temperature=1.0,
        beta=0.0,
        loss_type="grpo",
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        max_steps=100_000,
        bf16=task["autocast"],
        gradient_checkpointing=task["checkpointing"],
        shuffle_dataset=False,
        use_cpu=task["device"] == "cpu",
        dataloader_pin_memory=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    adapters = None
    if task["lora_rank"]:
        from peft import LoraConfig

        rank, target = task["lora_rank"], task["lora_target"]
        adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=target, task_type="CAUSAL_LM")
    GRPOTrainer(
        model=model,
        peft_config=adapters,
        reward_funcs=reward,
        args=config,
        train_dataset=dataset,
        processing_class=processor,
        callbacks=[turns],
    ).train()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
