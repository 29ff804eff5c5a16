"""PNG files of annotated images: their names, and which existing files they may replace."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from virft.errors import DataError

_MARK = ("Software", "virft ask")
"""A text chunk of the PNG file. A file that has it may be replaced by a later result."""


def default_path(image: Path, folder: Path, taken: set[Path]) -> Path:
    """Return ``NAME_answer.png`` in the folder, with a number if that name is taken.

    >>> default_path(Path("photos/cat.jpg"), Path("out"), {Path("out/cat_answer.png")}).as_posix()
    'out/cat_answer_2.png'
    """
    path, number = folder / f"{image.stem}_answer.png", 1
    while path in taken:
        number += 1
        path = folder / f"{image.stem}_answer_{number}.png"
    return path


def require_writable(path: Path, *, image: Path | None, overwrite: bool) -> None:
    """Raise ``DataError`` unless an annotated image may be written to ``path``.

    Allowed is a new file, or one that ``save_marked`` wrote; with ``overwrite`` any file but ``image``, the one that
    was annotated (None: an image in memory).
    """
    if path.suffix.lower() != ".png":
        raise DataError(f"{path}: expected a name that ends in .png")
    try:
        exists, is_folder = path.exists(), path.is_dir()
        is_input = exists and image is not None and image.exists() and path.samefile(image)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error
    if is_folder:
        raise DataError(f"{path}: is a folder; expected the name of a file")
    if is_input:
        raise DataError(f"{path}: is the input image; name another file with --out")
    if exists and not overwrite and not _is_marked(path):
        raise DataError(f"{path}: exists and was not written by `virft ask`; use --overwrite, or name another file")


def save_marked(path: Path, annotated: Image.Image) -> None:
    """Write an annotated image as a PNG with virft's mark, and make its folder; ``DataError`` if that fails."""
    mark = PngInfo()
    mark.add_text(*_MARK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        annotated.save(path, pnginfo=mark)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error


def _is_marked(path: Path) -> bool:
    name, text = _MARK
    try:
        with Image.open(path) as image:
            return image.info.get(name) == text
    except (OSError, ValueError, SyntaxError):
        return False
