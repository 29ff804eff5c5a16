"""A comparison as text: a table of scores, and sentences about the differences."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from virft.config.wording import counted
from virft.evaluation.blind import describe_margin
from virft.evaluation.comparison import Comparison, ScoreDifference
from virft.evaluation.evaluated import format_score
from virft.recipes.compare.runs import BlindComparison, Compared
from virft.recipes.compare.systems import SYSTEMS, format_rates
from virft.recipes.compare.training import TrainedSystem
from virft.tasks import TASKS
from virft.training.progress import duration


def compared_text(found: Compared) -> str:
    """A table of scores for each test, then a sentence about each difference."""
    lines = list(plan_sentences(found))
    for test, by_pair in found.comparisons.items():
        for number, task in enumerate(next(iter(by_pair.values()))):
            blind, limits = blind_of(found, test, task.task), found.repeatability.get(test, {}).get(task.task)
            for name in shown_numbers(task.task):
                lines.append(f"{test} ({task.task}, {name}, {counted(task.num_images, 'image')})")
                lines += [row for system in found.systems for row in _rows(system, test, name, number, found)]
                lines += _blind_rows(blind, name)
            texts = sentences(
                by_pair,
                number,
                blind,
                best_sft=found.best_sft,
                limits=limits,
                without_thinking=found.without_thinking,
            )
            lines += [f"  {sentence}" for sentence in texts]
    return "\n".join(lines)


def plan_sentences(found: Compared) -> Iterator[str]:
    """Sentences about the systems: those that are skipped, and the SFT system that represents SFT."""
    for name, reason in found.skipped.items():
        yield f"{SYSTEMS[name].title} is skipped: {reason}."
    best = found.best_sft
    if best is None or sum(one.system.is_sft for one in found.systems) < 2:
        return
    if best.validation is None:
        yield f"Without validation data, {best.system.title} represents the SFT systems."
    else:
        yield (
            f"{best.system.title} represents the SFT systems: its validation score, {best.validation:.3f}, is the "
            "highest of them. No test was used to choose it."
        )


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


def _rows(system: TrainedSystem, test: str, name: str, number: int, found: Compared) -> Iterator[str]:
    """The row of a system; of the base model, one for each thinking mode."""
    by_pair = found.comparisons[test]
    if system.name != "base":
        yield _row(system, test, name, number, found)
        return
    base = {
        base_title(second, found.without_thinking): tasks[number].differences[name].first.mean
        for (first, second), tasks in by_pair.items()
        if first == "base"
    }
    for title, mean in base.items():
        yield f"  {title:<13} {mean:.3f}"


def base_title(system: str, without_thinking: Collection[str]) -> str:
    """Name of the base model that a system is compared with: both have the same thinking mode.

    >>> base_title("sft", {"sft"}), base_title("rft", {"sft"})
    ('base without thinking', 'base')
    """
    return SYSTEMS["base"].title + " without thinking" * (system in without_thinking)


def _row(system: TrainedSystem, test: str, name: str, number: int, found: Compared) -> str:
    label = f"  {system.system.title:<13}"
    by_pair = found.comparisons[test]
    against = by_pair["base", system.name][number].differences[name]
    value, base = against.second, base_title(system.name, found.without_thinking)
    seeds = f" [{value.low:.3f}, {value.high:.3f}]" if value.num_seeds > 1 else ""
    warm_start = f" ({system.warm_start_steps} of them warm start)" if system.warm_start_steps else ""
    sampled = f" ({system.base_tokens:,} of them base completions)" if system.base_tokens else ""
    return (
        f"{label} {value.mean:.3f}{seeds}  {_format_change(against)} against {base}; learning rate "
        f"{format_rates(system.learning_rates)}, {counted(system.steps, 'step')}{warm_start}, "
        f"{system.tokens:,} tokens{sampled}, {duration(system.seconds)}"
    )


def sentences(
    by_pair: Mapping[tuple[str, str], Sequence[Comparison]],
    number: int,
    blind: BlindComparison | None = None,
    *,
    best_sft: TrainedSystem | None = None,
    limits: Mapping[str, float] | None = None,
    without_thinking: Collection[str] = (),
) -> Iterator[str]:
    """A sentence about the difference of pairs of systems in each score, and about the confidence intervals.

    ``blind``: sentences about the position of each system against the blind baselines too. ``best_sft``: the SFT system
    that all others are compared with. ``limits``: metric -> repeatability limit; smaller differences are ties.
    ``without_thinking``: systems that are compared with the base model without thinking.
    """
    num_seeds = 1
    for (first, second), tasks in by_pair.items():
        if not _is_shown(first, second, best_sft):
            continue
        for name in shown_numbers(tasks[number].task):
            found = tasks[number].differences[name]
            num_seeds = max(num_seeds, found.second.num_seeds)
            limit = None if limits is None else limits[name]
            other = base_title(second, without_thinking) if first == "base" else SYSTEMS[first].title
            verdict = f"{SYSTEMS[second].title} {_verdict(found, limit)} {other}"
            better = second if found.value > 0 else first
            but = _but(blind, better) if found.is_clear else ""
            yield f"{verdict} on these images: {name} {_format_change(found)}{but}."
        yield from (f"Not evaluated alike: {warning}" for warning in tasks[number].warnings)
    if blind is not None:
        yield from _blind_sentences(blind)
    if limits is not None:
        yield _repeatability_sentence(
            {name: limits[name] for name in shown_numbers(next(iter(by_pair.values()))[number].task)}
        )
    yield (
        f"Confidence intervals resample images, pooled over {counted(num_seeds, 'seed')}; they do "
        "not generalize to other data, models or budgets."
    )


def _is_shown(first: str, second: str, best_sft: TrainedSystem | None) -> bool:
    """True for a pair with the base model, of SFT systems, of GRPO systems, and with the best SFT system.

    A sentence "better than SFT" would mislead if another SFT system had the higher validation score.
    """
    if first == "base" or SYSTEMS[first].is_sft == SYSTEMS[second].is_sft:
        return True
    return best_sft is None or best_sft.name in (first, second)


def _repeatability_sentence(limits: Mapping[str, float]) -> str:
    """A sentence about the repeatability of predictions.

    >>> _repeatability_sentence({"f1": 0.0, "ap": 0.0})
    'Repeatability limit of predictions: 0; greedy decoding gave the same scores in other batches.'
    >>> _repeatability_sentence({"f1": 0.0012, "ap": 0.0})
    'Repeatability limit of predictions: f1 0.0012, ap 0.0000; smaller differences are ties.'
    """
    if not any(limits.values()):
        return "Repeatability limit of predictions: 0; greedy decoding gave the same scores in other batches."
    values = ", ".join(f"{name} {value:.4f}" for name, value in limits.items())
    return f"Repeatability limit of predictions: {values}; smaller differences are ties."


def _but(blind: BlindComparison | None, system: str) -> str:
    """A clause about the better system of a pair, if it is not above the best blind baseline."""
    if blind is None or describe_margin(blind.differences[system]) == "above":
        return ""
    return f", but {SYSTEMS[system].title} is not above the best blind baseline ({blind.blind.best.name})"


def _blind_sentences(found: BlindComparison) -> Iterator[str]:
    """The position of each system against the best blind baseline, and answers that it repeats."""
    name = found.blind.metric
    for system, difference in found.differences.items():
        verdict = describe_margin(difference)
        verdict = verdict if verdict == "above" else verdict.upper()
        yield (
            f"{SYSTEMS[system].title} is {verdict} the best blind baseline ({found.blind.best.name}): "
            f"{name} {_format_change(difference)}."
        )
        if (common := found.common_answers.get(system)) is not None:
            yield f"{SYSTEMS[system].title}: {common}."


def _verdict(found: ScoreDifference, limit: float | None) -> str:
    if limit is not None and abs(found.value) <= limit:
        return "is tied with"
    if not found.is_clear:
        return "is not distinguishable from"
    return "is better than" if found.value > 0 else "is worse than"


def _format_change(found: ScoreDifference) -> str:
    if found.interval is None:
        return f"{found.value:+.3f} (one image: no interval)"
    return f"{found.value:+.3f} ({found.interval[0]:+.3f} to {found.interval[1]:+.3f})"
