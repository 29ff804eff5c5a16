"""Measure the cells of ``virft advise`` on the built-in scenes, fit decision lists and evaluate them on held-out cells.

    python scripts/advice_cells.py runs/families
    python scripts/advice_cells.py runs/families few_shot_detection_1_image lookalike_classification --seeds 1
    python scripts/advice_cells.py runs/families --max-runs 1
    python scripts/advice_cells.py --report benchmarks/results/advice_cells.json

A cell is a training set, a test set and a seed: the scores of mix, SFT and RFT, and the features of ``virft advise``.
For each training set, one of ``compare_families.py`` or of ``MORE``, the features are measured, and the systems are
trained and tested by ``compare_families.py`` in the same folder, so finished runs of that script are used again. Takes
hours for each training set on two CPU cores; after Ctrl-C, or after ``--max-runs`` training runs, the same command
resumes. The cells are saved in ``advice_cells.json`` of the folder. Then a decision list is fitted with one family (or
one training set) held out at a time and evaluated on it, and compared with always the same system.
"""

from __future__ import annotations

import argparse
import json
import math
import tomllib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean

import compare_families

from virft.config.toml_file import load_config
from virft.files import write_text
from virft.recipes.advice.advise import advise_training
from virft.recipes.advice.rule import (
    EVIDENCE,
    METHODS,
    RULE,
    TOLERANCE,
    AdvisedSystem,
    Case,
    Rule,
    Situation,
    situation_of,
)
from virft.recipes.compare.runs import RESULT
from virft.recipes.train import EVAL
from virft.tasks import TASKS
from virft.training.run import CONFIG

CELLS = "advice_cells.json"
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
PHOTOGRAPHS = "photo_"
"""Families of photographs begin with this."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Scores of the systems that one seed has trained, on one test set, and features of the training set."""

    family: str
    training_set: str
    test: str
    seed: int
    metric: str
    scores: dict[str, float]
    """System -> headline metric; ``base`` is among them."""
    situation: Situation
    source: str

    @property
    def name(self) -> str:
        """Such as ``few_shot_detection other_style seed 0``."""
        return f"{self.training_set} {self.test} seed {self.seed}"

    @property
    def is_complete(self) -> bool:
        """True if the cell has the scores of all methods."""
        return all(name in self.scores for name in METHODS)

    @property
    def best(self) -> float:
        """The highest score of the methods; NaN without any."""
        return max((self.scores[name] for name in METHODS if name in self.scores), default=math.nan)

    def is_correct(self, system: str) -> bool | None:
        """Return True if the system is at most ``TOLERANCE`` below the best method; None without all methods."""
        return self.scores[system] >= self.best - TOLERANCE if self.is_complete else None

    def regret(self, system: str) -> float | None:
        """Return the score of the best method minus that of this one; None without all methods."""
        return self.best - self.scores[system] if self.is_complete else None


# --- measure ---


def training_sets() -> dict[str, compare_families.Cell]:
    """Return the training sets of built-in scenes by name."""
    found = compare_families.CELLS | MORE
    return {name: cell for name, cell in found.items() if not cell.family.startswith(PHOTOGRAPHS)}


def compare_systems(out: Path, names: Sequence[str], args: argparse.Namespace) -> None:
    """Build the data, train and test the systems; ``SystemExit`` if a comparison fails."""
    compare_families.CELLS.update(MORE)
    families = compare_families.Families(
        out, cells=names, systems=METHODS, seeds=args.seeds, settings=args.set, max_runs=args.max_runs
    )
    if status := families.compare_all():
        raise SystemExit(status)


def measured_cells(name: str, out: Path) -> list[Cell]:
    """Return the cells of a training set, with the features of its data; none if it is unfinished."""
    result = out / name / "compare" / RESULT
    if not result.exists():
        return []
    given = training_sets()[name]
    config = tomllib.loads((compare_families.CONFIGS / f"compare_{given.family}.toml").read_text(encoding="utf-8"))
    length = f"sampling.max_completion_tokens={config['sampling']['max_completion_tokens']}"
    found = advise_training(out / name / "train", "virft-tiny", [length], log=print)
    return list(cells_of(name, given.family, result, situation_of(found.features), "measured"))


def cells_of(training_set: str, family: str, result: Path, situation: Situation, source: str) -> Iterator[Cell]:
    """Yield the cells of a ``compare.json``: one for each test and seed."""
    tree = json.loads(result.read_text(encoding="utf-8"))
    base = result.parent / "base"
    runs = {name: [Path(run) for run in one["runs"]] for name, one in tree["systems"].items() if name in METHODS}
    for test in tree["tests"]:
        metric, of_base = _headline(base / EVAL / test)
        for number in range(min(map(len, runs.values()), default=0)):
            scores = {name: _headline(folders[number] / EVAL / test)[1] for name, folders in runs.items()}
            seeds = {load_config(folders[number] / CONFIG).config.seed for folders in runs.values()}
            (seed,) = seeds
            yield Cell(
                family=family,
                training_set=training_set,
                test=test,
                seed=seed,
                metric=metric,
                scores={"base": of_base} | scores,
                situation=situation,
                source=source,
            )


def _headline(folder: Path) -> tuple[str, float]:
    """The headline metric of predictions on a test, and its value."""
    tasks = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["tasks"]
    ((task, found),) = tasks.items()
    metric = TASKS[task].headline
    return metric, round(found["values"][metric], 6)


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
    return max(rules, key=lambda rule: _quality([(cell, rule.system_of(cell.situation)) for cell in cells]))


def _with_systems(rule: Rule, cells: Sequence[Cell]) -> Rule:
    systems = dict(rule.systems)
    for case in FITTED:
        own = [cell for cell in cells if cell.is_complete and rule.case_of(cell.situation) == case]
        systems[case] = max(METHODS, key=lambda name: _quality([(cell, name) for cell in own])) if own else FALLBACK
    return replace(rule, systems=systems)


def _quality(advised: Sequence[tuple[Cell, AdvisedSystem]]) -> tuple[int, float]:
    return sum(cell.is_correct(system) is True for cell, system in advised), round(-_mean_regret(advised), 6)


def _mean_regret(advised: Sequence[tuple[Cell, AdvisedSystem]]) -> float:
    found = [regret for cell, system in advised if (regret := cell.regret(system)) is not None]
    return fmean(found) if found else 1.0


def count_evidence(cells: Sequence[Cell], rule: Rule = RULE) -> dict[Case, tuple[int, int, dict[str, int]]]:
    """Return, for each case, the number of complete cells, of their training sets, and of those correct by method."""
    counts = {}
    for case in Case:
        own = [cell for cell in cells if cell.is_complete and rule.case_of(cell.situation) == case]
        correct = {name: sum(cell.is_correct(name) is True for cell in own) for name in METHODS} if own else {}
        counts[case] = (len(own), len({cell.training_set for cell in own}), correct)
    return counts


def report_lines(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield a table of cells with held-out advice, the fraction that is correct, and the rule fitted to all cells."""
    yield "| cell | knowledge | images per class | " + " | ".join(("base", *METHODS)) + " | held-out advice | correct |"
    yield "|---" * (5 + len(METHODS) + 1) + "|"
    for cell, system in _held_out(cells, lambda one: one.family):
        scores = [f"{cell.scores[name]:.3f}" if name in cell.scores else "" for name in ("base", *METHODS)]
        images = "" if cell.situation.images_per_class is None else f"{cell.situation.images_per_class:g}"
        correct = {True: "yes", False: "no", None: "not trained"}[cell.is_correct(system)]
        row = [cell.name, f"{cell.situation.knowledge:.2f}", images, *scores, system, correct]
        yield f"| {' | '.join(row)} |"
    scenes = [cell for cell in cells if not cell.family.startswith(PHOTOGRAPHS)]
    yield ""
    yield from _summary(cells)
    if len(scenes) < len(cells):
        yield ""
        yield "without photographs:"
        yield from _summary(scenes)
    yield ""
    fitted = fit_rule(cells)
    yield f"fitted to all cells: known {fitted.known:g}, few {fitted.few:g}, many {fitted.many:g}, " + ", ".join(
        f"{case}: {fitted.systems[case]}" for case in FITTED
    )
    for case, counted in count_evidence(cells).items():
        if counted != EVIDENCE[case][:3]:
            yield f"EVIDENCE of {case} in rule.py is {EVIDENCE[case][:3]}; these cells have {counted}"


def _summary(cells: Sequence[Cell]) -> Iterator[str]:
    yield f"the rule with one family held out: {_describe(_held_out(cells, lambda one: one.family))}"
    yield f"the rule with one training set held out: {_describe(_held_out(cells, lambda one: one.training_set))}"
    for system in METHODS:
        yield f"always {system}: {_describe([(cell, system) for cell in cells])}"
    fitted = fit_rule(cells)
    advised = [(cell, fitted.system_of(cell.situation)) for cell in cells]
    yield f"the rule fitted to the same cells: {_describe(advised)}"


def _held_out(cells: Sequence[Cell], group_of: Callable[[Cell], Hashable]) -> list[tuple[Cell, AdvisedSystem]]:
    """Each cell with the system that a rule advises which was fitted without the cells of its group."""
    rules = {
        group: fit_rule([one for one in cells if group_of(one) != group])
        for group in dict.fromkeys(map(group_of, cells))
    }
    return [(cell, rules[group_of(cell)].system_of(cell.situation)) for cell in cells]


def _describe(advised: Sequence[tuple[Cell, AdvisedSystem]]) -> str:
    complete = [(cell, system) for cell, system in advised if cell.is_complete]
    if not complete:
        return "no cell in which all methods were trained"
    correct = sum(cell.is_correct(system) is True for cell, system in complete)
    best = sum(cell.regret(system) == 0 for cell, system in complete)
    return (
        f"within {TOLERANCE:g} of the best in {correct} of {len(complete)} cells ({correct / len(complete):.0%}), best "
        f"in {best}; {_mean_regret(complete):.4f} below the best on average"
    )


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
