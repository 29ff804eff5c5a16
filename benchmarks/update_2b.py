"""Speedup of prefix sharing in an update of a model of 2B size: image and prompt once, or once per completion.

    python benchmarks/update_2b.py                   # 11 minutes on two idle cores
    python benchmarks/update_2b.py --shape small     # 86 million weights, for a trial

Random weights in bfloat16, adapters of rank 32 (the default), a frozen vision tower, one question with an image of 560
x 560 and G completions of C random tokens. Shared: forward and backward pass of one packed row. Plain: one completion
after the other with its image and prompt, since a batch of all of them does not fit in memory. Both use the same policy
in one process, in alternating order; times are medians. The gradients are compared first: a difference of more than 10
% of the norm ends the program (``--dtype float32``: 0.01 %). The limit is the ratio of counted operations, including
the image, see ``counting.py``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from counting import GroupShape, adapters_update_operations, image_operations
from memory_2b import SHAPES, model_config
from record import RESULTS, markdown_table, matrix_rate, write_results
from shared_prefix import Group, Shared, alternating_medians, make_group
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from virft.config.schema import ModelConfig
from virft.models.load import wrap_model
from virft.models.policy import make_policy
from virft.models.tiny import tiny_folder
from virft.training.freed_memory import keep_freed_memory
from virft.training.trainable import prepare_for_training

PATCHES = 40 * 40
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}
"""Largest difference, as a fraction of the norm of all gradients."""


def make_side(shape: str, dtype: str) -> Shared:
    """A policy with adapters, as a training makes it."""
    torch.manual_seed(0)
    model: Any = AutoModelForImageTextToText.from_config(model_config(shape), dtype=getattr(torch, dtype))
    loaded = wrap_model(model, AutoTokenizer.from_pretrained(tiny_folder()), Qwen2VLImageProcessorPil())
    prepare_for_training(loaded, ModelConfig(path="none", train="lora", dtype=dtype), seed=0)
    for name, weight in loaded.model.named_parameters():
        if "lora_B" in name:  # zero in new adapters: half of the gradients would be zero
            torch.nn.init.normal_(weight, std=0.02)
    keep_freed_memory()
    return Shared(make_policy(loaded, temperature=1.0), loaded.tokenizer)


def update(side: Shared, parts: list[Group]) -> None:
    """Run forward and backward passes of one part after the other; gradients accumulate to those of the mean."""
    side.policy.zero_grad(set_to_none=True)
    for part in parts:
        with torch.autocast("cpu", torch.bfloat16, enabled=side.policy.model.dtype == torch.bfloat16):
            loss = side.loss([part]) / len(parts)
        loss.backward()


def gradients(side: Shared, parts: list[Group]) -> Tensor:
    """Return all gradients as one flat tensor."""
    update(side, parts)
    return torch.cat([p.grad.flatten() for p in side.policy.parameters() if p.grad is not None])


def main(arguments: argparse.Namespace) -> None:
    """Compare the gradients, measure both sides, write the table."""
    side = make_side(arguments.shape, arguments.dtype)
    config = side.policy.config
    shape = GroupShape(prompt=arguments.prompt, completion=arguments.completion, group=arguments.group, patches=PATCHES)
    group = make_group(side.policy, shape, seed=0)
    alone = [
        replace(group, completions=[tokens], advantages=advantages)
        for tokens, advantages in zip(group.completions, group.advantages.split(shape.completion), strict=True)
    ]
    shared, plain = gradients(side, [group]), gradients(side, alone)
    error = float((shared - plain).norm() / plain.norm())
    if not error < TOLERANCE[arguments.dtype]:
        sys.exit(f"gradients of shared and plain differ by {error:.2g} of their norm")
    seconds = alternating_medians(lambda: update(side, [group]), lambda: update(side, alone), arguments.repeats)
    rank, image = ModelConfig().lora_rank, image_operations(config, shape.patches)
    once = image + adapters_update_operations(config, shape, rank=rank)
    each = image + adapters_update_operations(config, replace(shape, group=1), rank=rank)
    limit, found = shape.group * each / once, seconds[1] / seconds[0]
    rate = matrix_rate(getattr(torch, arguments.dtype))
    row = [
        arguments.shape, str(shape.prompt), str(shape.completion), str(shape.group), f"{limit:.2f}", f"{found:.2f}",
        f"{found / limit:.0%}", f"{seconds[0]:.2f}", f"{seconds[1]:.2f}", f"{error:.1g}",
        f"{once / seconds[0] / rate:.0%}", f"{shape.group * each / seconds[1] / rate:.0%}",
    ]  # fmt: skip
    head = ["shape", "P", "C", "G", "limit", "plain/shared", "of limit", "shared s", "plain s", "gradient error"]
    head += [f"shared of {rate / 1e9:.0f} Gop/s", "plain of the same"]
    tables = (
        f"Update with adapters of rank {rank}, image of {PATCHES} patches included. Medians of {arguments.repeats}.\n\n"
        f"{markdown_table(head, [row])}"
    )
    command = " ".join(["python benchmarks/update_2b.py", *sys.argv[1:]])
    print(tables)
    print(write_results(f"update_{arguments.shape}", command=command, tables=tables, date=None, folder=arguments.out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="2b")
    parser.add_argument("--dtype", choices=tuple(TOLERANCE), default="bfloat16")
    parser.add_argument("--prompt", type=int, default=541, help="prompt tokens, including 400 of the image")
    parser.add_argument("--completion", type=int, default=128)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="PyTorch threads; default: PyTorch's default")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parsed = parser.parse_args()
    if parsed.threads:
        torch.set_num_threads(parsed.threads)
    main(parsed)
