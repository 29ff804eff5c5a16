"""Evaluation of a model on a dataset. Whole runs of it are in the end-to-end tests."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
from PIL import Image

from factories import sample
from virft.config.schema import Config, DataConfig, MixtureConfig, RunConfig, SamplingConfig
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.errors import ConfigError, RunError, RunStopped
from virft.evaluation.prediction_run import plan_batches
from virft.evaluation.predictions import read_predictions, read_predictions_card
from virft.generation.vllm_generator import VLLMGenerator
from virft.inference.prompting import resolve_prompting
from virft.models.load import load_model
from virft.models.tiny import TINY_NAME
from virft.recipes.evaluate import (
    PredictionSettings,
    make_validator,
    predict_as_trained,
    predict_store,
    prediction_engine,
)
from virft.recipes.preflight import validation_stores
from virft.training.distributed import Ranks
from virft.training.runtime import Runtime
from virft.types import Completion, FinishReason, ImageSize


def test_without_validation_data_there_is_no_validator() -> None:
    config = Config(data=DataConfig(train="d"), run=RunConfig(dir="r"))
    loaded = load_model(TINY_NAME)
    prompting = resolve_prompting(loaded, template="auto", thinking=False)
    settings = PredictionSettings(prompting=prompting, max_completion_tokens=8, model_name="m")
    stores = validation_stores(config.data, config.mixture)
    assert make_validator(loaded, stores, Path("eval"), settings=settings, runtime=Runtime()) is None


def interrupt(*_: int) -> NoReturn:
    raise KeyboardInterrupt


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with StoreWriter(tmp_path / "data") as writer:
        for number in range(5):
            image = writer.add_image(f"{number}.png", Image.new("RGB", (64, 48), (number, 0, 0)))
            writer.add(sample(id=str(number), image=image, size=ImageSize(64, 48)))
        writer.finish(source={}, seed=0)
    return Store(tmp_path / "data")


def test_ctrl_c_prints_the_number_of_saved_predictions_and_resume_makes_the_others(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("virft.recipes.evaluate.plan_batches", partial(plan_batches, batch_size=2))
    config = Config(
        data=DataConfig(train="d"), sampling=SamplingConfig(max_completion_tokens=2), run=RunConfig(dir="r")
    )
    out = tmp_path / "out"
    with pytest.raises(RunStopped) as stopped:
        predict_as_trained(config, TINY_NAME, store, out, resume=False, progress=interrupt)
    assert str(stopped.value) == f"stopped: 2 of 5 predictions are saved in {out}; resume with --resume"
    new: list[tuple[int, int]] = []
    path = predict_as_trained(
        config, TINY_NAME, store, out, resume=True, progress=lambda done, total: new.append((done, total))
    )
    assert new == [(2, 3), (3, 3)]
    assert list(read_predictions(path)) == [one.id for one in store]


def test_validation_leaves_ctrl_c_to_the_training_loop(store: Store, tmp_path: Path) -> None:
    loaded = load_model(TINY_NAME)
    prompting = resolve_prompting(loaded, template="auto", thinking=False)
    settings = PredictionSettings(prompting=prompting, max_completion_tokens=2, model_name="m", progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        predict_store(loaded, store, tmp_path / "out", settings=settings, runtime=Runtime())


class FixedEngine(VLLMGenerator):
    """Gives each prompt the same completion; ``calls`` has the number of prompts of each call, and "update"."""

    def __init__(self) -> None:
        self.calls: list[int | str] = []

    def generate(self, prompts: Any, *arguments: Any) -> list[list[Completion]]:
        number = len(list(prompts))
        self.calls.append(number)
        one = Completion(
            token_ids=(5, 6),
            sampler_logprobs=(-0.25, -0.5),
            token_ends=(2, 4),
            text="<no>",
            finish_reason=FinishReason.STOP,
        )
        return [[one]] * number

    def update(self) -> None:
        self.calls.append("update")

    def server_messages(self) -> list[str]:
        return ["vLLM server 1 of 1 is gone"] if self.calls == [2] else []


def test_an_engine_predicts_and_is_recorded(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virft.recipes.evaluate.plan_batches", partial(plan_batches, batch_size=2))
    monkeypatch.setattr("virft.recipes.evaluate.vllm_name", lambda: "vllm 0.32.0")
    loaded = load_model(TINY_NAME)
    prompting = resolve_prompting(loaded, template="auto", thinking=False)
    engine, lines = FixedEngine(), list[str]()
    settings = PredictionSettings(
        prompting=prompting, max_completion_tokens=2, model_name="m", engine=engine, log=lines.append
    )
    path = predict_store(loaded, store, tmp_path / "out", settings=settings, runtime=Runtime())
    found = [one.prediction for one in read_predictions(path).values()]
    assert [one.text for one in found] == ["<no>"] * 5
    assert {one.token_logprobs for one in found} == {(-0.25, -0.5)}
    assert read_predictions_card(path).engine == "vllm 0.32.0"
    # its caches are cleared at the end
    assert engine.calls == [2, 2, 1, "update"]
    assert lines == ["warning: vLLM server 1 of 1 is gone"]
    changed = replace(settings, engine=None, resume=True)
    with pytest.raises(RunError, match=r"engine is 'vllm 0\.32\.0' \(saved\) and None"):
        predict_store(loaded, store, tmp_path / "out", settings=changed, runtime=Runtime())


def test_all_ranks_call_an_engine_equally_often(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virft.recipes.evaluate.plan_batches", partial(plan_batches, batch_size=2))
    loaded = load_model(TINY_NAME)
    settings = PredictionSettings(
        prompting=resolve_prompting(loaded, template="auto", thinking=False), max_completion_tokens=2, model_name="m"
    )
    calls = []
    for rank in range(2):
        ranks = Ranks(index=rank, count=2)
        monkeypatch.setattr(Ranks, "barrier", lambda self: None)
        monkeypatch.setattr("virft.evaluation.prediction_run.PredictionRun.finish", lambda self: None)
        (tmp_path / str(rank)).mkdir()
        engine = FixedEngine()
        own = replace(settings, engine=engine, resume=True)
        predict_store(loaded, store, tmp_path / str(rank), settings=own, runtime=Runtime(ranks=ranks))
        calls.append(engine.calls)
    # five samples are three batches
    assert calls == [[2, 1, "update"], [2, 0, "update"]]


@pytest.mark.parametrize("thinking", [True, False])
def test_predictions_have_the_thinking_mode_of_a_mixture(store: Store, tmp_path: Path, thinking: bool) -> None:
    part = MixtureConfig(data=str(store.folder), thinking=thinking)
    config = Config(
        mixture={"one": part}, sampling=SamplingConfig(max_completion_tokens=2), run=RunConfig(dir=str(tmp_path / "r"))
    )
    path = predict_as_trained(config, TINY_NAME, store, tmp_path / "out", resume=False, limit=1)
    assert read_predictions_card(path).thinking is thinking


def test_zoom_calls_with_vllm_are_refused_before_a_server_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr("virft.recipes.evaluate.start_vllm", lambda *_, **__: started.append(1))
    loaded = load_model(TINY_NAME)
    prompting = resolve_prompting(loaded, template="auto", thinking=False, zoom=True)
    with (
        pytest.raises(ConfigError, match="zoom calls are on; expected builtin"),
        prediction_engine(loaded, prompting, Runtime(), SamplingConfig(engine="vllm")),
    ):
        pass
    assert not started
