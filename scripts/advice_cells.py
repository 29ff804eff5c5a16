"""Measure, fit and evaluate the rule of ``virft advise`` on the built-in scenes.

    python scripts/advice_cells.py runs/cells
    python scripts/advice_cells.py runs/cells --cells few_shot_detection:1 lookalike_classification:2
    python scripts/advice_cells.py --report benchmarks/results/advice_cells.json

A cell is a training set (family of ``compare_families.py``, images per class) and a test set of it (a style). For each
training set the features of ``virft advise`` are measured, and all systems are trained and tested by ``virft compare``.
Takes hours for each training set on two CPU cores; after Ctrl-C, the same command resumes. Cells are saved in
``cells.json`` of the folder. Then the rule is fitted with one family (or one training set) held out at a time and
evaluated on it, and compared with always the same system.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import compare_families

from virft.files import write_text
from virft.recipes.advice.advise import advise_training
from virft.recipes.advice.rule import EVIDENCE, RULE, Case, Rule, Situation, System, situation_of
from virft.recipes.compare.runs import RESULT
from virft.tasks import TASKS

GRID = {
    "few_shot_detection": (1, 2, 4, 8, 16),
    "known_few_shot_detection": (1, 4, 16),
    "base_to_novel_detection": (1, 2, 4),
    "lookalike_classification": (1, 2, 4),
    "reasoning_grounding": (1, 2, 4),
}
"""Family -> images per class of its training sets."""
SYSTEMS: tuple[System, ...] = ("sft", "rft", "sft_rft", "mix")
"""Systems that may be advised; those that ``virft compare`` does not have yet are skipped by its config."""
FALLBACK: System = "mix"
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
    def systems(self) -> list[System]:
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


def measure_cells(family: str, shots: int, out: Path, overrides: Sequence[str]) -> list[Cell]:
    """Build the data, measure its features, train and test all systems; a cell for each test set."""
    folder = out / f"{family}_{shots}"
    status = compare_families.compare_family(family, folder, [*overrides], shots)
    if status:
        raise SystemExit(status)
    place = folder / family
    config = compare_families.CONFIGS / f"compare_{family}.toml"
    length = next(line for line in config.read_text().splitlines() if line.startswith("max_completion_tokens"))
    found = advise_training(place / "train", "virft-tiny", [f"sampling.{length}"], log=print)
    tests = json.loads((place / "compare" / RESULT).read_text(encoding="utf-8"))["tests"]
    source = f"{family}, {shots} images per class"
    return [cell_of(family, shots, test, pairs, situation_of(found.features), source) for test, pairs in tests.items()]


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


def _quality_of(system: System, cells: Sequence[Cell]) -> tuple[int, float]:
    advised = [(cell, system) for cell in cells]
    return sum(cell.is_correct(system) is True for cell in cells), -_mean_regret(advised)


def _mean_regret(advised: Sequence[tuple[Cell, System]]) -> float:
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


def _held_out(cells: Sequence[Cell], group_of: Callable[[Cell], Hashable]) -> list[tuple[Cell, System]]:
    """Each cell with the system that a rule advises which was fitted without the cells of its group."""
    rules = {
        group: fit_rule([one for one in cells if group_of(one) != group])
        for group in dict.fromkeys(map(group_of, cells))
    }
    return [(cell, rules[group_of(cell)].system_of(cell.situation)) for cell in cells]


def _describe(advised: Sequence[tuple[Cell, System]]) -> str:
    found = [correct for cell, system in advised if (correct := cell.is_correct(system)) is not None]
    if not found:
        return "no cell in which it was trained"
    counted = f"{sum(found)} of {len(found)} cells ({fmean(found):.0%})"
    return f"correct in {counted}, {_mean_regret(advised):.3f} below the best system on average"


def main() -> None:
    """Measure the missing cells, then print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder of data, comparisons and cells.json")
    parser.add_argument("--cells", nargs="*", metavar="FAMILY:SHOTS", help="training sets (default: all of GRID)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--report", type=Path, metavar="JSON", help="only fit and evaluate the cells of this file")
    args = parser.parse_args()
    if args.report is not None:
        print("\n".join(report_lines(read_cells(args.report))))
        return
    if args.out is None:
        parser.error("expected a folder, or --report JSON")
    named = [one.partition(":")[::2] for one in args.cells or ()]
    training_sets = [(family, int(shots)) for family, shots in named] or [
        (f, shots) for f, own in GRID.items() for shots in own
    ]
    path = args.out / "cells.json"
    cells = read_cells(path)
    for family, shots in training_sets:
        if not any((one.family, one.shots) == (family, shots) for one in cells):
            cells += measure_cells(family, shots, args.out, args.set)
            write_cells(path, cells)
    print("\n".join(report_lines(cells)))


if __name__ == "__main__":
    main()
