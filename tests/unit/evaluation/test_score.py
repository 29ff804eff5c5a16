"""Predictions, their card, and their scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from factories import box, detections, edit_json, sample
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.errors import ConfigError, DataError
from virft.evaluation.predictions import (
    PredictionsCard,
    SizedPrediction,
    find_predictions,
    read_predictions,
    read_predictions_card,
    write_predictions,
)
from virft.evaluation.score import MAX_ROWS, score_predictions, scores_to_text
from virft.geometry.boxes import BoxSpace
from virft.types import FinishReason, ImageSize, Label, Prediction, Scores

SIZE = ImageSize(64, 48)


def make_store(folder: Path) -> Store:
    """A fox, no hen, and one grounding box, on one image of 64 x 48."""
    with StoreWriter(folder) as writer:
        path = writer.add_image("a.png", Image.new("RGB", SIZE))
        writer.add(sample(detections((0, 0, 32, 24)), id="fox", image=path))
        writer.add(sample(detections(), id="hen", image=path, query="hen"))
        writer.add(sample(box(0, 0, 32, 24), id="box", image=path, task="grounding"))
        writer.finish(source={}, seed=0)
    return Store(folder)


TEXTS = {
    "fox": "<answer>[{'Position':[0,0,500,500],'Confidence':1.0}]</answer>",
    "hen": "<answer>No Objects</answer>",
    "box": "<answer>(0,0),(500,250)</answer>",
}


def predict(
    store: Store, folder: Path, *, resized: ImageSize = SIZE, finish: FinishReason = FinishReason.STOP, **card: Any
) -> Path:
    settings = {
        "model": "m",
        "data": "d",
        "data_hash": store.hash,
        "num_samples": 3,
        "box_space": BoxSpace.RELATIVE_1000,
        "thinking": False,
        "settings": {"limit": None},
    }
    rows = [
        SizedPrediction(Prediction(sample_id=id, text=text, finish_reason=finish), resized)
        for id, text in TEXTS.items()
    ]
    return write_predictions(folder, PredictionsCard(**settings | card), rows)


def test_predictions_are_read_back(tmp_path: Path) -> None:
    path = predict(make_store(tmp_path / "d"), tmp_path / "p")
    read = read_predictions(path)
    assert list(read) == ["fox", "hen", "box"]
    assert read["fox"].prediction.text == TEXTS["fox"]
    assert read["fox"].resized == SIZE
    assert read_predictions_card(path).box_space is BoxSpace.RELATIVE_1000


def test_scores_come_by_task(tmp_path: Path) -> None:
    store = make_store(tmp_path / "d")
    detection, grounding = score_predictions(predict(store, tmp_path / "p"), store)
    assert detection.values["f1"] == 1.0
    assert detection.values["false_positive_rate"] == 0.0
    assert detection.num_samples == 2
    assert detection.protocol == "positives+negatives (0.500 absent, seed 0)"
    # Half of the target is covered.
    assert grounding.values["box_miou"] == 0.5
    assert grounding.protocol == "all"
    assert grounding.values["truncated_frac"] == 0.0


def test_truncated_completions_are_counted(tmp_path: Path) -> None:
    store = make_store(tmp_path / "d")
    scores = score_predictions(predict(store, tmp_path / "p", finish=FinishReason.LENGTH), store)
    assert [one.values["truncated_frac"] for one in scores] == [1.0, 1.0]


def test_the_box_space_of_the_card_is_used(tmp_path: Path) -> None:
    store = make_store(tmp_path / "d")
    path = predict(store, tmp_path / "p", box_space=BoxSpace.RESIZED_PIXELS, resized=ImageSize(1000, 1000))
    assert score_predictions(path, store)[0].values["f1"] == 1.0


def test_predictions_for_another_dataset_are_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "d")
    path = predict(store, tmp_path / "p", data_hash="0123456789abcdef")
    with pytest.raises(DataError, match=r"holds predictions for another dataset \(d, hash 0123456789ab\); .* has hash"):
        score_predictions(path, store)


@pytest.mark.parametrize("num_samples", [1, 3])  # run with --limit 1, or stopped after the first
def test_a_metric_of_some_samples_has_its_coverage_in_its_name(tmp_path: Path, num_samples: int) -> None:
    store = make_store(tmp_path / "d")
    path = predict(store, tmp_path / "p", num_samples=num_samples)
    path.write_text(path.read_text().splitlines()[0] + "\n")
    (scores,) = score_predictions(path, store)
    assert scores.num_samples == 1
    assert scores.values["f1 (1 of 2)"] == 1.0
    assert all(name.endswith(" (1 of 2)") for name in [*scores.values, *scores.tables])


def test_average_precision_comes_with_three_kinds_of_scores(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "d") as writer:
        path = writer.add_image("a.png", Image.new("RGB", SIZE))
        writer.add(sample(detections((0, 0, 32, 24)), id="fox", image=path))
        writer.finish(source={}, seed=0)
    store = Store(tmp_path / "d")
    miss, hit = "{'Position':[500,500,900,900],'Confidence':0.5}", "{'Position':[0,0,500,500],'Confidence':0.75}"
    text = f"<answer>[{miss},{hit}]</answer>"
    ends = tuple(text.index(piece) + len(piece) for piece in ("[", miss, hit, "</answer>"))
    one = Prediction(
        sample_id="fox",
        text=text,
        finish_reason=FinishReason.STOP,
        token_logprobs=(-9.0, -0.125, -0.25, -9.0),
        token_ends=ends,
    )
    card = PredictionsCard(
        model="m", data="d", data_hash=store.hash, num_samples=1, box_space=BoxSpace.RELATIVE_1000, thinking=False,
        settings={},
    )  # fmt: skip
    (scores,) = score_predictions(write_predictions(tmp_path / "p", card, [SizedPrediction(one, SIZE)]), store)
    # the hit has the higher confidence; the miss comes first in the text, and its tokens have higher log-probs
    assert scores.values["ap50"] == 1.0
    assert scores.values["ap50_constant"] == pytest.approx(0.5)
    assert scores.values["ap50_logprob"] == pytest.approx(0.5)
    likelier = replace(one, token_logprobs=(-9.0, -0.25, -0.125, -9.0))
    (scores,) = score_predictions(write_predictions(tmp_path / "q", card, [SizedPrediction(likelier, SIZE)]), store)
    assert scores.values["ap50_logprob"] == 1.0
    assert scores.tables == {"ap": {"fox": 1.0}, "f1": {"fox": pytest.approx(2 / 3)}}


@pytest.mark.parametrize(("num_samples", "recall"), [(1, {"recall (1 of 2)": 1.0}), (2, {"recall": 0.5})])
def test_targets_excluded_by_the_protocol_count_as_missed_once_the_run_has_passed_them(
    tmp_path: Path, num_samples: int, recall: dict[str, float]
) -> None:
    with StoreWriter(tmp_path / "d") as writer:
        path = writer.add_image("a.png", Image.new("RGB", SIZE))
        writer.add(sample(detections((0, 0, 32, 24)), id="fox", image=path))
        writer.add(sample(detections((0, 0, 32, 24)), id="hen", image=path, query="hen", queried=False))
        writer.finish(source={}, seed=0)
    store = Store(tmp_path / "d")
    predictions = predict(store, tmp_path / "p", num_samples=num_samples)
    predictions.write_text(predictions.read_text().splitlines()[0] + "\n")
    (scores,) = score_predictions(predictions, store)
    assert {name: value for name, value in scores.values.items() if name.split()[0] == "recall"} == recall


def test_a_box_in_a_crowd_does_not_count(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "d") as writer:
        path = writer.add_image("a.png", Image.new("RGB", SIZE))
        writer.add(
            sample(
                replace(detections((0, 0, 20, 24)), crowd=(box(32, 24, 64, 48),)), id="fox", image=path, areas=(99.0,)
            )
        )
        writer.add(sample(box(0, 0, 32, 24), id="box", image=path, task="grounding"))
        writer.add(sample(detections(), id="hen", image=path, query="hen"))
        writer.finish(source={}, seed=0)
    store = Store(tmp_path / "d")
    assert next(iter(store)).crowd == (box(32, 24, 64, 48),)
    path = predict(store, tmp_path / "p")
    crowded = "[{'Position':[500,500,1000,1000]},{'Position':[0,0,312,500],'Confidence':0.5}]"
    path.write_text(path.read_text().replace(TEXTS["fox"][8:-9], crowded))
    values = score_predictions(path, store)[0].values
    assert (values["ap50"], values["precision"], values["f1"]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (lambda lines: [], r"holds no predictions; expected 3"),
        (lambda lines: [*lines, lines[0]], r"predictions\.jsonl:4: sample 'fox' occurs twice"),
        (lambda lines: [*lines, lines[0].replace("fox", "cow")], r"sample 'cow' is not in"),
        (lambda lines: [lines[0][:30], *lines[1:]], r"predictions\.jsonl:1: not valid JSON \("),
        (lambda lines: ["{}", *lines[1:]], r"predictions\.jsonl:1: finish_reason is missing; expected the keys"),
        (lambda lines: ["[]", *lines[1:]], r"predictions\.jsonl:1: \[\] is not an object; expected the keys"),
        (lambda lines: [lines[0].replace('"stop"', '"gone"')], r":1: finish_reason is 'gone'; expected stop or length"),
    ],
)
def test_corrupt_predictions_are_refused(
    tmp_path: Path, corrupt: Callable[[list[str]], list[str]], message: str
) -> None:
    store = make_store(tmp_path / "d")
    path = predict(store, tmp_path / "p")
    path.write_text("".join(line + "\n" for line in corrupt(path.read_text().splitlines())))
    with pytest.raises(DataError, match=message):
        score_predictions(path, store)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sample_id", None, "sample_id is None; expected text that is not empty"),
        ("sample_id", 5, "sample_id is 5; expected text"),
        ("text", None, 'text is None; expected the completion, "" if there is none'),
        ("text", ["[0, 0, 9, 9]"], r"text is \['\[0, 0, 9, 9\]'\]; expected the completion"),
        ("finish_reason", None, "finish_reason is None; expected stop or length"),
        ("resized", [0, 0], r"resized is \[0, 0\]; expected \[width, height\] in pixels"),
        ("resized", ["64", "48"], r"resized is \['64', '48'\]; expected"),
        ("resized", [float("inf"), 48], r"resized is \[inf, 48\]; expected"),
        ("token_logprobs", "abc", "token_logprobs is 'abc'; expected a list of numbers in nats"),
        ("token_logprobs", [None], r"token_logprobs is \[None\]; expected a list of numbers"),
        ("token_logprobs", [float("nan")], r"token_logprobs is \[nan\]; expected a list of numbers"),
        ("token_ends", [5], r"token_ends is \[5\]; expected 0 integers, one for each token"),
    ],
)
def test_a_value_of_another_engine_that_is_no_prediction_is_shown(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    path = predict(make_store(tmp_path / "d"), tmp_path / "p")
    first, *others = path.read_text().splitlines()
    record = json.loads(first) | {"token_logprobs": [], "token_ends": []} | {key: value}
    path.write_text("\n".join([json.dumps(record), *others]))
    with pytest.raises(DataError, match=rf"predictions\.jsonl:1: {message}"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("ends", "expected"), [([3, 9], "increasing numbers of characters of the text, the last one "), ([9, 3, 99], "inc")]
)
def test_ends_of_tokens_have_to_cover_the_text(tmp_path: Path, ends: list[int], expected: str) -> None:
    path = predict(make_store(tmp_path / "d"), tmp_path / "p")
    record = json.loads(path.read_text().splitlines()[0]) | {"token_logprobs": [-1.0] * len(ends), "token_ends": ends}
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=expected):
        read_predictions(path)


def test_log_probabilities_without_ends_give_no_ap_logprob(tmp_path: Path) -> None:
    store = make_store(tmp_path / "d")
    path = predict(store, tmp_path / "p")
    records = [
        json.loads(line) | {"token_logprobs": [-1.0], "token_ends": []} for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    values = score_predictions(path, store)[0].values
    assert "ap" in values
    assert "ap_logprob" not in values


TWO_BOXES = (
    "<answer>[{'Position':[0,0,500,500],'Confidence':0.5},{'Position':[500,500,900,900],'Confidence':0.9}]</answer>"
)


def with_yes_probs(store: Store, folder: Path, **yes_probs: object) -> Path:
    path = predict(store, folder)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for one in records:
        if one["sample_id"] == "fox":
            one["text"] = TWO_BOXES
        if one["sample_id"] in yes_probs:
            one["yes_probs"] = yes_probs[one["sample_id"]]
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def test_boxes_are_also_ranked_by_the_probability_of_yes(tmp_path: Path) -> None:
    store = make_store(tmp_path / "d")
    path = with_yes_probs(store, tmp_path / "p", fox=[0.75, 0.25])
    values = score_predictions(path, store)[0].values
    # The text ranks the false positive first: precision is 1/2 at every recall.
    assert values["ap50"] == pytest.approx(0.5)
    assert values["ap50_yes"] == pytest.approx(1.0)
    assert values["calibration_error"] == pytest.approx((0.5 + 0.9) / 2)
    assert values["calibration_error_yes"] == pytest.approx(0.25)
    # From 0.75 on only the hit is left, of one target.
    assert (values["best_f1_yes"], values["best_threshold_yes"]) == (1.0, 0.75)


@pytest.mark.parametrize("yes_probs", [{}, {"fox": [0.75]}])
def test_without_a_probability_of_every_box_there_is_no_ap_yes(
    tmp_path: Path, yes_probs: dict[str, list[float]]
) -> None:
    store = make_store(tmp_path / "d")
    values = score_predictions(with_yes_probs(store, tmp_path / "p", **yes_probs), store)[0].values
    assert "ap50" in values
    assert not [name for name in values if name.endswith("_yes")]


@pytest.mark.parametrize("value", [0.5, [1.5], [-0.1, 0.5], ["yes"], [float("nan")]])
def test_the_probability_of_yes_has_to_be_one(tmp_path: Path, value: object) -> None:
    path = with_yes_probs(make_store(tmp_path / "d"), tmp_path / "p", fox=value)
    with pytest.raises(DataError, match=r"jsonl:1: yes_probs is .*; expected a list of numbers from 0 to 1"):
        read_predictions(path)


def test_probabilities_of_yes_are_saved(tmp_path: Path) -> None:
    path = with_yes_probs(make_store(tmp_path / "d"), tmp_path / "p", fox=[0.75, 0.25])
    found = read_predictions(path)
    write_predictions(tmp_path / "again", read_predictions_card(path), found.values())
    assert read_predictions(tmp_path / "again" / "predictions.jsonl") == found


def test_a_byte_order_mark_and_blank_lines_have_no_meaning(tmp_path: Path) -> None:
    path = predict(make_store(tmp_path / "d"), tmp_path / "p")
    expected = read_predictions(path)
    for file in (path, path.with_name("card.json")):
        file.write_text("\ufeff" + file.read_text())
    path.write_text(path.read_text().replace("\n", "\r\n\n") + "\n", encoding="utf-8")
    assert read_predictions(path) == expected
    assert read_predictions_card(path).num_samples == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.update(thinking="yes"), "thinking is 'yes'; expected true or false"),
        (lambda card: card.update(thinking=None), "thinking is None; expected true or false"),
        (lambda card: card.update(model=None), "model is None; expected text"),
        (lambda card: card.update(data_hash=None), "data_hash is None; expected text"),
        (lambda card: card.update(num_samples="3"), "num_samples is '3'; expected an integer of at least 1"),
        (lambda card: card.update(settings=[]), r"settings is \[\]; expected an object"),
        (lambda card: card.update(schema_version=2), r"card\.json: not a predictions card of schema_version 1"),
        (lambda card: card.pop("model"), r"card\.json: not a predictions card of schema_version 1"),
        (lambda card: card.update(box_space="yards"), r"card\.json: box_space is 'yards'; expected one of relative_10"),
    ],
)
def test_a_corrupt_card_is_refused(tmp_path: Path, change: object, message: str) -> None:
    path = predict(make_store(tmp_path / "d"), tmp_path / "p")
    edit_json(path.with_name("card.json"), change)
    with pytest.raises(DataError, match=message):
        read_predictions_card(path)


def test_a_missing_card_is_reported(tmp_path: Path) -> None:
    path = predict(make_store(tmp_path / "d"), tmp_path / "p")
    path.with_name("card.json").unlink()
    with pytest.raises(DataError, match=r"card\.json: cannot be read \(No such file"):
        read_predictions_card(path)


def test_predictions_are_found_by_file_folder_or_run(tmp_path: Path) -> None:
    store = make_store(tmp_path / "d")
    path = predict(store, tmp_path / "run" / "eval" / "d")
    assert find_predictions(path, data_name="d") == path
    assert find_predictions(path.parent, data_name="d") == path
    assert find_predictions(tmp_path / "run", data_name="d") == path
    with pytest.raises(DataError, match=r"run: no predictions; expected a file, predictions\.jsonl in a folder, or ev"):
        find_predictions(tmp_path / "run", data_name="other")


def test_scoring_changes_no_predictions(tmp_path: Path) -> None:
    store = make_store(tmp_path / "d")
    path = predict(store, tmp_path / "p")
    before = path.read_bytes()
    score_predictions(path, store)
    assert path.read_bytes() == before
    assert json.loads(path.with_name("card.json").read_text())["settings"] == {"limit": None}


def test_groups_of_classes_have_scores_of_their_own_and_a_harmonic_mean(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "d") as writer:
        path = writer.add_image("a.png", Image.new("RGB", SIZE))
        for number, label in enumerate(["cat", "cat", "dog", "owl"]):
            one = sample(Label(text=label), id=str(number), image=path, query="animal", task="classification")
            writer.add(one)
        writer.finish(source={}, seed=0)
    store = Store(tmp_path / "d")
    texts = {"0": "cat", "1": "dog", "2": "dog", "3": "dog"}
    card = PredictionsCard(
        model="m", data="d", data_hash=store.hash, num_samples=4, box_space=BoxSpace.RELATIVE_1000, thinking=False,
        settings={},
    )  # fmt: skip
    rows = [
        SizedPrediction(
            Prediction(sample_id=id, text=f"<answer>{text}</answer>", finish_reason=FinishReason.STOP), SIZE
        )
        for id, text in texts.items()
    ]
    path = write_predictions(tmp_path / "p", card, rows)
    groups = {"base": ["cat"], "novel": ["dog", "owl", "not queried"]}
    (scores,) = score_predictions(path, store, class_groups=groups)
    assert scores.values["accuracy@base"] == 0.5
    assert scores.values["accuracy@novel"] == 0.5
    assert scores.values["accuracy@harmonic_mean"] == 0.5
    (scores,) = score_predictions(path, store, class_groups={"seen": ["dog"], "rest": ["cat"]})
    assert scores.values["accuracy@harmonic_mean"] == pytest.approx(2 / 3)  # 2 / (1 / 1 + 1 / 0.5)
    with pytest.raises(ConfigError, match="class group new: no question is about emu; expected some of cat, dog, owl"):
        score_predictions(path, store, class_groups={"new": ["emu"]})


def test_groups_of_classes_of_detection(tmp_path: Path) -> None:
    store = make_store(tmp_path / "d")
    path = predict(store, tmp_path / "p")
    values = score_predictions(path, store, class_groups={"seen": ["fox"], "new": ["hen"]})[0].values
    assert (values["f1@seen"], values["ap@seen"]) == (1.0, 1.0)
    # No target and no predicted box; a class without targets has no AP.
    assert values["f1@new"] == 1.0
    assert "ap@new" not in values


def test_without_exhaustive_annotation_an_additional_box_does_not_count(tmp_path: Path) -> None:
    def scores(*, exhaustive: bool) -> Any:
        folder = tmp_path / f"{exhaustive}"
        with StoreWriter(folder) as writer:
            path = writer.add_image("a.png", Image.new("RGB", SIZE))
            writer.add(sample(detections((0, 0, 32, 24)), id="fox", image=path, query="fox", exhaustive=exhaustive))
            writer.add(sample(detections((0, 0, 32, 24)), id="hen", image=path, query="hen"))
            writer.add(sample(box(0, 0, 32, 24), id="box", image=path, task="grounding"))
            writer.finish(source={"frequency": {"fox": "c", "hen": "c"}}, seed=0)
        store = Store(folder)
        assert [one.exhaustive for one in store] == [exhaustive, True, True]
        predictions = predict(store, folder / "p")
        twice = "[{'Position':[500,500,1000,1000]},{'Position':[0,0,500,500],'Confidence':0.5}]"
        predictions.write_text(predictions.read_text().replace(TEXTS["fox"][8:-9], twice))
        return score_predictions(predictions, store)[0]

    # hen: missed, AP 0. fox: the box of higher confidence is a false positive, so precision is 1 / 2 at all recalls,
    # unless it is ignored.
    assert scores(exhaustive=True).values["ap"] == pytest.approx(0.25)
    not_all_marked = scores(exhaustive=False)
    assert not_all_marked.values["ap"] == pytest.approx(0.5)
    # F1 has no such rule and is computed on the other question alone.
    assert not_all_marked.tables["f1"] == {"hen": 0.0}
    assert not_all_marked.values["f1"] == 0.0


@pytest.mark.parametrize(("num_classes", "is_printed"), [(1, False), (2, True), (MAX_ROWS + 1, False)])
def test_scores_by_class_are_printed_for_a_few_classes(num_classes: int, is_printed: bool) -> None:
    names = [f"class {number}" for number in range(num_classes)]
    tables = {"ap": dict.fromkeys(names, 0.25), "f1": dict.fromkeys(names, 0.5), "other": {"a": 0.125, "b": 1.0}}
    one = Scores(task="detection", protocol="all", data_hash="", num_samples=3, values={"f1": 0.5}, tables=tables)
    lines = [line.split() for line in scores_to_text((one,)).splitlines()]
    assert (["ap", "f1"] in lines and ["class", "0", "0.250", "0.500"] in lines) is is_printed
    assert lines[-3:] == [["other"], ["a", "0.125"], ["b", "1.000"]]


def test_labels_of_another_class_and_fractions_are_counted(tmp_path: Path) -> None:
    store = make_store(tmp_path / "d")
    path = predict(store, tmp_path / "p")
    text = path.read_text().replace(TEXTS["fox"], "<answer>[{'bbox': [0, 0, 500, 500], 'label': 'dog'}]</answer>")
    path.write_text(text.replace(TEXTS["box"], "<answer>(0.1,0.2),(0.5,0.6)</answer>"))
    detection, grounding = score_predictions(path, store)
    assert (detection.values["other_label_frac"], detection.counts["num_other_label"]) == (1.0, 1)
    assert (grounding.values["at_most_1_frac"], grounding.counts["num_at_most_1"]) == (1.0, 1)


@pytest.mark.parametrize(
    ("zoom", "message"),
    [
        ("fox", "zoom: 'fox' is not an object"),
        ({"text": 3, "region": [0, 0, 1, 1]}, "text of zoom is 3; expected the text of the first turn"),
        ({"text": "", "region": [0, 0, 1]}, r"region of zoom is \[0, 0, 1\]; expected \[x1, y1, x2, y2\] in pixels"),
        ({"text": "", "region": [2, 0, 1, 1]}, "region of zoom is"),
        ({"text": "", "region": [0, 0, float("inf"), 1]}, "region of zoom is"),
    ],
)
def test_an_invalid_zoom_of_a_prediction_is_refused(tmp_path: Path, zoom: object, message: str) -> None:
    path = predict(make_store(tmp_path / "d"), tmp_path / "p")
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | {"zoom": zoom}), *others]))
    with pytest.raises(DataError, match=f"jsonl:1: {message}"):
        read_predictions(path)
