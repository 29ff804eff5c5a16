"""An annotated image replaces nothing but an annotated image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from factories import save_image as save_random
from result_factories import result
from virft.errors import DataError
from virft.inference.annotated_image import default_path, require_writable, save_marked
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
def test_boxes_of_small_and_large_images_are_visible(
    tmp_path: Path, size: tuple[int, int], saved: tuple[int, int], left: int
) -> None:
    one = result(ONE_BOX)
    scale = size[0] / 200
    item = one.reading.answer.items[0]  # type: ignore[union-attr]
    box = replace(item.box, **{name: scale * getattr(item.box, name) for name in ("x1", "y1", "x2", "y2")})
    answer = replace(one.reading.answer, items=(replace(item, box=box),))  # type: ignore[type-var]
    large = replace(one, image=Image.new("RGB", size), reading=replace(one.reading, answer=answer))
    large.save(tmp_path / "deep" / "a.png")
    with Image.open(tmp_path / "deep" / "a.png") as saved_image:
        assert saved_image.size == saved
        assert saved_image.getpixel((left, saved[1] * 4 // 10)) == ANSWER_COLOUR
        assert saved_image.getpixel((left - 2, saved[1] * 4 // 10)) == (0, 0, 0)


def test_a_later_result_replaces_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "a_answer.png"
    save_marked(path, result("<answer>No Objects</answer>").annotated())
    require_writable(path, image=Path("a.jpg"), overwrite=False)


def test_an_image_of_another_program_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    path = save_random(tmp_path / "a_answer.png")
    with pytest.raises(DataError, match=r"a_answer\.png: exists and was not written by `virft ask`; use --over"):
        require_writable(path, image=Path("a.jpg"), overwrite=False)
    require_writable(path, image=Path("a.jpg"), overwrite=True)


def test_a_file_that_is_no_image_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "thesis.png"
    path.write_text("mine")
    with pytest.raises(DataError, match="exists and was not written"):
        require_writable(path, image=Path("a.jpg"), overwrite=False)


def test_the_input_image_is_never_overwritten(tmp_path: Path) -> None:
    path = save_random(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: is the input image"):
        require_writable(tmp_path / "." / "a.png", image=path, overwrite=True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a.jpg", r"expected a name that ends in \.png"), ("folder.png", "is a folder"), ("a" * 300 + ".png", "too long")],
)
def test_an_invalid_name_is_an_error(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match=reason):
        require_writable(tmp_path / name, image=Path("a.jpg"), overwrite=True)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/a\.png: cannot be written"):
        save_marked(tmp_path / "file" / "a.png", result("?").annotated())


def test_images_of_the_same_name_are_numbered() -> None:
    taken: set[Path] = set()
    for image in ("x/a.jpg", "y/a.png", "b.png", "a"):
        taken.add(default_path(Path(image), Path("out"), taken))
    assert sorted(path.name for path in taken) == ["a_answer.png", "a_answer_2.png", "a_answer_3.png", "b_answer.png"]


def test_boxes_carry_query_and_confidence_and_can_be_hidden_by_it() -> None:
    one = result("<answer>[{'Position': [100, 200, 500, 600], 'Confidence': 0.7}]</answer>")
    drawn, hidden = one.annotated(), one.annotated(min_confidence=0.71)
    # 448 pixels for 200: the tag lies above the corner of the box at (20, 20), or (45, 45) here
    tag = drawn.crop((45, 20, 130, 44))
    assert {ANSWER_COLOUR, (255, 255, 255)} <= {colour for _, colour in tag.getcolors(1 << 16)}
    assert one.annotated(min_confidence=0.7).tobytes() == drawn.tobytes()
    assert ANSWER_COLOUR not in {colour for _, colour in hidden.getcolors(1 << 20)}
