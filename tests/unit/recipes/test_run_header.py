"""The header of a run: model and trained parameters, data, steps, and how to stop."""

from __future__ import annotations

from pathlib import Path

import pytest

from factories import detections, sample, save_image
from virft.config.schema import Config, DataConfig, GRPOConfig, ModelConfig, RunConfig
from virft.data.store_writer import StoreWriter
from virft.recipes.preflight import check_run
from virft.recipes.run_header import ParameterCounts, count_parameters, describe_steps, header_lines
from virft.training.runtime import Runtime

SIZE = (64, 48)


def build(folder: Path) -> str:
    with StoreWriter(folder) as writer:
        path = writer.add_image_file("a.png", save_image(folder.parent / "a.png", SIZE))
        for query, target in (("fox", detections((1, 1, 9, 9))), ("cat", detections())):
            writer.add(sample(target, id=query, image=path, size=SIZE, query=query))
        writer.finish(source={}, seed=0)
    return str(folder)


def test_the_header_names_model_data_steps_and_the_way_to_stop(tmp_path: Path) -> None:
    data = build(tmp_path / "d")
    config = Config(data=DataConfig(train=data), grpo=GRPOConfig(steps=7), run=RunConfig(dir=str(tmp_path / "run")))
    lines = header_lines(check_run(config, "grpo"), ParameterCounts(7_085_056, 3_400_000), Runtime())
    assert lines == [
        "model  virft-tiny, 7.09M parameters, 3.4M trained (full training, vision tower frozen); cpu, float32",
        f"data   {data}: 1 image, 2 questions, 50% about an absent class",
        "steps  7 steps x 16 prompts x 8 completions, learning rate 1e-06 (linear), robust reward",
        f"run    {tmp_path / 'run'}; watch with: virft report {tmp_path / 'run'}",
        "stop   Ctrl-C finishes the step and saves; --resume continues",
    ]


@pytest.mark.parametrize("train", ["full", "lora"])
def test_trained_parameters_are_those_with_a_gradient(train: str) -> None:
    from run_parts import load_model_of, make_config

    model = load_model_of(make_config(model=ModelConfig(train=train, lora_rank=2))).model  # type: ignore[arg-type]
    counts = count_parameters(model)
    trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    assert counts.trained == sum(trained) > 0
    assert counts.total > counts.trained


def test_demonstrations_are_named_in_the_line_of_steps() -> None:
    grpo = GRPOConfig(steps=3, demonstrations="loss")
    line = describe_steps(Config(data=DataConfig(train="d"), run=RunConfig(dir="r"), grpo=grpo), "grpo")
    assert line.endswith("robust reward, demonstrations (loss)")
