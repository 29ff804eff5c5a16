"""A training run from its config: everything is checked, then trained, then saved."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Literal

from virft.assembly import (
    load_for_training,
    loop_settings,
    make_look_at,
    make_sft_trainer,
    make_trackers,
    make_trainer,
    require_engine,
    require_rationales,
    source_commit,
    validator,
)
from virft.config import Config
from virft.data.training_data import TrainingData, open_training_data
from virft.training.loop import Trainer, run_training
from virft.training.run import RunFolder, require_free, run_card
from virft.training.trackers import require_installed

TrainerName = Literal["grpo", "sft"]

BEST, MODEL = "best", "model"


def training_data(config: Config, trainer: TrainerName) -> TrainingData:
    """What a run by this trainer learns from, step by step."""
    per_step = config.grpo.prompts_per_step if trainer == "grpo" else config.sft.samples_per_step
    return open_training_data(config, batch_size=per_step)


def train(config: Config, trainer: TrainerName, *, resume: bool, say: Callable[[str], None]) -> Path:
    """Trains as the config says; the folder of the trained model, ``model`` of ``run.dir``.

    Nothing is written before all that can be refused was looked at.
    """
    require_installed(config.run.trackers)
    if trainer == "grpo":
        require_engine(config)
    data = training_data(config, trainer)
    require_free(config, resume=resume, data_hash=data.hash, trainer=trainer)
    data.check()
    if trainer == "sft":
        require_rationales(config, data)
    loaded = load_for_training(config)
    names = (sample.query for sample in data)
    make: Callable[..., Trainer] = make_trainer if trainer == "grpo" else make_sft_trainer
    with closing(make(config, loaded, names)) as made:
        validate = validator(config, loaded)
        card = run_card(trainer=trainer, commit=source_commit(), data_hash=data.hash, model=config.model.path)
        run = RunFolder.open(config, resume=resume, card=card)
        with make_trackers(config, run.folder) as trackers:
            run_training(
                made,
                data.batch,
                run,
                loop_settings(config, num_steps=config.grpo.steps if trainer == "grpo" else config.sft.steps),
                say=say,
                validate=validate,
                look_at=make_look_at(config),
                keep_best=partial(loaded.save, run.folder / BEST) if config.run.keep_best else None,
                trackers=trackers,
            )
    loaded.save(run.folder / MODEL)
    return run.folder / MODEL
