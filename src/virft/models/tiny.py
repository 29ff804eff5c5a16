"""The built-in model ``virft-tiny``: its name, its folder, its image size. Importable without torch."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

TINY_NAME = "virft-tiny"
"""Name by which ``model.path`` and the command line refer to the built-in model."""

IMAGE_SIZE = 112
"""Pixels per side of the images that it was trained on."""


def tiny_folder() -> Path:
    """Return the folder with the shipped weights, tokenizer and processor files."""
    return Path(str(resources.files("virft") / "models" / "tiny_weights"))
