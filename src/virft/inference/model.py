"""A loaded model that answers queries about images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_args, overload

import torch
from PIL import Image

from virft.config.schema import Dtype
from virft.errors import ConfigError
from virft.generation.generator import EncodedPrompt, GenerationParams
from virft.generation.hf_generator import HFGenerator
from virft.generation.random_streams import StepKey
from virft.inference.prompting import make_renderer, resolve_prompting
from virft.inference.queries import ImageInput, ImageInputs, ImageQuery, make_query
from virft.inference.result import Result
from virft.models.load import LoadedModel, load_as_trained
from virft.models.model_folders import model_of_run
from virft.models.policy import make_policy
from virft.tasks import TASKS
from virft.training.distributed import Ranks
from virft.training.distributed import device as default_device
from virft.training.runtime import Runtime
from virft.types import Completion, ImageSize, Sample

Notes = Mapping[str, str] | None
"""Class instructions: class name -> text; None or empty for none."""
_BATCH_SIZE = 16
"""Images that are answered in one batch."""


def load(
    path: str | Path,
    *,
    dtype: Dtype = "auto",
    device: str | torch.device | None = None,
    load_in_4bit: bool | None = None,
) -> Model:
    """Load a model for inference: ``virft-tiny``, ``virft-photo``, a run folder, of which ``best`` is loaded if it
    exists, else ``model``, a model folder, or a Hugging Face Hub id.

    ``dtype``: precision of weights and computation. "auto" is the one that the model was trained in, as its
    ``virft_card.json`` says; for other models bfloat16 on a GPU that supports it, else float32. ``device``: default is
    the first GPU, or the CPU if there is none. ``load_in_4bit``: NF4 weights in the language model (needs
    bitsandbytes); None: as the model was trained, else not. The commands have the same defaults.

    Raises ``ModelError`` if the model does not exist, is incomplete or has an unsupported type, and ``ConfigError`` for
    an unknown ``dtype``.
    """
    if dtype not in get_args(Dtype):
        raise ConfigError(f"dtype is {dtype!r}; expected auto, float32 or bfloat16")
    place = torch.device(device) if device is not None else default_device()
    loaded = load_as_trained(str(path), dtype=dtype, in_4bit=load_in_4bit, device=place)
    return Model(loaded, name=model_of_run(str(path)), device=place)


class _Encoded(NamedTuple):
    """A query with its image, as a sample, and as the prompt that the model gets."""

    query: ImageQuery
    image: Image.Image
    sample: Sample
    prompt: EncodedPrompt


class Model:
    """A vision-language model for inference. ``virft.load`` makes one.

    ``template`` as in the setting ``prompt.template``. ``thinking`` and ``zoom`` None: as the model's card says. With
    ``temperature`` 0 the most likely token is taken at each position (greedy decoding).
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        name: str = "",
        template: str = "auto",
        thinking: bool | None = None,
        zoom: bool | None = None,
        max_completion_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.loaded = loaded
        self.name = name
        self.prompting = resolve_prompting(loaded, template=template, thinking=thinking, zoom=zoom)
        self.max_completion_tokens = max_completion_tokens
        self.device = device or default_device()
        self._runtime = Runtime(ranks=Ranks(device=self.device), dtype=getattr(torch, loaded.precision.dtype))
        loaded.model.to(self.device)
        self._policy = make_policy(loaded, temperature=temperature or 1.0).eval()
        self._generator = HFGenerator(self._policy, loaded.tokenizer)
        # fail now, not at the first query, if the template or the thinking mode cannot be used
        make_renderer(loaded, self.prompting)
        self._params = GenerationParams(max_completion_tokens=max_completion_tokens, temperature=temperature)
        self._space = loaded.family.box_space
        self._seed = seed

    def __repr__(self) -> str:
        return f"<Model {self.name or self.loaded.model.config.model_type} on {self.device}>"

    @overload
    def detect(self, image: ImageInput, class_name: str, *, notes: Notes = None) -> Result: ...
    @overload
    def detect(self, image: ImageInputs, class_name: str, *, notes: Notes = None) -> list[Result]: ...
    def detect(self, image: ImageInput | ImageInputs, class_name: str, *, notes: Notes = None) -> Result | list[Result]:
        """Find every object of a class; the answer is ``Detections``, empty for "no objects".

        ``notes``: as for ``ask``.
        """
        return self.ask(image, class_name, task="detection", notes=notes)

    @overload
    def classify(self, image: ImageInput, domain: str) -> Result: ...
    @overload
    def classify(self, image: ImageInputs, domain: str) -> list[Result]: ...
    def classify(self, image: ImageInput | ImageInputs, domain: str) -> Result | list[Result]:
        """Name the object of a domain such as "animal" (open-vocabulary); the answer is a ``Label``."""
        return self.ask(image, domain, task="classification")

    @overload
    def ground(self, image: ImageInput, expression: str) -> Result: ...
    @overload
    def ground(self, image: ImageInputs, expression: str) -> list[Result]: ...
    def ground(self, image: ImageInput | ImageInputs, expression: str) -> Result | list[Result]:
        """Find the one region that a referring expression describes; the answer is a ``Box``."""
        return self.ask(image, expression, task="grounding")

    @overload
    def ask(self, image: ImageInput, query: str, *, task: str = "detection", notes: Notes = None) -> Result: ...
    @overload
    def ask(self, image: ImageInputs, query: str, *, task: str = "detection", notes: Notes = None) -> list[Result]: ...
    def ask(
        self, image: ImageInput | ImageInputs, query: str, *, task: str = "detection", notes: Notes = None
    ) -> Result | list[Result]:
        """Answer a query of any task of ``virft.TASKS`` about an image, or about each image of a list or tuple.

        ``image``: a path, a PIL image, or an RGB array of uint8 of shape [H, W, 3]. ``notes``: class instructions
        {class: text}; those of the classes in the query become part of the prompt, as those of a dataset do. An answer
        that cannot be parsed is ``Unreadable``. Raises ``ConfigError`` for an unknown task, and ``DataError`` for an
        unreadable image or instructions of other classes.
        """
        if task not in TASKS:
            raise ConfigError(f"task is {task!r}; expected one of {', '.join(TASKS)}")
        if isinstance(image, list | tuple):
            return self.answer_batch(
                [make_query(one, query, task, name=f"image {i}", notes=notes) for i, one in enumerate(image)]
            )
        return self.answer(make_query(image, query, task, notes=notes))

    def answer(self, query: ImageQuery, *, number: int = 0) -> Result:
        """Answer one query; ``DataError`` for an unreadable image.

        ``number`` selects the random stream: with a temperature above 0, equal numbers give equal answers.
        """
        encoded = self._encode(query)
        with self._runtime.autocast():
            ((completion,),) = self._generator.generate([encoded.prompt], 1, self._params, self._key(number))
        return self._read(encoded, completion)

    def answer_batch(self, queries: Sequence[ImageQuery]) -> list[Result]:
        """Answer several queries, in batches; results are in the order of the queries."""
        results: list[Result] = []
        for start in range(0, len(queries), _BATCH_SIZE):
            batch = enumerate(queries[start : start + _BATCH_SIZE], start)
            encoded = [self._encode(query, stream_id=str(number)) for number, query in batch]
            with self._runtime.autocast():
                groups = self._generator.generate([one.prompt for one in encoded], 1, self._params, self._key(0))
            results += [self._read(one, completion) for one, (completion,) in zip(encoded, groups, strict=True)]
        return results

    def stream(self, query: ImageQuery, *, number: int = 0) -> Iterator[str | Result]:
        """Yield the text so far after every token, and at the end what ``answer`` returns.

        With zoom calls, no text is yielded before the answer.
        """
        if self.prompting.zoom:
            yield self.answer(query, number=number)
            return
        encoded = self._encode(query)
        tokens = self._generator.stream(encoded.prompt, self._params, self._key(number))
        while True:
            # Entered for each token: code of the caller that runs between two tokens must not be in autocast.
            with self._runtime.autocast():
                try:
                    text = next(tokens)
                except StopIteration as ended:
                    completion: Completion = ended.value
                    break
            yield text
        yield self._read(encoded, completion)

    def _encode(self, query: ImageQuery, *, stream_id: str = "") -> _Encoded:
        image = query.open_image()
        sample = _sample(query, ImageSize(*image.size))
        render = make_renderer(self.loaded, self.prompting, load_image=lambda path, augmentation: image)
        rendered = render(sample)
        with torch.no_grad(), self._runtime.autocast():
            (features,) = self._policy.encode_images([rendered.vision.to(self.device)])
        prompt = EncodedPrompt(
            prompt=rendered.prompt,
            positions=rendered.positions,
            features=features,
            stream_id=stream_id,
            answer_call=rendered.answer_call,
        )
        return _Encoded(query, image, sample, prompt)

    def _read(self, encoded: _Encoded, completion: Completion) -> Result:
        reading = TASKS[encoded.query.task].read_for(
            completion.text,
            encoded.sample,
            thinking=self.prompting.thinking,
            space=self._space,
            resized=encoded.prompt.prompt.images[0].resized,
        )
        return Result(query=encoded.query, image=encoded.image, completion=completion, reading=reading)

    def _key(self, number: int) -> StepKey:
        return StepKey(seed=self._seed, step=number)


def _sample(query: ImageQuery, size: ImageSize) -> Sample:
    return Sample(
        id=Path(query.image_name).name,
        task=query.task,
        images=(query.image_name,),
        image_sizes=(size,),
        query=query.query,
        notes=query.notes,
        target=None,  # unknown; neither prompt nor parser reads it
    )
