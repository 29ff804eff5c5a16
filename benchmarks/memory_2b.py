"""Accuracy of the memory that `virft plan` predicts: two steps of a random model of 2B size, measured and predicted.

The model has the sizes of Qwen2-VL-2B and random weights in bfloat16; adapters of rank 32 are trained. The run is a
separate process; its peak is resident memory (VmHWM) minus its value after imports. The tokenizer is the one of
virft-tiny: tokens sampled from the vocabulary of 151,936 are not text, and almost never the end token, so every
completion has the maximum length. glibc returns freed tensors to the system immediately (docs/memory.md), unless
--default-allocator is given.

    python benchmarks/memory_2b.py                     # 13 GiB
    python benchmarks/memory_2b.py --checkpointing     # 7 GiB
    python benchmarks/memory_2b.py --shape small
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from counting import GroupShape, adapters_update_operations, reference_operations, sampling_operations
from PIL import Image
from record import RESULTS, markdown_table, matrix_rate, write_results
from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen2VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from virft.config.schema import Config, DataConfig, GRPOConfig, ModelConfig, RunConfig, SamplingConfig
from virft.models.load import wrap_model
from virft.models.tiny import tiny_folder
from virft.models.tiny_config import tiny_config
from virft.planning.memory import Planner
from virft.planning.text import format_memory
from virft.recipes.setup import make_prompting, make_runtime
from virft.recipes.trainers import make_grpo_trainer
from virft.training.trainable import prepare_for_training
from virft.types import Detections, ImageSize, Sample

IMAGE = ImageSize(640, 480)
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 20)}
"""Settings of glibc: memory of freed tensors of 1 MiB and more is returned to the system, see docs/memory.md."""
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "2b": {
        "text": {
            "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
            "num_attention_heads": 12, "num_key_value_heads": 2, "mrope_section": [16, 24, 24],
        },
        "vision": {
            "depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_size": 1536, "patch_size": 14
        },
    },
    "3b": {
        "text": {
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
            "num_attention_heads": 16, "num_key_value_heads": 2, "mrope_section": [16, 24, 24],
        },
        "vision": {
            "depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_size": 2048, "patch_size": 14
        },
    },
    "7b": {
        "text": {
            "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "mrope_section": [16, 24, 24],
        },
        "vision": {
            "depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_size": 3584, "patch_size": 14
        },
    },
    "rehearsal": {
        "text": {
            "vocab_size": 2048, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "mrope_section": [2, 3, 3],
        },
        "vision": {
            "depth": 1, "embed_dim": 64, "num_heads": 4, "mlp_ratio": 2, "hidden_size": 64, "patch_size": 14
        },
    },
    "small": {
        "text": {
            "vocab_size": 32000, "hidden_size": 640, "intermediate_size": 2560, "num_hidden_layers": 10,
            "num_attention_heads": 10, "num_key_value_heads": 2, "mrope_section": [8, 12, 12],
        },
        "vision": {
            "depth": 6, "embed_dim": 384, "num_heads": 6, "mlp_ratio": 4, "hidden_size": 640, "patch_size": 14
        },
    },
}  # fmt: skip


def model_config(shape: str) -> Qwen2VLConfig:
    """Return the config of a Qwen2-VL of these sizes with the special tokens of virft-tiny and tied embeddings."""
    known = tiny_config(AutoTokenizer.from_pretrained(tiny_folder()))
    text = dict(SHAPES[shape]["text"])
    section = text.pop("mrope_section")
    ends = {name: getattr(known.text_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    images = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return Qwen2VLConfig(
        text_config=text
        | ends
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section}},
        vision_config=SHAPES[shape]["vision"],
        tie_word_embeddings=True,
        **{name: getattr(known, name) for name in images},
    )


def run_config(arguments: argparse.Namespace, folder: str) -> Config:
    """Return a run config with one prompt per step and all its completions in one packed row."""
    return Config(
        model=ModelConfig(
            path=folder, train="lora", dtype=arguments.dtype, gradient_checkpointing=arguments.checkpointing
        ),
        data=DataConfig(train="none"),
        sampling=SamplingConfig(max_completion_tokens=arguments.completion_tokens),
        grpo=GRPOConfig(
            steps=arguments.steps, prompts_per_step=1, group_size=arguments.group, microbatch_tokens=1 << 20
        ),
        run=RunConfig(dir="none"),
    )


def measure(arguments: argparse.Namespace, folder: str) -> dict[str, float]:
    """Train in this process; return the peak memory above that of imports in bytes, sizes and seconds."""
    before = _status("VmRSS")
    config = run_config(arguments, folder)
    settings = model_config(arguments.shape)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(settings, dtype=getattr(torch, arguments.dtype))
    loaded = wrap_model(model, AutoTokenizer.from_pretrained(tiny_folder()), Qwen2VLImageProcessorPil())
    prepare_for_training(loaded, config.model, seed=config.seed)
    with tempfile.TemporaryDirectory() as pictures:
        path = f"{pictures}/a.png"
        Image.effect_noise((IMAGE.width, IMAGE.height), 90).convert("RGB").save(path)
        prompting = make_prompting(config.prompt, config.mixture, loaded)
        trainer = make_grpo_trainer(config, loaded, prompting, make_runtime(config.model, config.parallel))
        sample = Sample(
            id="a", task="detection", images=(path,), image_sizes=(IMAGE,), query="cat", target=Detections()
        )
        found: dict[str, float] = {}
        for number in range(arguments.steps):
            began = time.perf_counter()
            report = trainer.step(number, [sample])
            group = report.groups[0]
            found = {
                "prompt_tokens": len(group.prompt.token_ids),
                "completion_tokens": sum(len(one.token_ids) for one in group.completions) / len(group.completions),
                "step_s": time.perf_counter() - began,
                **{f"{name}_s": seconds for name, seconds in report.timings.items()},
            }
            print(json.dumps({"step": number, **report.metrics}), file=sys.stderr, flush=True)
    return {**found, "peak": _status("VmHWM") - before, "imports": before}


def stage_table(arguments: argparse.Namespace, measured: dict[str, float]) -> str:
    """Return seconds of the last step's stages, counted operations, and the fraction of the matrix-product rate.

    Recomputed work (checkpointed layers, logits that are not cached) is counted once.
    """
    config, rank = model_config(arguments.shape), ModelConfig().lora_rank
    shape = GroupShape(
        prompt=int(measured["prompt_tokens"]),
        completion=round(measured["completion_tokens"]),
        group=arguments.group,
        patches=0,  # image features are cached
    )
    counted = {
        "sampling": sampling_operations(config, shape),
        "reference": reference_operations(config, shape),
        "update": adapters_update_operations(config, shape, rank=rank),
    }
    rate = matrix_rate(getattr(torch, arguments.dtype))
    rows = [
        [name, f"{measured[f'{name}_s']:.1f}", f"{done / 1e12:.2f}", f"{done / measured[f'{name}_s'] / rate:.0%}"]
        for name, done in counted.items()
    ]
    head = ["stage", "s", "counted Top", f"of {rate / 1e9:.0f} Gop/s"]
    return f"The last step, {torch.get_num_threads()} threads:\n\n{markdown_table(head, rows)}"


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main(arguments: argparse.Namespace) -> None:
    """Measure in a child process, predict, and write both."""
    with tempfile.TemporaryDirectory() as folder:
        model_config(arguments.shape).save_pretrained(folder)
        Qwen2VLImageProcessorPil().save_pretrained(folder)
        if arguments.child:
            print(json.dumps(measure(arguments, folder)))
            return
        child = subprocess.run(
            [sys.executable, __file__, "--child", *sys.argv[1:]],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ({} if arguments.default_allocator else ALLOCATOR),
        )
        measured = json.loads(child.stdout.splitlines()[-1])
        image_tokens = Planner(run_config(arguments, folder), image=IMAGE, text_tokens=1).prompt.image_tokens
        planner = Planner(
            run_config(arguments, folder),
            image=IMAGE,
            text_tokens=int(measured["prompt_tokens"]) - image_tokens,
            on_cpu=True,
        )
        memory = planner.memory(planner.configured)
    seconds = stage_table(arguments, measured)
    row = [
        arguments.shape, str(arguments.checkpointing).lower(), f"{measured['prompt_tokens']:.0f}",
        f"{arguments.group} x {measured['completion_tokens']:.0f}", f"{memory.peak / 2**30:.2f}",
        f"{measured['peak'] / 2**30:.2f}", f"{memory.peak / measured['peak'] - 1:+.1%}", f"{measured['step_s']:.0f}",
    ]  # fmt: skip
    head = ["shape", "checkpointing", "P", "G x C", "predicted GiB", "measured GiB", "difference", "last step s"]
    tables = (
        f"{markdown_table(head, [row])}\n\nImports need {measured['imports'] / 2**30:.2f} GiB more. "
        f"{arguments.dtype}, adapters of rank 32, {arguments.steps} steps, an image of "
        f"{IMAGE.width} x {IMAGE.height}. glibc {'as it is' if arguments.default_allocator else ALLOCATOR}.\n\n"
        f"{seconds}\n\n```\n{format_memory(memory)}\n```"
    )
    print(tables)
    command = " ".join(["python benchmarks/memory_2b.py", *sys.argv[1:]])
    question = f"memory_{arguments.shape}" + ("_checkpointing" if arguments.checkpointing else "")
    print(write_results(question, command=command, tables=tables, date=arguments.date, folder=arguments.out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="2b")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--completion-tokens", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--default-allocator", action="store_true", help="use glibc's default settings")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--out", type=Path, default=RESULTS)
    main(parser.parse_args())
