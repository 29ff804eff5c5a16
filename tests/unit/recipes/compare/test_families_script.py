"""The table of ``scripts/compare_families.py``, and the settings of its cells."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[4] / "scripts" / "compare_families.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_families", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare_families"] = module
    spec.loader.exec_module(module)
    return module


def write_result(folder: Path, values: dict[str, float], *, task: str = "grounding", metric: str = "box_miou") -> None:
    """A ``compare.json`` with one test, and intervals of 0.01 around each difference."""
    names = list(values)

    def difference(first: str, second: str) -> dict[str, Any]:
        value = values[second] - values[first]
        return {
            "first": {"mean": values[first]},
            "second": {"mean": values[second]},
            "value": value,
            "interval": [value - 0.01, value + 0.02],
        }

    pairs = {
        f"{second} against {first}": {task: {"differences": {metric: difference(first, second)}}}
        for i, second in enumerate(names)
        for first in names[:i]
    }
    blind = {"best": "mean box", "baselines": {"mean box": {"values": {metric: 0.125}}}}
    folder.mkdir(parents=True)
    tree = {"tests": {"other_style": pairs}, "blind": {"other_style": {task: blind}}}
    (folder / "compare.json").write_text(json.dumps(tree))


def test_a_row_has_all_systems_and_the_margin_over_the_better_of_sft_and_rft(
    script: ModuleType, tmp_path: Path
) -> None:
    values = {"base": 0.25, "sft": 0.5, "curated_sft": 0.375, "rft": 0.4, "mix": 0.53}
    write_result(tmp_path / "reasoning_grounding" / "compare", values)
    assert script.results_table(tmp_path, "mix").splitlines() == [
        "| cell: test | metric | blind | base | SFT | curated SFT | RFT | mix | mix - max(SFT, RFT) |",
        "|---|---|---|---|---|---|---|---|---|",
        "| reasoning grounding: other style | box_miou | 0.125 | 0.250 | 0.500 | 0.375 | 0.400 | **0.530** "
        "| +0.030 (+0.020 to +0.050) |",
    ]
    # a system between the two in the table: the pair is the other way round
    (*_, row) = script.results_table(tmp_path, "curated_sft").splitlines()
    assert row.endswith("| -0.125 (-0.135 to -0.105) |")


def test_cells_with_other_systems_have_empty_places(script: ModuleType, tmp_path: Path) -> None:
    write_result(tmp_path / "reasoning_grounding" / "compare", {"base": 0.25, "sft": 0.5})
    write_result(
        tmp_path / "known_few_shot_detection" / "compare", {"base": 0.25, "rft": 0.5}, task="detection", metric="f1"
    )
    rows = script.results_table(tmp_path, "mix").splitlines()[2:]
    assert rows == [
        "| known few shot detection: other style | f1 | 0.125 | 0.250 |  | **0.500** |  |",
        "| reasoning grounding: other style | box_miou | 0.125 | 0.250 | **0.500** |  |  |",
    ]


def families(script: ModuleType, out: Path, *cells: str, systems: list[str] | None = None) -> Any:
    return script.Families(out, cells=cells, systems=systems, seeds=1, settings=["seed=7"], max_runs=None)


def test_a_cell_has_its_own_number_of_images_and_the_systems_of_earlier_calls(
    script: ModuleType, tmp_path: Path
) -> None:
    cell = "few_shot_detection_1_image"
    one = families(script, tmp_path, cell, systems=["rft"])
    config = one._config(cell)
    assert config.compare.systems == ("rft",)
    assert (config.seed, config.compare.seeds, config.grpo.demonstrations) == (7, 1, "off")
    assert config.compare.rft_learning_rates == config.compare.sft_learning_rates == (1e-4, 3e-4)
    assert script.CELLS[cell].shots == 1
    (tmp_path / cell / "compare").mkdir(parents=True)
    (tmp_path / cell / "compare" / "compare.toml").write_text('[compare]\nsystems = ["rft"]\n')
    more = families(script, tmp_path, cell, systems=["mix", "sft"])._config(cell)
    assert more.compare.systems == ("sft", "rft", "mix")
    assert more.grpo.demonstrations == "loss"


def test_nine_rows_are_compared_if_no_cell_is_named(script: ModuleType) -> None:
    tests = [
        part
        for cell in script.USUAL
        for part in script.FAMILIES[script.CELLS[cell].family]
        if part[0] != "v" and part != "train"
    ]
    assert len(tests) == 9
