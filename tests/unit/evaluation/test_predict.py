"""A model's answers come in the order of the data set, whatever the batches."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from group_factories import completion
from toy_training import question, render
from virft.evaluation.predict import predict
from virft.evaluation.predictions import SizedPrediction
from virft.models.generator import EncodedPrompt, GenerationParams
from virft.models.noise import StepKey
from virft.models.vision import ImageFeatures, VisionInputs
from virft.types import Completion, FinishReason, ImageSize

SAMPLES = [question(id) for id in "abcde"]


class Echo:
    """Answers with the name of the sample; ``batches`` are the sizes of its calls."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.temperatures: set[float] = set()

    def generate(
        self, prompts: Sequence[EncodedPrompt], group_size: int, params: GenerationParams, key: StepKey
    ) -> list[list[Completion]]:
        self.batches.append(len(prompts))
        self.temperatures.add(params.temperature)
        assert group_size == 1
        return [[completion([1, 2], logprobs=[-0.5, -0.25], text=one.prompt.sample_id, cut=True)] for one in prompts]


def answers(generator: Echo, *, told: list[int] | None = None, batch_size: int = 2) -> list[SizedPrediction]:
    def encode(prompts: Sequence[VisionInputs]) -> list[ImageFeatures]:
        return [ImageFeatures(tokens=()) for _ in prompts]

    made = predict(
        SAMPLES,
        render=render,
        encode=encode,
        generator=generator,
        max_completion_tokens=8,
        batch_size=batch_size,
        progress=told.append if told is not None else None,
    )
    return list(made)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 99])
def test_every_sample_is_answered_in_order(batch_size: int) -> None:
    found = answers(Echo(), batch_size=batch_size)
    assert [one.prediction.sample_id for one in found] == list("abcde")
    assert [one.prediction.text for one in found] == list("abcde")


def test_answers_are_the_likeliest_and_come_in_batches() -> None:
    generator = Echo()
    answers(generator)
    assert generator.batches == [2, 2, 1]
    assert generator.temperatures == {0.0}


def test_an_answer_keeps_what_scoring_may_need() -> None:
    first = answers(Echo())[0]
    assert first.prediction.token_logprobs == (-0.5, -0.25)
    assert first.prediction.finish_reason is FinishReason.LENGTH
    assert first.resized == ImageSize(100, 100)


def test_progress_counts_samples() -> None:
    told: list[int] = []
    answers(Echo(), told=told)
    assert told == [2, 4, 5]
