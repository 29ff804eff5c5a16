"""Write ``tests/data/placeholders.json``: the output of transformers' processors for tiny prompts and images.

The processors need torchvision, which virft does not use; so this script runs in a separate environment with
transformers 5.19.0, torch 2.13.0 and torchvision 0.28.0, without virft: ``python scripts/make_placeholder_goldens.py``.
Ids and pixels are those of the original processor with the PIL image processor; ``torchvision_difference`` is the
largest difference of a pixel value from the torchvision image processor, which is the default.
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import transformers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import tiny_folders as tiny  # noqa: E402

SIZES = ([(60, 40)], [(16, 16)], [(30, 90)], [(200, 31)], [(60, 40), (20, 50)], [(48, 48), (16, 12)])
QUESTION = "Where is it?"


def processor_of(model_type: str, *, backend: str) -> Any:
    """Return the family's processor with the tiny tokenizer."""
    tokenizer = tiny.tiny_tokenizer(model_type)
    images = tiny.tiny_image_processor(model_type, backend=backend)
    more: dict[str, Any] = {"chat_template": tokenizer.chat_template}
    if model_type == "idefics3":
        return transformers.Idefics3Processor(images, tokenizer, image_seq_len=4, **more)
    if model_type == "smolvlm":
        from transformers.models.smolvlm import processing_smolvlm

        processing_smolvlm.num2words = str  # for videos only
        return transformers.SmolVLMProcessor(
            images, tokenizer, transformers.SmolVLMVideoProcessor(), image_seq_len=4, **more
        )
    if model_type == "internvl":
        return transformers.InternVLProcessor(
            images, tokenizer, transformers.InternVLVideoProcessor(), image_seq_length=4, **more
        )
    if model_type == "llava_onevision":
        fixed = {
            "num_image_tokens": 16,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_2",
        }
        videos = transformers.LlavaOnevisionVideoProcessor()
        return transformers.LlavaOnevisionProcessor(images, tokenizer, videos, **fixed, **more)
    if model_type == "gemma3":
        return transformers.Gemma3Processor(images, tokenizer, image_seq_length=4, **more)
    raise ValueError(model_type)


def message_about_last(model_type: str, count: int) -> list[dict[str, str]]:
    """Return the message content that the renderer makes of a question about the last of ``count`` images."""
    if count == 1:
        return [{"type": "image"}, {"type": "text", "text": QUESTION}]
    question = {"type": "text", "text": f"About image {count}: {QUESTION}"}
    if model_type == "llava_onevision":
        return [{"type": "image"}] * count + [question]
    parts = []
    for number in range(1, count + 1):
        parts += [{"type": "text", "text": f"Image {number}: "}, {"type": "image"}, {"type": "text", "text": "\n"}]
    return [*parts, question]


def made_of(model_type: str, sizes: list[tuple[int, int]]) -> dict[str, Any]:
    """Return the token ids of one prompt, run-length encoded, and the shape and a digest of its pixels."""
    processors = {backend: processor_of(model_type, backend=backend) for backend in ("pil", "torchvision")}
    images = [tiny.striped_image(*size, number) for number, size in enumerate(sizes)]
    text = processors["pil"].apply_chat_template(
        [{"role": "user", "content": message_about_last(model_type, len(sizes))}],
        tokenize=False,
        add_generation_prompt=True,
    )
    made = {
        name: one(images=[images], text=[text], return_tensors="pt", add_special_tokens=False)
        for name, one in processors.items()
    }
    pixels = made["pil"]["pixel_values"]
    return {
        "family": model_type,
        "sizes": sizes,
        "text": text,
        "ids": [[token, len(list(run))] for token, run in groupby(made["pil"]["input_ids"][0].tolist())],
        "tiles": tiny.pixel_digest(pixels),
        "torchvision_difference": round((pixels - made["torchvision"]["pixel_values"]).abs().max().item(), 4),
    }


def main() -> None:
    """Write the file."""
    cases = [made_of(model_type, sizes) for model_type in tiny.TILED for sizes in SIZES]
    found = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0], "cases": cases}
    lines = [json.dumps(found | {"cases": []})[:-2], ",\n".join(json.dumps(case) for case in cases), "]}"]
    (ROOT / "tests" / "data" / "placeholders.json").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
