"""The built-in model answers queries about scenes it was not trained on, and about images as cameras write them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from factories import save_image
from thinking_models import save_thinking_folder
from virft.data.sources.scenes import write_test_scenes
from virft.data.store import Store
from virft.errors import ConfigError, DataError, ModelError
from virft.geometry.boxes import intersection_over_union
from virft.inference.model import Model, load
from virft.inference.queries import ImageQuery
from virft.inference.result import Result
from virft.models.load import LoadedModel, load_model
from virft.models.tiny import IMAGE_SIZE, TINY_NAME
from virft.scenes.sets import SceneKind
from virft.types import Box, Detections, Label, Sample, Unreadable


@pytest.fixture(scope="module")
def tiny() -> Iterator[LoadedModel]:
    yield load_model(TINY_NAME)


@pytest.fixture(scope="module")
def dog(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A detection sample of a scene with one dog."""
    folder = tmp_path_factory.mktemp("scenes") / "dog"
    write_test_scenes(
        folder, task="detection", classes=["dog"], num_questions=1, kind=SceneKind.SAME_SPRITES, seed=0,
        negatives_frac=0.0, size=IMAGE_SIZE,
    )  # fmt: skip
    return Store(folder)[0]


def target(sample: Sample) -> Box:
    assert isinstance(sample.target, Detections)
    return sample.target.items[0].box


def test_the_dog_is_found_in_pixels_of_the_image(tiny: LoadedModel, dog: Sample) -> None:
    result = Model(tiny).answer(ImageQuery(image=Path(dog.images[0]), query="dog"))
    assert isinstance(result.reading.answer, Detections)
    (found,) = result.reading.answer.items
    assert intersection_over_union(found.box.xyxy, target(dog).xyxy) > 0.5
    assert result.image.size == (IMAGE_SIZE, IMAGE_SIZE)
    assert result.reading.text == result.completion.text


def test_a_larger_image_has_larger_boxes(tiny: LoadedModel, dog: Sample, tmp_path: Path) -> None:
    with Image.open(dog.images[0]) as image:
        image.resize((448, 448), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    result = Model(tiny).answer(ImageQuery(image=tmp_path / "large.png", query="dog", task="grounding"))
    assert isinstance(result.reading.answer, Box)
    four_times = [4 * value for value in target(dog).xyxy]
    assert intersection_over_union(result.reading.answer.xyxy, tuple(four_times)) > 0.5  # type: ignore[arg-type]


def test_a_domain_is_result_by_a_label(tiny: LoadedModel, dog: Sample) -> None:
    query = ImageQuery(image=Path(dog.images[0]), query="animal", task="classification")
    assert isinstance(Model(tiny).answer(query).reading.answer, Label)


def test_an_image_is_upright_for_the_model(tiny: LoadedModel, dog: Sample, tmp_path: Path) -> None:
    with Image.open(dog.images[0]) as upright:
        exif = Image.Exif()
        exif[0x0112] = (
            6  # rotated by a quarter turn to the right when it is displayed: so it is stored rotated to the left
        )
        upright.convert("RGB").transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    model = Model(tiny)
    turned = model.answer(ImageQuery(image=tmp_path / "turned.png", query="dog"))
    assert turned.completion == model.answer(ImageQuery(image=Path(dog.images[0]), query="dog")).completion


def test_sampling_depends_on_seed_and_number(tiny: LoadedModel, dog: Sample) -> None:
    query = ImageQuery(image=Path(dog.images[0]), query="top hat")

    def texts(seed: int) -> list[str]:
        model = Model(tiny, temperature=10.0, seed=seed, max_completion_tokens=12)
        return [model.answer(query, number=number).completion.text for number in (0, 1, 0)]

    first, second, again = texts(0)
    assert first == again != second
    assert texts(1)[0] != first


def test_a_truncated_answer_is_unreadable(tiny: LoadedModel, dog: Sample) -> None:
    result = Model(tiny, max_completion_tokens=3).answer(ImageQuery(image=Path(dog.images[0]), query="dog"))
    assert result.completion.truncated
    assert isinstance(result.reading.answer, Unreadable)


def test_thinking_is_requested_and_expected(tiny: LoadedModel, dog: Sample, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Detect {query}.")
    query = ImageQuery(image=Path(dog.images[0]), query="dog")
    plain = Model(tiny, template=str(tmp_path / "mine.txt")).answer(query)
    thinking = Model(tiny, template=str(tmp_path / "mine.txt"), thinking=True).answer(query)
    assert plain.completion == thinking.completion  # nothing is added to a user's own template
    assert (plain.reading.well_formed, thinking.reading.well_formed) == (True, False)


@pytest.mark.parametrize("query", ['the "fox\'s" tail', "日本", "a" * 1500, "{query}", "<think>"])
def test_a_query_may_be_any_text(tiny: LoadedModel, tmp_path: Path, query: str) -> None:
    image = save_image(tmp_path / "a.png", (112, 112))
    assert Model(tiny, max_completion_tokens=4).answer(ImageQuery(image=image, query=query)).completion.token_ids


def test_a_query_longer_than_the_context_is_an_error(tiny: LoadedModel, tmp_path: Path) -> None:
    image = save_image(tmp_path / "a.png", (112, 112))
    message = r"a\.png: the prompt has 30\d\d tokens, 16 of them of images; expected fewer than the 2048 that"
    with pytest.raises(DataError, match=message):
        Model(tiny).answer(ImageQuery(image=image, query="a" * 3000))


def test_an_image_placeholder_in_a_query_is_an_error(tiny: LoadedModel, tmp_path: Path) -> None:
    image = save_image(tmp_path / "a.png", (112, 112))
    with pytest.raises(DataError, match=r"a\.png: the question holds 1 image placeholders of its own; expected none"):
        Model(tiny).answer(ImageQuery(image=image, query="<|image_pad|>"))


@pytest.mark.parametrize("fault", ["missing", "cut", "text", "folder", "thin"])
def test_an_unreadable_image_is_an_error(tiny: LoadedModel, tmp_path: Path, fault: str) -> None:
    image = tmp_path / "a.png"
    if fault == "cut":
        image.write_bytes(save_image(image).read_bytes()[:500])
    elif fault == "text":
        image.write_text("a fox")
    elif fault == "folder":
        image.mkdir()
    elif fault == "thin":
        save_image(image, (2, 500))
    with pytest.raises(DataError, match=r"a\.png: "):
        Model(tiny).answer(ImageQuery(image=image, query="fox"))


def test_a_missing_template_is_an_error(tiny: LoadedModel) -> None:
    with pytest.raises(ConfigError, match=r"cannot read none\.txt"):
        Model(tiny, template="none.txt")


def test_a_think_tag_opened_by_the_template_is_part_of_the_streamed_text(dog: Sample, tmp_path: Path) -> None:
    loaded = load_model(str(save_thinking_folder(tmp_path / "thinking")))
    model = Model(loaded, thinking=True, max_completion_tokens=6)
    *texts, result = model.stream(ImageQuery(image=Path(dog.images[0]), query="dog"))
    assert isinstance(result, Result)
    assert all(isinstance(text, str) and text.startswith("<think>\n") for text in texts)
    assert result.completion.text.startswith("<think>\n")
    assert result.completion == model.answer(result.query).completion
    with pytest.raises(ModelError, match="begins a think block in every completion"):
        Model(loaded)


def test_detect_classify_and_ground_are_queries_of_their_tasks(tiny: LoadedModel, dog: Sample) -> None:
    model = Model(tiny)
    for found, task in (
        (model.detect(dog.images[0], "dog"), "detection"),
        (model.classify(dog.images[0], "animal"), "classification"),
        (model.ground(dog.images[0], "the dog"), "grounding"),
    ):
        query = ImageQuery(image=Path(dog.images[0]), query=found.query.query, task=task)
        assert found.query == query
        assert found.completion == model.answer(query).completion


def test_a_path_an_image_and_an_array_get_the_same_answer(tiny: LoadedModel, dog: Sample) -> None:
    model = Model(tiny)
    with Image.open(dog.images[0]) as opened:
        image = opened.convert("RGB")
    results = [model.detect(one, "dog") for one in (dog.images[0], Path(dog.images[0]), image, np.asarray(image))]
    assert len({result.completion.token_ids for result in results}) == 1
    assert [result.query.image_name for result in results] == [*[dog.images[0]] * 2, "image", "image"]


def test_a_batch_gets_the_answers_of_its_images_in_their_order(
    tiny: LoadedModel, dog: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("virft.inference.model._BATCH_SIZE", 2)  # three images in two batches
    model = Model(tiny)
    images = [dog.images[0], str(save_image(tmp_path / "a.png", (112, 112))), dog.images[0]]
    found = model.detect(images, "dog")
    assert [one.text for one in found] == [model.detect(image, "dog").text for image in images]
    assert found[0].text != found[1].text
    with Image.open(dog.images[0]) as opened:
        names = [one.query.image_name for one in model.detect([opened, np.asarray(opened), images[1]], "dog")]
    assert names == [dog.images[0], "image 1", images[1]]
    assert model.detect([], "dog") == []


def test_images_of_a_batch_have_random_streams_of_their_own(tiny: LoadedModel, dog: Sample) -> None:
    model = Model(tiny, temperature=10.0, max_completion_tokens=12)
    first, second = model.detect([dog.images[0]] * 2, "dog")
    assert first.text != second.text


def test_an_unknown_task_is_an_error(tiny: LoadedModel, dog: Sample) -> None:
    with pytest.raises(ConfigError, match="task is 'detect'; expected one of detection, classification, grounding"):
        Model(tiny).ask(dog.images[0], "dog", task="detect")


@pytest.mark.parametrize(("dtype", "expected"), [("auto", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")])
def test_load_sets_the_weights_dtype(dog: Sample, dtype: Any, expected: str) -> None:
    model = load(TINY_NAME, dtype=dtype, device="cpu")
    assert str(model.loaded.model.dtype) == f"torch.{expected}"
    assert repr(model) == "<Model virft-tiny on cpu>"
    assert isinstance(model.detect(dog.images[0], "dog").answer, Detections)


def test_load_refuses_other_dtypes_and_missing_models() -> None:
    with pytest.raises(ConfigError, match="dtype is 'float16'; expected auto, float32 or bfloat16"):
        load(TINY_NAME, dtype="float16")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"no/such/model: there is no such folder"):
        load("no/such/model")
