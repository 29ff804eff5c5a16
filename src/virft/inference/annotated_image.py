"""Where the picture of an answer goes, and the picture itself. Files of others are not overwritten."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from virft.errors import DataError
from virft.inference.result import Answered
from virft.report.render.images import draw_answer

_MARK = ("Software", "virft ask")
"""A text in the file by which a later answer knows that it may take its place."""
_SIDES = (448, 1280)
"""Pixels of a picture's longer side, at least (or a box of a small one could hardly be seen) and at most."""


def default_path(image: Path, folder: Path, taken: set[Path]) -> Path:
    """``NAME_answer.png`` in the folder, with a number where that is taken already.

    >>> default_path(Path("photos/cat.jpg"), Path("out"), {Path("out/cat_answer.png")}).as_posix()
    'out/cat_answer_2.png'
    """
    path, number = folder / f"{image.stem}_answer.png", 1
    while path in taken:
        number += 1
        path = folder / f"{image.stem}_answer_{number}.png"
    return path


def require_free(path: Path, *, image: Path, overwrite: bool) -> None:
    """``DataError`` unless the answer's picture may be written there: nothing is, or an answer's picture."""
    if path.suffix.lower() != ".png":
        raise DataError(f"{path}: expected a name that ends in .png")
    try:
        is_there, is_folder = path.exists(), path.is_dir()
        is_asked_about = is_there and image.exists() and path.samefile(image)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error
    if is_folder:
        raise DataError(f"{path}: is a folder; expected the name of a file")
    if is_asked_about:
        raise DataError(f"{path}: is the picture that is asked about; name another file with --out")
    if is_there and not overwrite and not _is_ours(path):
        raise DataError(f"{path}: is there already, and no picture of an answer; use --overwrite, or name another")


def drawn(answered: Answered) -> Image.Image:
    """The picture with the answer's boxes, or its words."""
    side = min(max(*answered.picture.size, _SIDES[0]), _SIDES[1])
    return draw_answer(answered.picture, None, answered.reading.answer, task=answered.question.task, side=side)


def save_picture(path: Path, answered: Answered) -> None:
    """Write ``drawn`` as a PNG with our mark."""
    mark = PngInfo()
    mark.add_text(*_MARK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn(answered).save(path, pnginfo=mark)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error


def _is_ours(path: Path) -> bool:
    name, text = _MARK
    try:
        with Image.open(path) as image:
            return image.info.get(name) == text
    except (OSError, ValueError, SyntaxError):
        return False
