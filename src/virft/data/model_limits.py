"""Properties of samples that some models refuse, found without a model: thin images, placeholders in questions."""

from __future__ import annotations

from collections.abc import Iterable

from virft.types import Sample

MOST_ASPECT = 200
"""Largest aspect ratio of an image for Qwen-VL and GLM models. Source: ``smart_resize`` of Qwen2-VL."""
PLACEHOLDERS = (
    "<|image_pad|>", "<|video_pad|>", "<image>", "<IMG_CONTEXT>", "<start_of_image>", "<image_soft_token>", "<|image|>",
    "<|video|>",
)  # fmt: skip
"""Image placeholders in the prompts of the supported families."""


def limit_notes(samples: Iterable[Sample]) -> list[str]:
    """Return a note about images that are too thin for some models, and one about questions with placeholders."""
    thin: dict[str, str] = {}
    with_token: dict[str, str] = {}
    for sample in samples:
        for path, size in zip(sample.images, sample.image_sizes, strict=True):
            if max(size) > MOST_ASPECT * min(size):
                thin[path] = f"{path}, {size.width} x {size.height}"
        text = " ".join([sample.question or "", sample.query, *(note.text for note in sample.notes)])
        if found := next((token for token in PLACEHOLDERS if token in text), None):
            with_token[sample.id] = f"{sample.id}, {found}"
    notes = []
    if thin:
        notes.append(
            f"{len(thin)} image(s) with an aspect ratio above {MOST_ASPECT}, which Qwen-VL and GLM models refuse "
            f"({next(iter(thin.values()))})"
        )
    if with_token:
        notes.append(
            f"{len(with_token)} question(s) with an image placeholder, which models that use it refuse "
            f"({next(iter(with_token.values()))})"
        )
    return notes
