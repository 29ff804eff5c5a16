"""Points in the forms that models write, in pixels of the original image."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virft.geometry.boxes import BoxSpace
from virft.text.answers import is_at_most_1
from virft.text.points import read_points, render_points
from virft.types import Answer, ImageSize, Point, Points, Unreadable

SIZE, RESIZED = ImageSize(500, 200), ImageSize(250, 100)


def read(content: str, space: BoxSpace = BoxSpace.RELATIVE_1000) -> Answer:
    text = f"<answer>{content}</answer>"
    return read_points(text, thinking=False, space=space, original=SIZE, resized=RESIZED).answer


TWO = (Point(50.0, 20.0), Point(250.0, 100.0))


@pytest.mark.parametrize(
    "content",
    [
        "[{'Position': [100, 100]}, {'Position': [500, 500]}]",
        '[{"point_2d": [100, 100], "label": "fox"}, {"point_2d": [500, 500], "label": "fox"}]',
        '```json\n[\n\t{"point_2d": [100, 100], "label": "fox"},\n\t{"point_2d": [500, 500]}\n]\n```',
        '{"point_2d": [[100, 100], [500, 500]]}',
        "[[100, 100], [500, 500]]",
        "[(100, 100), (500, 500)]",
        "(100,100),(500,500)",
        '<points x1="10.0" y1="10.0" x2="50.0" y2="50.0" alt="foxes">foxes</points>',
        '<point x="10.0" y="10.0" alt="fox">fox</point> <point x="50.0" y="50.0" alt="fox">fox</point>',
        '<points x1="100" y1="100" x2="500" y2="500" alt="fox">fox</points>',
        '<points alt="fox" x1="100" x2="500" y1="100" y2="500"/>',
        "<point x='100' y=\"100\"/>\n<point x=500 y=500 />",
    ],
)
def test_forms_of_the_same_two_points(content: str) -> None:
    assert read(content) == Points(items=TWO)


@pytest.mark.parametrize(
    ("space", "content"),
    [
        (BoxSpace.RESIZED_PIXELS, "[[25, 10], [125, 50]]"),
        (BoxSpace.ORIGINAL_PIXELS, "[[50, 20], [250, 100]]"),
        # Qwen2.5-VL's tags are in its own pixels, Molmo's in percent
        (BoxSpace.RESIZED_PIXELS, '<points x1="25" y1="10" x2="125" y2="50" alt="fox">fox</points>'),
        (BoxSpace.RESIZED_PIXELS, '<points x1="10.0" y1="10.0" x2="50.0" y2="50.0" alt="fox">fox</points>'),
    ],
)
def test_points_are_in_the_box_space_of_the_model(space: BoxSpace, content: str) -> None:
    assert read(content, space) == Points(items=TWO)


@pytest.mark.parametrize("content", ["No Objects", "no objects.", "[]", "```json\n[]\n```"])
def test_no_objects_is_an_answer(content: str) -> None:
    assert read(content) == Points()


@pytest.mark.parametrize(
    ("content", "num_valid", "reason"),
    [
        ("[[100, 100, 500, 500]]", 0, "4 values in a point; expected 2 numbers"),
        ("[[100, 100], [1]]", 1, "1 value in a point; expected 2 numbers"),
        ("[{'bbox_2d': [1, 2, 3, 4]}]", 0, "no Position"),
        ("[{'Position': 7}]", 0, "Position is not a list"),
        ("[[100, 'a']]", 0, "a value of a point is not a number"),
        ("[[100, NaN]]", 0, "a value of a point is not a number"),
        ("[[1011, 5]]", 0, "outside 0..1000 x 0..1000 by more than 1%"),
        ("[[100, 100], [5", 1, "a bracket or a quote is not closed"),
        ("[[100, 100]] and more", 1, "text after the list"),
        ('<point x="10.0" y="101.5">fox</point>', 0, "outside 0..100 x 0..100 by more than 1%"),
        ('<point x="10.0">fox</point>', 0, "no pair of x and y"),
        ('<points x1="1" x1="2" y1="3">fox</points>', 0, "more than one x1"),
        ('<points x1="1" y1="many">fox</points>', 0, "an attribute x or y is not a number"),
        ('<point x="10.0" y="10.0">fox</point> that is it', 1, "text after the points"),
    ],
)
def test_an_element_that_is_no_point_is_invalid(content: str, num_valid: int, reason: str) -> None:
    answer = read(content)
    assert isinstance(answer, Points)
    assert len(answer.items) == num_valid
    assert [one.reason for one in answer.invalid] == [reason]


def test_a_point_next_to_the_image_is_moved_to_its_edge() -> None:
    assert read("[[1009, -5]]") == Points(items=(Point(500.0, 0.0),), num_clipped=1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("the fox on the left", "neither a list of points nor No Objects"),
        ("<fox>", "neither a list of points nor No Objects"),
        ("12, 34", "neither a list of points nor No Objects"),
        ("No Objects [[100, 100]]", "neither a list of points nor No Objects"),
    ],
)
def test_a_text_without_points_is_unreadable(content: str, reason: str) -> None:
    answer = read(content)
    assert isinstance(answer, Unreadable)
    assert answer.reason == reason


def test_fractions_of_the_image_are_unreadable() -> None:
    assert is_at_most_1(read("[(0.25, 0.5), (0.75, 0.5)]"))
    # a point of whole units is one
    assert read("[[1, 1]]") == Points(items=(Point(0.5, 0.2),))


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert isinstance(read(text), Points | Unreadable)


@given(st.lists(st.tuples(st.floats(0, 500), st.floats(0, 200)), max_size=4), st.sampled_from(list(BoxSpace)))
def test_rendered_points_are_read_back_within_half_a_unit(points: list[tuple[float, float]], space: BoxSpace) -> None:
    target = Points(items=tuple(Point(*point) for point in points))
    text = render_points(target, space=space, original=SIZE, resized=RESIZED)
    found = read_points(text, thinking=False, space=space, original=SIZE, resized=RESIZED)
    assert found.well_formed
    assert isinstance(found.answer, Points)
    units = [side / extent for side, extent in zip(SIZE, space.extent(SIZE, RESIZED), strict=True)]
    assert len(found.answer.items) == len(points)
    for point, one in zip(points, found.answer.items, strict=True):
        assert all(abs(a - b) <= unit / 2 + 1e-9 for a, b, unit in zip(point, one, units, strict=True))
