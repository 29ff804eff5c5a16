"""What transformers' own processors make of tiny prompts and pictures, kept in ``tests/data/placeholders.json``.

Their classes need torchvision, which virft does without; so this runs in an environment of its own, with transformers
5.19.0, torch 2.13.0 and torchvision 0.28.0, and needs nothing of virft: ``python scripts/make_placeholder_goldens.py``.
Ids and pixels are those of the real processor around the PIL image processor; ``torchvision_difference`` is the largest
distance of a pixel to the same with the image processor of torchvision, which it takes by itself.
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
    """The family's processor around the tiny tokenizer."""
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
        told = {"num_image_tokens": 16, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_2"}
        videos = transformers.LlavaOnevisionVideoProcessor()
        return transformers.LlavaOnevisionProcessor(images, tokenizer, videos, **told, **more)
    if model_type == "gemma3":
        return transformers.Gemma3Processor(images, tokenizer, image_seq_length=4, **more)
    raise ValueError(model_type)


def asked(model_type: str, count: int) -> list[dict[str, str]]:
    """The message that the renderer makes of a question about the last of so many images."""
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
    """One prompt's ids, runs of equal ones written once, and of its pixels the shape and a few numbers."""
    processors = {backend: processor_of(model_type, backend=backend) for backend in ("pil", "torchvision")}
    pictures = [tiny.striped_image(*size, number) for number, size in enumerate(sizes)]
    text = processors["pil"].apply_chat_template(
        [{"role": "user", "content": asked(model_type, len(sizes))}], tokenize=False, add_generation_prompt=True
    )
    made = {
        name: one(images=[pictures], text=[text], return_tensors="pt", add_special_tokens=False)
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
