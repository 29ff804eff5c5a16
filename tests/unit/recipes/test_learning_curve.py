"""Nested subsets of the training images, and errors before anything is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from factories import detections, sample, save_coco
from run_parts import make_config
from virft.cli.main import main
from virft.config.schema import Config, DataConfig, RunConfig
from virft.data.store import Store
from virft.errors import ConfigError, RunError
from virft.metrics.learning_curve import CurvePoint, FittedCurve
from virft.recipes.learning_curve import (
    OPTIONS,
    CurveOptions,
    MeasuredCurve,
    _warnings,
    _write_subset,
    curve_lines,
    curve_tree,
    nested_images,
    run_curve,
    saved_options,
)

TWO = {f"{i}.png": [("cat" if i % 4 else "dog", [10, 10, 20, 30])] for i in range(12)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Nine images of a cat and three of a dog, and the same as validation data."""
    save_coco(tmp_path, TWO)
    for name in ("train", "validation"):
        command = ["build", "coco", tmp_path / "annotations.json", tmp_path / "images", tmp_path / "d" / name]
        assert main([str(one) for one in command]) == 0
    return tmp_path / "d"


def config_of(data: Path, run: Path) -> Config:
    return make_config(
        data=DataConfig(train=str(data / "train"), validation=str(data / "validation")), run=RunConfig(dir=str(run))
    )


def test_every_beginning_of_the_images_has_its_classes_in_balance(data: Path) -> None:
    store = Store(data / "train")
    label = {one.images[0]: one.query for one in store}
    order = nested_images(store, seed=0)
    assert sorted(order) == sorted(label)
    # dogs are rarer, so they alternate with cats as long as there are any
    assert [sorted(label[image] for image in order[i : i + 2]) for i in (0, 2, 4)] == [["cat", "dog"]] * 3
    assert {label[image] for image in order[6:]} == {"cat"}
    assert nested_images(store, seed=0) == order != nested_images(store, seed=1)


def test_images_without_classes_are_in_the_order_too() -> None:
    samples = [sample(detections(), id=str(i), image=f"images/{i}.png") for i in range(3)]
    assert sorted(nested_images(samples, seed=0)) == [f"images/{i}.png" for i in range(3)]


def test_a_subset_is_a_dataset_of_all_samples_about_its_images(data: Path, tmp_path: Path) -> None:
    store = Store(data / "train")
    images = nested_images(store, seed=0)[:4]
    subset = Store(_write_subset(store, images, tmp_path / "subset"))
    subset.check(decode=True)
    assert [one.id for one in subset] == [one.id for one in store if one.images[0] in images]
    assert [one.target for one in subset] == [one.target for one in store if one.images[0] in images]
    before = (tmp_path / "subset" / "samples.jsonl").stat().st_mtime_ns
    _write_subset(store, images, tmp_path / "subset")
    assert (tmp_path / "subset" / "samples.jsonl").stat().st_mtime_ns == before


def test_missing_validation_data_is_refused(data: Path, tmp_path: Path) -> None:
    config = config_of(data, tmp_path / "run")
    config = replace(config, data=replace(config.data, validation=None))
    with pytest.raises(ConfigError, match=r"^data\.validation is not set; expected a validation dataset"):
        run_curve(config, "sft", log=print)
    assert not (tmp_path / "run").exists()


def test_fractions_that_give_one_number_of_images_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 12 images, of which the fractions 1 are 12; expected at least two"):
        run_curve(config_of(data, tmp_path / "run"), "sft", fractions=(1.0,), log=print)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_other_content_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty and holds no learning curve"):
        run_curve(config_of(data, tmp_path / "run"), "sft", log=print)


def point(num_images: int, *scores: float) -> CurvePoint:
    offsets = np.linspace(-0.02, 0.02, 21)
    return CurvePoint(num_images=num_images, scores=scores, resampled=np.array([one + offsets for one in scores]))


def warnings_of(points: list[CurvePoint], *, base: float = 0.1, num_questions: int = 200) -> str:
    fitted = FittedCurve(points)
    doubled = fitted.extrapolate(2 * points[-1].num_images)
    return "\n".join(_warnings(points, fitted, doubled, base=base, num_questions=num_questions))


def test_a_good_curve_has_no_warnings() -> None:
    assert warnings_of([point(8, 0.30, 0.31), point(16, 0.36, 0.37), point(32, 0.41, 0.40)]) == ""


@pytest.mark.parametrize(
    ("points", "more", "expected"),
    [
        ([(8, 0.40, 0.41), (16, 0.40, 0.40), (32, 0.40, 0.41)], {}, "the fit says nothing about more images"),
        ([(16, 0.36, 0.37), (32, 0.41, 0.40)], {}, "two numbers of images"),
        ([(8, 0.30, 0.30), (16, 0.60, 0.60), (32, 0.35, 0.35)], {}, "the curve misses the measured scores by 0."),
        ([(8, 0.30), (16, 0.36), (32, 0.41)], {}, "one seed: "),
        ([(8, 0.30, 0.31), (16, 0.36, 0.37), (32, 0.41, 0.40)], {"num_questions": 20}, "few validation questions (20)"),
        (
            [(8, 0.30, 0.31), (16, 0.36, 0.37), (32, 0.41, 0.40)],
            {"base": 0.5},
            "not clearly above the base model's 0.5",
        ),
    ],
)
def test_curves_that_say_little_have_a_warning(
    points: list[tuple[float, ...]], more: dict[str, float], expected: str
) -> None:
    assert expected in warnings_of([point(int(size), *scores) for size, *scores in points], **more)  # type: ignore[arg-type]


def test_text_and_json_have_the_same_numbers() -> None:
    # 0.6 - 0.8 / sqrt(n)
    points = (point(16, 0.40), point(64, 0.50))
    fitted = FittedCurve(points)
    found = MeasuredCurve(
        method="sft",
        metric="f1",
        base=0.2,
        points=points,
        runs=((Path("a"),), (Path("b"),)),
        fitted=fitted,
        doubled=fitted.extrapolate(128),
        warnings=("one seed",),
    )
    assert curve_lines(found) == [
        "validation F1, 95 % confidence intervals",
        "  base model: 0.200",
        "  16 images: 0.400 (0.381 to 0.419)",
        "  64 images: 0.500 (0.481 to 0.519)",
        "Twice the images (128) would give about 0.53 (0.51 to 0.55); fit: 0.600 - 0.800 / sqrt(images)",
        "warning: one seed",
    ]
    tree = json.loads(json.dumps(curve_tree(found)))
    assert tree["doubled"]["num_images"] == 128
    assert tree["doubled"]["score"] == pytest.approx(0.5293, abs=1e-4)
    assert [one["scores"] for one in tree["points"]] == [[0.4], [0.5]]


def test_options_are_read_from_the_folder(tmp_path: Path) -> None:
    assert saved_options(tmp_path) == CurveOptions()
    (tmp_path / OPTIONS).write_text('{"method": "sft", "fractions": [0.5], "seeds": 2}')
    assert saved_options(tmp_path) == CurveOptions(method="sft", fractions=(0.5,), seeds=2)


@pytest.mark.parametrize("text", ["", "[]", '{"method": "sft"}'])
def test_options_that_cannot_be_read_are_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / OPTIONS).write_text(text)
    with pytest.raises(RunError, match=r"curve_options\.json: cannot be read .*; delete it and give --method"):
        saved_options(tmp_path)
