"""Map of the classes that a model reports in each image."""

from __future__ import annotations

from pathlib import Path

import pytest

from factories import save_coco
from virft.cli.build_boxes import build_coco_or_lvis
from virft.data.store import Store
from virft.evaluation.predictions import SizedPrediction
from virft.evaluation.presence import PresenceQuestions, query_map, says_yes
from virft.types import FinishReason, ImageSize, Prediction


@pytest.fixture
def store(tmp_path: Path) -> Store:
    boxes = {"in/a.png": [("cat", [1.0, 1.0, 9.0, 9.0])], "in/b.png": [("dog", [1.0, 1.0, 9.0, 9.0])]}
    path = save_coco(tmp_path, {**boxes, "c.png": [("dog", [1.0, 1.0, 9.0, 9.0])]})
    build_coco_or_lvis(annotations=path, images=tmp_path / "images", out=tmp_path / "d")
    return Store(tmp_path / "d")


def test_every_class_is_queried_for_every_image(store: Store) -> None:
    questions = PresenceQuestions(store, question="A {query}?")
    assert [one.id for one in questions] == [
        f"{image}:{label}" for image in ("c.png", "in/a.png", "in/b.png") for label in ("cat", "dog")
    ]
    assert questions[1].question == "A dog?"
    assert len(questions[2:4]) == 2
    with pytest.raises(IndexError):
        questions[6]


def test_the_map_holds_the_classes_answered_by_yes(store: Store) -> None:
    questions = PresenceQuestions(store)
    predictions = [
        (id, SizedPrediction(Prediction(sample_id=id, text=text, finish_reason=FinishReason.STOP), ImageSize(28, 28)))
        for id, text in (("in/a.png:cat", "Yes"), ("in/a.png:dog", "no"), ("in/b.png:dog", "<answer>yes.</answer>"))
    ]
    assert query_map(questions, predictions) == {"c.png": [], "in/a.png": ["cat"], "in/b.png": ["dog"]}


@pytest.mark.parametrize("text", ["", "no", "No, yes would be wrong", "<think>yes</think>no", "I say yes", "<answer>"])
def test_other_texts_are_not_a_yes(text: str) -> None:
    assert not says_yes(text)
