"""A model's answers to a data set: asked, written by the batch, scored; in training, for the validation sets."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean

from virft.config.schema import Config
from virft.data.store import Store
from virft.evaluation.predict import predict
from virft.evaluation.prediction_run import PredictionRun, plan_batches
from virft.evaluation.predictions import PREDICTIONS, PredictionsCard
from virft.evaluation.score import score_predictions
from virft.generation.hf_generator import HFGenerator
from virft.inference.prompting import make_renderer, template_text
from virft.models.load import LoadedModel
from virft.models.policy import make_policy
from virft.models.vision import ImageFeatures, VisionInputs
from virft.origin import source_commit
from virft.tasks import TASKS
from virft.training.distributed import device, is_main_process, ranks
from virft.types import Sample, Scores


def evaluate(
    loaded: LoadedModel,
    store: Store,
    folder: Path,
    *,
    asking: Asking,
    limit: int | None = None,
    with_intervals: bool = False,
) -> tuple[Scores, ...]:
    """Writes the model's answers to a data set into ``folder`` and scores them."""
    number = len(store) if limit is None else min(limit, len(store))
    asked = [i for i, sample in enumerate(islice(store, number)) if sample.asked]
    card = asking.card(loaded, data=store, num_samples=number)
    path = answer(loaded, folder, card, sample_at=lambda i: store[asked[i]], number=len(asked), asking=asking)
    return score_predictions(path, store, with_intervals=with_intervals)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """How a model is asked. ``progress`` is told how many answers this process has, and of how many."""

    template: str
    thinking: bool
    max_completion_tokens: int
    model_name: str
    resume: bool = False
    progress: Callable[[int, int], None] | None = None

    def card(self, loaded: LoadedModel, *, data: Store, num_samples: int) -> PredictionsCard:
        """What stands beside the answers."""
        return PredictionsCard(
            model=self.model_name,
            data=str(data.folder),
            data_hash=data.hash,
            num_samples=num_samples,
            box_space=loaded.family.box_space,
            thinking=self.thinking,
            settings={
                "template": template_text(loaded, self.template),
                "max_completion_tokens": self.max_completion_tokens,
                "temperature": 0.0,
                "commit": source_commit(),
            },
        )


def answer(
    loaded: LoadedModel,
    folder: Path,
    card: PredictionsCard,
    *,
    sample_at: Callable[[int], Sample],
    number: int,
    asking: Asking,
) -> Path:
    """Writes the likeliest answers to ``number`` samples into ``folder``; the path of the file.

    With several processes (``accelerate launch``), each answers every so many-th batch; the file is the same.
    """
    among = ranks()
    loaded.model.to(device())
    policy = make_policy(loaded, temperature=1.0)

    def encode(prompts: Sequence[VisionInputs]) -> list[ImageFeatures]:
        return policy.encode_images([one.to(device()) for one in prompts])

    run = PredictionRun(
        folder,
        card,
        ids=[sample_at(i).id for i in range(number)],
        batches=plan_batches(map(sample_at, range(number))),
    )
    if among.is_first:
        run.begin(resume=asking.resume)
    among.wait()
    missing = among.share(run.missing())
    among.wait()  # no one answers before all have seen what is missing
    answers = predict(
        ([sample_at(i) for i in batch] for batch in missing),
        render=make_renderer(loaded, template=asking.template, thinking=asking.thinking),
        encode=encode,
        generator=HFGenerator(policy, loaded.tokenizer),
        max_completion_tokens=asking.max_completion_tokens,
    )
    num_done, num_missing = 0, sum(map(len, missing))
    for batch in answers:
        run.append(batch, process=among.index)
        num_done += len(batch)
        if asking.progress is not None:
            asking.progress(num_done, num_missing)
    among.wait()
    if among.is_first:
        run.finish()
    among.wait()
    return folder / PREDICTIONS


def validator(config: Config, loaded: LoadedModel) -> Callable[[int], Mapping[str, float]] | None:
    """Scores the model in training on ``data.validation``, or on those of a mixture's sets; None without one.

    Answers land in ``eval/validation_N`` of ``run.dir`` (``validation_NAME_N`` for a set, whose values are called
    ``f1@NAME`` and so on). ``score``: the mean of the headlines of all tasks and sets, such as F1 and accuracy.
    """
    folders = {"": (config.data.validation, config.prompt.thinking)} | {
        name: (part.validation, config.prompt.thinking if part.thinking is None else part.thinking)
        for name, part in config.mixture.items()
    }
    stores = {name: (Store(folder), thinking) for name, (folder, thinking) in folders.items() if folder is not None}
    if not stores:
        return None
    for store, _ in stores.values():
        store.check(decode=True)

    def validate_on(whole: LoadedModel, name: str, num_steps: int) -> tuple[Scores, ...]:
        store, thinking = stores[name]
        folder = Path(config.run.dir) / "eval" / "_".join(["validation", *([name] if name else []), f"{num_steps:06d}"])
        if is_main_process():
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed since
        return evaluate(
            whole,
            store,
            folder,
            asking=Asking(
                template=config.prompt.template,
                thinking=thinking,
                max_completion_tokens=config.sampling.max_completion_tokens,
                model_name=f"{config.model.path} after {num_steps} steps",
            ),
        )

    def validate(num_steps: int) -> Mapping[str, float]:
        with loaded.whole() as whole:
            scores = [(name, one) for name in stores for one in validate_on(whole, name, num_steps)]
        found = {
            value_name + (f"@{name}" if name else ""): value
            for name, one in scores
            for value_name, value in one.values.items()
        }
        return found | {"score": fmean(one.values[TASKS[one.task].headline] for _, one in scores)}

    return validate
