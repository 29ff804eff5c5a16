"""The quickstart: teach the built-in model new classes by reward alone, and show what changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from virft.assembly import (
    Asking,
    evaluate,
    load_for_training,
    loop_settings,
    make_look_at,
    make_trainer,
    source_commit,
)
from virft.boxes import BoxSpace
from virft.config import AugmentConfig, Config, DataConfig, GRPOConfig, RewardConfig, RunConfig, SamplingConfig
from virft.data.images import load_image
from virft.data.sources.scenes import write_few_shot_scenes, write_test_scenes
from virft.data.store import Store
from virft.data.training_data import open_training_data
from virft.errors import RunError
from virft.evaluation.predictions import (
    PREDICTIONS,
    PredictionsCard,
    SizedPrediction,
    read_predictions,
    read_predictions_card,
)
from virft.evaluation.score import score_predictions
from virft.model_card.facts import card_facts
from virft.models.load import load_model
from virft.models.tiny import IMAGE_SIZE, TINY_NAME
from virft.report.page import html_table
from virft.report.pictures import BeforeAfter, before_after_sheet
from virft.report.reported import Section
from virft.report.run_page import render_run_page
from virft.run_report import read_systems
from virft.scenes.assets import class_names
from virft.scenes.sets import SceneKind
from virft.tasks import TASKS
from virft.train import save_with_card
from virft.training.loop import run_training
from virft.training.progress import Progress
from virft.training.run import RunFolder, run_card
from virft.types import Answer, Sample, Scores, TaskName

SHOTS = 4
STEPS = 120
TEST_QUESTIONS = 320
MAX_COMPLETION_TOKENS = 128
TESTS = {
    "same_sprites": ("novel", SceneKind.SAME_SPRITES),
    "other_style": ("novel", SceneKind.OTHER_STYLE),
    "never_trained": ("heldout", SceneKind.SAME_SPRITES),
}
"""Test set -> its classes and scenes: the learnt classes on unseen backgrounds, in another style, and others."""

ASKED = {
    "same_sprites": "the learnt classes, in scenes it has not seen",
    "other_style": "the learnt classes in another style of pictures",
    "never_trained": "other classes that it was never taught, as a control",
}

SHOWN = ("f1", "precision", "recall", "false_positive_rate", "duplicates_per_question", "unreadable_frac")


def quickstart_config(out: Path, *, seed: int, steps: int = STEPS) -> Config:
    """The run's settings; a copy with comments is ``configs/quickstart.toml``."""
    return Config(
        seed=seed,
        data=DataConfig(train=str(out / "data" / "train")),
        augment=AugmentConfig(zoom=0.35, mirror=True, tones=0.3),
        sampling=SamplingConfig(max_completion_tokens=MAX_COMPLETION_TOKENS),
        reward=RewardConfig(weights={"confidence": 0.1}, iou_threshold=0.0, iou_threshold_end=0.5),
        grpo=GRPOConfig(
            steps=steps,
            prompts_per_step=16,
            group_size=8,
            learning_rate=1e-4,
            name_lr_scale=10.0,
            schedule="cosine",
            warmup_steps=min(5, steps - 1),
            kl_coef=0.0,
        ),
        run=RunConfig(dir=str(out / "run"), save_every=50, log_every=5),
    )


def write_data(out: Path, *, seed: int, renamed: Mapping[str, str] | None = None) -> None:
    """The few-shot training set and the tests. What is there is kept: the same seed gives the same bytes.

    ``renamed``: class -> the name it is asked by in training, a control.
    """
    common: dict[str, Any] = {"task": TaskName.DETECTION, "seed": seed, "size": IMAGE_SIZE}
    if not (out / "train").exists():
        write_few_shot_scenes(out / "train", classes=class_names("novel"), shots=SHOTS, renamed=renamed, **common)
    for name, (split, kind) in TESTS.items():
        if not (out / name).exists():
            write_test_scenes(out / name, classes=class_names(split), num_questions=TEST_QUESTIONS, kind=kind, **common)


def run_quickstart(
    out: Path,
    *,
    seed: int,
    steps: int | None,
    resume: bool,
    say: Callable[[str], None],
    renamed: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Scores]]:
    """All of it; returns the scores of "base" and "rft" by test set. ``renamed`` as in ``write_data``."""
    config = quickstart_config(out, seed=seed, steps=steps or STEPS)
    _require_free(out, seed=seed, resume=resume)
    say(f"drawing {SHOTS} images of each of {len(class_names('novel'))} new classes, and the tests")
    write_data(out / "data", seed=seed, renamed=renamed)
    train = open_training_data(config, batch_size=config.grpo.prompts_per_step)
    train.check()
    run = RunFolder.open(
        config,
        resume=resume,
        card=run_card(
            trainer="grpo",
            commit=source_commit(),
            data_hash=train.hash,
            model=TINY_NAME,
            **card_facts(model=TINY_NAME, box_space=BoxSpace.RELATIVE_1000, template="short", stores=train.stores),
        ),
    )
    scores = {"base": _scores_of("base", TINY_NAME, out, say)}
    final = run.folder / "model"
    if not final.exists():
        loaded = load_for_training(config)
        say(f"reinforcing: {config.grpo.steps} steps, {config.grpo.prompts_per_step} questions x "
            f"{config.grpo.group_size} answers each")  # fmt: skip
        run_training(
            make_trainer(config, loaded, (sample.query for sample in train)),
            train.batch,
            run,
            loop_settings(config, num_steps=config.grpo.steps),
            say=say,
            look_at=make_look_at(config),
        )
        save_with_card(loaded, run.folder, final.name)
    scores["rft"] = _scores_of("rft", str(final), out, say)
    (out / "scores.json").write_text(json.dumps(_as_json(scores), indent=2) + "\n")
    _write_page(out)
    say(comparison_text(scores))
    say(f"pictures: {out / 'report.html'}")
    return scores


def _require_free(out: Path, *, seed: int, resume: bool) -> None:
    """``RunError`` where the folder holds a quickstart that is not to be resumed, or anything else."""
    if (out / "run").exists():
        if not resume:
            raise RunError(f"{out}: already holds a quickstart; go on with --resume, or name another folder")
    elif out.exists() and (not out.is_dir() or any(file.name != "data" for file in out.iterdir())):
        raise RunError(f"{out}: is not empty and holds no quickstart; name another folder")
    for card in sorted(out.glob("data/*/card.json")):
        if (found := json.loads(card.read_text(encoding="utf-8"))["seed"]) != seed:
            raise RunError(f"{card.parent}: was drawn with seed {found}, not {seed}; name another folder")


def _scores_of(name: str, model: str, out: Path, say: Callable[[str], None]) -> dict[str, Scores]:
    """Scores of a model on all tests; answers that are there already are only scored."""
    loaded = None
    found: dict[str, Scores] = {}
    for test in TESTS:
        store = Store(out / "data" / test)
        folder = out / "run" / "eval" / name / test
        if (folder / PREDICTIONS).exists():
            found[test] = score_predictions(folder / PREDICTIONS, store)[0]
            continue
        loaded = loaded or load_model(model)
        progress = Progress(len(store))
        found[test] = evaluate(
            loaded,
            store,
            folder,
            asking=Asking(
                template="auto",
                thinking=False,
                max_completion_tokens=MAX_COMPLETION_TOKENS,
                model_name=model,
                resume=folder.exists(),
            ),
        )[0]
        say(f"{name} on {test}: F1 {found[test].values['f1']:.3f}  ({progress.tell(len(store))})")
    return found


def comparison_text(scores: Mapping[str, Mapping[str, Scores]]) -> str:
    """The result as a plain table."""
    widths = [max(8, len(name) + 2) for name in SHOWN]
    table = [["", *SHOWN], *_rows(scores)]
    return "\n".join(
        f"{row[0]:24}" + "".join(f"{cell:>{width}}" for cell, width in zip(row[1:], widths, strict=True))
        for row in table
    )


def _rows(scores: Mapping[str, Mapping[str, Scores]]) -> list[list[str]]:
    return [
        [f"{test} {name}", *(f"{scores[name][test].values[value]:.3f}" for value in SHOWN)]
        for test in TESTS
        for name in scores
    ]


def _as_json(scores: Mapping[str, Mapping[str, Scores]]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        name: {test: {k: round(v, 6) for k, v in one.values.items()} for test, one in tests.items()}
        for name, tests in scores.items()
    }


def _write_page(out: Path) -> None:
    before_after_sheet(before_after_rows(out, "same_sprites", count=12)).save(out / "before_after.png")
    systems, notes = read_systems([out / "run"])
    systems = tuple(replace(one, answers={test: one.answers[test] for test in TESTS}) for one in systems)
    page = render_run_page(
        systems,
        title="virft quickstart",
        intro=(
            f"The built-in model was shown {SHOTS} labelled images of each of {len(class_names('novel'))} classes it "
            "had never been taught. It was not told the right text: it answered, and rules rewarded the answers."
        ),
        sections=[Section(heading="What was asked", body=html_table(["test", "what"], ASKED.items(), of_texts=True))],
        notes=notes,
    )
    (out / "report.html").write_text(page, encoding="utf-8")


def before_after_rows(out: Path, test: str, *, count: int) -> list[BeforeAfter]:
    """The first questions of a test that a base and a tuned model answered differently, then others."""
    store = Store(out / "data" / test)
    texts = {name: read_predictions(out / "run" / "eval" / name / test / PREDICTIONS) for name in ("base", "rft")}
    card = read_predictions_card(out / "run" / "eval" / "rft" / test / PREDICTIONS)
    chosen = sorted(range(len(store)), key=lambda i: _same_text(texts, store[i].id))[:count]
    return [_before_after(store[i], texts, card) for i in sorted(chosen)]


_Texts = Mapping[str, Mapping[str, SizedPrediction]]
"""Model ("base" or "rft") -> sample id -> what it wrote."""


def _same_text(texts: _Texts, sample_id: str) -> bool:
    return texts["base"][sample_id].prediction.text == texts["rft"][sample_id].prediction.text


def _before_after(sample: Sample, texts: _Texts, card: PredictionsCard) -> BeforeAfter:
    def answer(name: str) -> Answer:
        prediction, resized = texts[name][sample.id]
        task = TASKS[sample.task]
        reading = task.read_for(prediction.text, sample, thinking=card.thinking, space=card.box_space, resized=resized)
        return reading.answer

    return BeforeAfter(
        image=load_image(sample.images[sample.target_image]),
        question=sample.query,
        target=sample.target,
        before=answer("base"),
        after=answer("rft"),
    )
