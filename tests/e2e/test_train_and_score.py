"""Build, train, predict, score: on built-in scenes and on real photographs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from factories import save_coco
from runs import files, log, virft, write_config
from virft.data.store import Store
from virft.inference.prompting import make_renderer, resolve_prompting
from virft.models.load import load_model
from virft.models.tiny import TINY_NAME


def scores(folder: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((folder / "scores.json").read_text())
    return tree["tasks"]["detection"]


def test_scenes_are_built_trained_on_predicted_and_scored(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert virft("grpo", write_config(tmp_path, scenes / "train")) == 0
    assert [record["step"] for record in log(run)] == [0, 1, 2]
    assert {"reward", "reward_iou", "kl", "grad_norm", "sampler_gap"} <= log(run)[0].keys()
    assert log(run)[0]["sampler_gap"] < 1e-4
    assert {"best", "worst", "prompt"} <= log(run, "rollouts.jsonl")[0].keys()
    assert (run / "checkpoints" / "step_000003").is_dir()
    printed = capsys.readouterr().out
    assert printed.count("step ") >= 3
    assert printed.splitlines()[-1] == f"next: virft eval {run} {scenes / 'test'}"

    out = run / "eval" / "test"
    assert virft("predict", run / "model", scenes / "test", out, "--all") == 0
    table = capsys.readouterr().out
    # the headline comes first, then the blind baselines, which are fitted on the run's training data
    lines = table.splitlines()
    assert lines[0].startswith("F1 ")
    assert lines[0].endswith(" on 8 questions about 6 images")
    assert lines[1].startswith("best blind baseline: ")
    assert f"blind baselines fitted on {scenes}/train" in table
    assert "detection, protocol positives+negatives" in table
    assert scores(out)["num_samples"] == 8
    assert {"f1", "precision", "recall", "truncated_frac"} <= scores(out)["values"].keys()

    before = (out / "scores.json").read_bytes()
    assert virft("score", run, scenes / "test", "--all") == 0
    assert (out / "scores.json").read_bytes() == before
    assert capsys.readouterr().out in table


def test_real_photographs_are_trained_on_and_scored(shared_data: Path, tmp_path: Path) -> None:
    raccoon, data = shared_data / "raccoon", tmp_path / "data"
    options = ("--shots", 6, "--test-frac", 0.02)
    assert virft("build", "coco", raccoon / "annotations.json", raccoon, data, *options) == 0
    sizes = {sample.target_size for sample in Store(data / "train")}
    assert len(sizes) > 3, "photographs of other sizes than the built-in world"
    config = write_config(tmp_path, data / "train", extra="model.max_pixels = 25088\n")
    assert virft("grpo", config, "grpo.kl_coef=0.0") == 0
    assert len(log(tmp_path / "run")) == 3
    assert virft("predict", tmp_path / "run" / "model", data / "test", tmp_path / "p") == 0
    assert scores(tmp_path / "p")["num_samples"] == len(Store(data / "test")) == 4


def test_other_tasks_are_trained_on_too(tmp_path: Path) -> None:
    for task in ("classification", "grounding"):
        folder = tmp_path / task
        folder.mkdir()
        assert virft("build", "scenes", folder / "d", "--classes", "panda,fox", "--shots", 2, "--task", task) == 0
        assert virft("grpo", write_config(folder, folder / "d"), "grpo.steps=1") == 0
        part = {"classification": "reward_label", "grounding": "reward_giou"}[task]
        assert part in log(folder / "run")[0]
        assert virft("predict", folder / "run" / "model", folder / "d", folder / "p") == 0


def test_thinking_is_prompted_and_rewarded(scenes: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, scenes / "train", extra="prompt.thinking = true\n")
    assert virft("grpo", config, "grpo.steps=1") == 0
    assert "Think first." in log(tmp_path / "run", "rollouts.jsonl")[0]["prompt"]


def test_validation_is_scored_during_the_run(scenes: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, scenes / "train", extra=f'data.validation = "{scenes / "test"}"\n')
    assert virft("grpo", config, "grpo.steps=1") == 0
    records = log(tmp_path / "run")
    assert [record["step"] for record in records if "validation_f1" in record] == [0, 0]
    assert (tmp_path / "run" / "eval" / "validation_000001" / "predictions.jsonl").exists()
    validated = [record for record in records if "validation_f1" in record]
    assert all(0 < record["validation_common_answer_frac"] <= 1 for record in validated)
    assert {record["validation_common_target_frac"] for record in validated} == {
        validated[0]["validation_common_target_frac"]
    }


def test_validation_on_the_training_set_is_reported_once(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, scenes / "train")
    same = ("grpo.steps=1", f"data.validation={scenes / 'train'}")
    assert virft("grpo", config, *same) == 0
    warning = f"the validation set {scenes / 'train'} is the training set"
    assert f"\nwarning: {warning}" in capsys.readouterr().out
    assert virft("grpo", config, *same, "--resume") == 0
    (event,) = [one for one in log(tmp_path / "run", "events.jsonl") if one["event"] == "validation_data"]
    assert event["message"].startswith(warning)


def test_a_mixture_is_trained_on_and_each_set_validated(scenes: Path, tmp_path: Path) -> None:
    named = tmp_path / "named"
    assert virft("build", "scenes", named, "--classes", "panda,fox", "--shots", 2, "--task", "classification") == 0
    config = tmp_path / "mixed.toml"
    config.write_text(
        f"""
run.dir = "{tmp_path / "run"}"
sampling.max_completion_tokens = 48

[grpo]
steps = 2
prompts_per_step = 4
group_size = 3

[mixture.found]
data = "{scenes / "train"}"
weight = 3
validation = "{scenes / "test"}"

[mixture.named]
data = "{named}"
thinking = true
"""
    )
    assert virft("grpo", config, "data.validate_every=0") == 0
    records = [record for record in log(tmp_path / "run") if "reward" in record]
    assert {"reward@found", "reward@named", "reward_label", "reward_iou"} <= records[0].keys()
    found = [record for record in log(tmp_path / "run") if "validation_f1@found" in record]
    assert [record["step"] for record in found] == [0, 1]
    assert all(record["validation_score"] == record["validation_f1@found"] for record in found)
    better = found[1]["validation_score"] > found[0]["validation_score"]
    assert (tmp_path / "run" / "best").exists() == better
    assert (tmp_path / "run" / "eval" / "validation_found_000002" / "predictions.jsonl").exists()
    assert all(record["sample"].startswith(("found/", "named/")) for record in log(tmp_path / "run", "rollouts.jsonl"))


def test_a_trained_model_is_an_ordinary_one(scenes: Path, tmp_path: Path) -> None:
    assert virft("grpo", write_config(tmp_path, scenes / "train"), "model.freeze_vision=false") == 0
    folder = tmp_path / "run" / "model"
    plain = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    loaded = load_model(str(folder))
    rendered = make_renderer(loaded, resolve_prompting(loaded, template="auto", thinking=False))(
        Store(scenes / "test")[0]
    )
    ids = torch.tensor([rendered.prompt.token_ids])
    inputs = {
        "input_ids": ids,
        "pixel_values": rendered.vision.pixel_values,
        "image_grid_thw": rendered.vision.per_image["grid_thw"],
        "mm_token_type_ids": (ids == plain.config.image_token_id).int(),
    }
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(**inputs).logits, plain(**inputs).logits, atol=1e-4, rtol=0)
    # the tower was trained, and its weights are the checkpoint's
    saved = load_file(tmp_path / "run" / "checkpoints" / "step_000003" / "trained.safetensors")
    name = "model.visual.blocks.0.mlp.fc1.weight"
    assert torch.equal(plain.get_parameter(name), saved[f"model.{name}"])
    assert not torch.equal(plain.get_parameter(name), load_model(TINY_NAME).model.get_parameter(name))


@pytest.mark.parametrize("kl_coef", [0.0, 0.04])
def test_adapters_are_saved_as_a_peft_folder_that_predict_loads(scenes: Path, tmp_path: Path, kl_coef: float) -> None:
    config = write_config(tmp_path, scenes / "train")
    assert virft("grpo", config, "model.train=lora", "model.lora_rank=4", f"grpo.kl_coef={kl_coef}") == 0
    folder = tmp_path / "run" / "model"
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files(folder).keys()
    assert "model.safetensors" not in files(folder)
    assert virft("predict", folder, scenes / "test", tmp_path / "p", "--limit", 2) == 0
    assert scores(tmp_path / "p")["num_samples"] == 2


def test_bfloat16_trains_with_the_samplers_own_precision(scenes: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, scenes / "train", extra='model.dtype = "bfloat16"\n')
    assert virft("grpo", config, "grpo.steps=1") == 0
    # sampling in float32 and training in bfloat16 would differ by about 0.05 nats
    assert log(tmp_path / "run")[0]["sampler_gap"] < 0.05
    saved = load_file(tmp_path / "run" / "checkpoints" / "step_000001" / "trained.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


def test_one_photograph_of_the_users_own_is_enough(tmp_path: Path) -> None:
    save_coco(tmp_path, {"a.png": [("cat", [10, 10, 20, 30])]}, size=(90, 60))
    assert virft("build", "coco", tmp_path / "annotations.json", tmp_path / "images", tmp_path / "d") == 0
    assert virft("grpo", write_config(tmp_path, tmp_path / "d"), "grpo.steps=1") == 0
