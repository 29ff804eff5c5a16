"""Measure, fit and evaluate the rule of ``virft advise`` on the built-in scenes.

    python scripts/advice_cells.py runs/families
    python scripts/advice_cells.py runs/families few_shot_detection_1_image lookalike_classification --seeds 1
    python scripts/advice_cells.py runs/families --max-runs 1
    python scripts/advice_cells.py --report benchmarks/results/advice_cells.json

For each training set, a cell of ``compare_families.py`` or of ``MORE``, the features of ``virft advise`` are measured,
and the systems that may be advised are trained and tested by ``compare_families.py`` in the same folder, so finished
runs of that script are used again. Takes hours for each training set on two CPU cores; after Ctrl-C, or after
``--max-runs`` training runs, the same command resumes. The results on every test set (a style) are saved in
``advice_cells.json`` of the folder. Then the rule is fitted with one family (or one training set) held out at a time
and evaluated on it, and compared with always the same system.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import compare_families

from virft.files import write_text
from virft.recipes.advice.advise import advise_training
from virft.recipes.advice.rule import EVIDENCE, RULE, AdvisedSystem, Case, Rule, Situation, situation_of
from virft.recipes.compare.runs import RESULT
from virft.tasks import TASKS

CELLS = "advice_cells.json"
SYSTEMS: tuple[AdvisedSystem, ...] = ("sft", "rft", "sft_rft", "mix")
"""Systems that may be advised."""
_KNOWN_RATES = ("compare.sft_learning_rates=[1e-5,1e-4]", "compare.rft_learning_rates=[3e-5,1e-4]")
_NEW_RATES = ("compare.sft_learning_rates=[1e-4,3e-4]", "compare.rft_learning_rates=[1e-4,3e-4]")
MORE = {
    f"{family}_{shots}_images": compare_families.Cell(family, shots, rates)
    for family, numbers, rates in (
        ("few_shot_detection", (2, 8), _NEW_RATES),
        ("known_few_shot_detection", (1, 16), _KNOWN_RATES),
        ("base_to_novel_detection", (1, 4), _KNOWN_RATES),
        ("lookalike_classification", (1, 4), _NEW_RATES),
        ("reasoning_grounding", (1, 4), _KNOWN_RATES),
    )
    for shots in numbers
}
"""Training sets in addition to those of ``compare_families.py``: together 17 with 25 test sets."""
FALLBACK: AdvisedSystem = "mix"
"""System of a case without measured cells in the training families."""
KNOWN = (0.15, 0.05, 0.1, 0.2, 0.3, 0.4)
FEW = (1.0, 2.0, 3.0)
MANY = (8.0, 4.0, 16.0)
"""Thresholds that are tried, the committed one first: of equally good ones the first is chosen."""
FITTED = (Case.NAMES, Case.KNOWN, Case.FEW, Case.SOME, Case.MANY)
"""Cases whose system is fitted; the others are guards."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Features of a training set, and the scores of the trained systems on one test set."""

    family: str
    shots: int
    test: str
    metric: str
    scores: dict[str, float]
    """System -> headline metric, mean over seeds; ``base`` is among them."""
    differences: dict[str, list[float]]
    """``SECOND against FIRST`` -> value and ends of the 95 % confidence interval."""
    situation: Situation
    source: str

    @property
    def name(self) -> str:
        """Such as ``few_shot_detection:4 other_style``."""
        return f"{self.family}:{self.shots} {self.test}"

    @property
    def systems(self) -> list[AdvisedSystem]:
        """The trained systems that may be advised."""
        return [name for name in SYSTEMS if name in self.scores]

    def is_better(self, one: str, other: str) -> bool:
        """Return True if the first system is better beyond the confidence interval of the difference."""
        if (found := self.differences.get(f"{one} against {other}")) is not None:
            return found[1] > 0
        found = self.differences.get(f"{other} against {one}")
        return found is not None and found[2] < 0

    def is_correct(self, system: str) -> bool | None:
        """Return True if no other system is better; None if the system or all others were not trained.

        ``none`` is correct if no system is better than the base model.
        """
        name = "base" if system == "none" else system
        others = [one for one in self.systems if one != name]
        if name not in self.scores or not others:
            return None
        return not any(self.is_better(one, name) for one in others)

    def regret(self, system: str) -> float | None:
        """Return the score of the best system minus that of this one; None if it was not trained."""
        if system not in self.systems:
            return None
        return max(self.scores[one] for one in self.systems) - self.scores[system]


# --- measure ---


def training_sets() -> dict[str, compare_families.Cell]:
    """Return the training sets by name."""
    return compare_families.CELLS | MORE


def compare_systems(out: Path, names: Sequence[str], args: argparse.Namespace) -> None:
    """Build the data, train and test the systems; ``SystemExit`` if a comparison fails."""
    compare_families.CELLS.update(MORE)
    families = compare_families.Families(
        out, cells=names, systems=SYSTEMS, seeds=args.seeds, settings=args.set, max_runs=args.max_runs
    )
    if status := families.compare_all():
        raise SystemExit(status)


def measured_cells(name: str, out: Path) -> list[Cell]:
    """Return a cell for each test set of a training set, with the features of its data; none if it is unfinished."""
    result = out / name / "compare" / RESULT
    if not result.exists():
        return []
    given = training_sets()[name]
    config = tomllib.loads((compare_families.CONFIGS / f"compare_{given.family}.toml").read_text(encoding="utf-8"))
    length = f"sampling.max_completion_tokens={config['sampling']['max_completion_tokens']}"
    found = advise_training(out / name / "train", "virft-tiny", [length], log=print)
    shots = given.shots or compare_families.FAMILIES[given.family]["train"]["shots"]
    tests = json.loads(result.read_text(encoding="utf-8"))["tests"]
    situation = situation_of(found.features)
    return [cell_of(given.family, shots, test, pairs, situation, "measured") for test, pairs in tests.items()]


def cell_of(family: str, shots: int, test: str, pairs: Any, situation: Situation, source: str) -> Cell:
    """Return the cell of a test in ``compare.json``: ``SECOND against FIRST`` -> task -> differences by metric."""
    scores: dict[str, float] = {}
    differences: dict[str, list[float]] = {}
    metric = ""
    for names, tasks in pairs.items():
        second, first = names.split(" against ")
        ((task, found),) = tasks.items()
        metric = TASKS[task].headline
        one = found["differences"][metric]
        scores |= {first: one["first"]["mean"], second: one["second"]["mean"]}
        differences[names] = [one["value"], *(one["interval"] or (-1.0, 1.0))]
    return Cell(
        family=family,
        shots=shots,
        test=test,
        metric=metric,
        scores=scores,
        differences=differences,
        situation=situation,
        source=source,
    )


def read_cells(path: Path) -> list[Cell]:
    """Read the cells of a file; none if it does not exist."""
    if not path.exists():
        return []
    tree = json.loads(path.read_text(encoding="utf-8"))
    return [Cell(**one | {"situation": Situation(**one["situation"])}) for one in tree["cells"]]


def write_cells(path: Path, cells: Iterable[Cell]) -> None:
    """Write cells as JSON."""
    tree = {"cells": [asdict(one) | {"situation": one.situation._asdict()} for one in cells]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(tree, indent=1) + "\n")


# --- fit and evaluate ---


def fit_rule(cells: Sequence[Cell]) -> Rule:
    """Return the rule that is correct in most cells; of equal ones, that with the highest mean score, then the first.

    A case without cells advises ``FALLBACK``.
    """
    rules = [
        _with_systems(replace(RULE, known=known, few=few, many=many), cells)
        for known, few, many in product(KNOWN, FEW, MANY)
        if few < many
    ]
    return max(rules, key=lambda rule: _quality(rule, cells))


def _with_systems(rule: Rule, cells: Sequence[Cell]) -> Rule:
    systems = dict(rule.systems)
    for case in FITTED:
        own = [cell for cell in cells if rule.case_of(cell.situation) == case]
        trained = [name for name in SYSTEMS if any(name in cell.scores for cell in own)]
        systems[case] = max(trained, key=lambda name: _quality_of(name, own)) if trained else FALLBACK
    return replace(rule, systems=systems)


def _quality(rule: Rule, cells: Sequence[Cell]) -> tuple[int, float]:
    advised = [(cell, rule.system_of(cell.situation)) for cell in cells]
    correct = sum(cell.is_correct(system) is True for cell, system in advised)
    return correct, round(-_mean_regret(advised), 6)


def _quality_of(system: AdvisedSystem, cells: Sequence[Cell]) -> tuple[int, float]:
    advised = [(cell, system) for cell in cells]
    return sum(cell.is_correct(system) is True for cell in cells), -_mean_regret(advised)


def _mean_regret(advised: Sequence[tuple[Cell, AdvisedSystem]]) -> float:
    found = [regret for cell, system in advised if (regret := cell.regret(system)) is not None]
    return fmean(found) if found else 1.0


def count_evidence(cells: Sequence[Cell], rule: Rule = RULE) -> dict[Case, tuple[int, int]]:
    """Return, for each case, the number of cells that can be judged and the number in which the advice is correct."""
    counts = dict.fromkeys(Case, (0, 0))
    for cell in cells:
        case = rule.case_of(cell.situation)
        correct = cell.is_correct(rule.systems[case])
        if correct is not None:
            judged, right = counts[case]
            counts[case] = judged + 1, right + correct
    return counts


def report_lines(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield a table of cells with held-out advice, the fraction that is correct, and the rule fitted to all cells."""
    yield "| cell | knowledge | images per class | " + " | ".join(("base", *SYSTEMS)) + " | held-out advice | correct |"
    yield "|---" * (5 + len(SYSTEMS) + 1) + "|"
    by_family = _held_out(cells, lambda one: one.family)
    by_set = _held_out(cells, lambda one: (one.family, one.shots))
    for cell, system in by_family:
        scores = [f"{cell.scores[name]:.3f}" if name in cell.scores else "" for name in ("base", *SYSTEMS)]
        images = "" if cell.situation.images_per_class is None else f"{cell.situation.images_per_class:g}"
        correct = {True: "yes", False: "no", None: "not trained"}[cell.is_correct(system)]
        row = [cell.name, f"{cell.situation.knowledge:.2f}", images, *scores, system, correct]
        yield f"| {' | '.join(row)} |"
    yield ""
    yield f"the rule with one family held out: {_describe(by_family)}"
    yield f"the rule with one training set held out: {_describe(by_set)}"
    for system in SYSTEMS:
        yield f"always {system}: {_describe([(cell, system) for cell in cells])}"
    committed = [(cell, RULE.system_of(cell.situation)) for cell in cells]
    yield f"the committed rule (chosen with these cells): {_describe(committed)}"
    fitted = fit_rule(cells)
    yield f"fitted to all cells: known {fitted.known:g}, few {fitted.few:g}, many {fitted.many:g}, " + ", ".join(
        f"{case}: {fitted.systems[case]}" for case in FITTED
    )
    for case, (judged, right) in count_evidence(cells).items():
        if (judged, right) != EVIDENCE[case][:2]:
            yield f"EVIDENCE of {case} in rule.py is {EVIDENCE[case][:2]}; these cells have {(judged, right)}"


def _held_out(cells: Sequence[Cell], group_of: Callable[[Cell], Hashable]) -> list[tuple[Cell, AdvisedSystem]]:
    """Each cell with the system that a rule advises which was fitted without the cells of its group."""
    rules = {
        group: fit_rule([one for one in cells if group_of(one) != group])
        for group in dict.fromkeys(map(group_of, cells))
    }
    return [(cell, rules[group_of(cell)].system_of(cell.situation)) for cell in cells]


def _describe(advised: Sequence[tuple[Cell, AdvisedSystem]]) -> str:
    found = [correct for cell, system in advised if (correct := cell.is_correct(system)) is not None]
    if not found:
        return "no cell in which it was trained"
    counted = f"{sum(found)} of {len(found)} cells ({fmean(found):.0%})"
    differing = [
        correct
        for cell, system in advised
        if (correct := cell.is_correct(system)) is not None
        and any(cell.is_correct(one) is False for one in cell.systems)
    ]
    counted += f", {sum(differing)} of {len(differing)} with a clear difference between systems"
    return f"correct in {counted}; {_mean_regret(advised):.3f} below the best system on average"


def main() -> None:
    """Measure the cells, then print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder of compare_families.py")
    known = training_sets()
    parser.add_argument("sets", nargs="*", metavar="SET", choices=[*known, []], help=f"of {', '.join(known)}")
    parser.add_argument("--seeds", type=int, help="training runs per system; default: as the config says")
    parser.add_argument("--max-runs", type=int, help="stop after this number of new training runs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--report", type=Path, metavar="JSON", help="only fit and evaluate the cells of this file")
    args = parser.parse_args()
    if args.report is not None:
        print("\n".join(report_lines(read_cells(args.report))))
        return
    if args.out is None:
        parser.error("expected a folder, or --report JSON")
    names = args.sets or list(known)
    compare_systems(args.out, names, args)
    cells = [cell for name in names for cell in measured_cells(name, args.out)]
    write_cells(args.out / CELLS, cells)
    print("\n".join(report_lines(cells)))


if __name__ == "__main__":
    main()
