"""Advice as text."""

from __future__ import annotations

import json
from dataclasses import replace

from advice_factories import features
from virft.recipes.advice.advise import TrainingAdvice
from virft.recipes.advice.features import ClassScore, Features
from virft.recipes.advice.plan import SettingLine, TrainingPlan
from virft.recipes.advice.rule import give_advice
from virft.recipes.advice.text import advice_lines, advice_tree

PLAN = TrainingPlan(
    lines=(SettingLine(key="sft.steps", value=100, reason="fitted"),), commands=("virft sft mine.toml",), notes=("n",)
)
NO_PLAN = TrainingPlan(lines=(), commands=(), notes=())


def advice_of(found: Features, plan: TrainingPlan = PLAN) -> TrainingAdvice:
    return TrainingAdvice(features=found, advice=give_advice(found, num_parameters=7_000_000), plan=plan)


def test_text_has_features_advice_doubts_settings_and_commands() -> None:
    classes = (
        ClassScore("panda", 0.0, 0.0, 4),  # knowledge 0
        ClassScore("violin", 0.19, 0.1, 4),  # 0.09 / 0.9 = 0.1
        ClassScore("cactus", 0.4, 0.0, 4),
    )
    found = replace(features(images_per_class=16.0, pass_rate=0.25, never_solved=0.5), classes=classes)
    lines = list(advice_lines(advice_of(found)))
    assert lines[0] == ("46 of 46 samples, 8 completions each (1,000 tokens, 2 s); 95 % confidence intervals")
    assert "  pass rate            0.25 (0.25 to 0.25)" in lines
    assert "  samples solved       always 10%, sometimes 40%, never 50%" in lines
    assert (
        "  classes              1 of 3 known (knowledge of at least 0.15), 5 not evaluated; least known: panda 0.00 "
        "(blind 0.00), violin 0.19 (blind 0.10)"
    ) in lines
    assert "  images per class     median 16; fewest 4 (cactus)" in lines
    start = lines.index("advice: mix (RFT with demonstrations)")
    # (6 + 1) / (9 + 2)
    assert lines[start + 2] == (
        "  probability that it is within 0.01 of the best of mix, SFT and RFT: about 0.64 (6 of 9 measured cells of "
        "this case; 100% of the bootstrap resamples give the same advice)"
    )
    assert lines[start + 3].startswith("  evidence: 16 images of each of 8 new classes: F1 0.419 with mix, ")
    assert lines[start + 4] == (
        "  the evidence is weak: the rule is measured on the built-in scenes and one set of photographs only; the 9 "
        "measured cells of this case are of 4 training sets"
    )
    assert lines[-5:] == [
        "settings (--out TOML writes them into a file):",
        "  sft.steps = 100  # fitted",
        "commands:",
        "  virft sft mine.toml",
        "note: n",
    ]


def test_no_training_has_no_settings() -> None:
    lines = list(advice_lines(advice_of(features(always_solved=1.0), NO_PLAN)))
    assert "advice: no training" in lines
    assert not any(line.startswith(("settings", "commands")) for line in lines)
    unknown = "unknown (100% of the bootstrap resamples give the same advice)"
    assert f"  probability that it is within 0.01 of the best of mix, SFT and RFT: {unknown}" in lines


def test_json_has_the_same() -> None:
    tree = json.loads(
        json.dumps(advice_tree(advice_of(features(images_per_class=None, task="grounding", knowledge=0.3))))
    )
    assert (tree["advice"]["system"], tree["advice"]["case"]) == ("mix", "known")
    assert (tree["advice"]["cells"], tree["advice"]["correct_cells"]["rft"]) == (9, 8)
    assert tree["features"]["knowledge"] == {
        "value": 0.3,
        "interval": [0.3, 0.3],
        "definition": "(score - blind score) / (1 - blind score), on samples that show their class",
    }
    assert tree["settings"] == {"sft.steps": 100}
    assert tree["images_per_class"] is None


def test_methods_that_were_correct_more_often_in_the_case_are_named() -> None:
    def line(**values: float) -> list[str]:
        return [one for one in advice_lines(advice_of(features(**values))) if one.startswith("  alternative")]

    end = "; `virft compare` compares them on your data"
    assert line(knowledge=0.4) == [f"  alternative in this case: RFT (GRPO) in 8 of 9 cells{end}"]
    assert line(images_per_class=1.0) == line(images_per_class=16.0) == line(always_solved=1.0) == []
