"""How good is virft-tiny before any reinforcement? All three tasks, thinking off and on, on unseen scenes.

    python benchmarks/tiny_floor.py OUT [--model virft-tiny] [--questions 400]

Base classes must be known (F1 0.6 wanted), novel ones clearly less. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from virft.data.sources.scenes import write_test_scenes
from virft.data.store import Store
from virft.models.load import load_model
from virft.models.tiny import IMAGE_SIZE
from virft.recipes.evaluate import Asking, evaluate
from virft.scenes.assets import class_names
from virft.scenes.sets import SceneKind

SETS = {
    "base classes": ("detection", "base", SceneKind.SAME_SPRITES),
    "base classes, other style": ("detection", "base", SceneKind.OTHER_STYLE),
    "novel classes": ("detection", "novel", SceneKind.SAME_SPRITES),
    "held-out classes": ("detection", "heldout", SceneKind.SAME_SPRITES),
    "classification": ("classification", "base", SceneKind.SAME_SPRITES),
    "grounding": ("grounding", "base", SceneKind.SAME_SPRITES),
}
HEADLINES = {
    "detection": ("f1", "precision", "recall", "false_positive_rate"),
    "classification": ("accuracy",),
    "grounding": ("accuracy_at_50", "box_miou"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="virft-tiny")
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--seed", type=int, default=100)
    args = parser.parse_args()
    loaded = load_model(args.model)
    print("| questions | thinking | format kept | scores |\n|---|---|---|---|")
    for number, (name, (task, split, kind)) in enumerate(SETS.items()):
        folder = args.out / f"data_{number}"
        if not folder.exists():
            write_test_scenes(
                folder, task=task, classes=class_names(split), num_questions=args.questions, kind=kind,
                seed=args.seed, size=IMAGE_SIZE,
            )  # fmt: skip
        store = Store(folder)
        for thinking in (False, True):
            scores = evaluate(
                loaded, store, args.out / f"answers_{number}_{'thinking' if thinking else 'plain'}",
                asking=Asking(template="auto", thinking=thinking, max_completion_tokens=160, model_name=args.model),
            )[0]  # fmt: skip
            shown = ", ".join(f"{key} {scores.values[key]:.3f}" for key in HEADLINES[task] if key in scores.values)
            kept = scores.values["well_formed_frac"]
            print(f"| {task}, {name} | {'on' if thinking else 'off'} | {kept:.1%} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
