"""Random plans of scenes."""

import numpy as np

from virft.scenes.assets import class_names, scene_classes
from virft.scenes.plans import classification_plan, detection_plan, grounding_plan, mixed_plan

BASE = class_names("base")


def test_mixed_plans_have_1_to_6_objects_of_different_classes() -> None:
    rng = np.random.default_rng(0)
    totals = set()
    for _ in range(200):
        plan = mixed_plan(rng, BASE)
        assert len({item.class_name for item in plan}) == len(plan)
        totals.add(sum(item.count for item in plan))
    assert totals == {1, 2, 3, 4, 5, 6}


def test_detection_plans_show_the_class_and_mostly_distractors() -> None:
    rng = np.random.default_rng(0)
    plans = [detection_plan(rng, "panda", BASE, max_count=3) for _ in range(200)]
    assert {plan[0].class_name for plan in plans} == {"panda"}
    assert {plan[0].count for plan in plans} == {1, 2, 3}
    assert np.mean([len(plan) > 1 for plan in plans]) > 0.75
    assert all("panda" not in [item.class_name for item in plan[1:]] for plan in plans)


def test_detection_plans_never_exceed_six_objects() -> None:
    rng = np.random.default_rng(1)
    assert max(sum(item.count for item in detection_plan(rng, "cat", BASE)) for _ in range(300)) == 6


def test_classification_plans_have_small_distractors_of_other_groups() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        main, *others = classification_plan(rng, "tiger", BASE)
        assert (main.class_name, main.count) == ("tiger", 1)
        assert all(scene_classes()[item.class_name].group != "animal" for item in others)
        assert all(item.side_range[1] < main.side_range[0] for item in others)


def test_grounding_plans_have_at_least_two_of_the_group_and_one_object_of_another_group() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        groups = [
            scene_classes()[item.class_name].group
            for item in grounding_plan(rng, "taxi", BASE)
            for _ in range(item.count)
        ]
        assert 2 <= groups.count("vehicle") <= 4
        assert 3 <= len(groups) <= 6
