"""The rule of advice, and the measured cells that it rests on."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from advice_factories import features
from virft.recipes.advice.rule import EVIDENCE, MEASURED_TASKS, RULE, Case, Situation, give_advice, situation_of

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


def test_completions_that_are_cut_need_more_tokens_before_any_training() -> None:
    cut = give_advice(features(readable=0.0, truncated=1.0), num_parameters=7_000_000)
    assert (cut.case, cut.system) == (Case.TRUNCATED, "none")
    assert cut.reason.startswith("100% of the completions are cut at the token limit")
    read = give_advice(features(readable=0.0, truncated=0.1), num_parameters=7_000_000)
    assert read.reason == "100% of the completions are unreadable, so RFT has nothing to reward yet"


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
    assert script.count_evidence(cells) == {case: found[:2] for case, found in EVIDENCE.items()}
    measured = {(RULE.case_of(one.situation), _task(one.family)) for one in cells}
    assert measured == {(case, task) for case, tasks in MEASURED_TASKS.items() for task in tasks}


def _task(family: str) -> str:
    return {"lookalike_classification": "classification", "reasoning_grounding": "grounding"}.get(family, "detection")


def test_cells_of_the_documentation_have_its_numbers(script: ModuleType) -> None:
    text = (ROOT / "docs" / "reproducing.md").read_text()
    for cell in script.read_cells(CELLS):
        if cell.source.startswith("docs/reproducing.md"):
            difference, low, high = cell.differences["rft against sft"]
            assert f"{difference:+.3f} ({low:+.3f} to {high:+.3f})" in text, cell.name
            assert all(f"{cell.scores[name]:.3f}" in text for name in ("base", "sft", "rft")), cell.name


def cell(
    script: ModuleType,
    family: str,
    scores: dict[str, float],
    differences: dict[str, list[float]],
    *,
    shots: int = 4,
    knowledge: float = 0.0,
) -> Any:
    """A cell of detection; with a knowledge of 0 the classes are new."""
    return script.Cell(
        family=family,
        shots=shots,
        test="test",
        metric="f1",
        scores={"base": 0.2} | scores,
        differences=differences,
        situation=Situation(False, 1.0, 0.1, 0.9, knowledge, float(shots)),
        source="made up",
    )


def test_a_system_is_correct_if_no_other_is_clearly_better(script: ModuleType) -> None:
    found = cell(script, "a", {"sft": 0.26, "rft": 0.288}, {"rft against sft": [0.028, 0.008, 0.051]})
    assert [found.is_correct(name) for name in ("rft", "sft", "mix")] == [True, False, None]
    assert found.regret("sft") == pytest.approx(0.028)
    assert found.regret("mix") is None
    # the same difference the other way around
    reverse = cell(script, "a", {"sft": 0.26, "rft": 0.288}, {"sft against rft": [-0.028, -0.051, -0.008]})
    assert [reverse.is_correct(name) for name in ("rft", "sft")] == [True, False]
    unclear = cell(script, "a", {"sft": 0.26, "rft": 0.288}, {"rft against sft": [0.028, -0.01, 0.06]})
    assert [unclear.is_correct(name) for name in ("rft", "sft")] == [True, True]
    # no training is correct if nothing is better than the base model
    assert unclear.is_correct("none") is True
    better = cell(script, "a", {"sft": 0.26, "rft": 0.288}, {"rft against base": [0.088, 0.05, 0.12]})
    assert better.is_correct("none") is False


def made_up_cells(script: ModuleType) -> list[Any]:
    """Family "a": RFT wins on known classes; "b" too; "c": SFT wins on new ones with 16 images."""
    rft, sft = {"rft against sft": [0.05, 0.02, 0.08]}, {"rft against sft": [-0.05, -0.08, -0.02]}
    return [
        cell(script, "a", {"sft": 0.4, "rft": 0.45}, rft, knowledge=0.5),
        cell(script, "b", {"sft": 0.4, "rft": 0.45}, rft, knowledge=0.6),
        cell(script, "c", {"sft": 0.45, "rft": 0.4}, sft, shots=16),
    ]


def test_fitted_rule_uses_the_best_system_of_each_case_and_a_fallback(script: ModuleType) -> None:
    fitted = script.fit_rule(made_up_cells(script))
    assert (fitted.systems[Case.KNOWN], fitted.systems[Case.MANY]) == ("rft", "sft")
    # no cell of classification or of a single image
    assert (fitted.systems[Case.NAMES], fitted.systems[Case.FEW]) == (script.FALLBACK, script.FALLBACK)
    # the committed thresholds are the first of those that are equally good
    assert (fitted.known, fitted.few, fitted.many) == (RULE.known, RULE.few, RULE.many)


def test_thresholds_are_fitted(script: ModuleType) -> None:
    rft, sft = {"rft against sft": [0.05, 0.02, 0.08]}, {"rft against sft": [-0.05, -0.08, -0.02]}
    cells = [
        cell(script, "a", {"sft": 0.4, "rft": 0.45}, rft, knowledge=0.35),
        cell(script, "a", {"sft": 0.45, "rft": 0.4}, sft, knowledge=0.25),
    ]
    fitted = script.fit_rule(cells)
    assert 0.25 < fitted.known <= 0.35
    assert [fitted.system_of(one.situation) for one in cells] == ["rft", "sft"]


def test_report_compares_held_out_advice_with_always_the_same_system(script: ModuleType) -> None:
    lines = list(script.report_lines(made_up_cells(script)))
    # without "c", new classes get the fallback, which was not trained; "a" and "b" agree with one another
    assert [line.split(" | ")[-2:] for line in lines[2:5]] == [
        ["rft", "yes |"],
        ["rft", "yes |"],
        ["mix", "not trained |"],
    ]
    text = "\n".join(lines)
    assert "the rule with one family held out: correct in 2 of 2 cells (100%)" in text
    assert (
        "always sft: correct in 1 of 3 cells (33%), 1 of 3 with a clear difference between systems; 0.033 below" in text
    )
    assert "always rft: correct in 2 of 3 cells (67%)" in text
    assert "always mix: no cell in which it was trained" in text
    # these cells are not those of rule.py
    assert f"EVIDENCE of known in rule.py is {EVIDENCE[Case.KNOWN][:2]}; these cells have (2, 2)" in text


def test_report_of_the_committed_cells_agrees_with_the_rule(script: ModuleType) -> None:
    assert not any(line.startswith("EVIDENCE of") for line in script.report_lines(script.read_cells(CELLS)))


def test_cells_survive_their_file(script: ModuleType, tmp_path: Path) -> None:
    cells = script.read_cells(CELLS)
    script.write_cells(tmp_path / "cells.json", cells)
    assert script.read_cells(tmp_path / "cells.json") == cells
    assert script.read_cells(tmp_path / "none.json") == []


def test_questions_about_absent_classes_alone_are_a_doubt() -> None:
    doubt = "no question is about a class that its image shows, so nothing measures knowledge"
    assert doubt in give_advice(features(images_per_class=None), num_parameters=7_000_000).doubts
    # expressions have no classes
    assert doubt not in give_advice(features(task="grounding", images_per_class=None), num_parameters=7_000_000).doubts
