"""Update of a model of 2B size on one GPU: throughput, memory and accuracy of prefix sharing against the plain batch.

    python benchmarks/gpu_step.py                     # one GPU with 24 GB or more
    python benchmarks/gpu_step.py --checkpointing

The model has the sizes of Qwen2-VL-2B, random weights in bfloat16, and LoRA adapters of rank 32. Both sides run a
forward and a backward pass over one group of G completions, alternating; times are medians of ``--repeats``:

- shared: one packed row; prompts attend by PyTorch's fused (flash) kernel, completions by matrix products;
- plain: a batch [G, P + C] that repeats the prompt, with the fused kernel.

Throughput: completion tokens (G x C) per second. Accuracy: log-probs of both sides in bfloat16 against the shared ones
in float32. Image tokens are replaced by text tokens: image features are an input of the update. ``--try-on-cpu`` runs
the program with a tiny shape; its numbers have no meaning.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from memory_2b import model_config
from record import RESULTS, markdown_table, write_results
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoTokenizer

from virft.config.schema import ModelConfig
from virft.models.attention.layout import PackedRow, pack_row
from virft.models.load import wrap_model
from virft.models.policy import Policy, make_policy
from virft.models.tiny import tiny_folder
from virft.training.trainable import prepare_for_training


def make_policy_on(device: torch.device, shape: str, *, checkpointing: bool) -> Policy:
    """Make a random model with adapters that are not zero."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(model_config(shape), dtype=torch.bfloat16)
    loaded = wrap_model(model, AutoTokenizer.from_pretrained(tiny_folder()), None)
    settings = ModelConfig(train="lora", dtype="bfloat16", gradient_checkpointing=checkpointing)
    prepare_for_training(loaded, settings, seed=0)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    return make_policy(loaded, temperature=1.0).train()


def shared_logprobs(policy: Policy, row: PackedRow) -> Tensor:
    """Return the log-probs [G * C] of the completions, one after the other, from one packed row."""
    return policy(row, features=[])


def plain_logprobs(policy: Policy, prompt: list[int], completions: list[list[int]], device: torch.device) -> Tensor:
    """Return the same log-probs [G * C] from a batch in which each completion follows its own copy of the prompt."""
    ids = torch.tensor([[*prompt, *one] for one in completions], device=device)
    positions = torch.arange(ids.shape[1], device=device).expand(3, len(completions), -1)
    hidden = policy.model.model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
    chosen = hidden[:, len(prompt) - 1 : -1].flatten(0, 1)
    targets = torch.tensor(completions, device=device).flatten()
    return policy.next_log_distribution(chosen).gather(-1, targets[:, None])[:, 0]


def measure(run: Callable[[], Tensor], policy: Policy, device: torch.device) -> tuple[float, float]:
    """Return seconds and additional peak memory in GiB of one forward and backward pass."""
    is_cuda = device.type == "cuda"
    policy.zero_grad(set_to_none=True)
    if is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if is_cuda else 0
    began = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16):
        logprobs = run()
    logprobs.mean().backward()
    if is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return seconds, (torch.cuda.max_memory_allocated() - before) / 2**30 if is_cuda else float("nan")


def main(arguments: argparse.Namespace) -> None:
    """Measure both sides and write a table."""
    if not torch.cuda.is_available() and not arguments.try_on_cpu:
        sys.exit("gpu_step: no GPU here (torch.cuda.is_available() is false); nothing was measured")
    device = torch.device("cpu" if arguments.try_on_cpu else "cuda")
    shape, prompt_tokens, own = ("small", 40, 8) if arguments.try_on_cpu else ("2b", arguments.prompt, arguments.own)
    policy = make_policy_on(device, shape, checkpointing=arguments.checkpointing)
    numbers = torch.randint(100, 900, (prompt_tokens + arguments.group * own,), generator=torch.manual_seed(1))
    prompt = numbers[:prompt_tokens].tolist()
    completions = numbers[prompt_tokens:].view(arguments.group, own).tolist()
    row = pack_row([prompt], [torch.arange(prompt_tokens).expand(3, -1)], [completions]).to(device)
    sides: dict[str, Callable[[], Tensor]] = {
        "shared": lambda: shared_logprobs(policy, row),
        "plain": lambda: plain_logprobs(policy, prompt, completions, device),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, float] = {}
    for turn in range(arguments.repeats + 1):
        for name, run in sides.items():
            elapsed, peaks[name] = measure(run, policy, device)
            if turn:
                seconds[name].append(elapsed)
    policy.zero_grad(set_to_none=True)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        found = {name: run().float() for name, run in sides.items()}
    policy.float()
    with torch.no_grad():
        exact = sides["shared"]()
    rows = []
    for name in sides:
        median = statistics.median(seconds[name])
        error = (found[name] - exact).abs()
        rows.append(
            [name, f"{median * 1e3:.0f}", f"{arguments.group * own / median:.0f}", f"{peaks[name]:.2f}",
             f"{error.max():.3f}", f"{error.mean():.4f}"]
        )  # fmt: skip
    head = ["side", "ms", "tokens/s", "peak GiB", "largest gap", "mean gap"]
    name = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU: a trial run"
    tables = (
        f"{name}. P {prompt_tokens}, C {own}, G {arguments.group}, checkpointing {arguments.checkpointing}. "
        f"Gap: of log-probs in bfloat16 to float32, in nats.\n\n{markdown_table(head, rows)}"
    )
    print(tables)
    command = " ".join(["python benchmarks/gpu_step.py", *sys.argv[1:]])
    if not arguments.try_on_cpu:
        print(write_results("gpu_step", command=command, tables=tables, date=arguments.date, folder=arguments.out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--prompt", type=int, default=541, help="prompt tokens: 391 of an image of 640 x 480, 150 of text"
    )
    parser.add_argument("--own", type=int, default=128, help="tokens of a completion")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--try-on-cpu", action="store_true")
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--out", type=Path, default=RESULTS)
    main(parser.parse_args())
