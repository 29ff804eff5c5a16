"""Generate a model's predictions by greedy decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from virft.evaluation.prediction_run import CONCURRENT
from virft.evaluation.predictions import SizedPrediction
from virft.generation.generator import EncodedPrompt, GenerationParams, Generator
from virft.generation.random_streams import StepKey
from virft.models.renderer import RenderedPrompt
from virft.models.vision import ImageFeatures, VisionInputs
from virft.types import Prediction, Prompt, Sample


def generate_predictions(
    batches: Iterable[Sequence[Sample]],
    *,
    render: Callable[[Sample], RenderedPrompt],
    encode: Callable[[Sequence[VisionInputs]], list[ImageFeatures]],
    generator: Generator,
    max_completion_tokens: int,
) -> Iterator[list[SizedPrediction]]:
    """Yield the greedy completion (temperature 0) of each sample, batch by batch.

    ``encode`` maps vision inputs to image features; a completion has at most ``max_completion_tokens`` tokens. Images
    of a batch are read and encoded when the generator takes their prompts, ``CONCURRENT`` at a time.
    """
    params = GenerationParams(max_completion_tokens=max_completion_tokens, temperature=0.0)

    def encoded(batch: Sequence[Sample], prompts: list[Prompt]) -> Iterator[EncodedPrompt]:
        for start in range(0, len(batch), CONCURRENT):
            rendered = [render(sample) for sample in batch[start : start + CONCURRENT]]
            prompts += [one.prompt for one in rendered]
            with torch.no_grad():
                features = encode([one.vision for one in rendered])
            for one, made in zip(rendered, features, strict=True):
                yield EncodedPrompt(
                    prompt=one.prompt, positions=one.positions, features=made, answer_call=one.answer_call
                )

    for batch in batches:
        prompts: list[Prompt] = []
        completions = generator.generate(encoded(batch, prompts), 1, params, StepKey(seed=0, step=0))
        yield [
            SizedPrediction(
                Prediction(
                    sample_id=sample.id,
                    text=completion.text,
                    finish_reason=completion.finish_reason,
                    token_logprobs=completion.sampler_logprobs,
                    token_ends=completion.token_ends,
                    zoom_text="" if completion.zoom is None else completion.zoom.text,
                    zoom_region=None if completion.zoom is None else completion.zoom.region,
                ),
                prompt.images[sample.target_image].resized,
            )
            for sample, prompt, (completion,) in zip(batch, prompts, completions, strict=True)
        ]
