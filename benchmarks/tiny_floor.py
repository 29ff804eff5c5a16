"""Baseline scores of virft-tiny before any training: all three tasks, with and without thinking, on unseen scenes.

    python benchmarks/tiny_floor.py OUT [--model virft-tiny] [--questions 400]

Base classes should be known (goal: F1 0.6), novel ones much less. A few minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from virft.data.sources.scenes import write_test_scenes
from virft.data.store import Store
from virft.inference.prompting import resolve_prompting
from virft.models.load import load_model
from virft.models.tiny import IMAGE_SIZE
from virft.recipes.evaluate import PredictionSettings, predict_and_score
from virft.scenes.assets import class_names
from virft.scenes.sets import SceneKind
from virft.training.runtime import start_runtime

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
    print("| questions | thinking | well-formed | scores |\n|---|---|---|---|")
    for number, (name, (task, split, kind)) in enumerate(SETS.items()):
        folder = args.out / f"data_{number}"
        if not folder.exists():
            write_test_scenes(
                folder, task=task, classes=class_names(split), num_questions=args.questions, kind=kind,
                seed=args.seed, size=IMAGE_SIZE,
            )  # fmt: skip
        store = Store(folder)
        for thinking in (False, True):
            settings = PredictionSettings(
                prompting=resolve_prompting(loaded, template="auto", thinking=thinking),
                max_completion_tokens=160,
                model_name=args.model,
            )
            folder = args.out / f"answers_{number}_{'thinking' if thinking else 'plain'}"
            scores = predict_and_score(loaded, store, folder, settings=settings, runtime=start_runtime())[0]
            shown = ", ".join(f"{key} {scores.values[key]:.3f}" for key in HEADLINES[task] if key in scores.values)
            well_formed = scores.values["well_formed_frac"]
            print(f"| {task}, {name} | {'on' if thinking else 'off'} | {well_formed:.1%} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
