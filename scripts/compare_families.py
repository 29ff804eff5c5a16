"""Experiments on the built-in scenes: make the data of each family, and compare base model, SFT and RFT.

    python scripts/compare_families.py runs/families [FAMILY ..]
    python scripts/compare_families.py runs/one_shot few_shot_detection --shots 1
    python scripts/compare_families.py runs/thinking few_shot_detection --set prompt.thinking=true

Takes hours on two CPU cores; after Ctrl-C, the same command resumes. Settings are those of
``configs/compare_FAMILY.toml``, paths are below the given folder. At the end, a table of all finished families is
printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from virft.cli.build import build_scenes
from virft.cli.main import main as virft
from virft.recipes.compare.runs import RESULT
from virft.recipes.compare.text import shown_numbers
from virft.scenes.assets import class_names

CONFIGS = Path(__file__).parents[1] / "configs"
SIZE = 112
"""Image side in pixels that ``virft-tiny`` was trained on."""
VALIDATION_SET = {"questions": 240, "seed": 1}
"""Options of a validation set: like the first test set with another seed, so its scenes are in no other set."""
BASE = class_names("base")
# every fourth, so that each group of look-alikes is in both
OTHER = BASE[::4]
TRAINED = tuple(name for name in BASE if name not in OTHER)
KNOWN = BASE[1::8]
"""Eight classes that the model knows, like the paper's eight COCO classes for Qwen2-VL."""

FAMILIES: dict[str, dict[str, dict[str, Any]]] = {
    "few_shot_detection": {
        "train": {"classes": ["novel"], "shots": 4},
        "validation": {"classes": ["novel"]} | VALIDATION_SET,
        "same_sprites": {"classes": ["novel"], "questions": 640},
        "other_style": {"classes": ["novel"], "questions": 640, "kind": "other_style"},
    },
    "known_few_shot_detection": {
        "train": {"classes": KNOWN, "shots": 4, "kind": "train_other_style"},
        "validation": {"classes": KNOWN, "kind": "other_style"} | VALIDATION_SET,
        "test": {"classes": KNOWN, "questions": 640, "kind": "other_style"},
    },
    "base_to_novel_detection": {
        "train": {"classes": TRAINED, "shots": 2, "kind": "train_other_style"},
        "validation": {"classes": TRAINED, "kind": "other_style"} | VALIDATION_SET,
        "trained_classes": {"classes": TRAINED, "questions": 640, "kind": "other_style"},
        "other_classes": {"classes": OTHER, "questions": 640, "kind": "other_style"},
    },
    "lookalike_classification": {
        "train": {"classes": ["base"], "shots": 2, "kind": "train_other_style"},
        "validation": {"classes": ["base"], "kind": "other_style"} | VALIDATION_SET,
        "test": {"classes": ["base"], "questions": 640, "kind": "other_style"},
    },
    "reasoning_grounding": {
        "train": {"classes": ["base"], "shots": 2, "kind": "train_other_style"},
        "validation": {"classes": ["base"], "kind": "other_style"} | VALIDATION_SET,
        "test": {"classes": ["base"], "questions": 640, "kind": "other_style"},
    },
}
TASKS = {"lookalike_classification": "classification", "reasoning_grounding": "grounding"}


def compare_family(name: str, out: Path, overrides: list[str], shots: int | None = None) -> int:
    """Build the missing data, then run or resume the comparison; return its exit status."""
    folder = out / name
    for part, given in FAMILIES[name].items():
        options = given | {"shots": shots} if part == "train" and shots is not None else given
        if not (folder / part / "card.json").exists():
            task = TASKS.get(name, "detection")
            build_scenes(out=folder / part, task=task, size=SIZE, overwrite=True, **options)
    tests = [str(folder / part) for part in FAMILIES[name] if part not in ("train", "validation")]
    return virft(
        [
            "compare",
            str(CONFIGS / f"compare_{name}.toml"),
            f"data.train={folder / 'train'}",
            f"data.validation={folder / 'validation'}",
            f"compare.tests={tests}",
            f"run.dir={folder / 'compare'}",
            *overrides,
            *(["--resume"] if (folder / "compare").exists() else []),
        ]
    )


def results_table(out: Path) -> str:
    """Return a Markdown table of finished families: means over seeds, 95 % confidence intervals (paired bootstrap)."""
    head = "| family, test | metric | base | SFT | RFT | RFT - base | RFT - SFT |"
    rows = [
        row
        for name in FAMILIES
        if (path := out / name / "compare" / RESULT).exists()
        for row in _rows(name.replace("_", " "), json.loads(path.read_text(encoding="utf-8"))["tests"])
    ]
    return "\n".join([head, "|" + "---|" * 7, *rows])


def _rows(family: str, tests: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    for test, pairs in tests.items():
        for task, found in pairs["rft against sft"].items():
            for number in shown_numbers(task):
                against_sft = found["differences"][number]
                against_base = pairs["rft against base"][task]["differences"][number]
                values = [against_base["first"], against_sft["first"], against_sft["second"]]
                cells = [f"{value['mean']:.3f}" for value in values]
                changes = [
                    f"{one['value']:+.3f} ({one['interval'][0]:+.3f} to {one['interval'][1]:+.3f})"
                    for one in (against_base, against_sft)
                ]
                yield f"| {' | '.join([f'{family}: {test}', number, *cells, *changes])} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("families", nargs="*", metavar="FAMILY", default=list(FAMILIES), choices=[*FAMILIES, []])
    parser.add_argument("--shots", type=int, help="training images per class, for all given families")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    args = parser.parse_args()
    names = args.families or list(FAMILIES)
    status = max(compare_family(name, args.out, args.set, args.shots) for name in names)
    print(results_table(args.out))
    raise SystemExit(status)
