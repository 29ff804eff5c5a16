"""Class names that differ in spelling alone."""

from __future__ import annotations

from virft.data.annotations import AnnotatedImage, AnnotatedSet
from virft.data.class_variants import doubt_variants
from virft.types import ImageSize

BOX = ((1.0, 2.0, 9.0, 9.0),)


def image(name: str, *labels: str) -> AnnotatedImage:
    return AnnotatedImage(name=name, file=None, declared=ImageSize(64, 48), boxes=dict.fromkeys(labels, BOX))


def annotated(classes: tuple[str, ...], **images: tuple[str, ...]) -> AnnotatedSet:
    return AnnotatedSet(images={name: image(name, *labels) for name, labels in images.items()}, classes=classes)


def test_a_class_is_not_absent_where_another_spelling_is_shown() -> None:
    found = doubt_variants(annotated(("Cat", "cat", "dog"), a=("Cat",), b=("cat",), c=("dog",), d=("Cat", "cat")))
    absent = {
        name: {label for label in found.classes if image.is_absent(label)} for name, image in found.images.items()
    }
    assert absent == {"a": {"dog"}, "b": {"dog"}, "c": {"Cat", "cat"}, "d": {"dog"}}
    assert found.images["a"].doubtful == {"cat"}
    assert found.images["d"].doubtful == {"Cat", "cat"}
    (note,) = found.notes
    assert note.startswith("class names that differ in spelling alone: 'Cat', 'cat'; a class is not queried")


def test_a_class_that_was_not_chosen_counts_too() -> None:
    found = doubt_variants(annotated(("traffic light",), a=("traffic_light",), b=("dog",)))
    assert not found.images["a"].is_absent("traffic light")
    assert found.images["b"].is_absent("traffic light")


def test_a_set_of_different_names_is_unchanged() -> None:
    plain = annotated(("C", "C#", "cat"), a=("cat",), b=("C", "C#"))
    assert doubt_variants(plain) == plain
