"""Which class was predicted for the objects of each class."""

from __future__ import annotations

from virft.metrics.confusion import NOTHING, LabelledBox, confusion_matrix

LEFT, RIGHT = (0.0, 0.0, 9.0, 9.0), (20.0, 0.0, 29.0, 9.0)


def test_hits_confusions_misses_and_false_positives_are_counted() -> None:
    targets = [LabelledBox("cat", LEFT), LabelledBox("dog", RIGHT), LabelledBox("dog", (40, 0, 49, 9))]
    predicted = [LabelledBox("cat", LEFT, 0.5), LabelledBox("cat", RIGHT, 0.5), LabelledBox("cat", (60, 0, 69, 9), 0.5)]
    found = confusion_matrix([(targets, predicted)])
    assert found.labels == ("dog", "cat")  # two targets, one target
    assert found.counts == {("cat", "cat"): 1, ("dog", "cat"): 1, ("dog", NOTHING): 1, (NOTHING, "cat"): 1}


def test_a_box_of_the_targets_own_class_takes_it_before_a_more_confident_one_of_another() -> None:
    predicted = [LabelledBox("dog", LEFT, 0.9), LabelledBox("cat", LEFT, 0.1)]
    found = confusion_matrix([([LabelledBox("cat", LEFT)], predicted)])
    assert found.counts == {("cat", "cat"): 1, (NOTHING, "dog"): 1}


def test_boxes_of_different_images_do_not_match() -> None:
    found = confusion_matrix([([LabelledBox("cat", LEFT)], []), ([], [LabelledBox("cat", LEFT)])])
    assert found.counts == {("cat", NOTHING): 1, (NOTHING, "cat"): 1}
    assert confusion_matrix([]).labels == ()
