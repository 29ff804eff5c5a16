"""Models that are shipped with virft: their names, folders and image sizes. Importable without torch."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import NamedTuple


class BuiltInModel(NamedTuple):
    """One model that is shipped with virft."""

    folder_name: str
    """Folder in ``virft/models`` with its weights, tokenizer and processor files."""
    image_size: int
    """Pixels per side of the images that it was trained on."""

    @property
    def folder(self) -> Path:
        """Folder with its files."""
        return Path(str(resources.files("virft") / "models" / self.folder_name))


BUILT_IN_MODELS = {
    "virft-tiny": BuiltInModel("tiny_weights", 112),
    "virft-photo": BuiltInModel("photo_weights", 224),
}
"""Name, as in ``model.path`` and on the command line -> model."""
BUILT_IN_NAMES = ", ".join(BUILT_IN_MODELS)
"""The names as they are listed in messages."""


def local_folder(path: str) -> Path:
    """Return the folder of a built-in model; any other path is returned as it is, whether it exists or not."""
    found = BUILT_IN_MODELS.get(path)
    return Path(path) if found is None else found.folder


def built_in_name(folder: Path) -> str | None:
    """Return the name of the built-in model in a folder; None for another folder."""
    return next((name for name, one in BUILT_IN_MODELS.items() if one.folder == folder), None)
