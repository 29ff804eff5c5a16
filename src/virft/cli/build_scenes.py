"""The source ``scenes`` of ``virft build``: synthetic scenes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from virft.scenes.sets import SceneKind


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
        help="side of the images; at least 28, one token of a model (default: 112, with --grid N 56 times N)",
    )
    verb.add_argument(
        "--object-scale",
        type=arguments.number(float, above=0, at_most=1),
        metavar="F",
        default=1.0,
        help="factor of the sizes of objects: 0.3 with --size 448 makes objects for zoom calls",
    )
    verb.add_argument(
        "--grid",
        type=arguments.number(int, at_least=2, unit="rows and columns"),
        metavar="N",
        help="with --task classification: small objects in the cells of an N x N grid, for zoom calls; a question "
        "names a cell, such as 'animal in row 2 of 8, column 5 of 8'",
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
    grid: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Cards:
    """Build a dataset of synthetic scenes: ``shots`` per class for training, or ``questions`` for a test.

    ``kind`` is a ``SceneKind``; default: ``train`` for shots and ``same_sprites`` for questions. ``grid``: number of
    rows and of columns of a grid of small objects, for classification. Raises ``ConfigError`` for both or none of
    ``shots`` and ``questions``, and for ``grid`` with options that it does not have.
    """
    from virft.data.sources.scenes import (
        scene_classes_named,
        write_few_shot_scenes,
        write_grid_scenes,
        write_test_scenes,
    )
    from virft.scenes.patches import REFERENCE_SIZE
    from virft.scenes.sets import ABSENT_FRAC, SceneKind

    if (shots is None) == (questions is None):
        raise ConfigError("build scenes: expected either --shots (a training set) or --questions (a test set)")
    style = SceneKind(kind or ("same_sprites" if shots is None else "train"))
    names = scene_classes_named(classes)
    common: dict[str, Any] = {"classes": names, "kind": style, "seed": seed, "overwrite": overwrite}
    if grid is not None:
        _require_grid_options(task, style, shots, negatives_frac, object_scale)
        number = questions if questions is not None else (shots or 0) * len(names)
        size = size or grid * REFERENCE_SIZE // 2
        return {str(out): write_grid_scenes(out, num_questions=number, size=size, grid=grid, **common)}
    common |= {
        "task": task,
        "negatives_frac": ABSENT_FRAC if negatives_frac is None else negatives_frac,
        "size": size or REFERENCE_SIZE,
        "object_scale": object_scale,
    }
    if shots is not None:
        card = write_few_shot_scenes(out, shots=shots, **common)
    else:
        card = write_test_scenes(out, num_questions=questions or 0, **common)
    return {str(out): card}


def _require_grid_options(
    task: str, kind: SceneKind, shots: int | None, negatives_frac: float | None, object_scale: float
) -> None:
    """Raise ``ConfigError`` for options that scenes in a grid do not have."""
    if task != "classification":
        raise ConfigError(f"build scenes: --grid with --task {task}; expected --task classification")
    if shots is not None and not kind.is_training:
        raise ConfigError(f"build scenes: --shots with --kind {kind}; expected train or train_other_style")
    if negatives_frac is not None or object_scale != 1:
        raise ConfigError("build scenes: --grid with --negatives-frac or --object-scale; expected neither of them")
