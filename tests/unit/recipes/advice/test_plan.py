"""Settings and commands of advised training: they are valid, complete, and say where they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from advice_factories import features
from factories import save_coco
from virft.cli.main import main, parse_arguments
from virft.config.toml_file import load_config
from virft.recipes.advice.completions import AdviceRequest, make_request
from virft.recipes.advice.plan import TrainingPlan, plan_training
from virft.recipes.advice.rule import Advice, AdvisedSystem, Case, give_advice
from virft.recipes.fitting import load_fitted_config

IMAGES = {f"{i}.png": [("cat", [10, 10, 20, 30])] for i in range(10)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    save_coco(tmp_path, IMAGES)
    command = ["build", "coco", tmp_path / "annotations.json", tmp_path / "images", tmp_path / "data"]
    assert main([str(one) for one in (*command, "--validation-frac", 0.2)]) == 0
    return tmp_path / "data"


def plan_of(
    request: AdviceRequest,
    *,
    case: Case = Case.MANY,
    system: AdvisedSystem = "sft",
    task: str = "detection",
    **values: float,
) -> TrainingPlan:
    advice = Advice(case=case, system=system, reason="", agreement=1.0, probability=None, doubts=())
    return plan_training(request, features(task=task, **values), advice)


def request_for(data: Path, *overrides: str, model: str = "virft-tiny") -> AdviceRequest:
    return make_request(data / "train", model, overrides)


@pytest.mark.parametrize("system", ["sft", "rft", "sft_rft", "mix", "sft_mix"])
@pytest.mark.parametrize("model", ["virft-tiny", "someone/Model-7B"])
def test_the_advised_config_is_a_valid_config(data: Path, tmp_path: Path, system: AdvisedSystem, model: str) -> None:
    plan = plan_of(request_for(data, model=model), system=system)
    (tmp_path / "mine.toml").write_text(plan.toml)
    config = load_config(tmp_path / "mine.toml").config
    assert config.data.train == str(data / "train")
    assert config.data.validation == str(data / "validation")
    assert config.model.path == model
    for command in plan.commands:
        words = parse_arguments(command.split()[1:])
        assert words["verb"] in ("train", "sft", "grpo")
        # its settings are accepted too
        load_fitted_config(tmp_path / "mine.toml", words["overrides"], method=words["verb"])


def test_steps_are_the_fitted_ones_and_a_warm_start_halves_them(data: Path) -> None:
    def steps(system: AdvisedSystem) -> dict[str, int]:
        plan = plan_of(request_for(data), system=system)
        return {line.key: line.value for line in plan.lines if line.key.endswith("steps")}

    assert steps("rft") == {"grpo.steps": 80}
    assert steps("sft") == {"sft.steps": 100}
    assert steps("sft_rft") == {"grpo.steps": 80, "grpo.warm_start_steps": 40}


def test_a_warm_start_is_part_of_one_run(data: Path) -> None:
    assert plan_of(request_for(data), system="sft_rft").commands == ("virft grpo mine.toml",)
    assert plan_of(request_for(data), system="mix").commands == ("virft train mine.toml",)


def test_settings_of_the_user_are_used_as_they_are(data: Path) -> None:
    plan = plan_of(request_for(data, "grpo.steps=7", "prompt.thinking=true"), system="rft")
    assert {line.key: line.value for line in plan.lines}["grpo.steps"] == 7
    assert plan.toml.count("grpo.steps") == 1
    assert "prompt.thinking = true\n" in plan.toml


@pytest.mark.parametrize(
    ("case", "task", "system", "expected"),
    [
        (Case.KNOWN, "detection", "mix", {"grpo.learning_rate": 3e-5}),
        (Case.KNOWN, "detection", "sft", {"sft.learning_rate": 1e-5}),
        (Case.KNOWN, "detection", "sft_mix", {"sft.learning_rate": 1e-5, "grpo.learning_rate": 3e-5}),
        (Case.REASONING, "grounding", "rft", {"grpo.learning_rate": 1e-4}),
        # the fitted one is the best
        (Case.FEW, "detection", "mix", {}),
        (Case.KNOWN, "counting", "mix", {}),
        (Case.UNREADABLE, "detection", "sft_mix", {}),
    ],
)
def test_measured_cases_get_the_rates_that_were_best_for_them(
    data: Path, case: Case, task: str, system: AdvisedSystem, expected: dict[str, float]
) -> None:
    def rates(request: AdviceRequest) -> dict[str, float]:
        lines = plan_of(request, case=case, system=system, task=task).lines
        return {line.key: line.value for line in lines if line.key.endswith("learning_rate")}

    assert rates(request_for(data)) == expected
    # fitted rates of larger models are not measured
    assert rates(request_for(data, model="someone/Model-7B")) == {}


def test_a_learning_rate_names_its_evidence(data: Path) -> None:
    def reason(system: AdvisedSystem) -> str:
        lines = plan_of(request_for(data), case=Case.KNOWN, system=system).lines
        return next(line.reason for line in lines if line.key == "grpo.learning_rate")

    measured = "best of 3 rates on 2 training sets of known classes, virft-tiny, docs/reproducing.md"
    assert reason("rft") == measured
    assert reason("mix") == f"{measured}; chosen for RFT, not for mix"


def test_evidence_of_a_fitted_learning_rate_is_a_note(data: Path) -> None:
    note = (
        "grpo.learning_rate = 0.0003 is fitted: best of 2 rates on 1 training set of new classes, virft-tiny, "
        "docs/reproducing.md; chosen for RFT, not for mix"
    )
    assert note in plan_of(request_for(data), case=Case.FEW, system="mix").notes
    for request in (request_for(data, "grpo.learning_rate=1e-4"), request_for(data, model="someone/Model-7B")):
        assert not any("learning_rate" in one for one in plan_of(request, case=Case.FEW, system="mix").notes)


def test_truncated_completions_raise_the_limit(data: Path) -> None:
    plan = plan_of(request_for(data, "sampling.temperature=0.9"), truncated=0.2)
    (line,) = [line for line in plan.lines if line.key == "sampling.max_completion_tokens"]
    assert (line.value, line.reason) == (512, "20% of the completions were cut at 256 tokens")
    assert "max_completion_tokens" not in plan_of(request_for(data), truncated=0.01).toml
    plan = plan_of(request_for(data, "sampling.max_completion_tokens=64"), truncated=0.2)
    assert "sampling.max_completion_tokens = 64\n" in plan.toml
    assert plan.notes[0] == (
        "sampling.max_completion_tokens is set to 64; 20% of the completions were cut at 64 tokens: try 128"
    )


def test_nothing_to_learn_has_no_commands(data: Path) -> None:
    found = features(always_solved=0.97)
    plan = plan_training(request_for(data), found, give_advice(found, num_parameters=7_000_000))
    assert (plan.lines, plan.commands) == ((), ())
    assert plan.notes[0].startswith("collect samples that the model does not solve")


def test_groups_of_equal_rewards_are_a_note(data: Path) -> None:
    assert "grpo.refill_rounds = 2" in plan_of(request_for(data), system="rft", nonzero_std=0.3).notes[0]
    # SFT learns from every sample; what the data lacks is a note in any case
    note = plan_of(request_for(data), system="sft", nonzero_std=0.3).notes[0]
    assert note.startswith("no question is about an absent class")


def test_a_config_that_would_be_refused_for_missing_rationales_says_so(data: Path) -> None:
    def notes(system: AdvisedSystem, num_demonstrable: int) -> str:
        advice = Advice(case=Case.SOME, system=system, reason="", agreement=1.0, probability=None, doubts=())
        found = features(num_demonstrable=num_demonstrable)
        return "\n".join(plan_training(request_for(data), found, advice).notes)

    refused = "this config is refused: SFT with thinking needs a rationale in every sample, and "
    assert f"{refused}3 samples of 46 have none; " in notes("sft_mix", 43)
    assert f"{refused}1 sample of 46 has none; " in notes("sft", 45)
    # a mix demonstrates those that have one
    assert refused not in notes("mix", 43)
    assert refused not in notes("rft", 0)
    assert refused not in notes("sft_mix", 46)
