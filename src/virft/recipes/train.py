"""Train a model by a config: check everything that can be refused, then train, then save the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from virft.config.schema import Config, DtypeName, GRPOConfig, Method
from virft.data.training_data import TrainingData
from virft.errors import ConfigError, DataError
from virft.files import writing
from virft.generation.vllm_generator import VLLMGenerator
from virft.inference.prompting import Prompting
from virft.models.load import LoadedModel
from virft.origin import source_commit
from virft.publishing.card_facts import card_facts
from virft.publishing.model_card import model_card
from virft.recipes.evaluate import PredictionSettings, make_validator
from virft.recipes.preflight import CheckedRun, batch_size, check_run, run_warnings
from virft.recipes.run_header import ParameterCounts, count_parameters, header_lines
from virft.recipes.setup import (
    build_augmenter,
    check_run_prompts,
    load_for_training,
    loop_settings,
    make_prompting,
    make_runtime,
    make_trackers,
    reward_parts,
    sampler_warnings,
)
from virft.recipes.trainers import make_grpo_trainer, make_sft_trainer, require_engine, require_strategy
from virft.training.distributed import Ranks
from virft.training.grpo.base_filter import in_range, sample_base
from virft.training.grpo.trainer import GRPOTrainer
from virft.training.loop import Augment, Trainer, TrainingLoop
from virft.training.monitors import RewardParts
from virft.training.run import BEST, EVENTS, MODEL, RunFolder, describe_start, run_card
from virft.training.runtime import Runtime
from virft.training.sft.base_targets import (
    base_groups,
    describe_selection,
    describe_threshold,
    rejection_targets,
    selected_ids,
)
from virft.types import Sample

EVAL = "eval"
"""Folder of predictions in a run folder."""


def run_training(
    config: Config,
    method: Method,
    *,
    resume: bool,
    log: Callable[[str], None],
    checked: CheckedRun | None = None,
    same_start: Path | None = None,
) -> Path:
    """Train as the config says; the folder of the trained model, ``model`` in ``run.dir``.

    Nothing is written before everything that can be refused is checked; ``checked`` is the result of ``check_run`` if
    the caller has called it. ``same_start``: the folder of a run that starts from the same model, whose validation
    before the first step need not be repeated. With several ranks (`accelerate launch`) all call this function; rank 0
    writes and prints. Raises ``ConfigError``, ``DataError``, ``ModelError`` or ``RunError``.
    """
    _refuse_launcher_options()
    runtime = make_runtime(config.model, config.parallel, resumed=Path(config.run.dir) if resume else None)
    ranks = runtime.ranks
    log = log if ranks.is_first else _discard
    _require_sample_per_rank(method, batch_size(config, method), ranks)
    require_strategy(runtime, shard_size=config.parallel.shard_size)
    if method == "grpo":
        require_engine(config.sampling, runtime)
    checked = checked or check_run(config, method, resume=resume)
    data = checked.data
    loaded = load_for_training(config.model, runtime, seed=config.seed)
    # counted before ranks shard the weights
    size = count_parameters(loaded.model)
    prompting = make_prompting(config.prompt, config.mixture, loaded)
    warnings = check_run_prompts(loaded, prompting, checked) + sampler_warnings(checked, loaded, size.total, runtime)
    make = make_grpo_trainer if method == "grpo" else make_sft_trainer
    made: Trainer = make(config, loaded, prompting, runtime, (sample.query for sample in data))
    with closing(made) as trainer:
        engine = trainer.generator if isinstance(trainer, GRPOTrainer) else None
        validate = _make_validator(
            checked, loaded, prompting, runtime, same_start, engine if isinstance(engine, VLLMGenerator) else None
        )
        if (line := describe_start(Path(config.run.dir), resume=resume)) is not None:
            log(line)
        facts = _card_facts(checked, loaded, prompting, runtime)
        run = _open_run(config, method, resume=resume, data_hash=data.hash, facts=facts, ranks=ranks)
        save = partial(_save, loaded, run.folder, ranks=ranks, dtype=_save_dtype(config))
        _print_header(run, checked, loaded, size, runtime, warnings, log)
        with make_trackers(config, run.folder, runtime) as trackers:
            augment = build_augmenter(config.augment, seed=config.seed)
            parts = RewardParts()
            batch = _sft_batches(config, data, loaded, prompting, log) if method == "sft" else data.batch
            if isinstance(trainer, GRPOTrainer):
                parts = reward_parts(trainer.grader, {sample.task for sample in data})
                data = _filter_by_base_score(config.grpo, trainer, data, run, log)
                trainer.refill = _make_refill(config.grpo.steps, data, augment)
                batch = data.batch
            num_steps = (config.grpo if method == "grpo" else config.sft).steps
            TrainingLoop(
                trainer=trainer,
                batch=batch,
                run_folder=run,
                settings=loop_settings(
                    config.run,
                    config.monitors,
                    num_steps=num_steps,
                    validate_every=config.data.validate_every,
                    parts=parts,
                    warm_start_steps=config.grpo.warm_start_steps if method == "grpo" else 0,
                ),
                log=log,
                validate=validate,
                augment=augment,
                save_best=partial(save, BEST) if config.run.keep_best else None,
                trackers=trackers,
                ranks=ranks,
                peak_flops=runtime.peak_flops,
            ).run()
    with writing(run.folder, lambda: "all steps are done and saved; resume with --resume, which saves the model"):
        save(MODEL)
    return run.folder / MODEL


def _refuse_launcher_options() -> None:
    """Raise ``ConfigError`` for options of `accelerate launch` that would have no effect."""
    plugins = {
        "--use_deepspeed": os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true",
        "--use_fsdp": os.environ.get("ACCELERATE_USE_FSDP") == "true",
    }
    for option, is_set in plugins.items():
        if is_set:
            raise ConfigError(
                f"accelerate launch {option} has no effect here; expected none, and parallel.strategy = "
                '"fsdp2", "zero2" or "zero3"'
            )
    if (precision := os.environ.get("ACCELERATE_MIXED_PRECISION", "no")) != "no":
        raise ConfigError(
            f"accelerate launch --mixed_precision {precision} has no effect here; expected no, and a model.dtype"
        )


def _require_sample_per_rank(method: Method, batch_size: int, ranks: Ranks) -> None:
    """Raise ``ConfigError`` if a step has fewer samples than there are ranks."""
    if batch_size < ranks.count:
        key = "grpo.prompts_per_step" if method == "grpo" else "sft.samples_per_step"
        raise ConfigError(f"{key} is {batch_size} with {ranks.count} processes; expected at least one for each")


def _make_validator(
    run: CheckedRun,
    loaded: LoadedModel,
    prompting: Prompting,
    runtime: Runtime,
    same_start: Path | None,
    engine: VLLMGenerator | None,
) -> Callable[[int], Mapping[str, float]] | None:
    config = run.config
    settings = PredictionSettings(
        prompting=prompting,
        max_completion_tokens=config.sampling.max_completion_tokens,
        model_name=config.model.path,
        engine=engine,
    )
    folder = Path(config.run.dir) / EVAL
    first = None if same_start is None else same_start / EVAL
    return make_validator(loaded, run.validation, folder, settings=settings, runtime=runtime, first=first)


def _warn(event: str, message: str, run: RunFolder, log: Callable[[str], None]) -> None:
    """Print and record a warning about the run; a resumed run has recorded it already."""
    log(f"warning: {message}")
    if not any(one["event"] == event for one in run.records(EVENTS)):
        # an incident: a rollback to step 0 must not remove it
        run.append_event(0, event, action="continued", message=message, is_incident=True)


def _card_facts(run: CheckedRun, loaded: LoadedModel, prompting: Prompting, runtime: Runtime) -> dict[str, Any]:
    """Facts for the card of the run, which the model card needs too."""
    facts = card_facts(
        model=run.config.model.path,
        box_space=loaded.family.box_space,
        template=prompting.template,
        stores=run.data.stores,
        dtype=runtime.dtype_name,
        device=runtime.device_name,
    )
    return facts | ({"excluded": sorted(run.data.excluded)} if run.data.excluded else {})


def _open_run(
    config: Config, method: Method, *, resume: bool, data_hash: str, facts: Mapping[str, Any], ranks: Ranks
) -> RunFolder:
    """The run folder: rank 0 opens it when all ranks have seen that they may use it, then the others join.

    ``facts`` about base model, prompts and data are what the model card of the run needs.
    """
    ranks.barrier()
    run = None
    if ranks.is_first:
        card = run_card(
            trainer=method,
            commit=source_commit(),
            data_hash=data_hash,
            model=config.model.path,
            seed=config.seed,
            num_processes=ranks.count,
            **facts,
        )
        run = RunFolder.open(config, resume=resume, card=card)
    ranks.barrier()
    return run or RunFolder.join(Path(config.run.dir))


def _filter_by_base_score(
    grpo: GRPOConfig, trainer: GRPOTrainer, data: TrainingData, run: RunFolder, log: Callable[[str], None]
) -> TrainingData:
    """The data without samples that are too easy or too hard for the base model (``grpo.min_base_score``)."""
    if not grpo.filters:
        return data
    samples = list(data)
    groups = sample_base(trainer, samples, run.folder, batch_size=grpo.prompts_per_step, ranks=trainer.ranks, log=log)
    scores = {name: group.mean_score for name, group in groups.items()}
    least, most = grpo.min_base_score, grpo.max_base_score
    chosen = in_range(scores, least=least, most=most)
    log(f"{len(chosen)} of {len(samples)} samples have a base-model score from {least:g} to {most:g}")
    return data.only(chosen)


def _print_header(
    run: RunFolder,
    checked: CheckedRun,
    loaded: LoadedModel,
    size: ParameterCounts,
    runtime: Runtime,
    warnings: Sequence[tuple[str, str]],
    log: Callable[[str], None],
) -> None:
    """Print the facts about a run that starts, notes about its model, and warnings (events with their messages)."""
    for line in (*header_lines(checked, size, runtime), *(f"note: {note}" for note in loaded.notes)):
        log(line)
    for event, message in (*run_warnings(checked), *warnings):
        _warn(event, message, run, log)


def _sft_batches(
    config: Config, data: TrainingData, loaded: LoadedModel, prompting: Prompting, log: Callable[[str], None]
) -> Callable[[int], list[Sample]]:
    """Step -> its samples, with the targets of ``sft.targets``."""
    sft = config.sft
    if sft.targets == "labels":
        return data.batch
    groups = base_groups(sft, data)
    chosen = selected_ids(sft, groups)
    if sft.targets == "curated":
        log(f"curated SFT: {describe_selection(len(chosen), len(groups))} have a {describe_threshold(sft)}")
        return data.batch
    targets = rejection_targets(
        sft,
        (sample for sample in data if sample.id in chosen),
        groups,
        space=loaded.family.box_space,
        thinking_for=prompting.thinking_for,
        seed=config.seed,
    )
    if not targets.by_id:
        raise DataError("sft.targets is rejection, and no correct completion of the base model can be a target")
    number = sum(map(len, targets.by_id.values()))
    log(
        f"rejection SFT: {describe_selection(len(targets.by_id), len(groups))} have a {describe_threshold(sft)}; "
        f"{number} targets"
    )
    usable = data.only(targets.by_id)
    return lambda number: targets.batch(usable.batch(number), number)


def _make_refill(num_steps: int, data: TrainingData, augment: Augment | None) -> Callable[[int, int], list[Sample]]:
    """Replacement samples of dynamic sampling: (step, round) -> the batch of that step, as many whole runs later.

    A pure function of step and round, so a resumed run gets the same ones.
    """

    def refill(number: int, turn: int) -> list[Sample]:
        samples = data.batch(turn * num_steps + number)
        if augment is None:
            return samples
        # an index of its own for each round, so that a sample that recurs gets another augmentation
        return [augment(sample, number, turn * len(samples) + place) for place, sample in enumerate(samples)]

    return refill


def _save_dtype(config: Config) -> DtypeName | None:
    """The precision of saved weights of full training; None for adapters, which are saved as they are."""
    return None if config.model.train == "lora" else config.run.save_dtype


def _save(loaded: LoadedModel, run: Path, name: str, *, ranks: Ranks, dtype: DtypeName | None) -> None:
    """Save the current model with its model card into the folder ``name`` of a run."""
    # every rank takes part in gathering the weights
    with loaded.gathered() as gathered:
        if ranks.is_first:
            readme = model_card(run, model=name, adapters=gathered.saves_adapters)
            gathered.save(run / name, readme=readme, dtype=dtype)
    ranks.barrier()


def _discard(line: str) -> None:
    """The log of ranks other than 0."""
