"""Tests of ``virft.text.answers``."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answer_factories import (
    FRAME,
    SIZE,
    box,
    classification,
    detection,
    grid_boxes,
    grounding,
    mutated_answers,
    written,
)
from virft.geometry.boxes import BoxSpace
from virft.text.answers import (
    is_at_most_1,
    read_classification,
    read_detection,
    read_grounding,
    render_classification,
    render_detection,
    render_grounding,
    split_reasoning,
)
from virft.text.prompts import strip_opened_prefix
from virft.types import Box, Detection, Detections, ImageSize, Label, Unreadable

A, B = "{'Position': [0, 0, 100, 100]}", "{'Position': [5, 5, 50, 50], 'Confidence': 0.5}"


def boxes_of(answer):
    return [item.box.xyxy for item in answer.items]


# --- blocks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "<think>hm</think><answer>cat</answer>",
        "  <think>\nhm\n</think>\n\n<answer>\ncat\n</answer>\n",
        "<think>.</think><answer>cat</answer>",
    ],
)
def test_one_think_block_then_one_answer_block_is_well_formed_with_thinking(text):
    reading = read_classification(text, thinking=True)
    assert reading.well_formed
    assert reading.answer == Label(text="cat")
    assert reading.text == text


@pytest.mark.parametrize(
    "text",
    [
        "<answer>cat</answer>",
        "<think></think><answer>cat</answer>",
        "<think> \u200b\u00a0\n</think><answer>cat</answer>",
        "<think>hm<answer>cat</answer>",
        "hm</think><answer>cat</answer>",
        "So: <think>hm</think><answer>cat</answer>",
        "<think>hm</think> so <answer>cat</answer>",
        "<think>hm</think><answer>cat</answer> I am sure.",
        "<answer>cat</answer><think>hm</think>",
        "<think>hm</think><think>hm</think><answer>cat</answer>",
        "<think><think>hm</think><answer>cat</answer>",
    ],
)
def test_other_forms_are_not_well_formed_with_thinking_but_a_single_answer_counts(text):
    reading = read_classification(text, thinking=True)
    assert not reading.well_formed
    assert reading.answer == Label(text="cat")


def test_without_thinking_one_answer_block_is_well_formed():
    assert classification("cat").well_formed
    assert read_classification(" \n<answer>cat</answer>\n", thinking=False).well_formed


@pytest.mark.parametrize(
    "text",
    [
        "<think>hm</think><answer>cat</answer>",
        "It is <answer>cat</answer>",
        "<answer>cat</answer>.",
        "</think><answer>cat</answer>",
    ],
)
def test_without_thinking_additional_text_is_not_well_formed_but_the_answer_counts(text):
    reading = read_classification(text, thinking=False)
    assert not reading.well_formed
    assert reading.answer == Label(text="cat")


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no answer block"),
        ("cat", "no answer block"),
        ("<think>cat</think>", "no answer block"),
        ("<Answer>cat</Answer>", "no answer block"),
        ("<answer>cat", "1 <answer> and 0 </answer>; expected one of each"),
        ("cat</answer>", "0 <answer> and 1 </answer>; expected one of each"),
        ("<answer>cat</answer><answer>dog</answer>", "2 <answer> and 2 </answer>; expected one of each"),
        ("<think>in <answer> tags</think><answer>cat</answer>", "2 <answer> and 1 </answer>; expected one of each"),
        ("</answer>cat<answer>", "</answer> comes before <answer>"),
        ("<answer></answer>", "the answer block is empty"),
        ("<answer> \n\u200b</answer>", "the answer block is empty"),
        ("<answer>```\n```</answer>", "the answer block is empty"),
    ],
)
def test_without_exactly_one_answer_block_a_text_is_unreadable(text, reason, thinking):
    reading = read_classification(text, thinking=thinking)
    assert reading.answer == Unreadable(reason=reason, piece="" if reason == "the answer block is empty" else text)
    assert not reading.well_formed or reason == "the answer block is empty"


@pytest.mark.parametrize("filler", ["a" * 32_768, "é" * 16_384])
def test_a_text_of_more_than_32_kilobytes_is_not_read(filler):
    reading = read_classification(f"<answer>cat</answer>{filler}", thinking=False)
    assert reading.answer == Unreadable(reason="longer than 32768 bytes", piece=reading.text[:80] + "…")


@pytest.mark.parametrize("label", ["cat", "chaté"])
def test_a_text_of_32_kilobytes_is_read(label):
    text = f"<answer>{label}</answer>"
    assert read_classification(text + " " * (32_768 - len(text.encode())), thinking=False).well_formed


# --- detection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[{'Position': [1, 2, 30, 40], 'Confidence': 0.5}]",
        "[{'Position':[1,2,30,40],'Confidence':0.5}]",
        '[{"Position": [1, 2, 30, 40], "Confidence": 0.5}]',
        '[{"bbox_2d": [1, 2, 30, 40], "score": 0.50}]',
        "[{'bbox': (1, 2, 30, 40), 'score': 5e-1}]",
        "[{'Confidence': .5, 'box': [1.0, 2.0, 30.0, 40.0]}]",
        '[{"label": "dog", "bbox_2d": [1, 2, 30, 40], "Confidence": 0.5, "note": null}]',
        "{'Position': [1, 2, 30, 40], 'Confidence': 0.5}",
        "  [\n  {\n 'Position' : [ 1 , 2 , 30 , 40 ] ,\n 'Confidence' : 0.5 }\n ]\n",
        "```json\n[{'Position': [1, 2, 30, 40], 'Confidence': 0.5}]\n```",
        "```\n[{'Position': [1, 2, 30, 40], 'Confidence': 0.5},]\n```",
        "```json[{'Position': [1, 2, 30, 40], 'Confidence': 0.5}]```",
        "[{'Position': [30, 40, 1, 2], 'Confidence': 0.5}]",
    ],
)
def test_every_accepted_shape_reads_as_the_same_box(text):
    (item,) = detection(text).answer.items
    assert (item.box, item.confidence) == (box(1, 2, 30, 40), 0.5)
    assert detection(text).answer.num_predicted == 1


@pytest.mark.parametrize(
    "text",
    [
        "[[1, 2, 30, 40], [5, 6, 70, 80]]",
        "[1, 2, 30, 40], [5, 6, 70, 80]",
        "<box>[[1, 2, 30, 40], [5, 6, 70, 80]]</box>",
    ],
)
def test_lists_of_bare_boxes_have_confidence_1(text):
    answer = detection(text).answer
    assert boxes_of(answer) == [(1, 2, 30, 40), (5, 6, 70, 80)]
    assert [item.confidence for item in answer.items] == [1.0, 1.0]


_QWEN = "<|box_start|>(1,2),(30,40)<|box_end|>", "<|box_start|>(5,6),(70,80)<|box_end|>"
_REF = "<|object_ref_start|>dog<|object_ref_end|>"


@pytest.mark.parametrize(
    "text",
    [
        "".join(_QWEN),
        ", ".join(_QWEN),
        "\n".join(_QWEN),
        _REF + "".join(_QWEN),
        _REF + _QWEN[0] + _REF + _QWEN[1],
        "(1,2),(30,40),(5,6),(70,80)",
        "(1,2),(30,40)(5,6),(70,80)",
        "(1,2),(30,40)\n(5,6),(70,80)",
        "[((1,2),(30,40)),((5,6),(70,80))]",
        "[[[1, 2], [30, 40]], [[5, 6], [70, 80]]]",
        "<box>(1,2),(30,40)</box><box>(5,6),(70,80)</box>",
        "<box>(1,2),(30,40),(5,6),(70,80)</box>",
        "<ref>a dog</ref><box>(1,2),(30,40)</box><ref>a dog</ref><box>(5,6),(70,80)</box>",
        "<ref>dog</ref><box>[[1,2,30,40]]</box>; <ref>dog</ref><box>[5,6,70,80]</box>",
        "<|box_start|>[1, 2, 30, 40]<|box_end|><|box_start|>[5, 6, 70, 80]<|box_end|>",
        '{"objects": [{"bbox_2d": [1, 2, 30, 40]}, {"bbox_2d": [5, 6, 70, 80]}]}',
        '{"image": "a.png", "Objects": [[1, 2, 30, 40], [5, 6, 70, 80]], "count": 2}',
        '```json\n{"detections": [{"box": [1, 2, 30, 40], "label": "dog"}, {"box": [5, 6, 70, 80]}]}\n```',
        '[{"objects": [{"bbox_2d": [1, 2, 30, 40]}, {"bbox_2d": [5, 6, 70, 80]}]}]',
        '[{"objects": [{"bbox_2d": [1, 2, 30, 40]}]}, {"objects": [{"bbox_2d": [5, 6, 70, 80]}]}]',
        '[{"Objects": [[1, 2, 30, 40]], "count": 1}, {"bbox_2d": [5, 6, 70, 80]}]',
        '[{"objects": [1, 2, 30, 40]}, {"objects": []}, {"detections": [5, 6, 70, 80]}]',
        '[{"objects": [{"bbox_2d": [[1, 2, 30, 40], [5, 6, 70, 80]], "label": "dog"}]}]',
        '[{"annotations": [{"bbox": [[1, 2], [30, 40]]}, {"bbox": [5, 6, 70, 80]}]}]',
        '[{"label": "dog", "boxes": [[1, 2, 30, 40], [5, 6, 70, 80]]}]',
        '{"annotations": [{"bbox": [1, 2, 30, 40]}, {"bbox": [5, 6, 70, 80]}]}',
        '{"bbox_2d": [[1, 2, 30, 40], [5, 6, 70, 80]]}',
        '[{"bbox_2d": [[1, 2, 30, 40], [5, 6, 70, 80]], "label": "dog"}]',
        '{"bbox_2d": [1, 2, 30, 40], "label": "dog", "bbox_2d": [5, 6, 70, 80], "label": "dog"}',
        '[{"label": "dog", "bbox_2d": [1, 2, 30, 40], "label": "dog", "bbox_2d": [5, 6, 70, 80]}]',
        '[{"bbox_2d": [1, 2, 30, 40], "bbox_2d": [5, 6, 70, 80]}]',
    ],
)
def test_every_way_to_write_two_boxes_is_read(text):
    answer = detection(text).answer
    assert boxes_of(answer) == [(1, 2, 30, 40), (5, 6, 70, 80)]
    assert (answer.num_predicted, [item.confidence for item in answer.items]) == (2, [1.0, 1.0])


@pytest.mark.parametrize("text", [_QWEN[0], "(1,2),(30,40)", "[(1,2),(30,40)]", "<box>(1,2),(30,40)</box>"])
def test_one_pair_of_corners_is_read(text):
    assert boxes_of(detection(text).answer) == [(1, 2, 30, 40)]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("<ref>dog</ref><box>(1,2),(30,40)</box><ref>cat</ref><box>(5,6),(70,80)</box>", ["dog", "cat"]),
        (_REF + "".join(_QWEN), ["dog", "dog"]),
        ('{"bbox_2d": [[1, 2, 30, 40], [5, 6, 70, 80]], "label": ["dog", "cat"]}', ["dog", "cat"]),
        ('[{"label": "cat", "bboxes": [[1, 2, 30, 40], [5, 6, 70, 80]]}]', ["cat", "cat"]),
        (
            '[{"objects": [{"bbox": [1, 2, 30, 40], "label": "dog"}, {"bbox": [5, 6, 7, 8], "label": "cat"}]}]',
            ["dog", "cat"],
        ),
        ('{"bbox_2d": [1, 2, 30, 40], "label": "dog", "bbox_2d": [5, 6, 70, 80], "label": "cat"}', ["dog", "cat"]),
    ],
)
def test_each_box_has_its_own_label(text, labels):
    assert [item.label for item in detection(text).answer.items] == labels


def test_each_of_several_boxes_may_have_its_own_confidence():
    answer = detection('{"bbox_2d": [[1, 2, 30, 40], [5, 6, 70, 80]], "score": [0.5, 2]}').answer
    assert [(item.box, item.confidence) for item in answer.items] == [(box(1, 2, 30, 40), 0.5)]
    assert [fault.reason for fault in answer.invalid] == ["Confidence 2.0; expected a number from 0 to 1"]


@pytest.mark.parametrize(
    ("text", "num_boxes", "reason"),
    [
        (_QWEN[0] + " and more", 1, "text after the boxes"),
        (_QWEN[0] + "<|box_start|>(5,6),(70", 1, "text after the boxes"),
        (_QWEN[0] + "<|box_start|>two<|box_end|>", 1, "neither a list of boxes nor two corners"),
        ("(1,2),(30,40),(5,6)", 1, "2 values in a box; expected 4 numbers"),
        ('{"objects": [[1, 2, 30, 40], oops]}', 1, "neither a list nor a dictionary"),
        ('{"objects": [{"bbox_2d": [1, 2, 30, 40]}, {"bbox_2d": [5, 6', 1, "a bracket or a quote is not closed"),
        ('{"objects": [[1, 2, 30, 40], [5, 6, 70, 80]]} no', 2, "text after the list"),
        ('[{"objects": [[1, 2, 30, 40], oops]}]', 1, "neither a list nor a dictionary"),
        ('[{"objects": [{"bbox_2d": [1, 2, 30, 40]}, {"bbox_2d": [5, 6', 1, "a bracket or a quote is not closed"),
        ('[{"objects": [[1, 2, 30, 40]]', 1, "the list is not closed"),
        ('[{"objects": [[1, 2, 30, 40]]}] no', 1, "text after the list"),
        ('[{"objects": {"bbox_2d": [1, 2, 30, 40]}}, [1, 2, 30, 40]]', 1, "no Position"),
        ('{"objects": []} [[1, 2, 30, 40]]', 0, "0 values in a box; expected 4 numbers"),
    ],
)
def test_a_fault_in_another_notation_spoils_one_element_only(text, num_boxes, reason):
    answer = detection(text).answer
    assert (len(answer.items), [fault.reason for fault in answer.invalid]) == (num_boxes, [reason])


def test_an_empty_list_of_objects_says_no_objects():
    assert detection('{"objects": []}').answer == Detections()
    assert detection('[{"objects": []}]').answer == Detections()
    assert detection("<box>No Objects</box>").answer == Detections()


@pytest.mark.parametrize(
    "text",
    [
        "[0.19, 0.14, 0.46, 0.43]",
        "[[0.19, 0.14, 0.46, 0.43], [0, 0, 1, 1]]",
        "[{'Position': [0.19, 0.14, 0.46, 0.43], 'Confidence': 0.9}]",
        "(0.19,0.14),(0.46,0.43)",
        "<|box_start|>(0.19,0.14),(0.46,0.43)<|box_end|>",
        "[{'bbox': [0.5, 0.5, 0.2, 0.9]}]",  # invalid in other ways too
    ],
)
def test_numbers_that_are_all_at_most_1_are_no_boxes_of_less_than_a_pixel(text):
    for reading in (detection(text), grounding(text)):
        assert is_at_most_1(reading.answer)
        assert reading.answer.reason == ("all numbers at most 1: fractions of the image; expected 0..1000 x 0..1000")


@pytest.mark.parametrize("text", ["[0, 0, 1, 1]", "[[0, 0, 1, 1], [5, 5, 9, 9]]", "[0.5, 0.5, 1.5, 1.5]", "No Objects"])
def test_a_box_of_one_unit_is_a_box(text):
    assert not is_at_most_1(detection(text).answer)
    assert not detection(text).answer.invalid


def test_a_single_bare_box_is_read():
    assert boxes_of(detection("[1, 2, 30, 40]").answer) == [(1, 2, 30, 40)]


def test_a_label_is_stored_and_null_is_none():
    answer = detection(
        '[{"bbox_2d": [1, 2, 30, 40], "label": "dog"}, {"bbox_2d": [1, 2, 30, 40], "label": null}]'
    ).answer
    assert [item.label for item in answer.items] == ["dog", None]


@pytest.mark.parametrize(
    "text", ["No Objects", "no objects.", " 'No Objects' ", "No  object", "[]", "[ ]", "```json\n[]\n```"]
)
@pytest.mark.parametrize("thinking", [False, True])
def test_no_objects_must_be_stated(text, thinking):
    assert detection(text, thinking=thinking).answer == Detections()


@pytest.mark.parametrize(
    "text",
    [
        "None",
        "nothing",
        "X",
        "There are no objects",
        "XNo Objects",
        "Position",
        "0.5",
        "'[1, 2, 30, 40]'",
        "the list [1, 2, 30, 40]",
    ],
)
def test_other_text_is_unreadable_not_empty(text):
    assert detection(text).answer.reason == "neither a list of boxes nor No Objects"


@pytest.mark.parametrize(
    ("element", "reason"),
    [
        ("{'Position': [1, 2, 30]}", "3 values in a box; expected 4 numbers"),
        ("{'Position': [1, 2, 30, 40, 50]}", "5 values in a box; expected 4 numbers"),
        ("{'Position': [1, 2, 'x', 40]}", "a value of a box is not a number"),
        ("{'Position': [1, 2, True, 40]}", "a value of a box is not a number"),
        ("{'Position': [1, 2, NaN, 40]}", "a value of a box is not a number"),
        ("{'Position': [1, 2, ٣٠, 40]}", "a value of a box is not a number"),
        ("{'Position': [[1, 2], [30, 40], [5, 6]]}", "3 values in a box; expected 4 numbers"),
        ("[1, 2, 30, " + "4" * 21 + "]", "a number of more than 20 digits"),
        ("{'box': [1, 2, 30, 40], 'Confidence': 0." + "3" * 21 + "}", "a number of more than 20 digits"),
        ("(1, 2)", "2 values in a box; expected 4 numbers"),
        ("{'Position': '1, 2, 30, 40'}", "Position is not a list"),
        ("{'Confidence': 0.5}", "no Position"),
        ("{}", "no Position"),
        (
            "{'Position': [1, 2, 30, 40], 'bbox': [1, 2, 30, 40]}",
            "more than one of bbox, bbox_2d, bboxes, box, boxes, position",
        ),
        ("{'Position': [1, 2, 30, 40], 'Confidence': 0.1, 'Confidence': 0.9}", "more than one of confidence, score"),
        ("{'Position': [1, 2, 30, 40], 'Confidence': 0.1, 'score': 0.9}", "more than one of confidence, score"),
        ("{'Position': [1, 2, 30, 40], 'Confidence': '0.9'}", "Confidence 0.9; expected a number from 0 to 1"),
        ("{'Position': [1, 2, 30, 40], 'Confidence': True}", "Confidence True; expected a number from 0 to 1"),
        ("{'Position': [1, 2, 30, 40], 'Confidence': 1e999}", "Confidence inf; expected a number from 0 to 1"),
        ("{'Position': [1, 2, 30, 40], 'Confidence': 1.01}", "Confidence 1.01; expected a number from 0 to 1"),
        ("{'Position': [30, 2, 1, 40]}", "one pair of coordinates is swapped"),
        ("{'Position': [1, 40, 30, 2]}", "one pair of coordinates is swapped"),
        ("{'Position': [1, 2, 1, 40]}", "a box without area"),
        ("{'Position': [1000, 0, 1009, 40]}", "a box without area"),
        ("{'Position': [0, 1000, 40, 1009]}", "a box without area"),
        ("{'Position': [1, 2, 1011, 40]}", "outside 0..1000 x 0..1000 by more than 1%"),
        ("{'Position': [-11, 2, 30, 40]}", "outside 0..1000 x 0..1000 by more than 1%"),
        ("{'Position': [1, 2, 1e999, 40]}", "outside 0..1000 x 0..1000 by more than 1%"),
        ("{'Position': [1, 2, 30 40]}", "'40' in place of a comma"),
        ("{Position: [1, 2, 30, 40]}", "'Position' in place of a quoted key and a colon"),
        ("'No Objects'", "neither a list nor a dictionary"),
        ("[]", "0 values in a box; expected 4 numbers"),
    ],
)
def test_an_invalid_element_is_reported_and_its_neighbours_count(element, reason):
    answer = detection(f"[{A}, {element}, {B}]").answer
    assert boxes_of(answer) == [(0, 0, 100, 100), (5, 5, 50, 50)]
    assert [(fault.reason, fault.piece) for fault in answer.invalid] == [(reason, element)]
    assert answer.num_predicted == 3


@pytest.mark.parametrize("key", ["", "'Position': ", "'box': "])  # bare, by the fast path, and by the general parser
def test_up_to_1_percent_outside_is_clipped_and_counted_once_per_box(key):
    rows = "[-10, -10, 1010, 1010]", "[0, 0, 1000, 1000]", "[5, 5, 1001, 1000]"
    answer = detection(f"[{', '.join(f'{{{key}{row}}}' if key else row for row in rows)}]").answer
    assert boxes_of(answer) == [(0, 0, 1000, 1000), (0, 0, 1000, 1000), (5, 5, 1000, 1000)]
    assert answer.num_clipped == 2


@pytest.mark.parametrize("key", ["Position", "box"])
def test_a_confidence_may_be_0_or_1(key):
    rows = ", ".join(f"{{'{key}': [1, 2, 30, 40], 'Confidence': {value}}}" for value in ("0", "0.0", "1", "1.0"))
    assert [item.confidence for item in detection(f"[{rows}]").answer.items] == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("text", "num_boxes", "num_invalid"),
    [
        (f"[{A}, {B}", 2, 1),  # only the bracket is missing: still a fault
        (f"[{A}, {{'Position': [1, 2", 1, 1),
        (f"[{A}, {{'Position: [1, 2, 3, 4]}}, {B}]", 1, 1),  # B is part of an unclosed quote
        (f"[{A}, [1, 2, 30, 40), {B}]", 1, 1),
        (f"[{A}] and {B}", 1, 1),
        (f"[{A}], [{B}]", 1, 1),
        (f"[{A}, {A}] [{A}, {A}, {A}]", 2, 1),
        ("[] or maybe [1, 2, 30, 40]", 1, 2),  # "[]", "or maybe", the box: not "no objects"
        ("[[]]", 0, 1),
        ("[,]", 0, 1),
        ("[", 0, 1),
        ("{", 0, 1),
    ],
)
def test_an_invalid_rest_is_one_invalid_element_and_complete_ones_count(text, num_boxes, num_invalid):
    answer = detection(text).answer
    assert (len(answer.items), len(answer.invalid)) == (num_boxes, num_invalid)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[[[[[[1, 2, 30, 40]]]]]]]", "brackets more than 6 deep"),
    ],
)
def test_text_over_a_limit_is_unreadable(text, reason):
    piece = text if len(text) <= 80 else text[:80] + "…"
    assert detection(text).answer == Unreadable(reason=reason, piece=piece)
    assert grounding(text).answer == Unreadable(reason=reason, piece=piece)


def test_spans_are_characters_of_the_completion():
    text = f"<think>hm</think>\n<answer>[{A}, oops,\n{B}]</answer>"
    answer = read_detection(text, thinking=True, **FRAME).answer
    assert [text[slice(*item.span)] for item in answer.items] == [A, B]
    assert [text[slice(*fault.span)] for fault in answer.invalid] == ["oops"]
    usual = read_detection(text.replace(" oops,", ""), thinking=True, **FRAME)
    assert [usual.text[slice(*item.span)] for item in usual.answer.items] == [A, B]


def test_pieces_for_logs_are_short():
    assert detection("x" * 81).answer.piece == "x" * 80 + "…"
    assert detection("x" * 80).answer.piece == "x" * 80


@pytest.mark.parametrize(
    ("space", "written_box"),
    [
        (BoxSpace.RELATIVE_1000, "[100, 500, 200, 1000]"),
        (BoxSpace.RESIZED_PIXELS, "[28, 42, 56, 84]"),
        (BoxSpace.ORIGINAL_PIXELS, "[50, 100, 100, 200]"),
    ],
)
def test_every_box_space_is_converted_to_pixels_of_the_original_image(space, written_box):
    text = f"<answer>{written_box}</answer>"
    frame = {"space": space, "original": ImageSize(500, 200), "resized": ImageSize(280, 84)}
    assert boxes_of(read_detection(text, thinking=False, **frame).answer) == [(50, 100, 100, 200)]
    assert read_grounding(text, thinking=False, **frame).answer == box(50, 100, 100, 200)


def test_a_relative_coordinate_of_1000_is_exactly_the_edge():
    frame = {"space": BoxSpace.RELATIVE_1000, "original": ImageSize(641, 479), "resized": ImageSize(644, 476)}
    answer = read_detection("<answer>[0, 0, 1000, 1000]</answer>", thinking=False, **frame).answer
    assert boxes_of(answer) == [(0, 0, 641, 479)]


# --- grounding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "(1,2),(30,40)",
        " ( 1 , 2 ) , ( 30 , 40 ) ",
        "(1,2) (30,40)",
        "((1,2),(30,40))",
        "[[1, 2], [30, 40]]",
        "(30,40),(1,2)",
        "[1, 2, 30, 40]",
        "(1, 2, 30, 40)",
        "[[1, 2, 30, 40]]",
        "<box>[[1, 2, 30, 40]]</box>",
        "<ref>the dog</ref><box>[[1, 2, 30, 40]]</box>",
        "<|box_start|>(1,2),(30,40)<|box_end|>",
        "<|object_ref_start|>the dog<|object_ref_end|><|box_start|>(1,2),(30,40)<|box_end|>",
        '{"bbox_2d": [1, 2, 30, 40], "label": "the dog"}',
        '```json\n[{"bbox_2d": [1, 2, 30, 40], "label": "the dog"}]\n```',
        "[{'Position': [1, 2, 30, 40], 'Confidence': 0.5}]",
    ],
)
def test_every_accepted_shape_of_one_box_is_read(text):
    assert grounding(text).answer == box(1, 2, 30, 40)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(1,2),(30,40),(5,6),(70,80)", "2 boxes or parts of boxes; expected one box"),
        ("[[1, 2, 30, 40], [5, 6, 70, 80]]", "2 boxes or parts of boxes; expected one box"),
        ("<box>[[1, 2, 30, 40]]</box><box>[[5, 6, 70, 80]]</box>", "2 boxes or parts of boxes; expected one box"),
        ("(1,2)", "2 values in a box; expected 4 numbers"),
        ("No Objects", "0 boxes or parts of boxes; expected one box"),
        ("(30,2),(1,40)", "one pair of coordinates is swapped"),
        ("(1,2),(1,40)", "a box without area"),
        ("(1,2),(3000,40)", "outside 0..1000 x 0..1000 by more than 1%"),
        ("at (1,2),(30,40)", "neither a list of boxes nor No Objects"),
    ],
)
def test_anything_but_a_single_box_is_unreadable(text, reason):
    answer = grounding(text).answer
    assert answer.reason == reason
    assert answer.piece
    assert answer.piece in text


# --- classification ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["tabby cat", "\n tabby cat ", "```\ntabby cat\n```", "```text\ntabby cat\n```"])
def test_a_label_is_the_text_without_fences_and_surrounding_spaces(text):
    assert classification(text).answer == Label(text="tabby cat")


def test_markers_of_glm_around_an_answer_are_ignored():
    begin, end = "<|begin_of_box|>", "<|end_of_box|>"
    assert classification(f"{begin} tabby cat{end}").answer == Label(text="tabby cat")
    for content in ("[[1, 2, 30, 40]]", "[1, 2, 30, 40]", "(1,2),(30,40)"):
        assert grounding(f"\n{begin}{content}{end}").answer == grounding(content).answer
        assert detection(f"{begin}{content}{end}").answer.items[0].box == grounding(content).answer
    # neither half of them, nor markers that overlap
    for text in (f"{begin}tabby cat", f"tabby cat{end}", begin):
        assert classification(text).answer == Label(text=text)


@pytest.mark.parametrize("text", ["```", "```tabby cat", "tabby cat```"])
def test_half_a_fence_is_text(text):
    assert classification(text).answer == Label(text=text)


# --- rendering ---------------------------------------------------------------------------------------


def test_rendering_is_canonical():
    boxes = Detections(
        items=(
            Detection(box=box(1.4, 2.5, 30.2, 40), confidence=0.934, label="dog"),
            Detection(box=box(0, 0, 1000, 1000)),
        )
    )
    assert render_detection(boxes, **FRAME, thinking_text="Two.") == (
        "<think>Two.</think><answer>"
        "[{'Position':[1,3,30,40],'Confidence':0.93},{'Position':[0,0,1000,1000],'Confidence':1.0}]</answer>"
    )
    assert render_classification(Label(text="pug"), thinking_text="Flat.") == "<think>Flat.</think><answer>pug</answer>"
    assert render_grounding(box(1, 2, 30, 40), **FRAME, thinking_text="Left.") == (
        "<think>Left.</think><answer>(1,2),(30,40)</answer>"
    )


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(10.2, 10.3, (10, 11)), (9.9, 10.1, (9, 10)), (999.8, 999.9, (999, 1000)), (1.5, 2.5, (2, 3)), (0.1, 0.2, (0, 1))],
)
def test_a_box_below_the_grid_is_written_one_unit_wide(low, high, expected):
    x1, x2 = expected
    assert render_grounding(box(low, 0, high, 10), **FRAME) == f"<answer>({x1},0),({x2},10)</answer>"


@pytest.mark.parametrize("thinking_text", ["", " ", "I use <answer> tags", "</think>"])
def test_reasoning_that_is_empty_or_has_tags_is_refused(thinking_text):
    with pytest.raises(ValueError, match="must contain text and no tags"):
        render_classification(Label(text="pug"), thinking_text=thinking_text)


image_sizes = st.builds(ImageSize, st.integers(28, 4000), st.integers(28, 4000))
frames = st.fixed_dictionaries({"space": st.sampled_from(BoxSpace), "original": image_sizes, "resized": image_sizes})


@st.composite
def framed_grid_boxes(draw, max_size=4):
    """A frame and boxes on the grid of its space, as the parser returns them."""
    frame = draw(frames)
    width, height = frame["space"].extent(frame["original"], frame["resized"])
    rows = draw(st.lists(grid_boxes(int(width), int(height)), max_size=max_size))
    original = frame["original"]

    def pixels(row):
        x1, y1, x2, y2 = row
        factors = (original.width, width), (original.height, height)
        (by_x, over_x), (by_y, over_y) = factors
        return Box(x1=x1 * by_x / over_x, y1=y1 * by_y / over_y, x2=x2 * by_x / over_x, y2=y2 * by_y / over_y)

    return frame, [pixels(row) for row in rows]


@given(framed_grid_boxes(), st.lists(st.integers(0, 100), min_size=4, max_size=4), st.booleans())
def test_parsing_a_rendered_text_returns_boxes_on_the_grid(framed, hundredths, thinking):
    frame, boxes = framed
    items = tuple(
        Detection(box=held, confidence=hundredth / 100) for held, hundredth in zip(boxes, hundredths, strict=False)
    )
    text = render_detection(Detections(items=items), **frame, thinking_text="So." if thinking else None)
    reading = read_detection(text, thinking=thinking, **frame)
    assert reading.well_formed
    assert Detections(items=tuple(replace(item, span=None) for item in reading.answer.items)) == Detections(items=items)
    assert not reading.answer.invalid
    for held in boxes:
        assert read_grounding(render_grounding(held, **frame), thinking=False, **frame).answer == held


@given(frames, st.data())
def test_parsing_a_rendered_text_is_exact_to_half_a_unit_or_one_unit_below_the_grid(frame, data):
    original = frame["original"]
    extents = frame["space"].extent(original, frame["resized"])
    corners = []
    for size in original:
        low = data.draw(st.floats(0, size - 0.01))
        corners.append((low, data.draw(st.floats(low, size).filter(lambda high, low=low: high > low))))
    (x1, x2), (y1, y2) = corners
    answer = read_grounding(render_grounding(box(x1, y1, x2, y2), **frame), thinking=False, **frame).answer
    read = ((answer.x1, answer.x2), (answer.y1, answer.y2))
    for (low, high), (read_low, read_high), size, extent in zip(corners, read, original, extents, strict=True):
        unit = size / extent
        allowed = (0.5 if high - low >= unit else 1.0) * unit + 1e-6
        assert abs(read_low - low) <= allowed
        assert abs(read_high - high) <= allowed


@given(st.text(min_size=1).filter(lambda text: "<" not in text and "`" not in text and text.strip().isprintable()))
def test_parsing_a_rendered_label_returns_its_text(text):
    if text.strip():
        assert read_classification(render_classification(Label(text=text)), thinking=False).answer.text == text.strip()


# --- any text ----------------------------------------------------------------------------------------


@given(st.one_of(st.text(), mutated_answers()), st.booleans())
def test_no_text_makes_a_parser_raise_and_spans_are_inside_the_text(text, thinking):
    read_classification(text, thinking=thinking)
    read_grounding(text, thinking=thinking, **FRAME)
    answer = read_detection(text, thinking=thinking, **FRAME).answer
    if isinstance(answer, Detections):
        for element in (*answer.items, *answer.invalid):
            start, end = element.span
            assert 0 <= start <= end <= len(text)
        for item in answer.items:
            assert 0 <= item.box.x1 < item.box.x2 <= SIZE.width
            assert 0 <= item.box.y1 < item.box.y2 <= SIZE.height
            assert 0 <= item.confidence <= 1


@pytest.mark.parametrize("around", ["", " ", "\n  "])
def test_the_canonical_list_takes_the_fast_path(around, monkeypatch):
    def general(*arguments):
        raise AssertionError("the general parser was called")

    monkeypatch.setattr("virft.text.answers.read_elements", general)
    rows = (0, 0, 100, 100), (5, 5, 50, 50, 0.5), (1, 2, 30, 40, 0.0), (1, 2, 30, 40, 1.0)
    answer = detection(f"{around}{written(*rows)}{around}").answer
    assert [(*item.box.xyxy, item.confidence) for item in answer.items] == [(*rows[0], 1.0), *rows[1:]]


@given(mutated_answers())
def test_the_fast_path_and_the_general_parser_agree(text):
    def read(text):
        answer = read_detection(text, thinking=False, **FRAME).answer
        if isinstance(answer, Unreadable):
            return None
        return [(item.box, item.confidence) for item in answer.items], len(answer.invalid), answer.num_clipped

    # Only the general parser knows the key "bbox".
    assert read(text) == read(text.replace("'Position'", "'bbox'"))


@pytest.mark.parametrize(
    "answer",
    [
        "[" * 30_000,
        "[]" * 15_000,
        "[1,2,3,4]," * 3_000,
        "'\\" * 15_000,
        "\"'" * 15_000,
        "[" + "'\\\"" * 10_000,
        "(1,2)" + " " * 30_000 + "(3",
        "[{'Position':[" + " " * 30_000,
        "1" * 20 + "a" + ("1" * 20 + " ") * 1_400,
        "[" + "11111111111111111111a " * 1_400,
        "{" + "'a':" * 7_000,
        "```" + "a" * 30_000,
        "<ref>" * 6_000,
        "[{}" + "]" * 30_000,
        written((0, 0, 10, 10, 0.5)) * 600,
    ],
)
def test_no_text_takes_long_to_parse(answer):
    assert len(answer) < 32_000
    start = time.process_time()
    detection(answer)
    grounding(answer)
    classification(answer)
    assert time.process_time() - start < 2.0  # seconds; about 0.05 when linear, minutes when not


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think> red fur </think>\n<answer> fox </answer>", "red fur", "fox"),
        ("It has red fur. <answer>fox</answer> Indeed.", "It has red fur.", "fox"),
        ("<think>red</think> fox", "red", "fox"),
        ("a fox", "", "a fox"),
        ("", "", ""),
        # while it is being generated
        ("<think>red f", "red f", ""),
        ("<think>red fur</think>", "red fur", ""),
        ("<think>red fur</think><answer>[{'Pos", "red fur", "[{'Pos"),
        # the first answer block is displayed; the parser accepts neither
        ("<answer>fox</answer><answer>dog</answer>", "", "fox"),
    ],
)
def test_reasoning_and_answer_are_split_for_display(text, reasoning, answer):
    assert split_reasoning(text) == (reasoning, answer)


def test_a_text_that_is_being_generated_never_shows_a_part_of_a_tag():
    whole = "<think>a < b</think><answer>fox</answer>"
    shown = [split_reasoning(whole[:n], unfinished=True) for n in range(len(whole) + 1)]
    assert shown[0] == ("", "")
    assert shown[-1] == ("a < b", "fox")
    # each part only grows, but for a mark that turns out to begin a tag: "a <" stands while "a < b" is on its way
    assert {answer for _, answer in shown} == {"", "f", "fo", "fox"}
    assert {reasoning for reasoning, _ in shown} == {"", "a", "a < b", "a <"}
    # "a <" may be the beginning of a tag, and what is left out without need comes back with the next letter
    assert split_reasoning("<think>a <", unfinished=True) == ("a", "")
    assert split_reasoning("<think>a <") == ("a <", "")


def test_a_completion_whose_think_tag_is_in_the_prompt_is_well_formed_as_a_whole():
    whole = render_classification(Label(text="fox"), thinking_text="red fur")
    rest = strip_opened_prefix(whole, "<think>\n")
    assert rest == "red fur</think><answer>fox</answer>"
    assert read_classification("<think>\n" + rest, thinking=True).well_formed
    assert not read_classification(rest, thinking=True).well_formed
    assert not read_classification("<think>\n" + whole, thinking=True).well_formed
    assert strip_opened_prefix(whole, "") == whole
