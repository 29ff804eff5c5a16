"""Predictions for batches of samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from group_factories import completion
from toy_training import question, render
from virft.evaluation.predict import generate_predictions
from virft.evaluation.predictions import SizedPrediction
from virft.generation.generator import EncodedPrompt, GenerationParams
from virft.generation.random_streams import StepKey
from virft.models.vision import ImageFeatures, VisionInputs
from virft.types import Completion, FinishReason, ImageSize


class Echo:
    """A generator that returns the sample's id; ``batches`` are the sizes of its calls."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.temperatures: set[float] = set()

    def generate(
        self, prompts: Iterable[EncodedPrompt], group_size: int, params: GenerationParams, key: StepKey
    ) -> list[list[Completion]]:
        prompts = list(prompts)
        self.batches.append(len(prompts))
        self.temperatures.add(params.temperature)
        assert group_size == 1
        return [[completion([1, 2], logprobs=[-0.5, -0.25], text=one.prompt.sample_id, cut=True)] for one in prompts]


def predict(generator: Echo, *batches: str) -> list[list[SizedPrediction]]:
    def encode(prompts: Sequence[VisionInputs]) -> list[ImageFeatures]:
        return [ImageFeatures(tokens=()) for _ in prompts]

    made = generate_predictions(
        [[question(id) for id in batch] for batch in batches],
        render=render,
        encode=encode,
        generator=generator,
        max_completion_tokens=8,
    )
    return list(made)


def test_every_sample_is_predicted_in_its_batch() -> None:
    generator = Echo()
    found = predict(generator, "ba", "c")
    assert [[one.prediction.sample_id for one in batch] for batch in found] == [["b", "a"], ["c"]]
    assert [[one.prediction.text for one in batch] for batch in found] == [["b", "a"], ["c"]]
    assert generator.batches == [2, 1]


def test_decoding_is_greedy() -> None:
    generator = Echo()
    predict(generator, "a")
    assert generator.temperatures == {0.0}


def test_a_prediction_has_the_facts_that_scoring_needs() -> None:
    ((first,),) = predict(Echo(), "a")
    assert first.prediction.token_logprobs == (-0.5, -0.25)
    assert first.prediction.finish_reason is FinishReason.LENGTH
    assert first.resized == ImageSize(100, 100)
