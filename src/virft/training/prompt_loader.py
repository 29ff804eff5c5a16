"""Prompts of a step, with the images of the next step prefetched in background threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch

from virft.errors import DataError, ModelError
from virft.models.renderer import RenderedPrompt
from virft.models.vision import VisionInputs
from virft.types import Sample

DEFAULT_GPU_WORKERS = 4
"""Most threads by default. One decodes and resizes some 4 photographs of 12 megapixels per second."""

Following = Callable[[int], Sequence[Sample]]
"""Returns the samples of a later step: 1 is the next step. Empty after the last step."""


def no_samples(ahead: int) -> Sequence[Sample]:
    """The samples that follow the last step."""
    return ()


class _Loading(NamedTuple):
    """Prompts, and the pixels that are being read for them."""

    samples: list[Sample]
    prompts: list[RenderedPrompt]
    pixels: list[Future[VisionInputs]]


class PromptLoader:
    """Renders the prompts of a step. Equal to rendering them one by one, also in the errors that it raises.

    Pillow, NumPy and PyTorch release the interpreter lock while they decode and resize, so threads are enough, and
    their results need not be sent between processes. Text is tokenized in the calling thread. At most the pixels of
    two steps are in memory.

    ``needs_pixels``: false for a prompt whose image features are cached; its images are not read. ``num_workers``:
    background threads; 0: images are read in the calling thread, and nothing is prefetched.
    """

    def __init__(
        self,
        render: Callable[[Sample], RenderedPrompt],
        needs_pixels: Callable[[RenderedPrompt], bool],
        *,
        num_workers: int,
    ) -> None:
        self._render = render
        self._needs_pixels = needs_pixels
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="images") if num_workers else None
        self._prefetched: _Loading | None = None

    def load(self, samples: Sequence[Sample]) -> list[RenderedPrompt]:
        """Return the prompts of samples; their pixels are read where they are needed.

        Raises ``DataError`` and ``ModelError`` as ``Renderer.render`` and the images do.
        """
        found = self._prefetched
        # Samples are compared, not steps: a batch may be repeated after a rollback, and another one take its place.
        if found is not None and found.samples == list(samples):
            self._prefetched = None
        else:
            found = self._begin(samples)
        for one in found.pixels:
            one.result()
        return found.prompts

    def prefetch(self, following: Callable[[], Sequence[Sample]]) -> None:
        """Begin to read the images of the next step; what an earlier call began is dropped unless ``load`` took it."""
        if self._pool is None:
            return
        self._drop()
        try:
            samples = following()
            if samples:
                self._prefetched = self._begin(samples)
        except (DataError, ModelError):
            # Raised again by the step that the sample is in: the steps before it can still be trained and saved.
            self._prefetched = None

    def close(self) -> None:
        """End the threads; images that are not begun are not read."""
        self._drop()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _begin(self, samples: Sequence[Sample]) -> _Loading:
        prompts = [self._render(sample) for sample in samples]
        pending = [one for one in prompts if self._needs_pixels(one)]
        if self._pool is None:
            for one in pending:
                one.load_vision()
            return _Loading(list(samples), prompts, [])
        return _Loading(list(samples), prompts, [self._pool.submit(one.load_vision) for one in pending])

    def _drop(self) -> None:
        if self._prefetched is not None:
            for one in self._prefetched.pixels:
                one.cancel()
        self._prefetched = None


def default_num_workers(device: torch.device) -> int:
    """Threads that read images in a process, if no setting says otherwise: none on a CPU, whose cores all compute."""
    if device.type == "cpu":
        return 0
    # set by `accelerate launch`: the processes on this machine
    num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(DEFAULT_GPU_WORKERS, (os.cpu_count() or 1) // num_processes - 1))
