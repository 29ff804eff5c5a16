"""Find suspect labels of a run: sample completions of its model for each training sample, and rank the labels."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from virft.config.schema import Config, Dtype
from virft.config.toml_file import load_config
from virft.config.wording import counted
from virft.data.base_completions import BaseCompletion, BaseGroup, append_base_completions, start_base_completions
from virft.data.store import Store
from virft.data.training_data import TrainingData
from virft.errors import ConfigError, RunError, stopped_by_user
from virft.evaluation.predict import generate_predictions
from virft.evaluation.suspects import (
    SUSPECTS,
    Kind,
    Suspect,
    other_classes,
    outlier_score,
    rank_suspects,
    with_other_class,
    write_suspects,
)
from virft.files import make_folder, write_text, writing
from virft.generation.generator import EncodedPrompt, GenerationParams
from virft.generation.hf_generator import HFGenerator
from virft.generation.random_streams import StepKey
from virft.inference.prompting import Prompting, check_prompts, make_renderer, resolve_prompting
from virft.models.load import LoadedModel, load_as_trained
from virft.models.policy import Policy, make_policy
from virft.models.precision import find_precision, precision_card
from virft.recipes.evaluate import runtime_of
from virft.recipes.preflight import thinking_by_origin
from virft.recipes.run_evaluation import ShowProgress, find_model
from virft.report import SUSPECTS_FOLDER
from virft.tasks import TASKS
from virft.training.run import CARD, CONFIG
from virft.types import Completion, ImageSize, Reading, Sample, Target

COMPLETIONS, BASE_MODEL_COMPLETIONS = "completions.jsonl", "base_completions.jsonl"
_BATCH_SIZE = 16
"""Samples whose completions are sampled in one batch, and saved together."""
_WIDTH = 36
"""Characters of a label in the printed table."""
_LEAST_LABEL_SCORE = 0.3
"""Mean score on all labels below which a warning is printed: useful lists were measured from 0.5 (docs/suspects.md)."""
_MAX_QUERIES = 1000
"""Questions about other classes, one greedy completion each, that one call answers at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundSuspects:
    """Suspect labels of a dataset."""

    suspects: tuple[Suspect, ...]
    """Suspects with at least the lowest reported score, the most suspicious first."""
    num_samples: int
    """Number of samples whose labels were checked."""
    model: str
    """Folder of the model."""
    path: Path
    """The file ``suspects.jsonl``."""
    label_score: float
    """Mean score of the completions against the labels; nan without a completion that could be a label."""


def find_suspects(
    place: Path,
    data: Path | None = None,
    *,
    group_size: int = 8,
    min_score: float | None = None,
    dtype: Dtype = "auto",
    load_in_4bit: bool | None = None,
    log: Callable[[str], None],
    progress: Callable[[], AbstractContextManager[ShowProgress]] = nullcontext,
) -> FoundSuspects:
    """Sample ``group_size`` completions of the model of a run for each sample, and write the suspect labels.

    A run of supervised fine-tuning was trained on the labels themselves and repeats some of them, so as many
    completions of its base model are added. ``min_score``: lowest score of a suspect label; default: ``outlier_score``.
    ``place`` as in ``evaluate_run``. ``data``: the dataset whose labels are checked; default: the training data of the
    run, with the samples that ``data.exclude`` names. Files are written into ``suspects`` of the run, for ``data`` into
    ``suspects_NAME``. ``dtype`` and ``load_in_4bit``: precision of both models; default: that of the run. Completions
    that the folder already contains, of the same model and settings, are used again, so an interrupted call can be
    repeated. Raises ``RunError`` for a folder that is no finished run, ``DataError`` for a dataset that cannot be used,
    and ``ConfigError`` for one of a task whose answers are points.
    """
    run, model = find_model(place)
    config = load_config(run / CONFIG).config
    samples, data_hash = _samples(config, data)
    folder = run / (SUSPECTS_FOLDER if data is None else f"{SUSPECTS_FOLDER}_{data.absolute().name}")
    precision = find_precision(model, dtype=dtype, in_4bit=load_in_4bit)
    is_supervised = json.loads((run / CARD).read_text(encoding="utf-8"))["trainer"] == "sft"
    card = {
        "model": str(model.resolve()),
        "base_model": config.model.path if is_supervised else None,
        "model_saved": max((int(one.stat().st_mtime) for one in model.glob("*.safetensors")), default=0),
        "data_hash": data_hash,
        "group_size": group_size,
        "temperature": config.sampling.temperature,
        "max_completion_tokens": config.sampling.max_completion_tokens,
        "seed": config.seed,
        **precision_card(precision),
    }
    _start(folder, card)
    readings: dict[str, list[Reading]] = {sample.id: [] for sample in samples}
    models = {BASE_MODEL_COMPLETIONS: config.model.path} if is_supervised else {}
    for name, path in (models | {COMPLETIONS: str(model)}).items():
        pixels = (config.model.min_pixels, config.model.max_pixels)
        loaded = load_as_trained(path, dtype=precision.dtype, in_4bit=precision.in_4bit, pixels=pixels)
        # the trained model comes last, and answers the questions about other classes
        sampler = _Sampler(config, loaded, group_size)
        check_prompts(loaded, sampler.prompting, samples)
        number = counted(group_size, "completion")
        log(f"{number} of {path} for each of {counted(len(samples), 'sample')} -> {folder / name}")
        with progress() as show:
            groups = _complete(sampler, samples, folder / name, show)
        for sample in samples:
            readings[sample.id] += sampler.read(sample, groups[sample.id])
    ranked = rank_suspects(samples, readings)
    least = outlier_score(ranked) if min_score is None else min_score
    suspects = [one for one in ranked if one.score >= least]
    label_score = fmean(one.label_score for one in ranked) if ranked else math.nan
    suspects = _name_other_classes(sampler, suspects, samples, log)
    write_suspects(suspects, folder / SUSPECTS)
    return FoundSuspects(
        suspects=tuple(suspects),
        num_samples=len(samples),
        model=str(model),
        path=folder / SUSPECTS,
        label_score=label_score,
    )


def _samples(config: Config, data: Path | None) -> tuple[list[Sample], str]:
    """Return the samples whose labels are checked, and the hash of their dataset."""
    if data is not None:
        stores = {"": Store(data)}
    elif config.data.train is not None:
        stores = {"": Store(config.data.train)}
    else:
        stores = {name: Store(part.data) for name, part in config.mixture.items()}
    found = TrainingData(stores, batch_size=1, seed=0)
    found.check()
    samples = list(found)
    if points := next((one.task for one in samples if TASKS[one.task].has_points), None):
        raise ConfigError(
            f"--suspects: {points} has points as answers, and a label has boxes, which cannot be compared with them; "
            "expected data of other tasks"
        )
    return samples, found.hash


def _start(folder: Path, card: Mapping[str, Any]) -> None:
    """Keep the completions of a folder with the same card; remove those of another model or of other settings."""
    path = folder / CARD
    saved: Any = None
    if path.exists():
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read as JSON ({error}); delete the folder to sample again") from error
    if saved != card:
        for name in (COMPLETIONS, BASE_MODEL_COMPLETIONS):
            (folder / name).unlink(missing_ok=True)
        make_folder(folder)
        write_text(path, json.dumps(card, indent=2) + "\n")


class _Sampler:
    """A model with the prompts and the sampling settings of its run."""

    def __init__(self, config: Config, loaded: LoadedModel, group_size: int) -> None:
        self._loaded = loaded
        self._config = config
        self._group_size = group_size
        self._runtime = runtime_of(loaded)
        self.prompting: Prompting = resolve_prompting(
            loaded,
            template=config.prompt.template,
            thinking=config.prompt.thinking,
            thinking_by_origin=thinking_by_origin(config.prompt, config.mixture),
        )
        loaded.model.to(self._runtime.device)
        self._render = make_renderer(loaded, self.prompting)
        self._policy: Policy = make_policy(loaded, temperature=config.sampling.temperature).eval()
        self._generator = HFGenerator(
            self._policy, loaded.tokenizer, prompts_per_batch=config.sampling.prompts_per_batch
        )

    def sample(self, samples: Sequence[Sample]) -> list[BaseGroup]:
        """Sample a group of completions for each sample, as in step 0 of the run."""
        rendered = [self._render(sample) for sample in samples]
        with torch.no_grad(), self._runtime.autocast():
            features = self._policy.encode_images([one.vision.to(self._runtime.device) for one in rendered])
        prompts = [
            EncodedPrompt(prompt=one.prompt, positions=one.positions, features=own, stream_id=one.prompt.sample_id)
            for one, own in zip(rendered, features, strict=True)
        ]
        params = GenerationParams(
            max_completion_tokens=self._config.sampling.max_completion_tokens,
            temperature=self._config.sampling.temperature,
        )
        key = StepKey(seed=self._config.seed, step=0)
        with self._runtime.autocast():
            drawn = self._generator.generate(prompts, self._group_size, params, key)
        return [
            self._group(sample, len(one.prompt.token_ids), one.prompt.images[sample.target_image].resized, group)
            for sample, one, group in zip(samples, prompts, drawn, strict=True)
        ]

    def _group(self, sample: Sample, length: int, resized: ImageSize, drawn: Sequence[Completion]) -> BaseGroup:
        readings = [self._read(sample, one.text, resized) for one in drawn]
        return BaseGroup(
            sample_id=sample.id,
            prompt_tokens=length,
            resized=resized,
            seconds=0.0,
            completions=tuple(
                BaseCompletion(
                    text=one.text,
                    num_tokens=len(one.token_ids),
                    score=TASKS[sample.task].score(reading, sample.target),
                    reward=math.nan,
                    well_formed=reading.well_formed,
                    truncated=one.truncated,
                )
                for one, reading in zip(drawn, readings, strict=True)
            ),
        )

    def read(self, sample: Sample, group: BaseGroup) -> list[Reading]:
        """Parse the completions of a sample."""
        return [self._read(sample, one.text, group.resized) for one in group.completions]

    def predict(self, samples: Sequence[Sample]) -> list[tuple[Sample, Reading]]:
        """Return the greedy answer to each sample."""
        batches = [samples[start : start + _BATCH_SIZE] for start in range(0, len(samples), _BATCH_SIZE)]
        predictions = generate_predictions(
            batches,
            render=self._render,
            encode=lambda vision: self._policy.encode_images([one.to(self._runtime.device) for one in vision]),
            generator=self._generator,
            max_completion_tokens=self._config.sampling.max_completion_tokens,
        )
        with self._runtime.autocast():
            return [
                (sample, self._read(sample, one.prediction.text, one.resized))
                for batch, answers in zip(batches, predictions, strict=True)
                for sample, one in zip(batch, answers, strict=True)
            ]

    def _read(self, sample: Sample, text: str, resized: ImageSize) -> Reading:
        return TASKS[sample.task].read_for(
            text,
            sample,
            thinking=self.prompting.thinking_for(sample),
            space=self._loaded.family.box_space,
            resized=resized,
        )


def _complete(sampler: _Sampler, samples: Sequence[Sample], path: Path, show: ShowProgress) -> dict[str, BaseGroup]:
    """Return the completions of each sample; missing ones are sampled and saved batch by batch."""
    groups = start_base_completions(path.parent, path.name)
    missing = [sample for sample in samples if sample.id not in groups]

    def state() -> str:
        number = sum(sample.id in groups for sample in samples)
        return f"completions of {number} of {len(samples)} samples are saved in {path}; the same command resumes"

    with stopped_by_user(state):
        for start in range(0, len(missing), _BATCH_SIZE):
            new = sampler.sample(missing[start : start + _BATCH_SIZE])
            with writing(path, state):
                append_base_completions(path.parent, new, path.name)
            groups |= {group.sample_id: group for group in new}
            if show is not None:
                show(start + len(new), len(missing))
    return groups


def _name_other_classes(
    sampler: _Sampler, suspects: Sequence[Suspect], samples: Sequence[Sample], log: Callable[[str], None]
) -> list[Suspect]:
    """Query the other classes of the dataset about each suspect with a labelled box that the model does not find.

    The most suspicious labels come first, as far as ``_MAX_QUERIES`` go.
    """
    queries: dict[str, list[str]] = {}
    for sample in samples:
        if TASKS[sample.task].absent is not None and sample.query not in queries.setdefault(sample.task, []):
            queries[sample.task].append(sample.query)
    queried: dict[str, list[Sample]] = {}
    num_left = _MAX_QUERIES
    for one in suspects:
        if one.kind is not Kind.EXTRA or one.sample.question is not None:
            continue
        others = other_classes(one.sample, queries.get(one.sample.task, []))
        if others and len(others) <= num_left:
            queried[one.sample.id] = others
            num_left -= len(others)
    if not queried:
        return list(suspects)
    number = sum(map(len, queried.values()))
    log(f"{counted(number, 'question')} about other classes at the labelled boxes of {counted(len(queried), 'sample')}")
    answers: dict[str, dict[str, Target]] = {name: {} for name in queried}
    owners = {other.id: name for name, others in queried.items() for other in others}
    for other, reading in sampler.predict([other for others in queried.values() for other in others]):
        if TASKS[other.task].target_fault(reading.answer) is None:
            answers[owners[other.id]][other.query] = reading.answer
    return [with_other_class(one, answers.get(one.sample.id, {})) for one in suspects]


# --- text ---


def suspect_lines(found: FoundSuspects, *, limit: int) -> Iterator[str]:
    """Yield a table of at most ``limit`` suspects, then their number, the files and the next commands."""
    shown = found.suspects[:limit]
    if shown:
        rows = [("", "score", "type", "query", "label", "model", "sample")]
        rows += [_row(number, one) for number, one in enumerate(shown, start=1)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
    if len(found.suspects) > len(shown):
        yield f"and {len(found.suspects) - len(shown)} more"
    labels = counted(len(found.suspects), "suspect label")
    yield f"{labels} of {counted(found.num_samples, 'sample')}: {found.path}"
    if found.label_score < _LEAST_LABEL_SCORE:
        yield (
            f"warning: the completions have a mean score of {found.label_score:.2f} on the labels: the model does not "
            "know this data, and its list says little about the labels"
        )
    if found.suspects:
        is_of_run = found.path.parent.name == SUSPECTS_FOLDER
        yield f"images: virft report {found.path.parent.parent if is_of_run else found.path.parent} --suspects"
        yield f"train without them: data.exclude={found.path} (first delete the lines whose label is correct)"


def _row(number: int, suspect: Suspect) -> tuple[str, str, str, str, str, str, str]:
    task = TASKS[suspect.sample.task]
    label, model = (task.describe_target(one)[:_WIDTH] for one in (suspect.sample.target, suspect.consensus))
    kind = suspect.kind + (f" ({suspect.query})" if suspect.query is not None else "")
    return (f"{number}", f"{suspect.score:.2f}", kind, suspect.sample.query, label, model, suspect.sample.id)
