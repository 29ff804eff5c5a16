"""Questions of an annotated dataset, with boxes in pixels of the upright image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from factories import detections, save_image
from virft.data.annotations import AnnotatedImage, AnnotatedSet, Skipped
from virft.data.detection_questions import QuestionPlan, write_detection_stores
from virft.data.images import raw_to_upright
from virft.data.sampling import SplitPlan
from virft.data.store import Store
from virft.errors import ConfigError, DataError
from virft.recipes.build_options import problem_lines
from virft.types import ImageSize

SIZE = ImageSize(64, 48)
BOX = (10.0, 10.0, 30.0, 40.0)


def annotated_set(
    folder: Path, shown: dict[str, tuple[str, ...]], *, classes: tuple[str, ...] = ("cat", "dog")
) -> AnnotatedSet:
    """Images of 64 x 48 with one box of each class that they show."""
    return AnnotatedSet(
        images={
            name: AnnotatedImage(
                name=name,
                file=save_image(folder / name, SIZE, seed=number),
                declared=SIZE,
                boxes=dict.fromkeys(labels, (BOX,)),
            )
            for number, (name, labels) in enumerate(shown.items())
        },
        classes=classes,
    )


def ids(folder: Path) -> list[str]:
    return [sample.id for sample in Store(folder)]


def test_every_class_is_queried_on_every_image_that_shows_it(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {"b.png": ("dog",), "a.png": ("cat", "dog"), "c.png": ()})
    write_detection_stores(images, tmp_path / "d", plan=QuestionPlan(), source={}, skipped=Skipped())
    assert ids(tmp_path / "d") == ["a.png:cat", "a.png:dog", "b.png:dog"]
    assert Store(tmp_path / "d")[0].target == detections(BOX)


def test_a_class_that_was_not_sampled_is_not_queried(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {f"{i}.png": ("cat", "dog") for i in range(20)})
    write_detection_stores(images, tmp_path / "d", plan=QuestionPlan(shots=2), source={}, skipped=Skipped())
    found = ids(tmp_path / "d")
    assert len(found) == 4
    assert sum(one.endswith(":cat") for one in found) == 2


def test_absent_classes_are_queried_with_an_empty_target(tmp_path: Path) -> None:
    shown: dict[str, tuple[str, ...]] = {f"{i}.png": ("cat",) for i in range(6)}
    images = annotated_set(tmp_path / "p", shown)
    plan = QuestionPlan(negatives_frac=0.25)
    cards = write_detection_stores(images, tmp_path / "d", plan=plan, source={}, skipped=Skipped())
    # 2 of 6 + 2 questions
    dog = cards[str(tmp_path / "d")]["counts"]["detection"]["dog"]
    assert (dog["questions"], dog["boxes"], dog["absent"]) == (2, 0, 2)
    assert cards[str(tmp_path / "d")]["negatives_frac"] == 0.25
    assert [sample.target for sample in Store(tmp_path / "d") if sample.query == "dog"] == [detections()] * 2


def test_a_doubtful_class_is_never_queried_as_absent(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {"a.png": ("cat",)})
    one = images.images["a.png"]
    doubtful = AnnotatedImage(
        name=one.name, file=one.file, declared=one.declared, boxes=one.boxes, doubtful=frozenset({"dog"})
    )
    crowded = AnnotatedSet(images={"a.png": doubtful}, classes=images.classes)
    plan = QuestionPlan(negatives_frac=0.5)
    write_detection_stores(crowded, tmp_path / "d", plan=plan, source={}, skipped=Skipped())
    assert ids(tmp_path / "d") == ["a.png:cat"]


@pytest.mark.parametrize("more", [{"negatives_frac": 0.9}, {"every_class": True}, {"query_map": {"a.png": {"dog"}}}])
def test_an_image_with_a_dropped_record_of_unknown_class_is_not_queried(tmp_path: Path, more: Any) -> None:
    images = annotated_set(tmp_path / "p", {"a.png": ("cat",), "b.png": ("dog",)})
    unknown = replace(images.images["a.png"], is_doubtful=True)
    partly = replace(images, images={**images.images, "a.png": unknown})
    cards = write_detection_stores(partly, tmp_path / "d", plan=QuestionPlan(**more), source={}, skipped=Skipped())
    assert "b.png:dog" in ids(tmp_path / "d")
    assert not {"a.png:cat", "a.png:dog"} & set(ids(tmp_path / "d"))
    assert cards[str(tmp_path / "d")]["source"]["num_undetermined"] == 1


def test_a_pair_with_a_dropped_box_is_not_queried_and_counted(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {"a.png": ("cat",), "b.png": ("cat", "dog")})
    partly = replace(
        images, images={**images.images, "b.png": replace(images.images["b.png"], doubtful=frozenset({"cat"}))}
    )
    for plan in (QuestionPlan(negatives_frac=0.5), QuestionPlan(every_class=True), QuestionPlan(shots=1)):
        cards = write_detection_stores(partly, tmp_path / "d", plan=plan, source={}, skipped=Skipped(), overwrite=True)
        assert "b.png:cat" not in ids(tmp_path / "d")
        assert cards[str(tmp_path / "d")]["source"]["num_undetermined"] == 1


def test_a_repeated_box_of_a_class_is_one_object(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {"a.png": ("cat", "dog")})
    other = (1.0, 2.0, 30.0, 40.0)
    twice = replace(
        images.images["a.png"],
        boxes={"cat": (BOX, other, BOX, BOX), "dog": (BOX,)},
        areas={"cat": (1.0, 2.0, 3.0, 4.0)},
    )
    partly = replace(images, images={"a.png": twice})
    cards = write_detection_stores(partly, tmp_path / "d", plan=QuestionPlan(), source={}, skipped=Skipped())
    cat, dog = Store(tmp_path / "d")
    assert (cat.target, cat.areas, dog.target) == (detections(BOX, other), (1.0, 2.0), detections(BOX))
    assert cards[str(tmp_path / "d")]["source"]["num_repeated_boxes"] == 2
    counting = QuestionPlan(task="counting")
    write_detection_stores(partly, tmp_path / "c", plan=counting, source={}, skipped=Skipped())
    assert [str(sample.target) for sample in Store(tmp_path / "c")] == ["2", "1"]


def test_clipped_boxes_are_counted_and_printed_with_other_changes(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {"a.png": ("cat", "dog")})
    outside = replace(
        images.images["a.png"], boxes={"cat": ((-3.0, 2.0, 30.0, 51.0), (1.0, 2.0, 30.0, 48.5)), "dog": (BOX, BOX)}
    )
    partly = replace(images, images={"a.png": outside}, notes=("a note",))
    cards = write_detection_stores(partly, tmp_path / "d", plan=QuestionPlan(), source={}, skipped=Skipped())
    cat, _ = Store(tmp_path / "d")
    assert cat.target == detections((0, 2, 30, 48), (1, 2, 30, 48))
    assert problem_lines(cards) == [
        "a note",
        "boxes removed that repeat another one of the same class: 1",
        "boxes clipped that reach more than a pixel outside their image: 1",
    ]


def test_a_few_shot_set_uses_only_the_sampled_images(tmp_path: Path) -> None:
    shown: dict[str, tuple[str, ...]] = {f"{i}.png": ("cat",) if i % 2 else ("dog",) for i in range(20)}
    images = annotated_set(tmp_path / "p", shown)
    plan = QuestionPlan(shots=2, negatives_frac=0.9)
    cards = write_detection_stores(images, tmp_path / "d", plan=plan, source={}, skipped=Skipped())
    assert cards[str(tmp_path / "d")]["num_images"] == 4
    assert cards[str(tmp_path / "d")]["negatives_frac"] == 0.5


def test_train_and_test_share_not_an_image(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {f"{i}.png": ("cat",) for i in range(20)})
    plan = QuestionPlan(shots=3, split=SplitPlan(test_frac=0.3))
    classes = AnnotatedSet(images=images.images, classes=("cat",))
    write_detection_stores(classes, tmp_path / "d", plan=plan, source={}, skipped=Skipped())
    train, test = set(ids(tmp_path / "d" / "train")), set(ids(tmp_path / "d" / "test"))
    assert (len(train), len(test), len(train & test)) == (3, 6, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("drawn_on", ["upright", "raw"])
def test_the_declared_size_decides_on_which_image_boxes_were_drawn(
    tmp_path: Path, orientation: int, drawn_on: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = save_image(tmp_path / "a.png", SIZE, exif=exif)
    sideways = orientation >= 5
    upright = ImageSize(48, 64) if sideways else SIZE
    declared = upright if drawn_on == "upright" else SIZE
    image = AnnotatedImage(name="a.png", file=file, declared=declared, boxes={"cat": ((1.0, 2.0, 30.0, 40.0),)})
    images = AnnotatedSet(images={"a.png": image}, classes=("cat",))
    cards = write_detection_stores(images, tmp_path / "d", plan=QuestionPlan(), source={}, skipped=Skipped())
    sample = Store(tmp_path / "d")[0]
    # A size that fits both images is that of the upright one.
    was_rotated = drawn_on == "raw" and sideways
    expected = raw_to_upright((1.0, 2.0, 30.0, 40.0), SIZE, orientation) if was_rotated else (1.0, 2.0, 30.0, 40.0)
    assert sample.target == detections(expected)
    assert sample.target_size == upright
    assert cards[str(tmp_path / "d")]["source"]["num_images_annotated_unrotated"] == was_rotated


def truncate(images: AnnotatedSet, name: str) -> None:
    path = images.images[name].file
    path.write_bytes(path.read_bytes()[:200])


def test_invalid_image_is_skipped_and_reported_without_its_folder(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {"a.png": ("cat",), "b.png": ("cat",), "c.png": ("cat",)})
    truncate(images, "a.png")
    images.images["b.png"].file.unlink()
    skipped = Skipped()
    cards = write_detection_stores(images, tmp_path / "d", plan=QuestionPlan(), source={}, skipped=skipped)
    assert ids(tmp_path / "d") == ["c.png:cat"]
    card = cards[str(tmp_path / "d")]
    assert card["num_skipped"] == 2
    assert [record["where"] for record in card["skipped"]] == ["image a.png", "image b.png"]
    assert card["skipped"][0]["reason"].startswith("cannot be read as an image")
    assert card["skipped"][1]["reason"] == "no such image"
    assert str(tmp_path) not in str(card["skipped"])


def test_strict_stops_at_a_corrupt_image(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {"a.png": ("cat",), "b.png": ("cat",)})
    truncate(images, "a.png")
    with pytest.raises(DataError, match=r"image a\.png: cannot be read as an image"):
        write_detection_stores(images, tmp_path / "d", plan=QuestionPlan(), source={}, skipped=Skipped(strict=True))
    assert not (tmp_path / "d").exists()


def test_an_image_of_another_size_is_reported(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {"a.png": ("cat",), "b.png": ("cat",)})
    save_image(images.images["a.png"].file, (32, 24))
    skipped = Skipped()
    write_detection_stores(images, tmp_path / "d", plan=QuestionPlan(), source={}, skipped=skipped)
    reason = "the file is 32x24, the annotation says 64x48; expected the same size"
    assert skipped.records == [("image a.png", reason)]


def test_too_few_shots_are_an_error_before_anything_is_written(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {"a.png": ("cat",), "b.png": ("dog",)})
    with pytest.raises(ConfigError, match=r"fewer than 2 usable images \(shots\): 'cat' \(1\), 'dog' \(1\)"):
        write_detection_stores(images, tmp_path / "d", plan=QuestionPlan(shots=2), source={}, skipped=Skipped())
    assert not (tmp_path / "d").exists()


def test_two_datasets_are_not_written_into_another(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {"a.png": ("cat",), "b.png": ("cat",)})
    write_detection_stores(images, tmp_path / "d", plan=QuestionPlan(), source={}, skipped=Skipped())
    with pytest.raises(DataError, match=r"d: holds a dataset already; expected a folder for the datasets train and"):
        write_detection_stores(
            images,
            tmp_path / "d",
            plan=QuestionPlan(split=SplitPlan(test_frac=0.5)),
            source={},
            skipped=Skipped(),
            overwrite=True,
        )


def test_a_protocol_queries_every_class_on_every_image(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {"a.png": ("cat",), "b.png": ("dog",), "c.png": ()})
    cards = write_detection_stores(
        images, tmp_path / "d", plan=QuestionPlan(every_class=True), source={}, skipped=Skipped()
    )
    assert ids(tmp_path / "d") == [f"{image}.png:{label}" for image in "abc" for label in ("cat", "dog")]
    assert cards[str(tmp_path / "d")]["source"]["protocol"] == "all"


def test_a_class_outside_the_query_map_is_stored_as_not_queried(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {"a.png": ("cat", "dog"), "b.png": ("dog",), "c.png": ()})
    query_map = {"a.png": frozenset({"cat"}), "b.png": frozenset({"cat", "dog"})}
    plan = QuestionPlan(query_map=query_map)
    cards = write_detection_stores(images, tmp_path / "d", plan=plan, source={}, skipped=Skipped())
    found = {sample.id: (sample.queried, len(sample.target.items)) for sample in Store(tmp_path / "d")}  # type: ignore[union-attr]
    assert found == {"a.png:cat": (True, 1), "a.png:dog": (False, 1), "b.png:cat": (True, 0), "b.png:dog": (True, 1)}
    assert cards[str(tmp_path / "d")]["source"]["protocol"] == "map"


@pytest.mark.parametrize("more", [{"shots": 2}, {"negatives_frac": 0.1}, {"query_map": {}}])
def test_a_protocol_cannot_be_combined(more: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"--protocol cannot be combined"):
        QuestionPlan(every_class=True, **more)  # type: ignore[arg-type]


def test_a_task_whose_target_does_not_follow_from_boxes_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"--task grounding: .*expected detection or counting"):
        QuestionPlan(task="grounding")


def test_a_class_with_objects_without_a_box_is_not_counted(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {"a.png": ("cat",), "b.png": ("cat", "dog")})
    one = images.images["a.png"]
    doubtful = AnnotatedImage(
        name=one.name, file=one.file, declared=one.declared, boxes=one.boxes, doubtful=frozenset({"cat"})
    )
    partly = AnnotatedSet(images={**images.images, "a.png": doubtful}, classes=images.classes)
    plan = QuestionPlan(task="counting", shots=1)
    cards = write_detection_stores(partly, tmp_path / "d", plan=plan, source={}, skipped=Skipped())
    assert ids(tmp_path / "d") == ["b.png:cat", "b.png:dog"]
    assert cards[str(tmp_path / "d")]["source"]["num_undetermined"] == 1
    whole = write_detection_stores(partly, tmp_path / "e", plan=QuestionPlan(), source={}, skipped=Skipped())
    assert ids(tmp_path / "e") == ["b.png:cat", "b.png:dog"]
    assert whole[str(tmp_path / "e")]["source"]["num_undetermined"] == 1


def test_the_objects_of_an_image_with_a_record_of_unknown_class_are_not_counted(tmp_path: Path) -> None:
    images = annotated_set(tmp_path / "p", {"a.png": ("cat",), "b.png": ("cat", "dog")})
    unknown = replace(images.images["a.png"], is_doubtful=True)
    partly = replace(images, images={**images.images, "a.png": unknown})
    write_detection_stores(partly, tmp_path / "d", plan=QuestionPlan(task="counting"), source={}, skipped=Skipped())
    assert ids(tmp_path / "d") == ["b.png:cat", "b.png:dog"]
