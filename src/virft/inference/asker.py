"""A loaded model that answers questions about picture files, which no one has answered before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from PIL import Image

from virft.data.images import load_image
from virft.generation.generator import EncodedPrompt, GenerationParams
from virft.generation.hf_generator import HFGenerator
from virft.generation.random_streams import StepKey
from virft.inference.prompting import asks_thinking, make_renderer
from virft.inference.questions import Question
from virft.inference.result import Answered
from virft.models.load import LoadedModel
from virft.models.policy import make_policy
from virft.tasks import TASKS
from virft.training.distributed import device
from virft.types import Completion, ImageSize, Sample


class _Seen(NamedTuple):
    """A question's picture, and what the model is given."""

    picture: Image.Image
    sample: Sample
    prompt: EncodedPrompt


class Asker:
    """Asks one model. ``template`` is a setting as ``prompt.template`` is; temperature 0 gives the likeliest answer.

    ``thinking`` None: as the model's card says.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        template: str = "auto",
        thinking: bool | None = None,
        max_completion_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        loaded.model.to(device())
        self._policy = make_policy(loaded, temperature=temperature or 1.0).eval()
        self._generator = HFGenerator(self._policy, loaded.tokenizer)
        self._thinking = asks_thinking(loaded, thinking)
        self._render = make_renderer(loaded, template=template, thinking=self._thinking)
        self._params = GenerationParams(max_completion_tokens=max_completion_tokens, temperature=temperature)
        self._space = loaded.family.box_space
        self._seed = seed

    def answer(self, question: Question, *, number: int = 0) -> Answered:
        """The model's answer; ``DataError`` for a picture that cannot be used.

        ``number`` tells questions apart that are asked after one another: with a temperature above 0 the same
        question may then have several answers, and the same number always has the same one.
        """
        seen = self._look(question)
        ((completion,),) = self._generator.generate([seen.prompt], 1, self._params, self._key(number))
        return self._read(question, seen, completion)

    def stream(self, question: Question, *, number: int = 0) -> Iterator[str | Answered]:
        """The text so far, after every token; at last what ``answer`` gives."""
        seen = self._look(question)
        completion = yield from self._generator.stream(seen.prompt, self._params, self._key(number))
        yield self._read(question, seen, completion)

    def _look(self, question: Question) -> _Seen:
        picture = load_image(question.image)
        sample = _sample(question, ImageSize(*picture.size))
        rendered = self._render(sample)
        with torch.no_grad():
            (features,) = self._policy.encode_images([rendered.vision.to(device())])
        prompt = EncodedPrompt(prompt=rendered.prompt, positions=rendered.positions, features=features)
        return _Seen(picture, sample, prompt)

    def _read(self, question: Question, seen: _Seen, completion: Completion) -> Answered:
        reading = TASKS[question.task].read_for(
            completion.text,
            seen.sample,
            thinking=self._thinking,
            space=self._space,
            resized=seen.prompt.prompt.images[0].resized,
        )
        return Answered(question=question, picture=seen.picture, completion=completion, reading=reading)

    def _key(self, number: int) -> StepKey:
        return StepKey(seed=self._seed, step=number)


def _sample(question: Question, size: ImageSize) -> Sample:
    return Sample(
        id=question.image.name,
        task=question.task,
        images=(str(question.image),),
        image_sizes=(size,),
        query=question.query,
        target=None,  # unknown, and neither prompt nor reading needs it
    )
