"""What a comparison shows, and what it does not, in a table and in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from virft.evaluation.comparison import Comparison, Difference
from virft.recipes.compare.runs import IN_WORDS, Compared, TrainedSystem
from virft.tasks import TASKS
from virft.training.progress import duration


def compared_text(found: Compared) -> str:
    """A table for each test, then what it shows and what it does not."""
    costs = {one.name: f"{one.tokens:,} tokens, {duration(one.seconds)}" for one in found.systems}
    lines = []
    for test, by_pair in found.comparisons.items():
        for number, task in enumerate(next(iter(by_pair.values()))):
            for name in shown_numbers(task.task):
                lines.append(f"{test} ({task.task}, {name}, {task.num_images} images)")
                lines += [_row(system, test, name, number, found, costs) for system in found.systems]
            lines += [f"  {sentence}" for sentence in sentences(by_pair, number)]
    return "\n".join(lines)


def shown_numbers(task: str) -> tuple[str, ...]:
    """The numbers of a task that are compared: the headline, and of detection average precision.

    >>> shown_numbers("detection")
    ('f1', 'ap')
    """
    return tuple(metric.name for metric in TASKS[task].metrics if metric.in_comparison)


def _row(system: TrainedSystem, test: str, name: str, number: int, found: Compared, costs: Mapping[str, str]) -> str:
    label = f"  {IN_WORDS[system.name]:<13}"
    by_pair = found.comparisons[test]
    if system.name == "base":
        (pair,) = [pair for pair in by_pair if pair[0] == "base"][:1]
        return f"{label} {by_pair[pair][number].differences[name].first.mean:.3f}"
    against = by_pair["base", system.name][number].differences[name]
    value = against.second
    spread = f" [{value.low:.3f}, {value.high:.3f}]" if value.num_seeds > 1 else ""
    return (
        f"{label} {value.mean:.3f}{spread}  {_change(against)} against base; learning rate {system.learning_rate:g}, "
        f"{system.steps} steps, {costs[system.name]}"
    )


def sentences(by_pair: Mapping[tuple[str, str], Sequence[Comparison]], number: int) -> Iterator[str]:
    """What the comparison shows, a sentence for each pair of systems and number, and what it does not."""
    num_seeds = 1
    for (first, second), tasks in by_pair.items():
        for name in shown_numbers(tasks[number].task):
            found = tasks[number].differences[name]
            num_seeds = max(num_seeds, found.second.num_seeds)
            yield f"{IN_WORDS[second]} {_standing(found)} {IN_WORDS[first]} on these images: {name} {_change(found)}."
        yield from (f"Asked differently: {warning}" for warning in tasks[number].warnings)
    yield (
        f"Intervals are over images, pooled over {num_seeds} seed{'s' if num_seeds > 1 else ''}: they say nothing of "
        "other data, other models or other budgets."
    )


def _standing(found: Difference) -> str:
    if not found.is_clear:
        return "cannot be told from"
    return "is better than" if found.value > 0 else "is worse than"


def _change(found: Difference) -> str:
    if found.interval is None:
        return f"{found.value:+.3f} (one image: no interval)"
    return f"{found.value:+.3f} ({found.interval[0]:+.3f} to {found.interval[1]:+.3f})"
