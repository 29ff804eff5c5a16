"""Write a folder of virft-photo: tower and language model as two files with an index, tokenizer, processor, card.

    python scripts/export_photo.py FOLDER [OUT]

FOLDER is the one that ``train_photo.py`` wrote; OUT is by default the folder in the package. The file of the tower is
not changed if it exists.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, InternVLConfig

from virft.models.photo_config import LANGUAGE_FILE, PHOTO_VISION, PREPROCESSOR, TOWER_FILE

PACKAGED = Path(__file__).resolve().parents[1] / "src/virft/models/photo_weights"
CARD = {"prompt_template": "short", "image_size": PHOTO_VISION["image_size"]}
RENAMED = {"model.language_model.": "language_model.model.", "model.multi_modal_projector.": "multi_modal_projector.",
           "lm_head.": "language_model.lm_head."}  # fmt: skip
"""Beginnings of parameter names -> those in the files of published InternVL models."""


def file_name(parameter: str) -> str:
    """Return the name of a parameter of projector or language model in a file."""
    old = next(old for old in RENAMED if parameter.startswith(old))
    return RENAMED[old] + parameter.removeprefix(old)


def save_folder(weights: dict[str, Tensor], tokenizer: Any, config: InternVLConfig, tower: Path, folder: Path) -> None:
    """Write a model folder. ``weights``: projector and language model, named as in the model; saved in bf16."""
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(config)
    config.dtype = torch.bfloat16
    config.architectures = ["InternVLForConditionalGeneration"]
    config.save_pretrained(folder)
    ends = {name: getattr(config.text_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**ends).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", PREPROCESSOR)
    write_json(folder / "virft_card.json", CARD)
    content = {file_name(name): tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
    save_file(content, folder / LANGUAGE_FILE, metadata={"format": "pt"})
    if not (folder / TOWER_FILE).exists():
        shutil.copyfile(tower, folder / TOWER_FILE)
    places: dict[str, str] = {}
    total = 0
    for file in (TOWER_FILE, LANGUAGE_FILE):
        with safe_open(folder / file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118, the object is no mapping
                places[name] = file
                total += opened.get_tensor(name).nbytes
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    write_json(folder / "model.safetensors.index.json", index)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file with sorted keys."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=PACKAGED)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for file in sorted((args.folder / "model").iterdir()):
        if file.name != TOWER_FILE or not (args.out / TOWER_FILE).exists():
            shutil.copyfile(file, args.out / file.name)
    size = sum(file.stat().st_size for file in args.out.iterdir())
    print(f"{args.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
