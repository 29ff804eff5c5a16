"""The rule of ``virft advise``, and the measured cells that it rests on. Pure.

The rule is mix, unless the completions show that training or rewards have nothing to start from. No decision list that
chooses between mix, SFT and RFT by the features is correct more often on held-out data than always mix:
``scripts/advice_cells.py`` fits them and evaluates them with one family of data held out. Its cells are in
``benchmarks/results/advice_cells.json``; a test checks ``EVIDENCE`` against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple

from virft.config.wording import counted
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
    REASONING = "reasoning"
    """Prompts request reasoning, and no sample has a rationale: nothing can be demonstrated."""
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
    can_demonstrate: bool = True
    """False if no target can be a demonstration: with thinking and without rationales."""


_MOST_TRUNCATED = 0.5
"""Above this fraction of truncated completions, unreadable answers say nothing about the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Thresholds of the decision list, and the system that is advised in each case.

    The cases of new and of known classes have the same advice; they select the evidence that is printed.
    """

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
            Case.UNREADABLE: "sft_mix",
            Case.SOLVED: "none",
            Case.EQUAL: "sft",
            Case.REASONING: "rft",
            Case.NAMES: "mix",
            Case.KNOWN: "mix",
            Case.FEW: "mix",
            Case.MANY: "mix",
            Case.SOME: "mix",
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
        if not found.can_demonstrate:
            return Case.REASONING
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


METHODS: tuple[AdvisedSystem, ...] = ("mix", "sft", "rft")
"""The methods that the cells compare."""
TOLERANCE = 0.01
"""A method is correct in a cell if its score is at most this far below the best of ``METHODS``."""


class Evidence(NamedTuple):
    """Measured cells of a case. A cell is a training set, a test set and a seed with the scores of ``METHODS``.

    Cells of the same training set are not independent.
    """

    num_cells: int
    num_training_sets: int
    num_correct: Mapping[str, int]
    """Method -> number of cells in which it is correct."""
    text: str
    """The scores."""

    def probability(self, system: AdvisedSystem) -> float | None:
        """Probability that a method is correct in another cell (rule of succession); None without cells of it.

        >>> Evidence(4, 1, {"mix": 4}, "").probability("mix"), Evidence(0, 0, {}, "").probability("mix")
        (0.8333333333333334, None)
        """
        if not self.num_cells or system not in self.num_correct:
            return None
        return (self.num_correct[system] + 1) / (self.num_cells + 2)


EVIDENCE: Mapping[Case, Evidence] = {
    Case.TRUNCATED: Evidence(
        0, 0, {}, "not measured; a completion that is cut has no answer, whatever the model knows"
    ),
    Case.UNREADABLE: Evidence(
        0, 0, {}, "not measured; without a parsable answer every reward is 0, and SFT on the targets teaches the format"
    ),
    Case.SOLVED: Evidence(0, 0, {}, "not measured; groups of equal rewards have zero advantages"),
    Case.EQUAL: Evidence(
        0, 0, {}, "not measured; groups of equal rewards have zero advantages, so RFT has no gradient"
    ),
    Case.REASONING: Evidence(
        0,
        0,
        {},
        "reasoning grounding, 2 expressions about each of 64 classes: box mIoU 0.420 with RFT, 0.393 with SFT, which "
        "has to predict without thinking (base 0.410)",
    ),
    Case.NAMES: Evidence(
        3,
        1,
        {"mix": 2, "sft": 2, "rft": 0},
        "look-alikes, 2 images of each of 64 classes: accuracy 0.856 with mix, 0.854 with SFT, 0.784 with RFT (base "
        "0.666)",
    ),
    Case.KNOWN: Evidence(
        9,
        2,
        {"mix": 7, "sft": 4, "rft": 8},
        "96 images of 48 known classes in a new style: F1 0.567 with mix, 0.567 with RFT, 0.540 with SFT (base 0.537); "
        "32 images of 8 known classes: 0.504, 0.509 and 0.504, not distinguishable from the base model (0.500)",
    ),
    Case.FEW: Evidence(
        6,
        1,
        {"mix": 4, "sft": 1, "rft": 4},
        "1 image of each of 8 new classes: F1 0.300 with mix, 0.303 with RFT, 0.296 with SFT (base 0.241); in another "
        "style 0.303, 0.295 and 0.260 (base 0.221)",
    ),
    Case.SOME: Evidence(
        6,
        1,
        {"mix": 4, "sft": 3, "rft": 3},
        "4 images of each of 8 new classes: F1 0.414 with mix, 0.403 with SFT, 0.397 with RFT (base 0.241); in another "
        "style 0.360, 0.377 and 0.363 (base 0.221)",
    ),
    Case.MANY: Evidence(
        9,
        4,
        {"mix": 6, "sft": 5, "rft": 2},
        "16 images of each of 8 new classes: F1 0.419 with mix, 0.422 with SFT, 0.336 with RFT (base 0.241); 16 "
        "photographs of white blood cells, means of three draws: 0.541 with mix, 0.532 with SFT, 0.568 with RFT "
        "(base 0.091)",
    ),
}
"""The measurements of each case, with virft-tiny (docs/reproducing.md)."""
MEASURED_TASKS: Mapping[Case, tuple[str, ...]] = {
    Case.NAMES: ("classification",),
    Case.KNOWN: ("detection",),
    Case.FEW: ("detection",),
    Case.SOME: ("detection",),
    Case.MANY: ("detection",),
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
        can_demonstrate=features.num_demonstrable > 0,
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
    """Probability that the score is at most ``TOLERANCE`` below the best of ``METHODS``; None if not measured."""
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
    is_measured = features.task in MEASURED_TASKS.get(case, ())
    measured = EVIDENCE[case].probability(system) if is_measured else None
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
        doubts.append("the rule is measured with virft-tiny only, not with a model of this size")
    else:
        doubts.append("the rule is measured on the built-in scenes and one set of photographs only")
    evidence = EVIDENCE[case]
    if evidence.num_cells == 0:
        doubts.append("no measured cell of this case has the scores of mix, SFT and RFT")
    elif features.task not in MEASURED_TASKS.get(case, ()):
        doubts.append(f"this case is not measured for {features.task}")
    else:
        sets = counted(evidence.num_training_sets, "training set")
        doubts.append(f"the {evidence.num_cells} measured cells of this case are of {sets}")
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
            return (
                f"{1 - value('readable'):.0%} of the completions are unreadable, so RFT has nothing to reward yet: the "
                "first steps are supervised"
            )
        case Case.SOLVED:
            return f"{value('always_solved'):.0%} of the samples are always solved: nothing is left to learn from them"
        case Case.EQUAL:
            return (
                f"only {value('nonzero_std'):.0%} of the groups have a non-zero reward standard deviation: RFT learns "
                "from no others, SFT does"
            )
        case Case.REASONING:
            return (
                "prompts request reasoning and no sample has a rationale, so nothing can be demonstrated; mix needs "
                "rationales in some samples (virft build rows), or prompt.thinking = false"
            )
        case Case.NAMES:
            what = "the answer is a class name"
        case Case.KNOWN:
            what = f"the model knows what is queried ({known}, at least {rule.known:g})"
        case Case.FEW | Case.MANY | Case.SOME:
            what = f"what is queried is new to the model ({known})" + (f", with {images}" if images else "")
    return f"{what}; over all measured cases, no rule was within {TOLERANCE:g} of the best more often than mix"
