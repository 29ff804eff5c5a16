"""Seeded sets of scenes: numbers of questions, distractors, and the difference of training and test."""

from collections import Counter

import pytest

from virft.scenes import SCENE_TASKS
from virft.scenes.assets import TEST_STYLES, TRAIN_STYLES, Split, class_names, scene_classes
from virft.scenes.sets import (
    CLASSES_PER_QUESTION,
    SceneKind,
    SceneSample,
    evaluation_set,
    few_shot_set,
    stream_generator,
    training_sample,
)
from virft.types import Box, Detections, Label, LabelledDetections

NOVEL = class_names("novel")


def same(a: SceneSample, b: SceneSample) -> bool:
    return a.scene.image.tobytes() == b.scene.image.tobytes() and a.questions == b.questions


def test_a_training_sample_is_a_function_of_seed_and_index() -> None:
    fifth = training_sample(1, 5)
    assert same(training_sample(1, 4), training_sample(1, 4))
    assert same(training_sample(1, 5), fifth)
    assert not same(training_sample(1, 4), fifth)
    assert not same(training_sample(1, 4), training_sample(2, 4))


def test_training_scenes_show_and_query_base_classes_only() -> None:
    base = set(class_names("base"))
    for index in range(60):
        sample = training_sample(0, index)
        assert {o.class_name for o in sample.scene.objects} <= base
        assert {o.style for o in sample.scene.objects} <= set(TRAIN_STYLES)
        assert {question.class_name for question in sample.questions} - {None} <= base


def test_a_training_scene_has_1_to_6_objects_and_one_absent_question() -> None:
    for index in range(60):
        sample = training_sample(0, index)
        assert 1 <= len(sample.scene.objects) <= 6
        assert [question.kind for question in sample.questions].count("absent") == 1


def test_targets_agree_with_the_objects() -> None:
    for index in range(60):
        sample = training_sample(0, index)
        boxes = {o.box for o in sample.scene.objects}
        for question in sample.questions:
            match question.target:
                case Detections(items=items):
                    shown = {o.box for o in sample.scene.objects if o.class_name == question.query}
                    assert {item.box for item in items} == shown
                case Label(text=text):
                    assert [o.class_name for o in sample.scene.objects if o.group == question.query] == [text]
                case Box() as box:
                    assert box in boxes


@pytest.mark.parametrize("task", SCENE_TASKS)
def test_a_few_shot_set_has_exactly_k_positive_questions_per_class(task: str) -> None:
    samples = list(few_shot_set(0, task, NOVEL, 4))
    assert len(samples) == 4 * 8
    assert len({sample.name for sample in samples}) == 4 * 8
    counts: Counter[str] = Counter()
    for index, sample in enumerate(samples):
        positive = [question for question in sample.questions if question.kind != "absent"]
        assert len(positive) == 1
        shown = Counter(o.class_name for o in sample.scene.objects)
        name = NOVEL[index % 8]
        assert set(shown) <= {*class_names("base"), *NOVEL}
        if task == "detection":
            assert positive[0].query == name
            assert 1 <= shown[name] <= 3
        elif task == "classification":
            assert positive[0].target == Label(text=name)
        elif task == "multiclass_detection":
            target = positive[0].target
            assert isinstance(target, LabelledDetections)
            assert len(target.classes) == CLASSES_PER_QUESTION
            assert set(target.classes) <= set(NOVEL)
            listed = {label: number for label, number in shown.items() if label in NOVEL}
            assert Counter(item.label for item in target.items) == listed
            assert listed.keys() <= set(target.classes)
            assert name in listed
        else:
            assert positive[0].target in [o.box for o in sample.scene.objects if o.class_name == name]
        counts[name] += 1
    assert counts == dict.fromkeys(NOVEL, 4)


def others_shown(classes: tuple[str, ...], shots: int) -> Counter[str]:
    """Objects of a few-shot detection set that are not of the queried class, by class."""
    samples = few_shot_set(0, "detection", classes, shots)
    return Counter(
        o.class_name
        for index, sample in enumerate(samples)
        for o in sample.scene.objects
        if o.class_name != classes[index % len(classes)]
    )


def test_a_quarter_of_the_distractors_are_other_new_classes() -> None:
    # Otherwise the only object outside the base classes would always be the answer. 55 % of the distractors are drawn
    # evenly from both kinds, 45 % are relatives of objects in the scene, which are mostly base classes.
    shown = others_shown(NOVEL, 40)
    assert set(NOVEL) <= set(shown)
    assert 0.2 < sum(shown[name] for name in NOVEL) / shown.total() < 0.35


def test_a_set_of_one_new_class_has_distractors_of_the_base_classes_only() -> None:
    assert set(others_shown(("panda",), 40)) <= set(class_names("base"))


def test_classes_that_are_base_classes_are_no_more_frequent_than_others() -> None:
    two = class_names("base")[:2]
    shown = others_shown(two, 60)
    assert set(shown) <= set(class_names("base"))
    assert sum(shown[name] for name in two) < 0.2 * shown.total()


def test_only_the_name_distinguishes_objects_of_two_novel_classes() -> None:
    # the target of each question has only the boxes of its class, although other novel classes are in the scene
    mixed = 0
    for sample in few_shot_set(0, "detection", NOVEL, 10):
        question = sample.questions[0]
        assert isinstance(question.target, Detections)
        own = [o.box for o in sample.scene.objects if o.class_name == question.query]
        assert sorted(item.box.xyxy for item in question.target.items) == sorted(box.xyxy for box in own)
        mixed += any(o.class_name in NOVEL and o.class_name != question.query for o in sample.scene.objects)
    assert mixed > 20


def test_absent_questions_query_classes_that_the_scene_does_not_show() -> None:
    for sample in few_shot_set(0, "detection", NOVEL, 10):
        shown = {o.class_name for o in sample.scene.objects}
        assert not any(question.query in shown for question in sample.questions if question.kind == "absent")


def test_absent_questions_are_the_given_fraction_of_a_few_shot_set() -> None:
    questions = [q for sample in few_shot_set(0, "detection", NOVEL, 7, absent_frac=0.3) for q in sample.questions]
    # 56 positive questions are 70 % of 80.
    assert Counter(question.kind for question in questions) == {"present": 56, "absent": 24}
    assert {question.query for question in questions} == set(NOVEL)


def test_a_set_of_one_class_takes_its_absent_questions_from_the_base_classes() -> None:
    samples = list(few_shot_set(0, "detection", ("panda",), 7, absent_frac=0.3))
    absent = [question.query for sample in samples for question in sample.questions if question.kind == "absent"]
    assert len(absent) == 3
    assert set(absent) <= set(class_names("base"))


@pytest.mark.parametrize("kind", [SceneKind.SAME_SPRITES, SceneKind.OTHER_STYLE])
def test_an_evaluation_set_has_exactly_the_requested_number_of_questions(kind: SceneKind) -> None:
    samples = list(evaluation_set(0, "detection", NOVEL, 50, kind))
    kinds = Counter(question.kind for sample in samples for question in sample.questions)
    assert kinds == {"present": 35, "absent": 15}
    assert {o.style for sample in samples for o in sample.scene.objects} == set(kind.styles)


def test_both_kinds_of_test_use_new_photographs_and_one_a_new_style() -> None:
    assert [kind.background_split for kind in SceneKind] == [Split.TRAIN, Split.TRAIN, Split.TEST, Split.TEST]
    assert [kind.styles for kind in SceneKind] == [TRAIN_STYLES, TEST_STYLES, TRAIN_STYLES, TEST_STYLES]


def test_classification_scenes_show_one_object_of_the_queried_group() -> None:
    for sample in evaluation_set(0, "classification", class_names(), 40, SceneKind.SAME_SPRITES):
        (question,) = sample.questions
        main = max(sample.scene.objects, key=lambda o: o.box.area)
        assert question.target == Label(text=main.class_name)
        assert [o.group for o in sample.scene.objects].count(main.group) == 1
        assert question.query == scene_classes()[main.class_name].group


def test_streams_of_different_keys_or_seeds_differ() -> None:
    draws = [
        stream_generator(seed, *key).integers(2**62)
        for seed in (0, 1)
        for key in (("train", 0), ("train", 1), ("test", 0), ("train", "0", 0))
    ]
    assert len(set(draws)) == 8


def test_sets_of_different_kinds_have_different_layouts() -> None:
    boxes = {
        tuple(o.box for o in next(iter(evaluation_set(0, "detection", NOVEL, 4, kind))).scene.objects)
        for kind in SceneKind
    }
    assert len(boxes) == 4
