"""The quickstart: teach a built-in model new classes by reward, by supervision and by both; compare the results.

Two kinds: scenes of icons, drawn for ``virft-tiny``, and photographs for ``virft-photo``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from virft.config.schema import (
    AugmentConfig,
    CompareConfig,
    Config,
    DataConfig,
    GRPOConfig,
    ModelConfig,
    RewardConfig,
    RunConfig,
    SamplingConfig,
    SFTConfig,
)
from virft.data.annotations import Skipped
from virft.data.detection_questions import QuestionPlan, write_detection_stores
from virft.data.images import load_image
from virft.data.sampling import SplitPlan
from virft.data.sources.coco import open_coco, read_coco
from virft.data.sources.scenes import write_few_shot_scenes, write_test_scenes
from virft.data.store import Store
from virft.errors import RunError
from virft.evaluation.predictions import SizedPrediction, read_predictions, read_predictions_card
from virft.models.tiny import IMAGE_SIZE
from virft.recipes.compare.page import compare_page
from virft.recipes.compare.runs import COMPARE, Compared, run_compare
from virft.recipes.compare.text import compared_text
from virft.report import REPORT
from virft.report.render.images import BeforeAfter, before_after_sheet
from virft.report.render.page import html_table
from virft.report.render.reported import Section
from virft.scenes.assets import class_names
from virft.scenes.sets import SceneKind
from virft.tasks import TASKS
from virft.types import Answer, Sample

PHOTO_NAME = "virft-photo"
SHOTS = 4
STEPS = 60
_LEARNING_RATE = 3e-4
"""Of all methods. The best of three for SFT and RFT with four images per class (docs/reproducing.md)."""
TEST_QUESTIONS = 200
TESTS = {
    "same_sprites": ("novel", SceneKind.SAME_SPRITES),
    "other_style": ("novel", SceneKind.OTHER_STYLE),
    "never_trained": ("heldout", SceneKind.SAME_SPRITES),
}
"""Test set -> its classes and scenes: trained classes on unseen backgrounds, in another style, and other classes."""

TEST_DESCRIPTIONS = {
    "same_sprites": "the trained classes in unseen scenes",
    "other_style": "the trained classes in images of another style",
    "never_trained": "classes that are not in the training data, as a control",
}


WHITE_CELLS = "test"
"""The test set of the photographs."""


class QuickstartKind(NamedTuple):
    """Texts and tests of one kind of quickstart."""

    title: str
    intro: str
    """First sentences of the page."""
    tests: Mapping[str, str]
    """Test set -> what it shows; the first one is shown in the sheet of images."""
    shown: str
    """The system whose predictions are shown next to those of the base model."""


ICONS = QuickstartKind(
    title="virft quickstart",
    intro=(
        f"The built-in model was trained on {SHOTS} labelled images of each of {len(class_names('novel'))} new "
        "classes: on the ground truth (SFT), on its own completions with rule-based rewards (RFT), and on both (mix). "
        "All runs use the same samples and the same number of steps."
    ),
    tests=TEST_DESCRIPTIONS,
    shown="rft",
)
PHOTOGRAPHS = QuickstartKind(
    title="virft quickstart on photographs",
    intro=(
        "The built-in model for photographs was trained to find white blood cells on 32 labelled micrographs: on the "
        "ground truth (SFT), on its own completions with rule-based rewards (RFT), and on both (mix, as virft train "
        "does). All runs use the same samples and the same number of steps."
    ),
    tests={WHITE_CELLS: "white blood cells on 108 other micrographs"},
    shown="mix",
)


def _common_config(out: Path, *, seed: int, steps: int, tests: Iterable[str]) -> Config:
    warmup_steps = min(5, steps - 1)
    return Config(
        seed=seed,
        model=ModelConfig(dtype="float32"),
        data=DataConfig(train=str(out / "data" / "train")),
        augment=AugmentConfig(resized_crop=0.35, horizontal_flip=True, colour_jitter=0.3),
        sampling=SamplingConfig(max_completion_tokens=128),
        reward=RewardConfig(weights={"confidence": 0.1}, iou_threshold=0.0, iou_threshold_end=0.5),
        grpo=GRPOConfig(
            steps=steps,
            prompts_per_step=16,
            group_size=8,
            learning_rate=_LEARNING_RATE,
            name_lr_scale=10.0,
            schedule="cosine",
            warmup_steps=warmup_steps,
            kl_coef=0.0,
            demonstrations="loss",
            demonstration_coef=0.5,
            demonstration_coef_end=0.0,
        ),
        sft=SFTConfig(learning_rate=_LEARNING_RATE, name_lr_scale=10.0, warmup_steps=warmup_steps),
        compare=CompareConfig(
            systems=("sft", "rft", "mix"), seeds=1, tests=tuple(str(out / "data" / test) for test in tests)
        ),
        run=RunConfig(dir=str(out / "compare"), save_every=50, log_every=5),
    )


def quickstart_config(out: Path, *, seed: int, steps: int = STEPS) -> Config:
    """Settings of the comparison, equal to ``configs/quickstart.toml``."""
    return _common_config(out, seed=seed, steps=steps, tests=TESTS)


def write_data(out: Path, *, seed: int, renamed: Mapping[str, str] | None = None) -> None:
    """Write the few-shot training set and the test sets, unless they exist: the same seed gives the same bytes.

    ``renamed``: class -> another name that training uses for it, as a control.
    """
    common: dict[str, Any] = {"task": "detection", "seed": seed, "size": IMAGE_SIZE}
    if not (out / "train").exists():
        write_few_shot_scenes(out / "train", classes=class_names("novel"), shots=SHOTS, renamed=renamed, **common)
    for name, (split, kind) in TESTS.items():
        if not (out / name).exists():
            write_test_scenes(out / name, classes=class_names(split), num_questions=TEST_QUESTIONS, kind=kind, **common)


def photo_quickstart_config(out: Path, *, seed: int, steps: int = STEPS) -> Config:
    """Settings of the comparison on photographs, equal to ``configs/quickstart_photo.toml``."""
    common = _common_config(out, seed=seed, steps=steps, tests=(WHITE_CELLS,))
    return replace(common, model=replace(common.model, path=PHOTO_NAME))


def write_photographs(out: Path, *, seed: int) -> None:
    """Write the shipped micrographs as a training and a test set, unless they exist; ``seed`` is recorded only."""
    if all((out / part).exists() for part in ("train", WHITE_CELLS)):
        return
    folder = Path(str(resources.files("virft") / "data" / "white_cells"))
    skipped = Skipped(strict=True)
    annotated = read_coco(open_coco(folder / "annotations.json"), folder, skipped=skipped)
    published = {name: name.split("/")[0] for name in annotated.images}
    write_detection_stores(
        annotated,
        out,
        plan=QuestionPlan(every_class=True, split=SplitPlan(seed=seed, published=published)),
        source={"kind": "white_cells"},
        skipped=skipped,
        overwrite=True,
    )


def run_quickstart(
    out: Path,
    *,
    seed: int,
    steps: int | None,
    resume: bool,
    log: Callable[[str], None],
    renamed: Mapping[str, str] | None = None,
    photographs: bool = False,
) -> Compared:
    """Write the data, train, evaluate, compare, and write the page. ``renamed``, of icons only, as in ``write_data``.

    Raises ``RunError`` if ``out`` holds anything but a quickstart of this kind that is to be resumed.
    """
    kind = PHOTOGRAPHS if photographs else ICONS
    make_config = photo_quickstart_config if photographs else quickstart_config
    config = make_config(out, seed=seed, steps=steps or STEPS)
    _require_new_quickstart(out, kind, seed=seed, resume=resume)
    if photographs:
        log("writing 32 labelled micrographs, and 108 others as test set")
        write_photographs(out / "data", seed=seed)
    else:
        log(f"drawing {SHOTS} images of each of {len(class_names('novel'))} new classes, and the tests")
        write_data(out / "data", seed=seed, renamed=renamed)
    found = run_compare(config, resume=(out / "compare" / COMPARE).exists(), log=log)
    rows = before_after_rows(found, out, next(iter(kind.tests)), system=kind.shown, count=12)
    before_after_sheet(rows).save(out / "before_after.png")
    (out / REPORT).write_text(_page(found, kind), encoding="utf-8")
    log(compared_text(found))
    log(f"report with images: {out / REPORT}")
    return found


def _require_new_quickstart(out: Path, kind: QuickstartKind, *, seed: int, resume: bool) -> None:
    """Raise ``RunError`` if the folder holds anything but a quickstart of this kind and seed that is to be resumed."""
    if (out / "compare").exists():
        if not resume:
            raise RunError(f"{out}: already holds a quickstart; resume with --resume, or choose another folder")
    elif out.exists() and (not out.is_dir() or any(file.name != "data" for file in out.iterdir())):
        raise RunError(f"{out}: is not empty and holds no quickstart; choose another folder")
    for card in sorted(out.glob("data/*/card.json")):
        if card.parent.name not in ("train", *kind.tests):
            raise RunError(f"{out}: holds another kind of quickstart; choose another folder")
        if (found := json.loads(card.read_text(encoding="utf-8"))["seed"]) != seed:
            raise RunError(f"{card.parent}: was drawn with seed {found}, not {seed}; choose another folder")


def _page(found: Compared, kind: QuickstartKind) -> str:
    tests = html_table(["test", "content"], kind.tests.items(), of_texts=True)
    return compare_page(found, title=kind.title, intro=kind.intro, sections=[Section(heading="Test sets", body=tests)])


def before_after_rows(found: Compared, out: Path, test: str, *, count: int, system: str = "rft") -> list[BeforeAfter]:
    """Up to ``count`` samples of a test with predictions of base and ``system``, first those that differ."""
    store = Store(out / "data" / test)
    before, after = (found.predictions[name][test][0] for name in ("base", system))
    texts = (read_predictions(before), read_predictions(after))
    chosen = sorted(range(len(store)), key=lambda i: _same_text(texts, store[i].id))[:count]
    card = read_predictions_card(after)

    def answer(sample: Sample, predictions: Mapping[str, SizedPrediction]) -> Answer:
        prediction, resized = predictions[sample.id]
        task = TASKS[sample.task]
        reading = task.read_for(prediction.text, sample, thinking=card.thinking, space=card.box_space, resized=resized)
        return reading.answer

    return [
        BeforeAfter(
            image=load_image(sample.images[sample.target_image]),
            task=sample.task,
            question=sample.query,
            target=sample.target,
            before=answer(sample, texts[0]),
            after=answer(sample, texts[1]),
        )
        for sample in (store[i] for i in sorted(chosen))
    ]


def _same_text(texts: tuple[Mapping[str, SizedPrediction], ...], sample_id: str) -> bool:
    return texts[0][sample_id].prediction.text == texts[1][sample_id].prediction.text
