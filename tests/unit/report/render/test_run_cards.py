"""Provenance of runs."""

from __future__ import annotations

from typing import Any

from virft.report.render.reported import ReportedRun, ReportedSystem
from virft.report.render.run_cards import ShownEvent, run_card_views, settings_that_differ


def run(**more: Any) -> ReportedRun:
    return ReportedRun(**{"name": "a", "folder": "runs/a"} | more)


def facts(one: ReportedRun) -> dict[str, str]:
    (view,) = run_card_views([ReportedSystem(name="a", runs=(one,))])
    return dict(view.facts)


def test_a_card_lists_the_events_of_the_run() -> None:
    events = [{"step": 3, "event": "kl", "action": "continued", "message": "step 4: KL is 11", "incident": False}]
    (view,) = run_card_views([ReportedSystem(name="a", runs=(run(events=events),))])
    assert view.events == (ShownEvent(event="kl", message="step 4: KL is 11", action="continued"),)


def test_a_card_has_command_versions_machine_and_progress() -> None:
    card = {
        "argv": ["virft", "grpo", "a b.toml"],
        "commit": "abc",
        "seed": 0,
        "data_hash": "1234",
        "virft": "0.1.0",
        "versions": {"torch": "2.13.0"},
        "machine": "x86_64",
        "python": "3.11.7",
        "model": "virft-tiny",
        "trainer": "sft",
    }
    timings = [{"step": step, "sampling": 39.0, "update": 1.0} for step in range(3)]
    assert facts(run(card=card, settings={"grpo.steps": 7, "sft.steps": 9}, timings=timings)) == {
        "folder": "runs/a",
        "method": "sft",
        "steps": "3 of 9",
        "training time": "2:00 in steps, 40.0 s each",
        "model": "virft-tiny",
        "command": "virft grpo 'a b.toml'",
        "commit": "abc",
        "seed": "0",
        "data hash": "1234",
        "versions": "virft 0.1.0, torch 2.13.0",
        "machine": "x86_64, Python 3.11.7",
    }


def test_a_card_has_throughput_precision_and_devices() -> None:
    card = {"dtype": "bfloat16", "device": "NVIDIA H200", "num_processes": 4}
    metrics = [{"step": step, "num_tokens": 30_000, "update_flops": 2 * 10**15} for step in range(2)]
    timings = [{"step": step, "sampling": 9.0, "update": 1.0 + step} for step in range(2)]
    settings = {"model.train": "lora", "model.load_in_4bit": True}
    found = facts(run(card=card, metrics=metrics, timings=timings, settings=settings))
    # 60,000 tokens in 21 s; 4e15 operations in 3 s of 4 x 989e12
    assert found["throughput"] == "2,857 tokens/s, update MFU 34%"
    assert found["precision"] == "bfloat16, language model in 4 bits, LoRA adapters in float32"
    assert found["device"] == "4 x NVIDIA H200"


def test_a_card_in_float32_says_whether_products_are_in_tf32() -> None:
    card = {"dtype": "float32", "device": "NVIDIA H200"}
    assert facts(run(card=card, settings={"model.tf32": True}))["precision"] == "float32, products in TF32"
    assert facts(run(card=card, settings={"model.tf32": False}))["precision"] == "float32"
    assert facts(run(card={"dtype": "float32", "device": "cpu"}))["precision"] == "float32"


def test_a_run_without_card_or_logs_shows_what_is_known() -> None:
    assert facts(run()) == {"folder": "runs/a", "steps": "0"}
    damaged = [{"step": 0, "update": "x"}, {"step": 1, "update": float("inf"), "sampling": 3}]
    assert facts(run(timings=damaged))["training time"] == "0:03 in steps, 1.5 s each"
    warm = run(card={"trainer": "grpo"}, settings={"grpo.steps": 9, "grpo.warm_start_steps": 4})
    assert facts(warm)["steps"] == "0 of 9, the first 4 supervised"
    assert facts(run(metrics=[{"step": 4, "loss": 1.0}], settings={"model.path": "m"}))["steps"] == "5"


def test_settings_that_differ_are_listed_without_the_run_folder() -> None:
    first = run(settings={"seed": 0, "run.dir": "a", "grpo.steps": 5, "model.train": "full", "prompt.thinking": True})
    other = run(settings={"seed": 0, "run.dir": "b", "grpo.steps": 9, "model.train": "full", "model.lora_rank": 8})
    rows = [(row.key, row.values) for row in settings_that_differ([first, other])]
    assert rows == [("grpo.steps", ("5", "9")), ("prompt.thinking", ("true", "–")), ("model.lora_rank", ("–", "8"))]
    assert settings_that_differ([first, first]) == []


def test_settings_of_another_trainer_are_no_difference() -> None:
    grpo = [run(settings={"sft.steps": steps, "grpo.steps": 9 + steps}) for steps in (1, 2)]
    assert [row.key for row in settings_that_differ(grpo)] == ["grpo.steps"]
    sft = run(card={"trainer": "sft"}, settings={"sft.steps": 3, "grpo.steps": 7, "seed": 1})
    assert [(row.key, row.values) for row in settings_that_differ([grpo[0], grpo[1], sft])] == [
        ("grpo.steps", ("10", "11", "–")),
        ("seed", ("–", "–", "1")),
    ]
