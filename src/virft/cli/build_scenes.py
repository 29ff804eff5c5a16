"""The source ``scenes`` of ``virft build``: synthetic scenes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from virft.cli import arguments
from virft.cli.build_options import (
    add_negatives,
    report_build,
)
from virft.cli.parsers import Verbs, add_task, add_verb
from virft.errors import ConfigError
from virft.recipes.build_options import Cards
from virft.scenes import SCENE_TASKS
from virft.tasks import TASKS


def add_scenes(sources: Verbs) -> None:
    """Add the parser of ``scenes``."""

    @wraps(build_scenes)
    def build_and_report(**given: Any) -> Cards:
        return report_build(build_scenes(**given))

    tasks = [name for name, task in TASKS.items() if name in SCENE_TASKS or task.from_annotation is not None]
    verb = add_verb(
        sources,
        "scenes",
        f"synthetic scenes drawn from built-in assets: {', '.join(tasks)}",
        build_and_report,
    )
    verb.add_argument("out", metavar="OUT", type=Path, help="dataset folder")
    add_task(verb, choices=tasks)
    verb.add_argument(
        "--classes",
        type=arguments.names,
        default=("novel",),
        metavar="A,B",
        help="class names, or the sets base, novel, heldout",
    )
    verb.add_argument(
        "--shots", type=arguments.positive, metavar="K", help="make a few-shot training set of K scenes per class"
    )
    verb.add_argument("--questions", type=arguments.positive, metavar="N", help="make a test set of N questions")
    verb.add_argument(
        "--kind",
        choices=("train", "train_other_style", "same_sprites", "other_style"),
        help="assets of the scenes (default: train with --shots, same_sprites with --questions)",
    )
    add_negatives(verb, default=None)
    verb.add_argument(
        "--size",
        type=arguments.number(int, at_least=28, unit="pixels"),
        metavar="PIXELS",
        help="side of the images; at least 28, one token of a model (default: 112)",
    )
    verb.add_argument(
        "--object-scale",
        type=arguments.number(float, above=0, at_most=1),
        metavar="F",
        default=1.0,
        help="factor of the sizes of objects: 0.3 with --size 448 makes objects for zoom calls",
    )
    verb.add_argument("--seed", type=arguments.not_negative, metavar="N", default=0, help="random seed of the scenes")
    verb.add_argument("--overwrite", action="store_true", help="replace a dataset that exists")


def build_scenes(
    *,
    out: Path,
    task: str = "detection",
    classes: Sequence[str] = ("novel",),
    shots: int | None = None,
    questions: int | None = None,
    kind: str | None = None,
    negatives_frac: float | None = None,
    size: int | None = None,
    object_scale: float = 1.0,
    seed: int = 0,
    overwrite: bool = False,
) -> Cards:
    """Build a dataset of synthetic scenes: ``shots`` per class for training, or ``questions`` for a test.

    ``kind`` is a ``SceneKind``; default: ``train`` for shots and ``same_sprites`` for questions. Raises ``ConfigError``
    for both or none of the two.
    """
    from virft.data.sources.scenes import scene_classes_named, write_few_shot_scenes, write_test_scenes
    from virft.scenes.patches import REFERENCE_SIZE
    from virft.scenes.sets import ABSENT_FRAC, SceneKind

    common: dict[str, Any] = {
        "task": task,
        "classes": scene_classes_named(classes),
        "seed": seed,
        "negatives_frac": ABSENT_FRAC if negatives_frac is None else negatives_frac,
        "size": size or REFERENCE_SIZE,
        "object_scale": object_scale,
        "overwrite": overwrite,
    }
    if shots is not None and questions is None:
        card = write_few_shot_scenes(out, shots=shots, kind=SceneKind(kind or "train"), **common)
    elif questions is not None and shots is None:
        card = write_test_scenes(out, num_questions=questions, kind=SceneKind(kind or "same_sprites"), **common)
    else:
        raise ConfigError("build scenes: expected either --shots (a training set) or --questions (a test set)")
    return {str(out): card}
