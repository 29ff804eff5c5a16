"""A comparison as text: a table of scores, and sentences about the differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from virft.evaluation.blind import describe_margin
from virft.evaluation.comparison import Comparison, ScoreDifference
from virft.evaluation.evaluated import format_score
from virft.recipes.compare.runs import SYSTEM_NAMES, BlindComparison, Compared, TrainedSystem
from virft.tasks import TASKS
from virft.training.progress import duration


def compared_text(found: Compared) -> str:
    """A table of scores for each test, then a sentence about each difference."""
    costs = {one.name: f"{one.tokens:,} tokens, {duration(one.seconds)}" for one in found.systems}
    lines = []
    for test, by_pair in found.comparisons.items():
        for number, task in enumerate(next(iter(by_pair.values()))):
            for name in shown_numbers(task.task):
                lines.append(f"{test} ({task.task}, {name}, {task.num_images} images)")
                lines += [_row(system, test, name, number, found, costs) for system in found.systems]
                lines += _blind_rows(blind_of(found, test, task.task), name)
            lines += [f"  {sentence}" for sentence in sentences(by_pair, number, blind_of(found, test, task.task))]
    return "\n".join(lines)


def blind_of(found: Compared, test: str, task: str) -> BlindComparison | None:
    """The blind baselines of a task on a test; None if it has none."""
    return found.blind.get(test, {}).get(task)


def _blind_rows(found: BlindComparison | None, name: str) -> Iterator[str]:
    """A row for each blind baseline, highest first."""
    baselines = found.blind.baselines if found is not None else ()
    for one in sorted(baselines, key=lambda one: -one.values[name]):
        yield f"  blind: {one.name:<24} {format_score(one.values[name], one.intervals.get(name))}"


def shown_numbers(task: str) -> tuple[str, ...]:
    """Names of the metrics of a task that are compared: the headline, for detection also COCO's AP.

    >>> shown_numbers("detection")
    ('f1', 'ap')
    """
    return tuple(metric.name for metric in TASKS[task].metrics if metric.in_comparison)


def _row(system: TrainedSystem, test: str, name: str, number: int, found: Compared, costs: Mapping[str, str]) -> str:
    label = f"  {SYSTEM_NAMES[system.name]:<13}"
    by_pair = found.comparisons[test]
    if system.name == "base":
        (pair,) = [pair for pair in by_pair if pair[0] == "base"][:1]
        return f"{label} {by_pair[pair][number].differences[name].first.mean:.3f}"
    against = by_pair["base", system.name][number].differences[name]
    value = against.second
    seeds = f" [{value.low:.3f}, {value.high:.3f}]" if value.num_seeds > 1 else ""
    return (
        f"{label} {value.mean:.3f}{seeds}  {_format_change(against)} against base; "
        f"learning rate {system.learning_rate:g}, {system.steps} steps, {costs[system.name]}"
    )


def sentences(
    by_pair: Mapping[tuple[str, str], Sequence[Comparison]], number: int, blind: BlindComparison | None = None
) -> Iterator[str]:
    """A sentence about the difference of each pair of systems in each score, and about the confidence intervals.

    ``blind``: sentences about the position of each system against the blind baselines too.
    """
    num_seeds = 1
    for (first, second), tasks in by_pair.items():
        for name in shown_numbers(tasks[number].task):
            found = tasks[number].differences[name]
            num_seeds = max(num_seeds, found.second.num_seeds)
            verdict = f"{SYSTEM_NAMES[second]} {_verdict(found)} {SYSTEM_NAMES[first]}"
            better = second if found.value > 0 else first
            but = _but(blind, better) if found.is_clear else ""
            yield f"{verdict} on these images: {name} {_format_change(found)}{but}."
        yield from (f"Not evaluated alike: {warning}" for warning in tasks[number].warnings)
    if blind is not None:
        yield from _blind_sentences(blind)
    yield (
        f"Confidence intervals resample images, pooled over {num_seeds} seed{'s' if num_seeds > 1 else ''}; they do "
        "not generalize to other data, models or budgets."
    )


def _but(blind: BlindComparison | None, system: str) -> str:
    """A clause about the better system of a pair, if it is not above the best blind baseline."""
    if blind is None or describe_margin(blind.differences[system]) == "above":
        return ""
    return f", but {SYSTEM_NAMES[system]} is not above the best blind baseline ({blind.blind.best.name})"


def _blind_sentences(found: BlindComparison) -> Iterator[str]:
    """The position of each system against the best blind baseline, and answers that it repeats."""
    name = found.blind.metric
    for system, difference in found.differences.items():
        verdict = describe_margin(difference)
        verdict = verdict if verdict == "above" else verdict.upper()
        yield (
            f"{SYSTEM_NAMES[system]} is {verdict} the best blind baseline ({found.blind.best.name}): "
            f"{name} {_format_change(difference)}."
        )
        if (common := found.common_answers.get(system)) is not None:
            yield f"{SYSTEM_NAMES[system]}: {common}."


def _verdict(found: ScoreDifference) -> str:
    if not found.is_clear:
        return "is not distinguishable from"
    return "is better than" if found.value > 0 else "is worse than"


def _format_change(found: ScoreDifference) -> str:
    if found.interval is None:
        return f"{found.value:+.3f} (one image: no interval)"
    return f"{found.value:+.3f} ({found.interval[0]:+.3f} to {found.interval[1]:+.3f})"
