"""Evaluate a model on a dataset: write its predictions in batches, then score them. Also validation in training."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch

from virft.config.schema import Config, SamplingConfig
from virft.config.wording import counted
from virft.data.store import Store
from virft.errors import ConfigError, DataError, stopped_by_user
from virft.evaluation.joined import join_predictions
from virft.evaluation.predict import generate_predictions
from virft.evaluation.prediction_run import CONCURRENT, PredictionRun, plan_batches
from virft.evaluation.predictions import (
    DTYPE,
    ENGINE,
    IN_4BIT,
    PREDICTIONS,
    SKIPPED_SAMPLES,
    YES_NO,
    ZOOM,
    PredictionsCard,
    read_predictions_card,
)
from virft.evaluation.score import named_values, score_predictions
from virft.evaluation.yes_no import YES_NO_QUESTION, YesNoConfidence
from virft.generation.hf_generator import HFGenerator
from virft.generation.vllm_generator import VLLMGenerator
from virft.generation.vllm_start import start_vllm, vllm_name
from virft.inference.prompting import Prompting, inspect_prompts, make_renderer, resolve_prompting
from virft.models.load import LoadedModel, load_as_trained
from virft.models.policy import Policy, make_policy
from virft.models.precision import Precision, resolve_dtype
from virft.models.vision import ImageFeatures, VisionInputs
from virft.origin import source_commit
from virft.recipes.own_questions import question_warnings, require_box_space
from virft.tasks import TASKS
from virft.tasks.common_answer import common_answer_metrics
from virft.training.runtime import Runtime, start_runtime
from virft.types import Sample, Scores


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionSettings:
    """The way predictions are made, and what their card says about it."""

    prompting: Prompting
    """Template and thinking mode of the prompts."""
    max_completion_tokens: int
    """Longer predictions are truncated."""
    model_name: str
    """Name or path of the model, for the card."""
    resume: bool = False
    """Keep the predictions that the folder already contains."""
    progress: Callable[[int, int], None] | None = None
    """Called with the number of finished predictions of this rank, and their total."""
    skip_refused: bool = False
    """Predict without the samples whose prompt the model refuses; the card then names them."""
    log: Callable[[str], None] | None = None
    """Called with warnings about the questions, before the first prediction."""
    batch_seed: int | None = None
    """Draw the questions of each batch with this seed; None: questions of similar length share a batch."""
    yes_no: bool = False
    """Compute ``yes_probs`` of the predictions, by a question about each predicted box."""
    engine: VLLMGenerator | None = None
    """Engine that predicts, with the weights of the model; None: the built-in generator."""
    reports_stop: bool = False
    """Ctrl-C raises ``RunStopped`` with the number of saved predictions; False: the caller handles the interrupt."""

    def card(
        self, loaded: LoadedModel, *, data: Store, num_samples: int, skipped: Sequence[str] = ()
    ) -> PredictionsCard:
        """The card that is saved with the predictions; ``skipped``: ids of the samples without one."""
        return PredictionsCard(
            model=self.model_name,
            data=str(data.folder),
            data_hash=data.hash,
            num_samples=num_samples,
            box_space=loaded.family.box_space,
            thinking=self.prompting.thinking,
            settings={
                "template": self.prompting.template,
                "max_completion_tokens": self.max_completion_tokens,
                "temperature": 0.0,
                DTYPE: loaded.precision.dtype,
                IN_4BIT: loaded.precision.in_4bit,
                **({} if self.engine is None else {ENGINE: vllm_name()}),
                "commit": source_commit(),
                **({ZOOM: True} if self.prompting.zoom else {}),
                **({YES_NO: YES_NO_QUESTION} if self.yes_no else {}),
                **({SKIPPED_SAMPLES: list(skipped)} if skipped else {}),
            },
        )


def predict_as_trained(
    config: Config,
    model: str,
    store: Store,
    folder: Path,
    *,
    resume: bool,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    skip_refused: bool = False,
    log: Callable[[str], None] | None = None,
    batch_seed: int | None = None,
    precision: Precision | None = None,
    sampling: SamplingConfig | None = None,
) -> Path:
    """Write a model's predictions for a dataset with image size, prompts and lengths of a run; the path of the file.

    ``batch_seed`` as in ``PredictionSettings``. ``precision``: default is that of the run, as the config and the card
    of the trained model say. ``sampling``: the engine that predicts; None: the built-in generator, whatever the run
    sampled with. Raises ``RunStopped`` after Ctrl-C.
    """
    section = config.model
    if precision is None and section.dtype == "auto" and model == section.path:
        # the base computes as it did in training, whatever it was trained in before
        precision = Precision(resolve_dtype("auto"), section.load_in_4bit)
    loaded = load_as_trained(
        model,
        dtype=section.dtype if precision is None else precision.dtype,
        in_4bit=section.load_in_4bit if precision is None else precision.in_4bit,
        pixels=(section.min_pixels, section.max_pixels),
    )
    runtime = runtime_of(loaded)
    prompting = resolve_prompting(
        loaded,
        template=config.prompt.template,
        thinking=config.prediction_thinking,
        zoom=config.prompt.zoom_calls,
    )
    with prediction_engine(loaded, prompting, runtime, sampling or SamplingConfig()) as engine:
        settings = PredictionSettings(
            prompting=prompting,
            max_completion_tokens=config.sampling.max_completion_tokens,
            model_name=model,
            resume=resume,
            progress=progress,
            skip_refused=skip_refused,
            log=log,
            batch_seed=batch_seed,
            engine=engine,
            reports_stop=True,
        )
        return predict_store(loaded, store, folder, settings=settings, runtime=runtime, limit=limit)


@contextmanager
def prediction_engine(
    loaded: LoadedModel, prompting: Prompting, runtime: Runtime, sampling: SamplingConfig
) -> Iterator[VLLMGenerator | None]:
    """Inside the block, the engine of ``sampling`` with the weights of a model; None for the built-in generator.

    vLLM runs in server processes: it need not sleep, as nothing is trained. Raises ``ConfigError`` as ``start_vllm``
    does, for weights of 4 bits, and for zoom calls.
    """
    if sampling.engine == "builtin":
        yield None
        return
    if prompting.zoom:
        raise ConfigError("the engine is vllm, and zoom calls are on; expected builtin, or no zoom calls")
    if loaded.precision.in_4bit:
        raise ConfigError("the engine is vllm, and the model is loaded in 4 bits; expected builtin, or no 4 bits")
    with closing(
        start_vllm(
            loaded,
            make_policy(loaded, temperature=1.0).rules,
            replace(sampling, vllm_mode="server"),
            dtype=loaded.precision.dtype,
            on_cpu=runtime.device.type == "cpu",
            trainer=runtime.ranks.training_process,
        )
    ) as engine:
        yield engine


def runtime_of(loaded: LoadedModel) -> Runtime:
    """The processes of this run, with the precision of a model that is loaded for inference."""
    return start_runtime(dtype=getattr(torch, loaded.precision.dtype))


def predict_and_score(
    loaded: LoadedModel,
    store: Store,
    folder: Path,
    *,
    settings: PredictionSettings,
    runtime: Runtime,
    limit: int | None = None,
    with_intervals: bool = False,
) -> tuple[Scores, ...]:
    """Write a model's predictions for a dataset, or its first ``limit`` samples, into ``folder`` and score them."""
    path = predict_store(loaded, store, folder, settings=settings, runtime=runtime, limit=limit)
    return score_predictions(path, store, with_intervals=with_intervals)


def predict_store(
    loaded: LoadedModel,
    store: Store,
    folder: Path,
    *,
    settings: PredictionSettings,
    runtime: Runtime,
    limit: int | None = None,
) -> Path:
    """Write a model's predictions for a dataset, or its first ``limit`` samples, into ``folder``; the path of the file.

    Questions that the dataset's protocol does not query are omitted. Raises ``DataError`` with all samples whose prompt
    the model refuses, unless ``settings.skip_refused``, and ``ConfigError`` if the questions demand other coordinates
    than those in which the model's boxes are parsed.
    """
    number = len(store) if limit is None else min(limit, len(store))
    samples = {i: sample for i, sample in enumerate(islice(store, number)) if sample.queried}
    refused = _check_samples(loaded, list(samples.values()), settings, settings.log if runtime.ranks.is_first else None)
    queried = [i for i, sample in samples.items() if sample.id not in refused]
    del samples  # a large dataset is read again, sample by sample
    card = settings.card(loaded, data=store, num_samples=number, skipped=list(refused))
    return run_predictions(
        loaded,
        folder,
        card,
        sample_at=lambda i: store[queried[i]],
        number=len(queried),
        settings=settings,
        runtime=runtime,
    )


def _check_samples(
    loaded: LoadedModel, samples: Sequence[Sample], settings: PredictionSettings, log: Callable[[str], None] | None
) -> Mapping[str, str]:
    """Return the reason for each sample that is to be skipped, by its id; raise if the samples cannot be used."""
    require_box_space(samples, loaded.family.box_space)
    checked = inspect_prompts(loaded, settings.prompting, samples)
    if checked.refused and not settings.skip_refused:
        raise DataError(f"{checked.describe_refused()}\n--skip-refused predicts the others, and every score says so")
    if not checked.num_tokens and checked.refused:
        raise DataError(f"{checked.describe_refused()}\nexpected at least one that can")
    warnings = list(question_warnings(samples, thinking=settings.prompting.thinking, space=None))
    if (too_long := checked.length_warning(settings.max_completion_tokens)) is not None:
        warnings.append(too_long)
    if checked.refused:
        warnings.append(f"skipped, so that scores are not of the whole dataset: {checked.describe_refused()}")
    if log is not None:
        for warning in warnings:
            log(f"warning: {warning}")
    return checked.refused


def run_predictions(
    loaded: LoadedModel,
    folder: Path,
    card: PredictionsCard,
    *,
    sample_at: Callable[[int], Sample],
    number: int,
    settings: PredictionSettings,
    runtime: Runtime,
) -> Path:
    """Write greedy predictions for samples 0 to ``number`` - 1 into ``folder``; the path of the file.

    The model must accept their prompts, see ``check_prompts``. Raises ``RunStopped`` after Ctrl-C if
    ``settings.reports_stop``.

    With several ranks (``accelerate launch``) rank r computes batches r, r + n, ...; the file is the same.
    """
    ranks = runtime.ranks
    loaded.model.to(runtime.device)
    # The temperature of a greedy choice does not matter; 1 leaves the logits as they are.
    policy = make_policy(loaded, temperature=1.0)

    def encode(prompts: Sequence[VisionInputs]) -> list[ImageFeatures]:
        return policy.encode_images([one.to(runtime.device) for one in prompts])

    run = PredictionRun(
        folder,
        card,
        ids=[sample_at(i).id for i in range(number)],
        batches=plan_batches(map(sample_at, range(number)), seed=settings.batch_seed),
    )
    if ranks.is_first:
        run.begin(resume=settings.resume)
    ranks.barrier()
    all_missing = run.missing()
    missing = ranks.shard(all_missing)
    if settings.engine is not None:
        # An engine may sample one batch for several ranks, so all of them call it equally often.
        missing += [()] * (math.ceil(len(all_missing) / ranks.count) - len(missing))
    # No rank writes predictions before all ranks have read which are missing.
    ranks.barrier()
    predictions = generate_predictions(
        ([sample_at(i) for i in batch] for batch in missing),
        render=make_renderer(loaded, settings.prompting),
        encode=encode,
        generator=settings.engine or HFGenerator(policy, loaded.tokenizer, prompts_per_batch=CONCURRENT),
        max_completion_tokens=settings.max_completion_tokens,
    )
    yes_no = _make_yes_no(loaded, policy, settings, runtime.device) if settings.yes_no else None
    num_done, num_missing = 0, sum(map(len, missing))
    stopping = _reporting_stop(run, folder, number) if settings.reports_stop else nullcontext()
    # The context of training, so that validation and predictions compute as the trainer does.
    with stopping, runtime.autocast():
        for indices, batch in zip(missing, predictions, strict=True):
            if settings.engine is not None and settings.log is not None:
                for message in settings.engine.server_messages():
                    settings.log(f"warning: {message}")
            if not batch:
                continue
            if yes_no is not None:
                batch = yes_no.score([sample_at(i) for i in indices], batch)
            run.append(batch, process=ranks.index)
            num_done += len(batch)
            if settings.progress is not None:
                settings.progress(num_done, num_missing)
    if settings.engine is not None:
        # Clears its caches: training continues as a resumed run does, in which these prompts were not predicted.
        settings.engine.update()
    ranks.barrier()
    if ranks.is_first:
        run.finish()
    ranks.barrier()
    return folder / PREDICTIONS


def _make_yes_no(
    loaded: LoadedModel, policy: Policy, settings: PredictionSettings, device: torch.device
) -> YesNoConfidence:
    return YesNoConfidence(
        policy,
        loaded.tokenizer,
        # the question is the sample's own, so the template does not matter
        render=make_renderer(loaded, replace(settings.prompting, thinking=False, zoom=False, thinking_by_origin={})),
        thinking=settings.prompting.thinking,
        space=loaded.family.box_space,
        device=device,
    )


def _reporting_stop(run: PredictionRun, folder: Path, number: int) -> AbstractContextManager[None]:
    return stopped_by_user(
        lambda: f"{run.num_saved()} of {counted(number, 'prediction')} are saved in {folder}; resume with --resume"
    )


class _Validation(NamedTuple):
    """Scores on one validation dataset; ``name`` is that of its dataset of the mixture, or ""."""

    name: str
    scores: tuple[Scores, ...]
    common_answers: Mapping[str, float]


def _common_answers(path: Path, store: Store) -> dict[str, float]:
    """The metrics of ``common_answer_metrics`` for a file of predictions."""
    joined = join_predictions(path, store)
    return common_answer_metrics(
        [(one.sample, one.reading.answer) for found in joined.by_task.values() for one in found if one.sample.queried]
    )


def make_validator(
    loaded: LoadedModel,
    stores: Mapping[str, Store],
    folder: Path,
    *,
    settings: PredictionSettings,
    runtime: Runtime,
    first: Path | None = None,
) -> Callable[[int], Mapping[str, float]] | None:
    """A function from the number of steps done to the scores of the model in training; None without ``stores``.

    Predictions are written into ``validation_N`` of ``folder``, for a dataset of a mixture into ``validation_NAME_N``,
    with scores named ``f1@NAME`` and so on; a score that several tasks of a dataset have is named ``accuracy@TASK``.
    ``score`` is the mean headline score of all tasks and datasets, such as F1 and accuracy. ``first``: the same folder
    of another run that starts from the same model; its predictions before the first step are used again if their
    settings are the same.
    """
    if not stores:
        return None

    def validate_on(gathered: LoadedModel, name: str, num_steps: int) -> _Validation:
        out = folder / "_".join(["validation", *([name] if name else []), f"{num_steps:06d}"])
        if runtime.ranks.is_first:
            shutil.rmtree(out, ignore_errors=True)  # of a run that was killed after this validation
        own = replace(
            settings,
            prompting=settings.prompting.of_origin(name),
            model_name=f"{settings.model_name} after {counted(num_steps, 'step')}",
        )
        if num_steps == 0 and first is not None and runtime.ranks.is_first:
            card = own.card(gathered, data=stores[name], num_samples=len(stores[name]))
            same = first / out.name / PREDICTIONS
            if same.exists() and read_predictions_card(same) == card:
                shutil.copytree(first / out.name, out)
                own = replace(own, resume=True)
        scores = predict_and_score(gathered, stores[name], out, settings=own, runtime=runtime)
        return _Validation(name, scores, _common_answers(out / PREDICTIONS, stores[name]))

    def validate(num_steps: int) -> Mapping[str, float]:
        # An engine has weights of its own, so only images need the gathered copy.
        with loaded.gathered(only_vision=settings.engine is not None) as gathered:
            found = [validate_on(gathered, name, num_steps) for name in stores]
        values = {
            value_name + (f"@{one.name}" if one.name else ""): value
            for one in found
            for part in (named_values(one.scores), one.common_answers)
            for value_name, value in part.items()
        }
        return values | {
            "score": fmean(scores.values[TASKS[scores.task].headline] for one in found for scores in one.scores)
        }

    return validate
