"""A model card is made from its run's files, and states nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from virft.config.schema import (
    Config,
    DataConfig,
    GRPOConfig,
    ModelConfig,
    PromptConfig,
    RewardConfig,
    RunConfig,
    SFTConfig,
)
from virft.errors import RunError
from virft.publishing.model_card import MARK, model_card, renew_card
from virft.training.run import RunFolder, run_card

DATA = {
    "name": "foxes|hens",
    "hash": "0123456789abcdef",
    "num_samples": 12,
    "tasks": ["classification", "detection"],
    "hub_id": "me/foxes",
    "licence": None,
}


def make_run(folder: Path, *, trainer: str = "grpo", facts: dict[str, Any] | None = None, **settings: Any) -> Path:
    config = Config(
        **{
            "data": DataConfig(train=str(folder / "data")),
            "run": RunConfig(dir=str(folder / "run")),
            "grpo": GRPOConfig(steps=3),
        }
        | settings
    )
    known = {
        "base": {"name": "Qwen/Qwen2-VL-2B-Instruct", "hub_id": "Qwen/Qwen2-VL-2B-Instruct", "license": None},
        "box_space": "relative_1000",
        "prompt_template": "short",
        "data": [DATA],
    }
    card = run_card(
        trainer=trainer, commit="abc123", data_hash="0123456789abcdef", model="m", **(known if facts is None else facts)
    )
    run = RunFolder.open(config, resume=False, card=card)
    run.append("timings.jsonl", {"step": 0})
    run.append("timings.jsonl", {"step": 1})
    (run.folder / "model").mkdir()
    return run.folder


def measure(run: Path, *, model: str, f1: float = 0.25) -> None:
    values = {"f1": f1, "ap": 0.5, "unreadable_frac": 0.0, "recall": 1.0}
    task = {"protocol": "positives", "num_samples": 8, "values": values, "intervals": {"f1": [0.2, 0.3]}}
    tree = {"model": model, "data": "somewhere/test", "data_hash": "fedcba9876543210", "tasks": {"detection": task}}
    (run / "eval" / "test").mkdir(parents=True, exist_ok=True)
    (run / "eval" / "test" / "scores.json").write_text(json.dumps(tree))


def front(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


def test_the_head_is_what_the_hub_documents(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert front(model_card(run, model="model", adapters=False)) == {
        "base_model": "Qwen/Qwen2-VL-2B-Instruct",
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["virft", "grpo", "classification", "detection"],
        "datasets": ["me/foxes"],
    }
    adapters = front(model_card(run, model="model", adapters=True))
    assert (adapters["library_name"], adapters["tags"][:3]) == ("peft", ["virft", "grpo", "lora"])


def test_the_licence_is_that_of_the_base(tmp_path: Path) -> None:
    base = {"name": "virft-tiny", "hub_id": None, "license": "apache-2.0"}
    run = make_run(tmp_path, facts={"base": base, "data": []})
    head = front(model_card(run, model="model", adapters=False))
    assert head["license"] == "apache-2.0"
    assert "base_model" not in head
    assert "datasets" not in head


def test_the_card_describes_training_and_prompts(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        model=ModelConfig(max_pixels=401408),
        prompt=PromptConfig(thinking=True),
        reward=RewardConfig(
            weights={"format": 0.5}, segmenter=str(tmp_path / "sam2"), extra=(str(tmp_path / "mine.py") + ":brevity",)
        ),
    )
    text = model_card(run, model="model", adapters=False)
    for line in (
        "| steps | 2 of 3 |",
        "| trained | all weights but those of the vision tower |",
        "| reward | preset robust, format x 0.5, masks of sam2, brevity |",
        "| data | me/foxes: 12 samples, hash 0123456789ab |",
        "| commit | abc123 |",
        "| detection | Detect {query}. Think first. |",
        "| classification | Which {query} is this? Think first. |",
        "The completion is a think block, then an answer block: `<think> .. </think><answer> .. </answer>`.",
        "Boxes are `[x1, y1, x2, y2]`, 0..1000 relative to width and height of the image.",
        "It was trained on images of at most 401408 pixels: set `max_pixels` of the image processor.",
        "Not evaluated.",
    ):
        assert line in text.splitlines(), line
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("task", "boxes"),
    [("pointing", "Points are `[x, y]`, 0..1000 "), ("grounding", "Boxes are `["), ("short_answer", "")],
)
def test_the_examples_of_the_card_are_about_the_task_of_the_training(tmp_path: Path, task: str, boxes: str) -> None:
    base = {"name": "virft-tiny", "hub_id": None, "license": "apache-2.0"}
    facts = {"base": base, "box_space": "relative_1000", "data": [DATA | {"tasks": [task]}]}
    text = model_card(make_run(tmp_path, facts=facts), model="model", adapters=False)
    assert f'virft.load("FOLDER").ask("photo.jpg", "QUERY", task="{task}").save("answer.png")' in text
    assert f'or `virft ask FOLDER photo.jpg "QUERY" --task {task}`.' in text
    assert boxes in text
    assert ("0..1000" in text) == bool(boxes)


def test_supervised_training_and_adapters_are_described(tmp_path: Path) -> None:
    run = make_run(tmp_path, trainer="sft", model=ModelConfig(train="lora", lora_rank=4, lora_alpha=8))
    text = model_card(run, model="model", adapters=True)
    assert "Qwen/Qwen2-VL-2B-Instruct, trained by supervised fine-tuning (SFT)," in text
    assert "| trained | adapters of the language model (LoRA, rank 4, alpha 8) |" in text
    assert "PeftModel.from_pretrained" in text
    assert "reward" not in text


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"demonstrations": "loss", "demonstration_coef_end": 0.0, "demonstration_fade": True},
            "cross-entropy x 0.2 to 0 x (1 - success of the group)",
        ),
        (
            {"demonstrations": "group", "near_right": True},
            "ground truth as a member of each group, with near-right answers",
        ),
    ],
)
def test_demonstrations_are_described(tmp_path: Path, settings: dict[str, Any], expected: str) -> None:
    run = make_run(tmp_path, grpo=GRPOConfig(steps=3, **settings))
    assert f"| demonstrations | {expected} |" in model_card(run, model="model", adapters=False)
    assert "demonstrations" not in model_card(make_run(tmp_path / "off"), model="model", adapters=False)


def test_a_warm_start_and_excluded_samples_are_described(tmp_path: Path) -> None:
    facts = {"data": [DATA], "excluded": ["fox:1", "fox:2"]}
    grpo, sft = GRPOConfig(steps=3, warm_start_steps=2), SFTConfig(learning_rate=3e-5)
    text = model_card(make_run(tmp_path, grpo=grpo, sft=sft, facts=facts), model="model", adapters=False)
    assert "| warm start | 2 steps supervised first, learning rate 3e-05 |" in text
    assert "| excluded | 2 samples |" in text
    without = model_card(make_run(tmp_path / "without"), model="model", adapters=False)
    assert "warm start" not in without
    assert "excluded" not in without


def test_a_users_own_template_is_listed_once(tmp_path: Path) -> None:
    facts = {"box_space": "resized_pixels", "prompt_template": "Where | is {query}?", "data": [DATA]}
    text = model_card(make_run(tmp_path, facts=facts), model="model", adapters=False)
    assert r"| all | Where \| is {query}? |" in text
    assert "pixels of the image after the processor resized it." in text


def test_scores_of_this_model_are_listed_with_their_data(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    measure(run, model="runs/mine/model")
    text = model_card(run, model="model", adapters=False)
    row = "| test | fedcba987654 | detection | positives | 8 |"
    assert f"{row} f1 | 0.250 (0.200 to 0.300) | not measured |" in text
    assert f"{row} ap | 0.500 | not measured |" in text
    assert f"{row} unreadable_frac | 0.000 | not measured |" in text
    assert "recall" not in text


def test_the_best_blind_baseline_is_next_to_each_score(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    measure(run, model="runs/mine/model")
    path = run / "eval" / "test" / "scores.json"
    tree = json.loads(path.read_text())
    baseline = {"values": {"f1": 0.5, "ap": 0.25}, "intervals": {"f1": [0.4, 0.6]}}
    blind = {"metric": "f1", "best": "mean box", "baselines": {"mean box": baseline}, "verdict": "below"}
    path.write_text(json.dumps(tree | {"blind": {"train": [], "tasks": {"detection": blind}}}))
    text = model_card(run, model="model", adapters=False)
    assert " f1 | 0.250 (0.200 to 0.300) | 0.500 (0.400 to 0.600), mean box |" in text
    assert " ap | 0.500 | 0.250, mean box |" in text
    assert (
        "On test (detection) this model is below the best blind baseline (mean box) in f1: these scores do not show "
        "that it uses the image."
    ) in text
    path.write_text(json.dumps(tree | {"blind": {"train": [], "tasks": {"detection": blind | {"verdict": "above"}}}}))
    assert "do not show" not in model_card(run, model="model", adapters=False)


@pytest.mark.parametrize("model", ["virft-tiny", "runs/mine/best"])
def test_scores_of_other_models_are_not(tmp_path: Path, model: str) -> None:
    run = make_run(tmp_path)
    measure(run, model=model)
    assert "0.250" not in model_card(run, model="model", adapters=False)


def test_incomplete_score_files_are_skipped(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    measure(run, model="model")
    (run / "eval" / "test" / "scores.json").write_text('{"model"')
    assert "Not evaluated." in model_card(run, model="model", adapters=False)


def test_a_validation_score_is_not_a_test_score(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for step, score in ((0, 0.125), (1, 0.5)):
        RunFolder(run).append("metrics.jsonl", {"step": step, "validation_score": score})
    text = model_card(run, model="model", adapters=False)
    assert "Not evaluated on a test set." in text
    assert "so it is not a test score): 0.125 before the first step, 0.500 at the end." in text


def test_a_run_of_an_older_virft_has_a_card_too(tmp_path: Path) -> None:
    text = model_card(make_run(tmp_path, facts={}), model="model", adapters=False)
    assert "| base | a base model |" in text
    assert "| data | hash 0123456789ab |" in text
    assert "| task | prompt |" not in text


def test_a_folder_without_a_readable_run_is_an_error(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "card.json").write_text("{")
    with pytest.raises(RunError, match=r"cannot be read as a run .*; expected config.toml and card.json"):
        model_card(run, model="model", adapters=False)


def test_a_card_is_updated_unless_a_user_changed_it(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    readme = run / "model" / "README.md"
    renew_card(run / "model")
    assert "Not evaluated." in readme.read_text()
    measure(run, model="model")
    renew_card(run / "model")
    assert "0.250" in readme.read_text()
    own = readme.read_text().replace(MARK, "My words.")
    readme.write_text(own)
    measure(run, model="model", f1=0.75)
    renew_card(run / "model")
    assert readme.read_text() == own


def test_a_model_in_no_run_keeps_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    renew_card(tmp_path / "m")
    assert list((tmp_path / "m").iterdir()) == []
