"""The built-in model ``virft-tiny``: its name, its folder, its image size. Importable without torch."""

from __future__ import annotations

from pathlib import Path

from virft.models.built_in import BUILT_IN_MODELS

TINY_NAME = "virft-tiny"
"""Name by which ``model.path`` and the command line refer to it."""

IMAGE_SIZE = BUILT_IN_MODELS[TINY_NAME].image_size
"""Pixels per side of the images that it was trained on."""


def tiny_folder() -> Path:
    """Return the folder with the shipped weights, tokenizer and processor files."""
    return BUILT_IN_MODELS[TINY_NAME].folder
