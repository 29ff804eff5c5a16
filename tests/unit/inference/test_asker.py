"""The built-in model is asked about scenes it has not seen, and about pictures as cameras write them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from factories import save_picture
from thinking_models import save_thinking_folder
from virft.data.sources.scenes import write_test_scenes
from virft.data.store import Store
from virft.errors import ConfigError, DataError, ModelError
from virft.geometry.boxes import intersection_over_union
from virft.inference.asker import Asker
from virft.inference.questions import Question
from virft.inference.result import Answered
from virft.models.load import LoadedModel, load_model
from virft.models.tiny import IMAGE_SIZE, TINY_NAME
from virft.scenes.sets import SceneKind
from virft.types import Box, Detections, Label, Sample, Unreadable


@pytest.fixture(scope="module")
def tiny() -> Iterator[LoadedModel]:
    yield load_model(TINY_NAME)


@pytest.fixture(scope="module")
def dog(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Where is the dog? One is there."""
    folder = tmp_path_factory.mktemp("scenes") / "dog"
    write_test_scenes(
        folder, task="detection", classes=["dog"], num_questions=1, kind=SceneKind.SAME_SPRITES, seed=0,
        negatives_frac=0.0, size=IMAGE_SIZE,
    )  # fmt: skip
    return Store(folder)[0]


def target(sample: Sample) -> Box:
    assert isinstance(sample.target, Detections)
    return sample.target.items[0].box


def test_the_dog_is_found_in_pixels_of_the_picture(tiny: LoadedModel, dog: Sample) -> None:
    answered = Asker(tiny).answer(Question(image=Path(dog.images[0]), query="dog"))
    assert isinstance(answered.reading.answer, Detections)
    (found,) = answered.reading.answer.items
    assert intersection_over_union(found.box.xyxy, target(dog).xyxy) > 0.5
    assert answered.picture.size == (IMAGE_SIZE, IMAGE_SIZE)
    assert answered.reading.text == answered.completion.text


def test_a_larger_picture_has_larger_boxes(tiny: LoadedModel, dog: Sample, tmp_path: Path) -> None:
    with Image.open(dog.images[0]) as image:
        image.resize((448, 448), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    answered = Asker(tiny).answer(Question(image=tmp_path / "large.png", query="dog", task="grounding"))
    assert isinstance(answered.reading.answer, Box)
    four_times = [4 * value for value in target(dog).xyxy]
    assert intersection_over_union(answered.reading.answer.xyxy, tuple(four_times)) > 0.5  # type: ignore[arg-type]


def test_a_domain_is_answered_by_a_name(tiny: LoadedModel, dog: Sample) -> None:
    question = Question(image=Path(dog.images[0]), query="animal", task="classification")
    assert isinstance(Asker(tiny).answer(question).reading.answer, Label)


def test_a_picture_is_asked_about_as_it_is_shown(tiny: LoadedModel, dog: Sample, tmp_path: Path) -> None:
    with Image.open(dog.images[0]) as upright:
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned right by a quarter: so it lies turned left
        upright.convert("RGB").transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    asker = Asker(tiny)
    turned = asker.answer(Question(image=tmp_path / "turned.png", query="dog"))
    assert turned.completion == asker.answer(Question(image=Path(dog.images[0]), query="dog")).completion


def test_a_temperature_draws_by_seed_and_number(tiny: LoadedModel, dog: Sample) -> None:
    question = Question(image=Path(dog.images[0]), query="top hat")

    def texts(seed: int) -> list[str]:
        asker = Asker(tiny, temperature=10.0, seed=seed, max_completion_tokens=12)
        return [asker.answer(question, number=number).completion.text for number in (0, 1, 0)]

    first, second, again = texts(0)
    assert first == again != second
    assert texts(1)[0] != first


def test_an_answer_without_its_end_is_unreadable_and_says_so(tiny: LoadedModel, dog: Sample) -> None:
    answered = Asker(tiny, max_completion_tokens=3).answer(Question(image=Path(dog.images[0]), query="dog"))
    assert answered.completion.truncated
    assert isinstance(answered.reading.answer, Unreadable)


def test_thinking_is_asked_for_and_expected(tiny: LoadedModel, dog: Sample, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Detect {query}.")
    question = Question(image=Path(dog.images[0]), query="dog")
    plain = Asker(tiny, template=str(tmp_path / "mine.txt")).answer(question)
    thinking = Asker(tiny, template=str(tmp_path / "mine.txt"), thinking=True).answer(question)
    assert plain.completion == thinking.completion  # a text of one's own says by itself whether to think
    assert (plain.reading.well_formed, thinking.reading.well_formed) == (True, False)


@pytest.mark.parametrize("query", ['the "fox\'s" tail', "日本", "a" * 3000, "{query}", "<think>"])
def test_any_words_may_be_asked_for(tiny: LoadedModel, tmp_path: Path, query: str) -> None:
    image = save_picture(tmp_path / "a.png", (112, 112))
    assert Asker(tiny, max_completion_tokens=4).answer(Question(image=image, query=query)).completion.token_ids


def test_a_question_with_an_image_placeholder_is_told(tiny: LoadedModel, tmp_path: Path) -> None:
    image = save_picture(tmp_path / "a.png", (112, 112))
    with pytest.raises(DataError, match=r"a\.png: the question holds 1 image placeholders of its own; expected none"):
        Asker(tiny).answer(Question(image=image, query="<|image_pad|>"))


@pytest.mark.parametrize("spoil", ["missing", "cut", "text", "folder", "thin"])
def test_a_picture_that_cannot_be_used_is_told(tiny: LoadedModel, tmp_path: Path, spoil: str) -> None:
    image = tmp_path / "a.png"
    if spoil == "cut":
        image.write_bytes(save_picture(image).read_bytes()[:500])
    elif spoil == "text":
        image.write_text("a fox")
    elif spoil == "folder":
        image.mkdir()
    elif spoil == "thin":
        save_picture(image, (2, 500))
    with pytest.raises(DataError, match=r"a\.png: "):
        Asker(tiny).answer(Question(image=image, query="fox"))


def test_a_template_that_is_not_there_is_told(tiny: LoadedModel) -> None:
    with pytest.raises(ConfigError, match=r"cannot read none\.txt"):
        Asker(tiny, template="none.txt")


def test_a_thought_that_the_template_begins_is_shown_from_the_first_token(dog: Sample, tmp_path: Path) -> None:
    loaded = load_model(str(save_thinking_folder(tmp_path / "thinking")))
    asker = Asker(loaded, thinking=True, max_completion_tokens=6)
    *texts, answered = asker.stream(Question(image=Path(dog.images[0]), query="dog"))
    assert isinstance(answered, Answered)
    assert all(isinstance(text, str) and text.startswith("<think>\n") for text in texts)
    assert answered.completion.text.startswith("<think>\n")
    assert answered.completion == asker.answer(answered.question).completion
    with pytest.raises(ModelError, match="begins a thought in every answer"):
        Asker(loaded)
