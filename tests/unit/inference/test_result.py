"""A result as lines for a person, as a record and a table for a program, and as a notebook shows it."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from factories import save_image
from result_factories import result
from virft.errors import ConfigError, DataError
from virft.inference.result import as_record, result_lines
from virft.integrations.supervision import from_supervision
from virft.report.render.images import ANSWER_COLOUR

# [100, 200, 500, 600] of a thousand on 200 x 100: x / 5, y / 10
ONE = "{'Position': [100, 200, 500, 600], 'Confidence': 0.9}"


@pytest.mark.parametrize(
    ("text", "task", "lines"),
    [
        (
            f"<think>red fur</think><answer>[{ONE}]</answer>",
            "detection",
            [
                "reasoning: red fur",
                "answer: 1 box, in pixels of 200 x 100",
                "  [20.0, 20.0, 100.0, 60.0]  confidence 0.90",
            ],
        ),
        (
            f"<answer>[{ONE}, [1, 2]]</answer>",
            "detection",
            [
                "answer: 1 box, in pixels of 200 x 100",
                "  [20.0, 20.0, 100.0, 60.0]  confidence 0.90",
                "  invalid: 2 values in a box; expected 4 numbers: [1, 2]",
            ],
        ),
        ("<answer>No Objects</answer>", "detection", ["answer: no objects"]),
        (
            "<answer>[[1, 2]]</answer>",
            "detection",
            ["answer: no usable box", "  invalid: 2 values in a box; expected 4 numbers: [1, 2]"],
        ),
        (
            "<answer>(100,200),(500,600)</answer>",
            "grounding",
            ["answer: 1 box, in pixels of 200 x 100", "  [20.0, 20.0, 100.0, 60.0]"],
        ),
        ("<answer>arctic fox</answer>", "classification", ["answer: arctic fox"]),
        ("a fox", "detection", ["answer: unreadable: no answer block", "text: a fox"]),
    ],
)
def test_a_result_is_formatted_as_lines(text: str, task: str, lines: list[str]) -> None:
    assert result_lines(result(text, task=task)) == lines


def test_a_truncated_completion_is_reported() -> None:
    lines = result_lines(result("<answer>[", cut=True))
    assert lines[0] == "truncated at 2 tokens: see --max-completion-tokens"
    assert as_record(result("<answer>[", cut=True))["truncated"] is True


@pytest.mark.parametrize(
    ("text", "task", "reading"),
    [
        (
            f"<answer>[{ONE}, [1, 2]]</answer>",
            "detection",
            {
                "boxes": [{"box": [20.0, 20.0, 100.0, 60.0], "confidence": 0.9}],
                "invalid": [{"reason": "2 values in a box; expected 4 numbers", "piece": "[1, 2]"}],
            },
        ),
        ("<answer>No Objects</answer>", "detection", {"boxes": [], "invalid": []}),
        ("<answer>(100,200),(500,600)</answer>", "grounding", {"boxes": [{"box": [20.0, 20.0, 100.0, 60.0]}]}),
        ("<answer>arctic fox</answer>", "classification", {"label": "arctic fox"}),
        ("a fox", "grounding", {"unreadable": "no answer block"}),
    ],
)
def test_a_record_holds_the_parsed_answer(text: str, task: str, reading: dict[str, Any]) -> None:
    assert as_record(result(text, task=task))["reading"] == reading


def test_a_record_holds_query_text_and_size_and_is_json() -> None:
    record = as_record(result("<think>?</think><answer>No Objects</answer>"))
    assert json.loads(json.dumps(record)) == {
        "image": "a.jpg",
        "question": "fox",
        "task": "detection",
        "image_size": [200, 100],
        "reading": {"boxes": [], "invalid": []},
        "reasoning": "?",
        "text": "<think>?</think><answer>No Objects</answer>",
        "well_formed": False,  # the prompt requested no think block
        "truncated": False,
    }


def test_detections_are_the_predicted_boxes_of_any_answer() -> None:
    (found,) = result(f"<answer>[{ONE}]</answer>").detections.items
    assert (found.box.xyxy, found.confidence) == ((20.0, 20.0, 100.0, 60.0), 0.9)
    (grounded,) = result("<answer>(100,200),(500,600)</answer>", task="grounding").detections.items
    assert (grounded.box, grounded.confidence) == (found.box, 1.0)
    for one in (
        result("<answer>No Objects</answer>"),
        result("<answer>fox</answer>", task="classification"),
        result("<answer>[[100, 200]]</answer>", task="pointing"),
        result("?"),
    ):
        assert one.detections.items == ()


def test_repr_is_one_line_and_str_is_the_lines() -> None:
    one = result("<answer>No Objects</answer>")
    assert repr(one) == "<Result detection 'fox' in a.jpg: no objects>"
    assert str(one) == "answer: no objects"
    assert one.text == "<answer>No Objects</answer>"


def test_a_notebook_shows_the_annotated_image_with_the_lines() -> None:
    one = result(f"<think><b>?</b></think><answer>[{ONE}]</answer>")
    with Image.open(io.BytesIO(one._repr_png_())) as shown:
        assert shown.size == (448, 224)
        assert shown.getpixel((45, 100)) == ANSWER_COLOUR  # 448 pixels for 200: the left edge at 20 * 2.24
    page = one._repr_html_()
    (jpeg,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    with Image.open(io.BytesIO(base64.b64decode(jpeg))) as shown:
        assert (shown.format, shown.size) == ("JPEG", (448, 224))
    assert "reasoning: &lt;b&gt;?&lt;/b&gt;" in page
    assert "confidence 0.90" in page


def test_a_table_has_a_row_for_each_box_or_one_for_an_answer_without_boxes() -> None:
    pandas = pytest.importorskip("pandas")
    boxes = result(f"<answer>[{ONE}, [0, 0, 500, 500]]</answer>").to_pandas()
    none = result("<answer>No Objects</answer>").to_pandas()
    assert list(boxes.columns) == ["image", "query", "answer", "x1", "y1", "x2", "y2", "confidence", "label"]
    assert boxes[["x1", "y1", "x2", "y2", "confidence"]].to_numpy().tolist() == [
        [20.0, 20.0, 100.0, 60.0, 0.9],
        [0.0, 0.0, 100.0, 50.0, 1.0],
    ]
    both = pandas.concat([boxes, none])
    assert list(both["answer"].dropna()) == ["no objects"]
    assert both["x1"].isna().sum() == 1


def test_supervision_gets_boxes_confidences_and_class_name(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(Detections=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "supervision", fake)
    found = result(f"<answer>[{ONE}]</answer>").to_supervision()
    assert (found.xyxy.dtype, found.xyxy.tolist()) == (np.float32, [[20.0, 20.0, 100.0, 60.0]])
    assert found.confidence.tolist() == pytest.approx([0.9])
    assert (found.class_id.tolist(), found.data["class_name"].tolist()) == ([0], ["fox"])
    assert result("<answer>No Objects</answer>").to_supervision().xyxy.shape == (0, 4)


def test_supervision_itself_takes_the_boxes() -> None:
    supervision = pytest.importorskip("supervision", reason="the package supervision is not installed here")
    found = result(f"<answer>[{ONE}]</answer>").to_supervision()
    assert isinstance(found, supervision.Detections)
    assert found["class_name"].tolist() == ["fox"]
    back = from_supervision(found, query="fox")
    assert [one.box for one in back.items] == [one.box for one in result(f"<answer>[{ONE}]</answer>").detections.items]
    assert len(result("<answer>No Objects</answer>").to_supervision()) == 0


@pytest.mark.parametrize(("method", "package"), [("to_supervision", "supervision"), ("to_pandas", "pandas")])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, method: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{method}\(\): needs the package {package}, which is not installed"):
        getattr(result("?"), method)()


def test_saving_replaces_only_annotated_images(tmp_path: Path) -> None:
    one = result("<answer>No Objects</answer>", image=Image.new("RGB", (8, 8)))
    assert one.save(tmp_path / "new" / "a.png") == tmp_path / "new" / "a.png"
    one.save(str(tmp_path / "new" / "a.png"))
    own = save_image(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b\.png: exists and was not written by"):
        one.save(own)
    one.save(own, overwrite=True)
    with pytest.raises(DataError, match="is the input image"):
        result("?", image=own).save(own, overwrite=True)
