"""A dataset is built, a model trained, opened and evaluated from Python, and every result shows itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from factories import save_coco
from runs import files, virft
from virft.config.schema import Config, DataConfig, GRPOConfig, RunConfig, SamplingConfig
from virft.config.toml_file import load_config
from virft.data.store import Store
from virft.errors import ConfigError, DataError, ModelError, RunError
from virft.evaluation.blind_data import BlindData
from virft.evaluation.evaluated import EvaluatedPredictions
from virft.inference.model import Model, load
from virft.recipes.api import build_coco, evaluate, open_run, train
from virft.recipes.datasets import BuiltDatasets
from virft.recipes.fitting import load_fitted_config
from virft.recipes.results import Evaluation, Run, curve
from virft.types import Scores

SMALL: dict[str, Any] = {
    "sampling.max_completion_tokens": 24,
    "grpo": {"steps": 2, "prompts_per_step": 2, "group_size": 2, "learning_rate": 1e-4},
}


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO file of six images, each with a cat, three with a dog."""
    folder = tmp_path_factory.mktemp("coco")
    cat, dog = ("cat", [4, 4, 20, 20]), ("dog", [30, 8, 20, 30])
    return save_coco(folder, {f"{i}.png": [cat] if i < 3 else [cat, dog] for i in range(6)})


@pytest.fixture(scope="module")
def built(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> BuiltDatasets:
    return build_coco(coco, coco.parent / "images", tmp_path_factory.mktemp("data") / "mine", test_frac=0.34)


@pytest.fixture(scope="module")
def run(built: BuiltDatasets, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of two steps."""
    return train(data={"train": built.train}, run={"dir": tmp_path_factory.mktemp("runs") / "run"}, **SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_frac": 2}, "test_frac is 2; expected a number of at least 0 and below 1"),
        ({"validation_frac": -0.1}, "validation_frac is -0.1; expected a number of at least 0 and below 1"),
        ({"test_frac": 0.7, "validation_frac": 0.7}, "test_frac and validation_frac are 1.4 together; expected a sum"),
        ({"negatives_frac": 3}, "negatives_frac is 3; expected a number of at least 0 and below 1"),
        ({"shots": 0}, "shots is 0; expected an integer of at least 1"),
        ({"classes": "cat"}, "classes is the text 'cat'; expected a list of class names"),
    ],
)
def test_impossible_options_are_refused(coco: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        build_coco(coco, coco.parent / "images", tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


def test_a_build_names_its_parts(built: BuiltDatasets) -> None:
    assert (built.train.name, built.test and built.test.name, built.validation) == ("train", "test", None)
    assert len(Store(built.train)) == built.cards[str(built.train)]["num_samples"]


def test_a_build_is_that_of_the_command_line(coco: Path, built: BuiltDatasets, tmp_path: Path) -> None:
    assert virft("build", "coco", coco, coco.parent / "images", tmp_path / "mine", "--test-frac", 0.34) == 0
    for part in ("train", "test"):
        own, other = built.train.parent / part, tmp_path / "mine" / part
        assert (own / "samples.jsonl").read_bytes() == (other / "samples.jsonl").read_bytes()
        assert json.loads((own / "card.json").read_text()) == json.loads((other / "card.json").read_text())


def test_a_build_without_a_split_is_one_dataset(coco: Path, tmp_path: Path) -> None:
    whole = build_coco(coco, coco.parent / "images", tmp_path / "whole", classes=["dog"], shots=2, negatives_frac=0.5)
    assert (whole.train, whole.test) == (tmp_path / "whole", None)
    assert whole.cards[str(tmp_path / "whole")]["num_images"] == 2
    with pytest.raises(DataError):
        build_coco(coco, coco.parent / "images", tmp_path / "whole")
    build_coco(coco, coco.parent / "images", tmp_path / "whole", overwrite=True)


def test_a_build_shows_counts_and_problems(built: BuiltDatasets, coco: Path, tmp_path: Path) -> None:
    card = built.cards[str(built.train)]
    assert f"<td>{card['num_samples']}</td><td>{card['num_images']}</td>" in built._repr_html_()
    assert "<pre>" not in built._repr_html_()
    assert f"{built.train}: {card['num_samples']} questions" in str(built)
    tree = json.loads(coco.read_text())
    tree["annotations"][0]["bbox"] = [0, 0, 0, 5]
    (tmp_path / "odd.json").write_text(json.dumps(tree))
    odd = build_coco(tmp_path / "odd.json", coco.parent / "images", tmp_path / "odd")
    assert "skipped odd.json: annotation 1" in str(odd)
    assert "<pre>skipped odd.json: annotation 1" in odd._repr_html_()


def test_training_prints_its_steps_and_returns_the_run(
    built: BuiltDatasets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(**{"data.train": built.train, "run.dir": tmp_path / "run"}, **SMALL)
    assert len(re.findall(r"^step \d/2", capsys.readouterr().out, re.MULTILINE)) == 2
    assert (run.folder, run.num_steps, run.is_finished) == (tmp_path / "run", 2, True)


def test_a_file_a_config_and_keywords_train_the_same(built: BuiltDatasets, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'data.train = "{built.train}"\nsampling.max_completion_tokens = 24\nrun.dir = "elsewhere"\n')
    from_file = train(path, grpo=SMALL["grpo"], run={"dir": tmp_path / "a"})
    from_config = train(load_config(run.folder / "config.toml").config, **{"run.dir": tmp_path / "b"})
    assert from_file.metrics == from_config.metrics == run.metrics
    assert (run.config.grpo.demonstrations, run.config.grpo.demonstration_coef_end) == ("loss", 0.0), "virft train"
    alone = load_fitted_config(path, method="grpo").config
    assert alone.grpo.demonstrations == "off"


def test_only_a_config_built_in_python_is_not_fitted(built: BuiltDatasets, run: Run, tmp_path: Path) -> None:
    config = Config(
        data=DataConfig(train=str(built.train)),
        sampling=SamplingConfig(max_completion_tokens=24),
        grpo=GRPOConfig(steps=1, prompts_per_step=2, group_size=2),
        run=RunConfig(dir=str(tmp_path / "run")),
    )
    assert load_config(train(config).folder / "config.toml").config == config
    fitted = load_config(run.folder / "config.toml").config
    assert (fitted.grpo.learning_rate, fitted.grpo.kl_coef, fitted.augment.horizontal_flip) == (1e-4, 0.0, True)


def test_supervised_training_is_a_method(built: BuiltDatasets, tmp_path: Path) -> None:
    run = train(
        method="sft",
        data={"train": built.train},
        run={"dir": tmp_path / "run"},
        sft={"steps": 2, "samples_per_step": 2},
    )
    assert [set(record) >= {"step", "loss"} for record in run.metrics] == [True, True]
    assert '<th scope="row">loss</th>' in run._repr_html_()
    with pytest.raises(ConfigError, match="method is 'dpo'; expected train, grpo, sft"):
        train(method="dpo")  # type: ignore[arg-type]


def test_a_run_is_not_trained_twice_unless_it_is_resumed(built: BuiltDatasets, run: Run) -> None:
    again = {"data": {"train": built.train}, "run": {"dir": run.folder}}
    with pytest.raises(RunError, match="already holds a run; resume with resume=True, or choose"):
        train(**again, **SMALL)
    assert train(resume=True, **again, **SMALL).metrics == run.metrics


def test_a_run_has_logs_settings_and_a_model(run: Run) -> None:
    opened = open_run(run.folder)
    assert [record["step"] for record in opened.metrics] == [0, 1]
    assert opened.config.grpo.steps == 2
    assert list(opened.events) == []
    assert isinstance(opened.model, Model)
    assert opened.model is opened.model
    table = opened.metrics.to_pandas()
    assert list(table["reward"]) == [record["reward"] for record in opened.metrics]


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no run; expected a folder with config\.toml"):
        open_run(tmp_path)


def test_a_run_that_was_stopped_has_no_model(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes((run.folder / "config.toml").read_bytes())
    stopped = open_run(tmp_path)
    assert repr(stopped) == f"<Run {tmp_path}: 0 steps, not finished>"
    assert "not finished" in stopped._repr_html_()
    with pytest.raises(RunError, match="has no trained model yet; expected a finished run"):
        stopped.model  # noqa: B018


def test_a_run_shows_first_and_last_reward(run: Run) -> None:
    rewards = [record["reward"] for record in run.metrics]
    page = run._repr_html_()
    assert f"<b>{run.folder}</b>: 2 steps, finished" in page
    assert f'<th scope="row">reward</th><td>{rewards[0]:.3f}</td><td>{rewards[1]:.3f}</td><td><svg' in page
    assert repr(run) == f"<Run {run.folder}: 2 steps, finished>"


def test_a_curve_of_equal_values_is_flat_in_the_middle() -> None:
    assert 'points="1,16 120,16 239,16"' in str(curve([0.5, 0.5, 0.5]))
    assert str(curve([0.5])) == ""


def test_a_report_is_written_and_shown_in_a_frame(run: Run, tmp_path: Path) -> None:
    page = run.report(tmp_path / "page.html")
    text = page.path.read_text(encoding="utf-8")
    assert text.lower().startswith("<!doctype html>")
    shown = page._repr_html_()
    assert shown.startswith('<iframe srcdoc="&lt;!')
    assert "<script" not in shown  # escaped: it runs in the frame alone
    assert run.report().path == run.folder / "report.html"


def test_scores_of_a_model_and_of_its_name_are_equal_and_nothing_is_left_behind(
    built: BuiltDatasets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert built.test is not None
    by_name = evaluate("virft-tiny", built.test)
    loaded = evaluate(load("virft-tiny"), built.test)
    assert by_name.tasks == loaded.tasks
    assert files(tmp_path) == {}
    assert set(by_name.intervals) >= {"f1", "ap"}
    low, high = by_name.intervals["f1"]
    assert low <= by_name.values["f1"] <= high


def test_scores_are_those_of_the_command_line(built: BuiltDatasets, tmp_path: Path) -> None:
    assert built.test is not None
    evaluate("virft-tiny", built.test, tmp_path / "python")
    assert virft("predict", "virft-tiny", built.test, tmp_path / "cli") == 0
    for name in ("predictions.jsonl", "scores.json"):
        assert (tmp_path / "python" / name).read_bytes() == (tmp_path / "cli" / name).read_bytes()
    with pytest.raises(RunError, match="already holds predictions"):
        evaluate("virft-tiny", built.test, tmp_path / "python")


def test_a_run_keeps_its_predictions_and_scores_them_again(built: BuiltDatasets, run: Run) -> None:
    assert built.test is not None
    first = evaluate(run, built.test)
    folder = run.folder / "eval" / "test"
    written = (folder / "predictions.jsonl").stat().st_mtime_ns
    again = evaluate(str(run.folder), built.test)
    assert first.tasks == again.tasks
    assert (folder / "predictions.jsonl").stat().st_mtime_ns == written
    assert json.loads((folder / "card.json").read_text())["model"] == str(run.folder / "model")


def test_a_limit_is_in_the_names_of_the_scores(built: BuiltDatasets) -> None:
    assert built.test is not None
    found = evaluate("virft-tiny", built.test, limit=1)
    assert f"f1 (1 of {len(Store(built.test))})" in found.values
    assert f"f1 (1 of {len(Store(built.test))})" in repr(found)


def test_an_unknown_model_is_an_error_and_so_is_a_folder_without_data(built: BuiltDatasets, tmp_path: Path) -> None:
    assert built.test is not None
    with pytest.raises(ModelError, match="virft-tinny: there is no such folder; did you mean virft-tiny"):
        evaluate("virft-tinny", built.test)
    with pytest.raises(DataError, match=r"has no card\.json"):
        evaluate("virft-tiny", tmp_path)


def scores(task: str, **values: float) -> Scores:
    name = next(iter(values))
    return Scores(
        task=task,
        protocol="all",
        data_hash="",
        num_samples=4,
        values=values,
        intervals={name: (values[name] - 0.125, values[name] + 0.125)},
    )


def evaluation(*tasks: Scores, model: str = "m") -> Evaluation:
    found = EvaluatedPredictions(path=Path("p"), scores=tasks, blind=(), blind_data=BlindData(stores=()))
    return Evaluation(model=model, data="d", predictions=found)


def test_an_evaluation_shows_intervals_first_and_folds_the_rest() -> None:
    one = evaluation(scores("grounding", box_miou=0.5, unreadable_frac=0.25), model="<m>")
    page = one._repr_html_()
    assert "<b>&lt;m&gt;</b> on d: grounding, 4 samples" in page
    assert '<th scope="row">box_miou</th><td>0.500</td><td>0.375 to 0.625</td>' in page
    assert "<summary>1 more scores</summary>" in page
    assert repr(one) == "<Evaluation of <m> on d: box_miou 0.500>"
    assert "box_miou" in str(one)


def test_scores_of_several_tasks_have_the_task_in_their_names() -> None:
    both = evaluation(scores("grounding", box_miou=0.5), scores("classification", accuracy=0.75))
    assert both.values == {"grounding/box_miou": 0.5, "classification/accuracy": 0.75}
    assert both.intervals["classification/accuracy"] == (0.625, 0.875)
    table = both.to_pandas()
    assert table.to_dict("records")[1] == {
        "task": "classification", "score": "accuracy", "value": 0.75, "low": 0.625, "high": 0.875, "num_samples": 4,
    }  # fmt: skip
