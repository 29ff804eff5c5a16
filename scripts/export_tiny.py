"""Copy a trained virft-tiny into the package: weights in bf16, tokenizer, processor files, card.

    python scripts/export_tiny.py FOLDER [OUT]

FOLDER is the ``model/`` that ``train_tiny.py`` wrote; OUT is by default the folder in the package.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from virft.models.tiny import IMAGE_SIZE, tiny_folder

PREPROCESSOR = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "Qwen2VLImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "merge_size": 2,
    "min_pixels": 56 * 56,
    "max_pixels": IMAGE_SIZE * IMAGE_SIZE,
    "patch_size": 14,
    "processor_class": "Qwen2VLProcessor",
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 56 * 56, "longest_edge": IMAGE_SIZE * IMAGE_SIZE},
    "temporal_patch_size": 2,
}
CARD = {"prompt_template": "short", "image_size": IMAGE_SIZE}
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
         "chat_template.jinja")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=tiny_folder())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(args.folder / name, args.out / name)
    for name, content in (("preprocessor_config.json", PREPROCESSOR), ("virft_card.json", CARD)):
        (args.out / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    size = sum(file.stat().st_size for file in args.out.iterdir())
    print(f"{args.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
