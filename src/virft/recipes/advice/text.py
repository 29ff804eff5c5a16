"""Advice as text for a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from virft.recipes.advice.advise import TrainingAdvice
from virft.recipes.advice.features import FEATURES, ClassScore, Features
from virft.recipes.advice.rule import ADVISED_NAMES, EVIDENCE, METHODS, TOLERANCE, Advice, Rule

_MOST_CLASSES = 5
"""Number of least known classes that are named."""


def advice_lines(found: TrainingAdvice) -> Iterator[str]:
    """Yield the measured features, then the advice with settings and commands."""
    advice, plan = found.advice, found.plan
    yield from feature_lines(found.features, rule=found.rule)
    yield ""
    yield f"advice: {ADVISED_NAMES[advice.system]}"
    yield f"  why: {advice.reason}"
    yield f"  probability that it is within {TOLERANCE:g} of the best of mix, SFT and RFT: {_probability(advice)}"
    if (others := _correct_more_often(advice)) is not None:
        yield f"  alternative in this case: {others}; `virft compare` compares them on your data"
    yield f"  evidence: {EVIDENCE[advice.case].text}"
    yield f"  the evidence is weak: {'; '.join(advice.doubts)}"
    if plan.lines:
        yield "settings (--out TOML writes them into a file):"
        yield from (f"  {line}" for line in plan.lines)
        yield "commands:"
        yield from (f"  {command}" for command in plan.commands)
    yield from (f"note: {note}" for note in plan.notes)


def feature_lines(features: Features, *, rule: Rule) -> Iterator[str]:
    """Yield the measured features, with 95 % confidence intervals, resampling images."""
    yield (
        f"{features.num_evaluated} of {features.num_samples} samples, {features.group_size} completions each "
        f"({features.tokens:,} tokens, {features.seconds:.0f} s); 95 % confidence intervals"
    )
    estimates = features.estimates
    yield f"  pass rate            {estimates['pass_rate']}"
    yield (
        f"  samples solved       always {features.value('always_solved'):.0%}, "
        f"sometimes {max(0.0, 1 - features.value('always_solved') - features.value('never_solved')):.0%}, "
        f"never {features.value('never_solved'):.0%}"
    )
    yield f"  groups with variance {estimates['nonzero_std']}"
    yield f"  readable             {estimates['readable']}"
    yield f"  well-formed          {estimates['well_formed']}"
    yield f"  truncated            {estimates['truncated']}"
    yield f"  score                {estimates['score']}"
    name = f" ({features.blind_name})" if features.blind_name else ""
    yield f"  best blind baseline  {estimates['blind_score']}{name}"
    yield f"  knowledge            {estimates['knowledge']}"
    if features.num_classes:
        yield f"  classes              {_class_text(features, rule)}"
        yield f"  images per class     {_images_text(features)}"


def advice_tree(found: TrainingAdvice) -> dict[str, Any]:
    """Return features, advice and settings as JSON."""
    features, advice, plan = found.features, found.advice, found.plan
    return {
        "features": {
            name: {"value": one.value, "interval": [one.low, one.high], "definition": FEATURES[name]}
            for name, one in features.estimates.items()
        },
        "task": features.task,
        "num_samples": features.num_samples,
        "num_images": features.num_images,
        "num_evaluated": features.num_evaluated,
        "group_size": features.group_size,
        "images_per_class": features.images_per_class,
        "blind_baseline": features.blind_name,
        "classes": [one._asdict() | {"knowledge": one.knowledge} for one in features.classes],
        "advice": {
            "system": advice.system,
            "case": advice.case.value,
            "reason": advice.reason,
            "probability": advice.probability,
            "cells": EVIDENCE[advice.case].num_cells,
            "correct_cells": dict(EVIDENCE[advice.case].num_correct),
            "agreement": advice.agreement,
            "doubts": list(advice.doubts),
        },
        "settings": {line.key: line.value for line in plan.lines},
        "commands": list(plan.commands),
        "notes": list(plan.notes),
    }


def _probability(advice: Advice) -> str:
    measured = EVIDENCE[advice.case]
    agreement = f"{advice.agreement:.0%} of the bootstrap resamples give the same advice"
    if advice.probability is None:
        return f"unknown ({agreement})"
    cells = f"{measured.num_correct[advice.system]} of {measured.num_cells} measured cells of this case"
    return f"about {advice.probability:.2f} ({cells}; {agreement})"


def _correct_more_often(advice: Advice) -> str | None:
    """The methods that are correct in more cells of the case than the advised one; None if there are none."""
    measured = EVIDENCE[advice.case]
    own = measured.num_correct.get(advice.system, measured.num_cells)
    found = [
        f"{ADVISED_NAMES[name]} in {measured.num_correct[name]} of {measured.num_cells} cells"
        for name in METHODS
        if measured.num_correct.get(name, 0) > own
    ]
    return ", ".join(found) or None


def _class_text(features: Features, rule: Rule) -> str:
    known = sum(one.knowledge >= rule.known for one in features.classes)
    unseen = features.num_classes - len(features.classes)
    text = f"{known} of {len(features.classes)} known (knowledge of at least {rule.known:g})"
    text += f", {unseen} not evaluated" if unseen > 0 else ""
    worst = [one for one in features.classes if one.knowledge < rule.known][:_MOST_CLASSES]
    return text + (f"; least known: {', '.join(map(_describe, worst))}" if worst else "")


def _describe(one: ClassScore) -> str:
    return f"{one.name} {one.score:.2f} (blind {one.blind:.2f})"


def _images_text(features: Features) -> str:
    text = f"median {features.images_per_class:g}"
    return (
        text
        if features.fewest_images is None
        else f"{text}; fewest {features.fewest_images[1]} ({features.fewest_images[0]})"
    )
