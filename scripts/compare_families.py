"""Experiments on the built-in scenes: compare the base model and all systems of ``virft compare`` on each family.

    python scripts/compare_families.py runs/families [CELL ..]
    python scripts/compare_families.py runs/families few_shot_detection --systems sft rft --seeds 1
    python scripts/compare_families.py runs/families --max-runs 1
    python scripts/compare_families.py runs/families --table
    python scripts/compare_families.py runs/photo photo_white_cells_32 --data DATA --set model.path=virft-tiny
    python scripts/compare_families.py runs/thinking few_shot_detection --set prompt.thinking=true

A cell is a family of tasks with a number of training images. Each is a comparison of its own, which takes hours on two
CPU cores. After Ctrl-C, or after ``--max-runs`` training runs, the same command resumes; cells, systems and seeds may
be added in any order, and nothing that is finished is repeated. Settings are those of ``configs/compare_FAMILY.toml``,
paths are below the given folder. At the end, a table of all finished cells is printed.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from virft.cli.build_scenes import build_scenes
from virft.cli.compare import compare_and_report
from virft.cli.output import say
from virft.config.schema import MIXED, Config, Method
from virft.errors import RunStopped, VirftError
from virft.recipes.compare.runs import COMPARE, RESULT
from virft.recipes.compare.systems import SYSTEMS
from virft.recipes.compare.training import RunProgress, planned_runs
from virft.recipes.fitting import load_fitted_config
from virft.scenes.assets import class_names
from virft.tasks import TASKS as ALL_TASKS
from virft.training.run import MODEL

CONFIGS = Path(__file__).parents[1] / "configs"
SIZE = 112
"""Image side in pixels that ``virft-tiny`` was trained on."""
VALIDATION_SET = {"questions": 240, "seed": 1}
"""Options of a validation set: like the first test set with another seed, so its scenes are in no other set."""
BASE = class_names("base")
# every fourth, so that each group of look-alikes is in both
OTHER = BASE[::4]
TRAINED = tuple(name for name in BASE if name not in OTHER)
KNOWN = BASE[1::8]
"""Eight classes that the model knows, like the paper's eight COCO classes for Qwen2-VL."""

FAMILIES: dict[str, dict[str, dict[str, Any]]] = {
    "few_shot_detection": {
        "train": {"classes": ["novel"], "shots": 4},
        "validation": {"classes": ["novel"]} | VALIDATION_SET,
        "same_sprites": {"classes": ["novel"], "questions": 640},
        "other_style": {"classes": ["novel"], "questions": 640, "kind": "other_style"},
    },
    "known_few_shot_detection": {
        "train": {"classes": KNOWN, "shots": 4, "kind": "train_other_style"},
        "validation": {"classes": KNOWN, "kind": "other_style"} | VALIDATION_SET,
        "test": {"classes": KNOWN, "questions": 640, "kind": "other_style"},
    },
    "base_to_novel_detection": {
        "train": {"classes": TRAINED, "shots": 2, "kind": "train_other_style"},
        "validation": {"classes": TRAINED, "kind": "other_style"} | VALIDATION_SET,
        "trained_classes": {"classes": TRAINED, "questions": 640, "kind": "other_style"},
        "other_classes": {"classes": OTHER, "questions": 640, "kind": "other_style"},
    },
    "lookalike_classification": {
        "train": {"classes": ["base"], "shots": 2, "kind": "train_other_style"},
        "validation": {"classes": ["base"], "kind": "other_style"} | VALIDATION_SET,
        "test": {"classes": ["base"], "questions": 640, "kind": "other_style"},
    },
    "reasoning_grounding": {
        "train": {"classes": ["base"], "shots": 2, "kind": "train_other_style"},
        "validation": {"classes": ["base"], "kind": "other_style"} | VALIDATION_SET,
        "test": {"classes": ["base"], "questions": 640, "kind": "other_style"},
    },
    "pointing": {
        "train": {"classes": ["base"], "shots": 2},
        "validation": {"classes": ["base"]} | VALIDATION_SET,
        "same_sprites": {"classes": ["base"], "questions": 640},
        "other_style": {"classes": ["base"], "questions": 640, "kind": "other_style"},
    },
}
PHOTO_FAMILIES = {
    "photo_white_cells": ("white_cells", ("test",)),
    "photo_cells": ("bccd", ("test",)),
    "photo_raccoon_mosaic": ("raccoon_mosaic", ("test",)),
    "photo_composites": ("composites", ("known_names", "heldout_names", "heldout_categories")),
    "photo_lookalike_classification": ("lookalikes", ("test",)),
    "photo_reasoning_grounding": ("relations", ("test",)),
}
"""Families on photographs: the bed of ``photo_beds.py`` and its test sets. Training photographs are those of the cell;
data and cut-outs are the folders ``--data`` and ``--cutouts``."""
TASKS = {"lookalike_classification": "classification", "reasoning_grounding": "grounding", "pointing": "pointing"}


class Cell(NamedTuple):
    """A family of tasks, with another number of training images per class than usual, and other settings."""

    family: str
    shots: int | None = None
    settings: tuple[str, ...] = ()


# RFT collapses at the largest rate of the family, and with few images SFT is worse on the tests
_TWO_RATES = ("compare.sft_learning_rates=[1e-4,3e-4]", "compare.rft_learning_rates=[1e-4,3e-4]")
CELLS = {
    "few_shot_detection": Cell("few_shot_detection"),
    "few_shot_detection_1_image": Cell("few_shot_detection", 1, _TWO_RATES),
    "known_few_shot_detection": Cell("known_few_shot_detection"),
    "base_to_novel_detection": Cell("base_to_novel_detection"),
    "reasoning_grounding": Cell("reasoning_grounding"),
    "lookalike_classification": Cell("lookalike_classification"),
    "pointing": Cell("pointing"),
    "few_shot_detection_16_images": Cell("few_shot_detection", 16, _TWO_RATES),
    **{
        f"{family}_{shots}": Cell(family, shots)
        for family in PHOTO_FAMILIES
        for shots in (
            (4,)
            if family == "photo_lookalike_classification"
            else (32,)
            if family == "photo_reasoning_grounding"
            else (4, 16, 32)
        )
    },
}
_ON_REQUEST = ("few_shot_detection_16_images", "pointing")
USUAL = tuple(name for name in CELLS if name not in _ON_REQUEST and not name.startswith("photo_"))
"""The cells that are compared if none is named: nine rows of the table."""


def tests_of(family: str) -> list[str]:
    """Return the names of the test sets of a family."""
    if family in PHOTO_FAMILIES:
        return list(PHOTO_FAMILIES[family][1])
    return [part for part in FAMILIES[family] if part not in ("train", "validation")]


class _EnoughRunsError(Exception):
    """As many training runs as ``--max-runs`` allows are done."""


class Families:
    """The cells of a folder, and the work on them."""

    def __init__(
        self,
        out: Path,
        *,
        cells: Sequence[str],
        systems: Sequence[str] | None,
        seeds: int | None,
        settings: Sequence[str],
        max_runs: int | None,
        shots: int | None = None,
        data: Path | None = None,
        cutouts: Path | None = None,
    ) -> None:
        self._data, self._cutouts = data, cutouts
        self._out, self._cells, self._shots = out, cells, shots
        self._systems, self._seeds, self._settings = systems, seeds, settings
        self._runs_left = max_runs

    def compare_all(self) -> int:
        """Build the missing data, then run or resume the comparison of each cell; return the exit status."""
        for name in self._cells:
            self._build(name)
        self._progress = RunProgress(self._planned())
        say(f"all cells: {self._describe_progress()}")
        status = 0
        for number, name in enumerate(self._cells, start=1):
            say(f"cell {number} of {len(self._cells)}: {name}")
            try:
                compare_and_report(
                    self._config_file(name),
                    self._overrides(name),
                    resume=(self._folder(name) / COMPARE).exists(),
                    after_run=self._after_run,
                )
            except _EnoughRunsError:
                say("as many training runs as --max-runs allows are done; the same command resumes")
                return status
            except RunStopped:
                raise
            except VirftError as error:
                say(f"{name}: {error}")
                status = 2
        return status

    def _after_run(self) -> None:
        say(f"all cells: {self._describe_progress()}")
        if self._runs_left is not None:
            self._runs_left -= 1
            if self._runs_left <= 0:
                raise _EnoughRunsError

    def _describe_progress(self) -> str:
        """Finished runs of all cells, and the time left, from the steps of finished runs (predictions excluded)."""
        for cell in self._cells:
            for name in self._systems_of(cell):
                for model in sorted(self._folder(cell).glob(f"{name}/*/{MODEL}")):
                    self._progress.add(model.parent, SYSTEMS[name].method, None)
        return self._progress.describe()

    def _planned(self) -> dict[Method, int]:
        planned: Counter[Method] = Counter()
        for cell in self._cells:
            planned.update(planned_runs(self._config(cell)))
        return dict(planned)

    def _build(self, name: str) -> None:
        cell = CELLS[name]
        shots = self._shots or cell.shots
        if cell.family in PHOTO_FAMILIES:
            import photo_beds  # next to this script

            bed, tests = PHOTO_FAMILIES[cell.family]
            if not all((self._out / name / part / "card.json").exists() for part in ("train", "validation", *tests)):
                photo_beds.build(bed, self._out / name, data=self._data, cutouts=self._cutouts, shots=shots or 16)
            return
        for part, given in FAMILIES[cell.family].items():
            options = given | {"shots": shots} if part == "train" and shots is not None else given
            if not (self._out / name / part / "card.json").exists():
                task = TASKS.get(cell.family, "detection")
                build_scenes(out=self._out / name / part, task=task, size=SIZE, overwrite=True, **options)

    def _folder(self, name: str) -> Path:
        return self._out / name / "compare"

    def _config_file(self, name: str) -> Path:
        return CONFIGS / f"compare_{CELLS[name].family}.toml"

    def _config(self, name: str) -> Config:
        return load_fitted_config(self._config_file(name), self._overrides(name), method="compare").config

    def _systems_of(self, name: str) -> list[str]:
        """The systems that are requested, and those that the cell was compared with before."""
        path = self._folder(name) / COMPARE
        saved = tomllib.loads(path.read_text(encoding="utf-8"))["compare"]["systems"] if path.exists() else []
        requested = self._systems if self._systems is not None else [one for one in SYSTEMS if one != "base"]
        return [one for one in SYSTEMS if one in requested or one in saved]

    def _overrides(self, name: str) -> list[str]:
        folder, systems = self._out / name, self._systems_of(name)
        tests = [str(folder / part) for part in tests_of(CELLS[name].family)]
        seeds = [] if self._seeds is None else [f"compare.seeds={self._seeds}"]
        demonstrations = ["grpo.demonstrations=loss"] if set(MIXED) & set(systems) else []
        return [
            f"data.train={folder / 'train'}",
            f"data.validation={folder / 'validation'}",
            f"compare.tests={tests}",
            f"run.dir={self._folder(name)}",
            f"compare.systems={systems}",
            *seeds,
            *demonstrations,
            *CELLS[name].settings,
            *self._settings,
        ]


class Row(NamedTuple):
    """One test of a cell."""

    name: str
    metric: str
    values: Mapping[str, float]
    """System -> mean over seeds of the metric."""
    blind: float | None
    """The best blind baseline."""
    change: str
    """The recommended system minus the better of SFT and RFT."""


def results_table(out: Path, recommended: str) -> str:
    """Return a Markdown table of the finished cells: headline metrics, means over seeds, the best of each row in bold.

    The last column is the ``recommended`` system minus the one of SFT and RFT that is better on this test, with the
    95 % confidence interval of the paired bootstrap.
    """
    rows = [
        row
        for name in CELLS
        if (path := out / name / "compare" / RESULT).exists()
        for row in _rows(name.replace("_", " "), json.loads(path.read_text(encoding="utf-8")), recommended)
    ]
    systems = [name for name in SYSTEMS if any(name in row.values for row in rows)]
    titles = [SYSTEMS[name].title for name in systems]
    head = ["cell: test", "metric", "blind", *titles, f"{SYSTEMS[recommended].title} - max(SFT, RFT)"]
    lines = [_line(head), "|" + "---|" * len(head)]
    for row in rows:
        best = max(f"{value:.3f}" for value in row.values.values())
        cells = [_cell(row.values.get(name), best) for name in systems]
        lines.append(_line([row.name, row.metric, _cell(row.blind, ""), *cells, row.change]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: float | None, best: str) -> str:
    text = "" if value is None else f"{value:.3f}"
    return f"**{text}**" if text and text == best else text


def _rows(cell: str, tree: Mapping[str, Any], recommended: str) -> Iterator[Row]:
    for test, pairs in tree["tests"].items():
        for task in next(iter(pairs.values())):
            metric = ALL_TASKS[task].headline
            found = {pair: by_task[task]["differences"][metric] for pair, by_task in pairs.items()}
            values = {}
            for pair, difference in found.items():
                second, _, first = pair.partition(" against ")
                values |= {first: difference["first"]["mean"], second: difference["second"]["mean"]}
            blind = tree["blind"].get(test, {}).get(task)
            yield Row(
                f"{cell}: {test.replace('_', ' ')}",
                metric,
                values,
                None if blind is None else blind["baselines"][blind["best"]]["values"][metric],
                _change(found, values, recommended),
            )


def _change(found: Mapping[str, Any], values: Mapping[str, float], recommended: str) -> str:
    """The recommended system minus the better of SFT and RFT, with its interval; "" if one of the three is missing."""
    if not {"sft", "rft", recommended} <= set(values):
        return ""
    other = max(("sft", "rft"), key=lambda name: values[name])
    if (difference := found.get(f"{recommended} against {other}")) is not None:
        value, ends = difference["value"], difference["interval"]
    elif (difference := found.get(f"{other} against {recommended}")) is not None:
        value, ends = -difference["value"], None
        if difference["interval"] is not None:
            ends = [-end for end in reversed(difference["interval"])]
    else:
        return ""
    return f"{value:+.3f}" + (f" ({ends[0]:+.3f} to {ends[1]:+.3f})" if ends is not None else "")


if __name__ == "__main__":
    names = [name for name in SYSTEMS if name != "base"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("cells", nargs="*", metavar="CELL", choices=[*CELLS, []], help=f"of {', '.join(CELLS)}")
    parser.add_argument("--systems", nargs="+", choices=names, help="systems to train; default: all")
    parser.add_argument("--seeds", type=int, help="training runs per system; default: as the config says")
    parser.add_argument("--shots", type=int, help="training images per class in the given cells; needs its own folder")
    parser.add_argument("--max-runs", type=int, help="stop after this number of new training runs")
    parser.add_argument("--recommended", choices=names, default="mix", help="system of the last column")
    parser.add_argument("--table", action="store_true", help="print the table of finished cells and train nothing")
    parser.add_argument("--data", type=Path, help="folder that holds bccd and raccoon, for cells on photographs")
    parser.add_argument("--cutouts", type=Path, help="folder that photo_assets.py writes, for cells on composites")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    args = parser.parse_args()
    status = 0
    if not args.table:
        families = Families(
            args.out,
            cells=args.cells or USUAL,
            systems=args.systems,
            seeds=args.seeds,
            settings=args.set,
            max_runs=args.max_runs,
            shots=args.shots,
            data=args.data,
            cutouts=args.cutouts,
        )
        try:
            status = families.compare_all()
        except (RunStopped, KeyboardInterrupt) as stop:
            say(f"{stop or 'stopped'}; the same command resumes")
            status = 1
    print(results_table(args.out, args.recommended))
    raise SystemExit(status)
