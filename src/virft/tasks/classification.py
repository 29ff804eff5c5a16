"""Classification: the name of the object that an image shows, in free text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from virft.metrics.accuracy import accuracy
from virft.rewards.label import label_reward, paper_label_reward
from virft.rewards.options import RewardOptions
from virft.tasks.plain_answers import (
    compare_texts,
    every_other_correct,
    fit_commonest,
    plain_reader,
    plain_renderer,
    same_descriptions,
)
from virft.tasks.task import (
    TRUNCATED_FRAC,
    UNREADABLE_FRAC,
    WELL_FORMED_FRAC,
    BlindAnswers,
    Metric,
    ParsedTarget,
    Probes,
    TargetFormat,
    Task,
    TaskReward,
    constant_probes,
    mean_ratios,
)
from virft.text.labels import is_same_label
from virft.text.prompts import PromptTexts
from virft.text.records import list_of, text_of
from virft.types import ImageSize, Label, Reading, RewardContext, Sample

_TEXT = {"type": "string", "pattern": r"\S"}


def _to_record(sample: Sample) -> dict[str, Any]:
    target = _label_of(sample)
    return {"label": target.text, **({"aliases": list(target.aliases)} if target.aliases else {})}


def _from_record(record: dict[str, Any], size: ImageSize, where: str) -> ParsedTarget:
    aliases = list_of(record.get("aliases", []), "target.aliases", where=where)
    return ParsedTarget(
        Label(
            text=text_of(record["label"], "target.label", where=where),
            aliases=tuple(text_of(alias, "an alias", where=where) for alias in aliases),
        )
    )


def _label_of(sample: Sample) -> Label:
    assert isinstance(sample.target, Label)
    return sample.target


def _robust(reading: Reading, target: Label, context: RewardContext, options: RewardOptions) -> dict[str, float]:
    return {"label": label_reward(reading, target, context)}


def _paper(reading: Reading, target: Label, context: RewardContext, options: RewardOptions) -> dict[str, float]:
    return {"label": paper_label_reward(reading, target, context)}


def _names(target: Label) -> str:
    return " or ".join((target.text, *target.aliases))


def _quoted_names(target: Label) -> str:
    return " or ".join(repr(name) for name in (target.text, *target.aliases))


def _probes(samples: Sequence[Sample]) -> Probes:
    """The commonest name, and answers that contain all names of the dataset."""
    names = [name for name, _ in Counter(_label_of(sample).text for sample in samples).most_common()]
    constant = {
        "commonest name": names[0],
        "all names with or": " or ".join(names),
        "all names with commas": ", ".join(names),
        "all names run together": "".join(names),
        "one letter": "a",
        "a dot": ".",
    }
    probes = constant_probes(names[0], constant)
    return Probes(usual=probes.usual, answers={**probes.answers, "the query": lambda sample: sample.query})


def _blind_answers(samples: Sequence[Sample]) -> BlindAnswers:
    """The commonest name of all samples."""
    return fit_commonest("commonest label", samples, lambda sample: Label(text=_label_of(sample).text))


CLASSIFICATION = Task(
    name="classification",
    target_type=Label,
    query_hint="a domain such as animal",
    prompts=PromptTexts(
        short="Which {query} is this?",
        request="Name the exact kind of {query} that this image shows.",
        schema="The answer is the name alone.",
    ),
    example="tabby cat",
    read=plain_reader(lambda text: Label(text=text)),
    render=plain_renderer(lambda target: target.text),
    target_format=TargetFormat(
        required=frozenset({"label"}),
        optional=frozenset({"aliases"}),
        properties={"label": _TEXT, "aliases": {"type": "array", "items": _TEXT}},
        to_record=_to_record,
        from_record=_from_record,
    ),
    class_of=lambda sample: _label_of(sample).text,
    allows_flip=True,
    rewards={
        "robust": TaskReward(bounds={"label": (0.0, 1.0)}, compute=_robust),
        "paper": TaskReward(bounds={"label": (0.0, 1.0)}, compute=_paper),
    },
    explain=compare_texts(lambda answer: repr(answer.text), _quoted_names),
    metrics=(
        Metric(
            name="accuracy",
            description="fraction of names that equal the target or an alias after normalisation",
            in_table=True,
            in_card=True,
            in_comparison=True,
        ),
        UNREADABLE_FRAC,
        TRUNCATED_FRAC,
        WELL_FORMED_FRAC,
        Metric(
            name="accuracy_paper_substring",
            description="the paper's substring rule, which also accepts a list of several names",
        ),
    ),
    measure_pairs=accuracy,
    score_answer=lambda answer, target: float(is_same_label(answer.text, target)),
    score_description="1 or 0",
    ratios=mean_ratios("accuracy"),
    describe_targets=same_descriptions(_names),
    describe_answers=same_descriptions(lambda answer: answer.text),
    answer_to_record=lambda answer: {"label": answer.text},
    probes=_probes,
    blind_answers=_blind_answers,
    oracle=every_other_correct(lambda target: Label(text=target.text), lambda target: Label(text="something else")),
)
