"""The rule of advice, and the measured cells that it rests on."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from advice_factories import features
from virft.recipes.advice.rule import EVIDENCE, MEASURED_TASKS, RULE, Case, Rule, give_advice, situation_of

ROOT = Path(__file__).parents[4]
CELLS = ROOT / "benchmarks" / "results" / "advice_cells.json"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import advice_cells

    return advice_cells


@pytest.mark.parametrize(
    ("found", "case"),
    [
        ({"readable": 0.1, "always_solved": 1.0}, Case.UNREADABLE),
        ({"readable": 0.0, "nonzero_std": 0.0}, Case.UNREADABLE),
        ({"always_solved": 0.95, "knowledge": 0.9}, Case.SOLVED),
        ({"nonzero_std": 0.0}, Case.EQUAL),
        ({"task": "classification", "knowledge": 0.9}, Case.NAMES),
        ({"knowledge": 0.4, "images_per_class": 16.0}, Case.KNOWN),
        ({"task": "grounding", "knowledge": 0.22, "images_per_class": None}, Case.KNOWN),
        ({"images_per_class": 1.0}, Case.FEW),
        ({"images_per_class": 2.0}, Case.SOME),
        ({"images_per_class": 7.5}, Case.SOME),
        ({"images_per_class": 8.0}, Case.MANY),
        ({"task": "grounding", "images_per_class": None}, Case.SOME),
    ],
)
def test_the_first_case_that_applies_decides(found: dict[str, object], case: Case) -> None:
    assert RULE.case_of(situation_of(features(**found))) == case  # type: ignore[arg-type]
    advice = give_advice(features(**found), num_parameters=7_000_000)  # type: ignore[arg-type]
    assert (advice.case, advice.system) == (case, RULE.systems[case])


def test_every_case_has_a_system_evidence_and_a_reason() -> None:
    for case in Case:
        assert case in RULE.systems
        assert EVIDENCE[case].num_correct <= EVIDENCE[case].num_cells
        assert (case in MEASURED_TASKS) or not EVIDENCE[case].num_cells


def test_probability_is_that_of_measured_cells_times_the_agreement_of_resamples() -> None:
    # in one of four resamples the classes count as known: RFT
    resamples = {"knowledge": np.array([0.05, 0.05, 0.05, 0.5])}
    advice = give_advice(features(images_per_class=16.0, resamples=resamples), num_parameters=7_000_000)
    assert (advice.system, advice.agreement) == ("sft", 0.75)
    assert advice.probability == pytest.approx(5 / 6 * 0.75)
    assert any("25% of the bootstrap resamples" in text for text in advice.doubts)
    # an RFT that two cases agree on is one advice
    advice = give_advice(features(images_per_class=1.0, resamples=resamples), num_parameters=7_000_000)
    assert (advice.system, advice.agreement) == ("rft", 1.0)


def test_a_case_without_measured_cells_has_no_probability() -> None:
    advice = give_advice(features(readable=0.0), num_parameters=7_000_000)
    assert advice.probability is None
    assert "this case is not measured" in advice.doubts


@pytest.mark.parametrize(("size", "expected"), [(7_000_000, False), (2_000_000_000, True), (None, True)])
def test_other_models_than_the_measured_one_are_a_doubt(size: int | None, expected: bool) -> None:
    doubts = give_advice(features(knowledge=0.9), num_parameters=size).doubts
    assert any("not with a model of this size" in text for text in doubts) is expected


def test_a_task_without_measured_cells_is_a_doubt() -> None:
    doubts = give_advice(features(task="counting", knowledge=0.9), num_parameters=7_000_000).doubts
    assert "this case is not measured for counting" in doubts


def test_evidence_counts_the_committed_cells(script: ModuleType) -> None:
    cells = script.read_cells(CELLS)
    assert len(cells) == 15
    assert script.count_evidence(cells) == {case: found[:2] for case, found in EVIDENCE.items()}
    measured = {(RULE.case_of(one.situation), _task(one.family)) for one in cells}
    assert measured == {(case, task) for case, tasks in MEASURED_TASKS.items() for task in tasks}


def _task(family: str) -> str:
    return {"lookalike_classification": "classification", "reasoning_grounding": "grounding"}.get(family, "detection")


def test_committed_cells_are_the_numbers_of_the_documentation(script: ModuleType) -> None:
    text = (ROOT / "docs" / "reproducing.md").read_text()
    for cell in script.read_cells(CELLS):
        difference, low, high = cell.differences["rft against sft"]
        assert f"{difference:+.3f} ({low:+.3f} to {high:+.3f})" in text, cell.name
        assert all(f"{cell.scores[name]:.3f}" in text for name in ("base", "sft", "rft")), cell.name


def test_a_system_is_correct_if_no_other_is_clearly_better(script: ModuleType) -> None:
    (cell,) = [one for one in script.read_cells(CELLS) if one.name == "few_shot_detection:1 other_style"]
    # RFT - SFT is +0.028 (+0.008 to +0.051)
    assert [cell.is_correct(name) for name in ("rft", "sft", "mix", "none")] == [True, False, None, False]
    assert cell.regret("sft") == pytest.approx(0.028)
    unclear = {"sft against rft": [-0.01, -0.05, 0.02]}
    other = script.replace(cell, differences=unclear)
    assert [other.is_correct(name) for name in ("rft", "sft")] == [True, True]


def test_fitted_rule_uses_the_best_system_of_each_case_and_a_fallback(script: ModuleType) -> None:
    cells = script.read_cells(CELLS)
    fitted = script.fit_rule(cells)
    assert {case: fitted.systems[case] for case in (Case.NAMES, Case.KNOWN, Case.FEW, Case.MANY)} == {
        Case.NAMES: "sft",
        Case.KNOWN: "rft",
        Case.FEW: "rft",
        Case.MANY: "sft",
    }
    without = script.fit_rule([one for one in cells if one.family != "lookalike_classification"])
    assert without.systems[Case.NAMES] == script.FALLBACK
    assert isinstance(without, Rule)


def test_report_compares_held_out_advice_with_always_the_same_system(script: ModuleType) -> None:
    lines = list(script.report_lines(script.read_cells(CELLS)))
    assert sum(line.startswith(("| few_shot", "| known", "| base", "| look", "| reas")) for line in lines) == 15
    text = "\n".join(lines)
    assert "always sft: correct in 12 of 15 cells (80%)" in text
    assert "always mix: no cell in which it was trained" in text
    assert "EVIDENCE of" not in text


def test_cells_survive_their_file(script: ModuleType, tmp_path: Path) -> None:
    cells = script.read_cells(CELLS)
    script.write_cells(tmp_path / "cells.json", cells)
    assert script.read_cells(tmp_path / "cells.json") == cells
    assert script.read_cells(tmp_path / "none.json") == []
