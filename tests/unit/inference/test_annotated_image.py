"""Pictures of answers take the place of nothing but pictures of answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from asking_factories import answered
from factories import save_image as save_noise
from virft.errors import DataError
from virft.inference.annotated_image import default_path, require_free, save_image
from virft.report.render.images import ANSWER_COLOUR

ONE_BOX = "<answer>[[100, 200, 500, 600]]</answer>"


@pytest.mark.parametrize(
    ("size", "saved", "left"),
    [
        # the box starts at a tenth of the width
        ((200, 100), (448, 224), 45),
        ((1000, 500), (1000, 500), 100),
        ((4000, 2000), (1280, 640), 128),
    ],
)
def test_boxes_of_small_and_large_pictures_can_be_seen(
    tmp_path: Path, size: tuple[int, int], saved: tuple[int, int], left: int
) -> None:
    one = answered(ONE_BOX)
    scale = size[0] / 200
    item = one.reading.answer.items[0]  # type: ignore[union-attr]
    box = replace(item.box, **{name: scale * getattr(item.box, name) for name in ("x1", "y1", "x2", "y2")})
    answer = replace(one.reading.answer, items=(replace(item, box=box),))  # type: ignore[type-var]
    large = replace(one, picture=Image.new("RGB", size), reading=replace(one.reading, answer=answer))
    save_image(tmp_path / "deep" / "a.png", large)
    with Image.open(tmp_path / "deep" / "a.png") as picture:
        assert picture.size == saved
        assert picture.getpixel((left, saved[1] * 4 // 10)) == ANSWER_COLOUR
        assert picture.getpixel((left - 2, saved[1] * 4 // 10)) == (0, 0, 0)


def test_a_later_answer_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "a_answer.png"
    save_image(path, answered("<answer>No Objects</answer>"))
    require_free(path, image=Path("a.jpg"), overwrite=False)


def test_a_picture_of_someone_else_is_left_alone_unless_told(tmp_path: Path) -> None:
    path = save_noise(tmp_path / "a_answer.png")
    with pytest.raises(DataError, match=r"a_answer\.png: is there already, and no picture of an answer; use --over"):
        require_free(path, image=Path("a.jpg"), overwrite=False)
    require_free(path, image=Path("a.jpg"), overwrite=True)


def test_a_file_that_is_no_picture_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "thesis.png"
    path.write_text("mine")
    with pytest.raises(DataError, match="is there already"):
        require_free(path, image=Path("a.jpg"), overwrite=False)


def test_the_picture_that_is_asked_about_is_never_overwritten(tmp_path: Path) -> None:
    path = save_noise(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: is the picture that is asked about"):
        require_free(tmp_path / "." / "a.png", image=path, overwrite=True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a.jpg", r"expected a name that ends in \.png"), ("folder.png", "is a folder"), ("a" * 300 + ".png", "too long")],
)
def test_a_name_that_cannot_be_is_told(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match=reason):
        require_free(tmp_path / name, image=Path("a.jpg"), overwrite=True)


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/a\.png: cannot be written"):
        save_image(tmp_path / "file" / "a.png", answered("?"))


def test_pictures_of_the_same_name_are_numbered() -> None:
    taken: set[Path] = set()
    for image in ("x/a.jpg", "y/a.png", "b.png", "a"):
        taken.add(default_path(Path(image), Path("out"), taken))
    assert sorted(path.name for path in taken) == ["a_answer.png", "a_answer_2.png", "a_answer_3.png", "b_answer.png"]
