"""Headlines of an evaluation, and its JSON."""

from __future__ import annotations

import json
from pathlib import Path

from factories import detections, sample
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.evaluation.blind_data import BlindData, open_blind_data
from virft.evaluation.evaluated import EvaluatedPredictions, evaluate_predictions, summary_lines, table_lines
from virft.evaluation.predictions import PredictionsCard, SizedPrediction, write_predictions
from virft.evaluation.score_cache import read_scores
from virft.geometry.boxes import BoxSpace
from virft.types import FinishReason, ImageSize, Label, Prediction

SIZE = ImageSize(100, 100)
LEFT, RIGHT = (0, 0, 40, 100), (60, 0, 100, 100)
ON_LEFT, ON_RIGHT = (f"<answer>[{{'Position': {box}, 'Confidence': 0.9}}]</answer>" for box in
                     ([0, 0, 400, 1000], [600, 0, 1000, 1000]))  # fmt: skip


def make_store(folder: Path, boxes: list[tuple[int, int, int, int]]) -> Store:
    with StoreWriter(folder) as writer:
        for number, corners in enumerate(boxes):
            path = writer.add_image_file(f"{number}.png", None)
            writer.add(sample(detections(corners), id=str(number), image=path, size=SIZE))
        writer.finish(source={}, seed=0)
    return Store(folder)


def evaluated(
    folder: Path, texts: list[str], *, with_train: bool = True, intervals: bool = True
) -> EvaluatedPredictions:
    """Predictions for six objects on the left and six on the right, with twelve training objects on the left."""
    store = make_store(folder / "test", [LEFT, RIGHT] * 6)
    train = make_store(folder / "train", [LEFT] * 12)
    card = PredictionsCard(
        model="m", data="d", data_hash=store.hash, num_samples=12, box_space=BoxSpace.RELATIVE_1000, thinking=False,
        settings={},
    )  # fmt: skip
    rows = [
        SizedPrediction(Prediction(sample_id=str(number), text=text, finish_reason=FinishReason.STOP), SIZE)
        for number, text in enumerate(texts)
    ]
    path = write_predictions(folder / "p", card, rows)
    data = open_blind_data(train.folder, store) if with_train else BlindData(stores=(), note="none was found")
    return evaluate_predictions(path, store, data, with_intervals=intervals)


def test_a_model_that_sees_has_two_lines(tmp_path: Path) -> None:
    first, second = summary_lines(evaluated(tmp_path, [ON_LEFT, ON_RIGHT] * 6))
    assert first == ("F1 1.000 (1.000 to 1.000), AP 1.000, AP50 1.000 on 12 questions about 12 images")
    # The box on the left is a hit on half of the images.
    assert second.startswith("best blind baseline: mean box, F1 0.500 (0.")
    assert "; the model is above it: +0.500 (+0." in second


def test_a_collapsed_model_is_marked(tmp_path: Path) -> None:
    lines = list(summary_lines(evaluated(tmp_path, ["<answer>No Objects</answer>"] * 12)))
    assert lines[0].startswith("F1 0.000 (0.000 to 0.000), AP 0.000")
    assert "; the model is BELOW it: -0.500 (-0." in lines[1]
    assert lines[2:] == ['12 of 12 answers are "No Objects"']


def test_an_answer_like_the_baseline_is_not_distinguishable(tmp_path: Path) -> None:
    lines = list(summary_lines(evaluated(tmp_path, [ON_LEFT] * 12)))
    assert lines[1].endswith("; the model is NOT DISTINGUISHABLE from it: +0.000 (+0.000 to +0.000)")
    assert lines[2] == "12 of 12 answers are the same box"


def test_skipped_samples_and_tasks_without_predictions_are_printed(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "d") as writer:
        path = writer.add_image_file("0.png", None)
        for name in ("a", "b"):
            writer.add(sample(detections(LEFT), id=name, image=path, size=SIZE))
        writer.add(sample(Label(text="fox"), id="c", task="classification", image=path, size=SIZE))
        writer.finish(source={}, seed=0)
    store = Store(tmp_path / "d")
    card = PredictionsCard(
        model="m", data="d", data_hash=store.hash, num_samples=3, box_space=BoxSpace.RELATIVE_1000, thinking=False,
        settings={"skipped": ["b", "c"]},
    )  # fmt: skip
    prediction = Prediction(sample_id="a", text=ON_LEFT, finish_reason=FinishReason.STOP)
    file = write_predictions(tmp_path / "p", card, [SizedPrediction(prediction, SIZE)])
    first, *lines = summary_lines(evaluate_predictions(file, store, BlindData(stores=(), note="none")))
    assert first.endswith(" on 1 of 2 questions about 1 image")
    assert "not the whole dataset: 2 skipped, as the model refuses the prompt: b, c" in lines
    assert "not the whole dataset: no question of the task classification has a prediction, of 1" in lines


def test_without_training_data_a_line_says_so(tmp_path: Path) -> None:
    lines = list(summary_lines(evaluated(tmp_path, [ON_LEFT, ON_RIGHT] * 6, with_train=False)))
    assert lines[1].startswith("best blind baseline: whole image, F1 0.000")
    assert lines[2] == (
        "baselines that are fitted on training data are missing (none was found): "
        "name the training set with --train DATA"
    )


def test_without_intervals_the_margin_is_a_number(tmp_path: Path) -> None:
    lines = list(summary_lines(evaluated(tmp_path, [ON_RIGHT, ON_RIGHT] * 6, intervals=False)))
    assert lines[0].startswith("F1 0.500, AP ")
    assert lines[1] == ("best blind baseline: mean box, F1 0.500; the model is 0.000 above it (no confidence interval)")


def test_unreadable_completions_are_counted(tmp_path: Path) -> None:
    lines = list(summary_lines(evaluated(tmp_path, ["nothing", *[ON_LEFT, ON_RIGHT] * 5, ON_LEFT])))
    assert not any("cannot be parsed" in line for line in lines)  # 1 of 12 is less than a tenth
    lines = list(summary_lines(evaluated(tmp_path / "b", ["nothing"] * 2 + [ON_LEFT, ON_RIGHT] * 5)))
    assert lines[-1] == "2 of 12 completions cannot be parsed"


def test_the_table_lists_every_score_and_every_baseline(tmp_path: Path) -> None:
    found = evaluated(tmp_path, [ON_LEFT, ON_RIGHT] * 6)
    text = "\n".join(table_lines(found))
    assert all(f"  {name} " in text for name in found.scores[0].values)
    assert all(f"  {one.name} " in text for one in found.blind[0].baselines)


def test_the_json_has_baselines_margin_and_repeated_answer_and_is_still_read(tmp_path: Path) -> None:
    found = evaluated(tmp_path, [ON_RIGHT] * 12)
    found.write()
    tree = json.loads((tmp_path / "p" / "scores.json").read_text())
    blind = tree["blind"]
    assert [one["hash"] for one in blind["train"]] == [found.blind_data.stores[0].hash]
    detection = blind["tasks"]["detection"]
    assert detection["metric"] == "f1"
    assert detection["best"] == "mean box"
    assert detection["baselines"]["mean box"]["values"]["f1"] == 0.5
    assert detection["difference"]["value"] == 0.0
    assert detection["verdict"] == "not distinguishable from"
    assert detection["common_answer"] == {"count": 12, "num_answers": 12, "description": "the same box"}
    (saved,) = read_scores(tmp_path / "p" / "scores.json").scores
    assert saved.values == {name: round(value, 6) for name, value in found.scores[0].values.items()}
