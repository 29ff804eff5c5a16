"""A training run from its config: everything is checked, then trained, then saved."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from virft.config.schema import Config, Method
from virft.data.training_data import TrainingData, open_training_data
from virft.errors import ConfigError
from virft.files import writing
from virft.inference.prompting import template_text
from virft.models.load import LoadedModel
from virft.origin import source_commit
from virft.publishing.card_facts import card_facts
from virft.publishing.model_card import model_card
from virft.recipes.evaluate import validator
from virft.recipes.setup import (
    load_for_training,
    loop_settings,
    make_look_at,
    make_sft_trainer,
    make_trackers,
    make_trainer,
    require_engine,
    require_rationales,
    require_strategy,
)
from virft.training.distributed import Ranks, ranks
from virft.training.grpo.base_filter import in_range, score_base
from virft.training.grpo.trainer import GRPOTrainer
from virft.training.loop import LookAt, Trainer, run_training
from virft.training.run import BEST, MODEL, RunFolder, require_free, run_card
from virft.training.trackers import require_installed
from virft.types import Sample


def training_data(config: Config, trainer: Method) -> TrainingData:
    """What a run by this trainer learns from, step by step."""
    per_step = config.grpo.prompts_per_step if trainer == "grpo" else config.sft.samples_per_step
    return open_training_data(config, batch_size=per_step)


def train(config: Config, trainer: Method, *, resume: bool, say: Callable[[str], None]) -> Path:
    """Trains as the config says; the folder of the trained model, ``model`` of ``run.dir``.

    Nothing is written before all that can be refused was looked at. With several processes (`accelerate launch`) all
    call this; one writes, and says what there is to say.
    """
    _require_no_plugins()
    among = ranks()
    _require_work(config, trainer, among)
    require_strategy(config)
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
        facts = card_facts_of(config, loaded, data)
        run = _open_run(config, trainer, resume=resume, data_hash=data.hash, among=among, facts=facts)
        with make_trackers(config, run.folder) as trackers:
            tell, look_at = say if among.is_first else _say_nothing, make_look_at(config)
            if isinstance(made, GRPOTrainer):
                data = _worth_learning(config, made, data, run, among, tell)
                made.refill = _refill_of(config, data, look_at)
            run_training(
                made,
                data.batch,
                run,
                loop_settings(config, num_steps=config.grpo.steps if trainer == "grpo" else config.sft.steps),
                say=tell,
                validate=validate,
                look_at=look_at,
                keep_best=(lambda: _save(loaded, run.folder, BEST, among)) if config.run.keep_best else None,
                trackers=trackers,
                ranks=among,
            )
    with writing(run.folder, lambda: "the run is whole and all is trained; go on with --resume, which saves the model"):
        _save(loaded, run.folder, MODEL, among)
    return run.folder / MODEL


def _worth_learning(
    config: Config, trainer: GRPOTrainer, data: TrainingData, run: RunFolder, among: Ranks, say: Callable[[str], None]
) -> TrainingData:
    """The data without samples that the untrained model answers too well or too badly (``grpo.min_base_score``)."""
    if not config.grpo.filters:
        return data
    samples = list(data)
    scores = score_base(trainer, samples, run.folder, batch_size=config.grpo.prompts_per_step, ranks=among, say=say)
    least, most = config.grpo.min_base_score, config.grpo.max_base_score
    kept = in_range(scores, least=least, most=most)
    say(f"{len(kept)} of {len(samples)} samples have a score from {least:g} to {most:g} by the untrained model")
    return data.only(kept)


def _refill_of(config: Config, data: TrainingData, look_at: LookAt | None) -> Callable[[int, int], list[Sample]]:
    """What a step may take in a further round: the samples of a step that lies as many whole runs ahead."""

    def refill(number: int, turn: int) -> list[Sample]:
        samples = data.batch(turn * config.grpo.steps + number)
        if look_at is None:
            return samples
        return [look_at(sample, number, turn * len(samples) + place) for place, sample in enumerate(samples)]

    return refill


def card_facts_of(config: Config, loaded: LoadedModel, data: TrainingData) -> dict[str, Any]:
    """What the card of a run says of its base, its data, and how the model is asked."""
    return card_facts(
        model=config.model.path,
        box_space=loaded.family.box_space,
        template=template_text(loaded, config.prompt.template),
        stores=data.stores,
    )


def _require_no_plugins() -> None:
    """``ConfigError`` where `accelerate launch` was told what this would not heed."""
    asked = {
        "--use_deepspeed": os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true",
        "--use_fsdp": os.environ.get("ACCELERATE_USE_FSDP") == "true",
    }
    for option, is_set in asked.items():
        if is_set:
            raise ConfigError(
                f"accelerate launch {option} has no effect here; expected none, and parallel.strategy = "
                '"fsdp2", "zero2" or "zero3"'
            )
    if (precision := os.environ.get("ACCELERATE_MIXED_PRECISION", "no")) != "no":
        raise ConfigError(
            f"accelerate launch --mixed_precision {precision} has no effect here; expected no, and a model.dtype"
        )


def _require_work(config: Config, trainer: Method, among: Ranks) -> None:
    """``ConfigError`` where a step has less to do than there are processes."""
    key, number = (
        ("grpo.prompts_per_step", config.grpo.prompts_per_step)
        if trainer == "grpo"
        else ("sft.samples_per_step", config.sft.samples_per_step)
    )
    if trainer == "grpo" and config.sampling.engine != "builtin" and among.count > 1:
        raise ConfigError(
            f"sampling.engine is {config.sampling.engine} with {among.count} processes; "
            "expected builtin, or one process"
        )
    if number < among.count:
        raise ConfigError(f"{key} is {number} with {among.count} processes; expected at least one for each")


def _open_run(
    config: Config, trainer: Method, *, resume: bool, data_hash: str, among: Ranks, facts: Mapping[str, Any]
) -> RunFolder:
    """The run folder: the first process takes it when all have seen that it is free, then the others join."""
    among.wait()
    run = None
    if among.is_first:
        card = run_card(
            trainer=trainer,
            commit=source_commit(),
            data_hash=data_hash,
            model=config.model.path,
            seed=config.seed,
            num_processes=among.count,
            **facts,
        )
        run = RunFolder.open(config, resume=resume, card=card)
    among.wait()
    return run or RunFolder.join(config)


def _save(loaded: LoadedModel, run: Path, name: str, among: Ranks) -> None:
    """The folder ``name`` of a run, with the model as it is and its model card."""
    with loaded.gathered() as whole:
        if among.is_first:
            whole.save(run / name, readme=model_card(run, model=name, adapters=whole.saves_adapters))
    among.wait()


def _say_nothing(line: str) -> None:
    """What the other processes say."""
