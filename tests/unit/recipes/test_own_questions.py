"""Questions of a dataset that demand other settings than those of the run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from virft.errors import ConfigError
from virft.geometry.boxes import BoxSpace
from virft.recipes.own_questions import question_warnings, require_box_space, require_thinking
from virft.types import Detections, ImageSize, Label, Sample

SAMPLE = Sample(
    id="one",
    task="detection",
    images=("a.jpg",),
    image_sizes=(ImageSize(64, 48),),
    query="cat",
    target=Detections(items=()),
)
THINK = "Find the cat. Write <think> </think> and <answer> </answer>."
PAPER = "Detect all cats and give boxes (between 0 and 1000, integer) and confidence (between 0 and 1)."


def asking(*questions: str | None, origin: str = "") -> list[Sample]:
    return [
        replace(SAMPLE, id=f"s{number}", question=question, origin=origin) for number, question in enumerate(questions)
    ]


def test_questions_that_demand_thinking_need_the_setting() -> None:
    require_thinking(asking(THINK, THINK), default=True, by_origin={})
    require_thinking(asking(None, None), default=False, by_origin={})
    require_thinking(asking(THINK, "Where?", "Where?"), default=False, by_origin={})
    with pytest.raises(ConfigError, match=r"2 of 2 questions demand <think>, .* s0, but prompt\.thinking is false"):
        require_thinking(asking(THINK, THINK), default=False, by_origin={})


def test_the_setting_of_a_dataset_of_a_mixture_counts() -> None:
    samples = asking(THINK, origin="boxes")
    require_thinking(samples, default=False, by_origin={"boxes": True})
    with pytest.raises(ConfigError, match=r"mixture\.boxes\.thinking is false"):
        require_thinking(samples, default=True, by_origin={"boxes": False})


@pytest.mark.parametrize(
    ("question", "fits"),
    [
        (PAPER, {BoxSpace.RELATIVE_1000}),
        ("Give the box with values 0-1000.", {BoxSpace.RELATIVE_1000}),
        ("Give the box in absolute pixels.", {BoxSpace.RESIZED_PIXELS, BoxSpace.ORIGINAL_PIXELS}),
        ("Give the box, normalised from 0 to 1.", set()),
        ("Where is the red pixel art? Find 0 or 1 cats.", set(BoxSpace)),
        (None, set(BoxSpace)),
    ],
)
@pytest.mark.parametrize("space", list(BoxSpace))
def test_questions_that_name_coordinates_need_a_model_that_writes_them(
    question: str | None, fits: set[BoxSpace], space: BoxSpace
) -> None:
    if space in fits:
        require_box_space(asking(question), space)
    else:
        with pytest.raises(ConfigError, match=f"1 of 1 questions, .* s0, demand other coordinates than {space}"):
            require_box_space(asking(question), space)


@pytest.mark.parametrize(
    ("questions", "thinking", "space", "warnings"),
    [
        ([THINK, THINK], False, None, ["2 of 2 questions demand <think>, such as that of sample s0, but thinking is"]),
        ([THINK, THINK], True, None, []),
        ([THINK, "Where?", "Where?"], False, None, []),
        ([PAPER], False, BoxSpace.RELATIVE_1000, []),
        ([PAPER], False, None, []),
        ([PAPER], False, BoxSpace.RESIZED_PIXELS, ["1 of 1 questions, such as that of sample s0, demand other coord"]),
        ([None], False, BoxSpace.RESIZED_PIXELS, []),
    ],
)
def test_predictions_that_do_not_fit_the_questions_are_a_warning(
    questions: list[str | None], thinking: bool, space: BoxSpace | None, warnings: list[str]
) -> None:
    found = list(question_warnings(asking(*questions), thinking=thinking, space=space))
    assert len(found) == len(warnings)
    assert all(one.startswith(start) for one, start in zip(found, warnings, strict=True))


def test_questions_about_labels_have_no_coordinates() -> None:
    sample = replace(SAMPLE, task="classification", target=Label(text="cat"), question="Rate it from 0 to 1000.")
    require_box_space([sample], BoxSpace.RESIZED_PIXELS)
