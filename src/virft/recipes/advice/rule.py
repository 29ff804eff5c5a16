"""The rule of ``virft advise``: a decision list on few features, and the measured cells that it rests on. Pure.

``scripts/advice_cells.py`` measures cells on the built-in scenes, fits ``Rule`` to them and evaluates it with one
family of data held out. Its cells are in ``benchmarks/results/advice_cells.json``; a test checks ``EVIDENCE``
against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple

from virft.recipes.advice.features import Features

AdvisedSystem = Literal["none", "sft", "rft", "sft_rft", "mix", "sft_mix"]
"""Advised training: a system of ``virft compare``, or none."""
ADVISED_NAMES: Mapping[AdvisedSystem, str] = {
    "none": "no training",
    "sft": "SFT",
    "rft": "RFT (GRPO)",
    "sft_rft": "SFT then RFT",
    "mix": "mix (RFT with demonstrations)",
    "sft_mix": "SFT then mix (RFT with demonstrations)",
}
"""System -> its name in sentences."""


class Case(StrEnum):
    """Kinds of a base model and its training data, in the order in which the decision list tests them."""

    TRUNCATED = "truncated"
    """Most completions are cut at the token limit and cannot be parsed."""
    UNREADABLE = "unreadable"
    """Most completions cannot be parsed."""
    SOLVED = "solved"
    """The base model solves almost every sample."""
    EQUAL = "equal"
    """Almost all groups have equal rewards."""
    NAMES = "names"
    """Classification: the answer is a class name."""
    KNOWN = "known"
    """The base model knows the classes, or needs no class names."""
    FEW = "few"
    """New classes with very few images."""
    MANY = "many"
    """New classes with many images."""
    SOME = "some"
    """New classes with a number of images in between."""


class Situation(NamedTuple):
    """The features that the rule reads."""

    is_classification: bool
    readable: float
    """Fraction of completions with a parsable answer."""
    always_solved: float
    """Fraction of samples of which every completion is correct."""
    nonzero_std: float
    """Fraction of groups with a non-zero reward standard deviation."""
    knowledge: float
    """Score above the best blind baseline, from 0 (no better) to 1 (perfect); may be negative."""
    images_per_class: float | None
    """Median number of images of a class; None without classes."""
    truncated: float = 0.0
    """Fraction of completions cut at the token limit."""


_MOST_TRUNCATED = 0.5
"""Above this fraction of truncated completions, unreadable answers say nothing about the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Thresholds of the decision list, and the system that is advised in each case."""

    least_readable: float = 0.5
    """Below this fraction of parsable answers: ``Case.UNREADABLE``."""
    most_solved: float = 0.9
    """From this fraction of samples that are always solved: ``Case.SOLVED``."""
    least_nonzero_std: float = 0.05
    """Below this fraction of groups with different rewards: ``Case.EQUAL``."""
    known: float = 0.15
    """From this knowledge on, the classes count as known."""
    few: float = 1.0
    """Up to this number of images per class: ``Case.FEW``."""
    many: float = 8.0
    """From this number of images per class: ``Case.MANY``."""
    systems: Mapping[Case, AdvisedSystem] = field(
        default_factory=lambda: {
            Case.TRUNCATED: "none",
            Case.UNREADABLE: "sft_rft",
            Case.SOLVED: "none",
            Case.EQUAL: "sft",
            Case.NAMES: "sft",
            Case.KNOWN: "rft",
            Case.FEW: "rft",
            Case.MANY: "sft",
            Case.SOME: "sft_rft",
        }
    )
    """The advised system of each case."""

    def case_of(self, found: Situation) -> Case:
        """Return the first case that applies.

        >>> new = Situation(False, 1.0, 0.1, 0.9, 0.1, 4.0)
        >>> Rule().case_of(new).value, Rule().case_of(new._replace(images_per_class=16.0)).value
        ('some', 'many')
        """
        if found.readable < self.least_readable:
            return Case.TRUNCATED if found.truncated > _MOST_TRUNCATED else Case.UNREADABLE
        if found.always_solved >= self.most_solved:
            return Case.SOLVED
        if found.nonzero_std < self.least_nonzero_std:
            return Case.EQUAL
        if found.is_classification:
            return Case.NAMES
        if found.knowledge >= self.known:
            return Case.KNOWN
        if found.images_per_class is None:
            return Case.SOME
        if found.images_per_class <= self.few:
            return Case.FEW
        return Case.MANY if found.images_per_class >= self.many else Case.SOME

    def system_of(self, found: Situation) -> AdvisedSystem:
        """Return the advised system."""
        return self.systems[self.case_of(found)]


RULE = Rule()
"""The rule of ``virft advise``."""


class Evidence(NamedTuple):
    """Measured cells of a case. A cell is a training set and a test of the built-in scenes, with three seeds or one.

    The advice is correct in a cell if no other system is better beyond the 95 % confidence interval.
    """

    num_cells: int
    """Cells in which the advised system and another one were trained."""
    num_correct: int
    text: str

    @property
    def probability(self) -> float | None:
        """Probability that the advice is correct in another cell (rule of succession); None without cells.

        >>> Evidence(4, 4, "").probability, Evidence(0, 0, "").probability
        (0.8333333333333334, None)
        """
        return (self.num_correct + 1) / (self.num_cells + 2) if self.num_cells else None


EVIDENCE: Mapping[Case, Evidence] = {
    Case.TRUNCATED: Evidence(0, 0, "not measured; a completion that is cut has no answer, whatever the model knows"),
    Case.UNREADABLE: Evidence(
        0, 0, "not measured; without a parsable answer every reward is 0, and SFT on the targets teaches the format"
    ),
    Case.SOLVED: Evidence(0, 0, "not measured; groups of equal rewards have zero advantages"),
    Case.EQUAL: Evidence(0, 0, "not measured; groups of equal rewards have zero advantages, so RFT has no gradient"),
    Case.NAMES: Evidence(
        1, 1, "look-alikes, 2 images of each of 64 classes: accuracy 0.854 with SFT, 0.784 with RFT (base 0.666)"
    ),
    Case.KNOWN: Evidence(
        4,
        4,
        "96 images of 48 known classes in a new style: F1 0.567 with RFT, 0.540 with SFT (base 0.537); 32 images: no "
        "difference between the two and the base model",
    ),
    Case.FEW: Evidence(
        2,
        2,
        "1 image of each of 8 new classes: F1 0.303 with RFT, 0.296 with SFT (base 0.241); in another style +0.035",
    ),
    Case.MANY: Evidence(
        4, 4, "8 and 16 images of each of 8 new classes: F1 0.447 and 0.422 with SFT, 0.385 and 0.336 with RFT"
    ),
    Case.SOME: Evidence(
        0,
        0,
        "4 images of each of 8 new classes: F1 0.403 with SFT, 0.397 with RFT, 0.409 with mix (`virft train`), which "
        "cannot be distinguished; SFT then RFT was as good in one run",
    ),
}
"""The measurements of each case, with virft-tiny (docs/reproducing.md)."""
MEASURED_TASKS: Mapping[Case, tuple[str, ...]] = {
    Case.NAMES: ("classification",),
    Case.KNOWN: ("detection", "grounding"),
    Case.FEW: ("detection",),
    Case.MANY: ("detection",),
    Case.SOME: ("detection",),
}
"""Tasks of the measured cells of each case."""
MEASURED_PARAMETERS = 50e6
"""Models of more parameters were not measured."""


def situation_of(features: Features, values: Mapping[str, float] | None = None) -> Situation:
    """Return the features that the rule reads; ``values`` replace the estimates, for a bootstrap resample."""
    read = {name: one.value for name, one in features.estimates.items()} if values is None else values
    return Situation(
        is_classification=features.task == "classification",
        readable=read["readable"],
        always_solved=read["always_solved"],
        nonzero_std=read["nonzero_std"],
        knowledge=read["knowledge"],
        images_per_class=features.images_per_class,
        truncated=read["truncated"],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """Advised training, and how far it can be trusted."""

    case: Case
    """The case of the decision list that applies."""
    system: AdvisedSystem
    """The advised training."""
    reason: str
    """The numbers that decided."""
    agreement: float
    """Fraction of bootstrap resamples of the images with the same system."""
    probability: float | None
    """Probability that no other system is better; None if it was not measured."""
    doubts: tuple[str, ...]
    """Reasons why the evidence is weak; none if it is not."""


def give_advice(features: Features, *, num_parameters: int | None, rule: Rule = RULE) -> Advice:
    """Return the advice for measured features. ``num_parameters``: size of the model; None if unknown.

    The probability is that of ``Evidence`` times the agreement of the bootstrap resamples.
    """
    found = situation_of(features)
    case = rule.case_of(found)
    system = rule.systems[case]
    resamples = _resampled(features)
    agreement = sum(rule.system_of(one) == system for one in resamples) / len(resamples) if resamples else 1.0
    measured = EVIDENCE[case].probability
    return Advice(
        case=case,
        system=system,
        reason=_reason(case, features, rule),
        agreement=agreement,
        probability=None if measured is None else measured * agreement,
        doubts=tuple(_doubts(case, features, num_parameters, agreement)),
    )


def _resampled(features: Features) -> list[Situation]:
    names = list(features.resamples)
    number = len(features.resamples[names[0]]) if names else 0
    return [situation_of(features, {name: float(features.resamples[name][i]) for name in names}) for i in range(number)]


def _doubts(case: Case, features: Features, num_parameters: int | None, agreement: float) -> list[str]:
    doubts = []
    if num_parameters is None or num_parameters >= MEASURED_PARAMETERS:
        doubts.append("the rule is measured with virft-tiny on its built-in scenes only, not with a model of this size")
    else:
        doubts.append("the rule is measured on the built-in scenes only")
    evidence = EVIDENCE[case]
    if evidence.num_cells == 0:
        doubts.append("this case is not measured")
    elif features.task not in MEASURED_TASKS.get(case, ()):
        doubts.append(f"this case is not measured for {features.task}")
    elif evidence.num_cells < 4:
        doubts.append(f"only {evidence.num_cells} measured comparison{'s' if evidence.num_cells > 1 else ''}")
    if agreement < 0.9:
        doubts.append(f"{1 - agreement:.0%} of the bootstrap resamples of the images lead to other advice")
    if features.images_per_class is None and features.task == "detection":
        doubts.append("no question is about a class that its image shows, so nothing measures knowledge")
    if not features.resamples:
        doubts.append("a single image was evaluated")
    return doubts


def _reason(case: Case, features: Features, rule: Rule) -> str:
    value, per_class = features.value, features.images_per_class
    known = f"knowledge {value('knowledge'):.2f}"
    images = "" if per_class is None else f"{per_class:g} image{'s' if per_class != 1 else ''} per class"
    match case:
        case Case.TRUNCATED:
            return (
                f"{value('truncated'):.0%} of the completions are cut at the token limit, and most cannot be read: "
                "raise sampling.max_completion_tokens and call virft advise again"
            )
        case Case.UNREADABLE:
            return f"{1 - value('readable'):.0%} of the completions are unreadable, so RFT has nothing to reward yet"
        case Case.SOLVED:
            return f"{value('always_solved'):.0%} of the samples are always solved: nothing is left to learn from them"
        case Case.EQUAL:
            return (
                f"only {value('nonzero_std'):.0%} of the groups have a non-zero reward standard deviation: RFT learns "
                "from no others, SFT does"
            )
        case Case.NAMES:
            return "the answer is a class name, and SFT provides the correct name every time"
        case Case.KNOWN:
            return (
                f"the model knows what is queried ({known}, at least {rule.known:g}): SFT overfits to few images, and "
                "RFT trains on the model's own completions"
            )
        case Case.FEW:
            return f"the classes are new to the model ({known}) and have {images}: SFT overfits to them"
        case Case.MANY:
            return (
                f"the classes are new to the model ({known}) and have {images}, at least {rule.many:g}: SFT gains most"
            )
        case Case.SOME:
            number = f", with {images}" if images else ""
            return f"what is queried is new to the model ({known}){number}: SFT teaches it, RFT generalises it"
