"""Each verb loads its model in the precision of the training, or in the requested one, and computes in it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import virft as api
from factories import save_image
from runs import virft, write_config
from virft.config.toml_file import load_config
from virft.data.store import Store
from virft.errors import ConfigError
from virft.generation.hf_generator import HFGenerator
from virft.inference import app
from virft.inference.queries import make_query
from virft.models import load
from virft.models.tiny import TINY_NAME
from virft.recipes.evaluate import predict_as_trained

HALF = ("--dtype", "bfloat16")
SHORT = ("--max-completion-tokens", 8)


@dataclass
class Seen:
    """Dtypes of the weights of each model that was loaded, without adapters, and of each sampling under autocast."""

    loaded: list[Callable[[], set[torch.dtype]]] = field(default_factory=list)
    sampled: list[torch.dtype] = field(default_factory=list)

    def all(self) -> set[torch.dtype]:
        found = set().union(*(dtypes() for dtypes in self.loaded), self.sampled)
        self.loaded.clear()
        self.sampled.clear()
        return found


def dtypes_of(model: torch.nn.Module) -> set[torch.dtype]:
    return {one.dtype for name, one in model.named_parameters() if ".lora_" not in name}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    found = Seen()
    plain_load, plain_generate = load._load, HFGenerator.generate

    def spied_load(*arguments: Any, **options: Any) -> Any:
        loaded = plain_load(*arguments, **options)
        dtypes = dtypes_of(loaded.model)
        # weights that are mapped have the dtype of their file until the verb converts them
        found.loaded.append(partial(dtypes_of, loaded.model) if options.get("mapped") else lambda: dtypes)
        return loaded

    def note() -> None:
        found.sampled.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)

    def generate(*arguments: Any, **options: Any) -> Any:
        note()
        return plain_generate(*arguments, **options)

    monkeypatch.setattr(load, "_load", spied_load)
    monkeypatch.setattr(HFGenerator, "generate", generate)
    return found


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of LoRA adapters in bfloat16 with a validation."""
    folder = tmp_path_factory.mktemp("run")
    config = write_config(folder, scenes / "train")
    options = ("model.train=lora", "model.lora_rank=2", "model.dtype=bfloat16", "run.keep_best=false")
    steps = ("sft.steps=1", "sft.samples_per_step=2", "sft.learning_rate=1e-3", "sft.warmup_steps=0")
    short = ("sampling.max_completion_tokens=8", f"data.validation={scenes / 'test'}")
    assert virft("sft", config, *options, *steps, *short) == 0
    return folder / "run"


def test_a_run_records_its_precision(run: Path) -> None:
    card = json.loads((run / "model" / "virft_card.json").read_text())
    assert (card["dtype"], card["load_in_4bit"]) == ("bfloat16", False)
    assert json.loads((run / "card.json").read_text())["dtype"] == "bfloat16"
    assert "| precision | bfloat16 |" in (run / "model" / "README.md").read_text()
    cards = [json.loads(path.read_text())["settings"] for path in sorted(run.glob("eval/validation_*/card.json"))]
    assert [(one["dtype"], one["load_in_4bit"]) for one in cards] == [("bfloat16", False)] * 2


def test_predictions_equal_the_validation_of_the_run(run: Path, scenes: Path, tmp_path: Path, seen: Seen) -> None:
    # weights, adapters and autocast are those of training, so even the log-probs are equal
    assert virft("predict", run, scenes / "test", tmp_path / "p", *SHORT) == 0
    assert seen.all() == {torch.bfloat16}
    last = sorted(run.glob("eval/validation_*"))[-1]
    found, expected = ((place / "predictions.jsonl").read_text() for place in (tmp_path / "p", last))
    assert found == expected
    assert virft("predict", run, scenes / "test", tmp_path / "q", *SHORT, "--dtype", "float32") == 0
    assert seen.all() == {torch.float32}
    assert (tmp_path / "q" / "predictions.jsonl").read_text() != expected
    saved = json.loads((tmp_path / "q" / "card.json").read_text())["settings"]
    assert saved["dtype"] == "float32"


def test_verbs_with_a_model_load_it_as_requested(
    scenes: Path, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    test, image = scenes / "test", save_image(tmp_path / "fox.png", (112, 112))
    monkeypatch.chdir(tmp_path)
    served: list[Any] = []
    monkeypatch.setattr(app, "import_gradio", lambda: None)
    monkeypatch.setattr(app, "listen", lambda host, port: contextlib.nullcontext())
    monkeypatch.setattr(app, "serve_app", lambda models, *_, **__: served.append(models))
    calls: dict[str, tuple[Any, ...]] = {
        "predict": (TINY_NAME, test, "p{}", *SHORT, "--limit", 1),
        "presence": (TINY_NAME, test, "q{}", *SHORT),
        "ask": (TINY_NAME, image, "fox", *SHORT, "--overwrite"),
        "app": (TINY_NAME, "--base", TINY_NAME),
        "check": (test, "--model", TINY_NAME),
    }
    for number, (options, expected) in enumerate([((), torch.float32), (HALF, torch.bfloat16)]):
        for verb, words in calls.items():
            assert virft(verb, *(str(word).format(number) for word in words), *options) == 0
            assert seen.all() == {expected}, verb
    assert [[one.loaded.precision.dtype for one in models.values()] for models in served] == [
        ["float32", "float32"],
        ["bfloat16", "bfloat16"],
    ]


def test_verbs_of_a_run_load_its_models_as_requested(run: Path, scenes: Path, tmp_path: Path, seen: Seen) -> None:
    assert virft("eval", run, scenes / "test") == 0  # base and trained model
    assert (len(seen.loaded), seen.all()) == (3, {torch.bfloat16})  # adapters load their base
    assert virft("eval", run, scenes / "test", "--dtype", "float32") == 2, "predictions in bfloat16 exist"
    small = ("--limit", 2, "--no-intervals")
    assert virft("eval", run, scenes / "test", *small, "--dtype", "float32") == 0
    assert seen.all() == {torch.float32}
    assert virft("check", scenes / "test", "--suspects", run, "--group-size", 2) == 0
    assert seen.all() == {torch.bfloat16}
    assert virft("check", scenes / "test", "--suspects", run, "--group-size", 2, "--dtype", "float32") == 0
    assert seen.all() == {torch.float32}, "completions in another precision are not used again"


def test_predictions_of_another_precision_are_named(
    run: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("float32", "bfloat16"):
        assert virft("predict", run, scenes / "test", tmp_path / name, *SHORT, "--limit", 2, "--dtype", name) == 0
    capsys.readouterr()
    assert virft("score", tmp_path / "float32", scenes / "test", "--against", tmp_path / "bfloat16") == 0
    out = capsys.readouterr().out
    places = [tmp_path / name / "predictions.jsonl" for name in ("bfloat16", "float32")]
    assert f"warning: dtype differs: 'bfloat16' ({places[0]}), 'float32' ({places[1]})\n" in out


def test_adapters_are_merged_into_the_base_that_they_were_trained_on(run: Path, tmp_path: Path, seen: Seen) -> None:
    assert virft("merge", run, tmp_path / "m") == 0
    assert seen.all() == {torch.bfloat16}
    weights = load_file(tmp_path / "m" / "model.safetensors")
    assert {one.dtype for one in weights.values()} == {torch.float32}
    # summed in float32: the changes of one step are smaller than a rounding step of bfloat16
    changed = [one for name, one in weights.items() if "q_proj.weight" in name]
    assert any(not torch.equal(one, one.to(torch.bfloat16).float()) for one in changed)
    card = json.loads((tmp_path / "m" / "virft_card.json").read_text())
    assert (card["dtype"], card["load_in_4bit"]) == ("bfloat16", False)
    assert load.load_as_trained(str(tmp_path / "m")).model.dtype == torch.bfloat16


def test_verbs_with_settings_take_the_precision_from_them(
    scenes: Path, tmp_path: Path, seen: Seen, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = write_config(tmp_path, scenes / "train")
    small = ("model.train=lora", "sampling.max_completion_tokens=8", "grpo.group_size=2")
    for dtype in ("float32", "bfloat16"):
        capsys.readouterr()
        assert virft("doctor", config, "model.train=lora", f"model.dtype={dtype}") in (0, 1)
        assert f"; computes in {dtype}\n" in capsys.readouterr().out
        assert getattr(torch, dtype) in seen.loaded[-1]()  # the step of the built-in model comes before
        seen.all()
        data = scenes / "train"
        assert virft("advise", data, TINY_NAME, *small, f"model.dtype={dtype}", "--samples", 2) == 0
        assert seen.all() == {getattr(torch, dtype)}
    assert "computes in bfloat16" not in capsys.readouterr().out


def test_a_comparison_predicts_as_its_runs_were_trained(run: Path, scenes: Path, tmp_path: Path, seen: Seen) -> None:
    config = load_config(run / "config.toml").config
    store = Store(scenes / "test")
    predict_as_trained(config, TINY_NAME, store, tmp_path / "base", resume=False, limit=1)
    predict_as_trained(config, str(run / "model"), store, tmp_path / "trained", resume=False, limit=1)
    assert seen.all() == {torch.bfloat16}


def test_python_functions_load_as_the_verbs_do(run: Path, scenes: Path, tmp_path: Path, seen: Seen) -> None:
    image = save_image(tmp_path / "fox.png", (112, 112))
    model = api.load(run)
    model.detect(image, "fox")
    assert seen.all() == {torch.bfloat16}
    api.load(run, dtype="float32").detect(image, "fox")
    assert seen.all() == {torch.float32}
    api.evaluate(TINY_NAME, scenes / "test", tmp_path / "p", limit=1, dtype="bfloat16")
    assert seen.all() == {torch.bfloat16}
    api.evaluate(api.open_run(run), scenes / "test", tmp_path / "q", limit=1, dtype="float32")
    assert seen.all() == {torch.float32}
    with pytest.raises(ConfigError, match=r"with a loaded model, which is bfloat16; expected them in virft.load"):
        api.evaluate(model, scenes / "test", dtype="float32")


def test_streamed_tokens_are_those_of_an_answer_and_leave_no_autocast_behind(tmp_path: Path) -> None:
    query = make_query(str(save_image(tmp_path / "fox.png", (112, 112))), "fox", "detection")
    model = api.load(TINY_NAME, dtype="bfloat16")
    streamed = []
    for part in model.stream(query):
        assert not torch.is_autocast_enabled("cpu")
        streamed.append(part)
    assert streamed[-1].completion == model.answer(query).completion


def test_full_training_in_bfloat16_saves_as_requested(scenes: Path, tmp_path: Path, seen: Seen) -> None:
    config = write_config(tmp_path, scenes / "train")
    options = ("model.dtype=bfloat16", "grpo.steps=1", "sampling.max_completion_tokens=8", "run.save_dtype=bfloat16")
    assert virft("grpo", config, *options, f"data.validation={scenes / 'test'}") == 0
    assert set(seen.sampled) == {torch.bfloat16}, "sampling and validation"
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert {one.dtype for one in weights.values()} == {torch.bfloat16}
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("*/trained.safetensors")
    assert {one.dtype for one in load_file(checkpoint).values()} == {torch.float32}


def test_float32_remains_the_precision_on_a_cpu(scenes: Path, tmp_path: Path, seen: Seen) -> None:
    config = write_config(tmp_path, scenes / "train")
    options = ("grpo.steps=1", "sampling.max_completion_tokens=8", f"data.validation={scenes / 'test'}")
    assert virft("sft", config, "sft.steps=1", "sft.samples_per_step=2", *options) == 0
    assert seen.all() == {torch.float32}
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert {one.dtype for one in weights.values()} == {torch.float32}
    assert json.loads((tmp_path / "run" / "card.json").read_text())["dtype"] == "float32"
