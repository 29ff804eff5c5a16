"""What a run leaves behind is an ordinary folder: it loads without virft, adapters merge, and it can be pushed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from runs import files, virft, write_config
from virft.models.load import load_model
from virft.models.tiny import tiny_folder

ALONE = """
import json, sys
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
processor = AutoImageProcessor.from_pretrained(sys.argv[1], backend="pil")
samples = [json.loads(line) for line in open(sys.argv[2] + "/samples.jsonl")][:3]
for sample in samples:
    image = Image.open(sys.argv[2] + "/" + sample["images"][0]["path"]).convert("RGB")
    content = [{"type": "image"}, {"type": "text", "text": "Detect " + sample["query"] + "."}]
    chat = [{"role": "user", "content": content}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    seen = processor(images=[image], return_tensors="pt")
    tokens = seen["image_grid_thw"][0].prod().item() // 4  # four patches of 14 pixels are a token
    text = text.replace("<|image_pad|>", "<|image_pad|>" * tokens)
    asked = tokenizer(text, return_tensors="pt")
    types = (asked["input_ids"] == model.config.image_token_id).long()
    made = model.generate(**asked, **seen, mm_token_type_ids=types, max_new_tokens=48, do_sample=False)
    print(json.dumps(tokenizer.decode(made[0][asked["input_ids"].shape[1]:], skip_special_tokens=True)))
assert "virft" not in sys.modules
"""


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with adapters that learnt a lot in one step."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder, scenes / "train")
    lora = ("model.train=lora", "model.lora_rank=4", "grpo.learning_rate=0.005", "grpo.steps=1")
    assert virft("grpo", config, *lora) == 0
    return folder / "run"


def answers(folder: Path) -> list[str]:
    return [json.loads(line)["text"] for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_merged_adapters_answer_alike_with_virft_and_without(trained: Path, scenes: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    assert virft("merge", trained / "model", merged) == 0
    assert (merged / "model.safetensors").exists()
    assert not (merged / "adapter_config.json").exists()
    assert "library_name: transformers" in (merged / "README.md").read_text()
    assert "library_name: peft" in (trained / "model" / "README.md").read_text()
    for name, model in (("adapters", trained / "model"), ("merged", merged), ("base", "virft-tiny")):
        options = ("--limit", 3, "--max-completion-tokens", 48)
        assert virft("predict", model, scenes / "test", tmp_path / "answers" / name, *options) == 0
    by_virft = {name: answers(tmp_path / "answers" / name) for name in ("adapters", "merged", "base")}
    assert by_virft["merged"] == by_virft["adapters"] != by_virft["base"]

    done = subprocess.run(
        [sys.executable, "-c", ALONE, merged, scenes / "test"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == by_virft["merged"]


def test_merging_says_what_it_cannot_do(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").mkdir()
    assert virft("merge", trained / "model", tmp_path / "there") == 2
    assert "there: already exists; name a new folder" in capsys.readouterr().err
    assert virft("merge", tmp_path / "there", tmp_path / "m") == 2
    assert "there: holds no adapters; expected a run, or a folder with adapter_config.json" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "config.json").write_text("{}")
    assert virft("merge", tmp_path / "whole", tmp_path / "m") == 2
    assert "holds a whole model, whose weights are merged already; expected adapters of LoRA" in capsys.readouterr().err


def test_the_adapters_of_a_run_folder_are_merged(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(trained, tmp_path / "mine")
    assert virft("merge", run, tmp_path / "merged") == 0
    assert f"model of the run {run}: {run / 'model'}\n" in capsys.readouterr().err
    assert "# mine" in (tmp_path / "merged" / "README.md").read_text()
    # the best model has precedence, as with other verbs
    shutil.copytree(run / "model", run / "best")
    weights = load_file(run / "best" / "adapter_model.safetensors")
    zeros = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    save_file(zeros, run / "best" / "adapter_model.safetensors", {"format": "pt"})
    assert virft("merge", run, tmp_path / "best") == 0
    assert f"model of the run {run}: {run / 'best'}\n" in capsys.readouterr().err
    names = ("virft-tiny", str(tmp_path / "best"), str(tmp_path / "merged"))
    base, best, last = (load_model(name).model.state_dict() for name in names)
    layer = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(best[layer], base[layer])
    assert not torch.equal(last[layer], base[layer])


def test_a_run_without_adapters_is_not_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").touch()
    assert virft("merge", tmp_path / "run", tmp_path / "m") == 2
    assert "this run has saved no model yet" in capsys.readouterr().err
    shutil.copytree(tiny_folder(), tmp_path / "run" / "model")
    assert virft("merge", tmp_path / "run", tmp_path / "m") == 2
    assert "run/model: holds a whole model, whose weights are merged already" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_weights_are_merged_in_the_requested_dtype(trained: Path, tmp_path: Path) -> None:
    assert virft("merge", trained / "model", tmp_path / "m", "--dtype", "bfloat16") == 0
    weights = load_file(tmp_path / "m" / "model.safetensors")
    assert {one.dtype for one in weights.values()} == {torch.bfloat16}


class FakeApi:
    """A Hub that keeps what it was given."""

    uploads: dict[str, dict[str, bytes]] = {}  # noqa: RUF012 (of all objects)

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        assert private

    def repo_info(self, repo_id: str) -> Any:
        return SimpleNamespace(private=True)

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any:
        self.uploads[repo_id] = files(Path(folder_path))
        return SimpleNamespace(repo_url=f"https://hub/{repo_id}")


def test_a_run_is_pushed_with_the_scores_it_has_by_then(
    trained: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    assert "Not evaluated." in (trained / "model" / "README.md").read_text()
    assert virft("predict", trained / "model", scenes / "test", trained / "eval" / "test") == 0
    assert virft("push", trained, "me/foxes") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "pushed: https://hub/me/foxes"
    pushed = FakeApi.uploads["me/foxes"]
    assert pushed.keys() >= {"README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"}
    assert b"| f1 |" in pushed["README.md"]
    assert str(trained.parent).encode() not in b"".join(text for name, text in pushed.items() if "token" not in name)


def test_what_is_no_model_is_not_pushed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert virft("push", tmp_path, "me/foxes") == 2
    assert "no config.json in this folder; expected a Hugging Face model folder" in capsys.readouterr().err


@pytest.mark.parametrize("train", ["full", "lora"])
def test_a_model_is_prompted_by_default_as_in_its_run(scenes: Path, tmp_path: Path, train: str) -> None:
    (tmp_path / "mine.txt").write_text("Where is {query}? Think.")
    settings = ("model.max_pixels=6272", f"prompt.template={tmp_path / 'mine.txt'}", "prompt.thinking=true")
    config = write_config(tmp_path, scenes / "train")
    assert virft("grpo", config, *settings, f"model.train={train}", "grpo.steps=1") == 0
    models = [tmp_path / "run" / "model"]
    if train == "lora":
        models.append(tmp_path / "merged")
        assert virft("merge", *models) == 0
    for number, model in enumerate(models):
        out = tmp_path / f"p{number}"
        assert virft("predict", model, scenes / "test", out, "--limit", 1, "--max-completion-tokens", 4) == 0
        card = json.loads((out / "card.json").read_text())
        assert (card["thinking"], card["settings"]["template"]) == (True, "Where is {query}? Think.")
        (line,) = (out / "predictions.jsonl").read_text().splitlines()
        # a scene is a square of 112; at most 6272 pixels in steps of 28
        assert json.loads(line)["resized"] == [56, 56]
    other = ("--no-thinking", "--template", "short", "--limit", 1, "--max-completion-tokens", 4)
    assert virft("predict", models[0], scenes / "test", tmp_path / "q", *other) == 0
    card = json.loads((tmp_path / "q" / "card.json").read_text())
    assert (card["thinking"], card["settings"]["template"]) == (False, "short")
