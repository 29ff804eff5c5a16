"""The paths of older configs of other trainers still give the same objects."""

from __future__ import annotations

from importlib import import_module

import pytest


@pytest.mark.parametrize(
    ("name", "objects"),
    [
        ("trl", ("VisualReward",)),
        ("verl", ("compute_score",)),
        ("easyr1", ("REWARD_NAME", "REWARD_TYPE", "compute_score")),
        ("ms_swift", ("BoxSpace", "QwenResize", "RewardRule", "make_orm")),
    ],
)
def test_the_old_path_has_the_objects_of_the_new_one(name: str, objects: tuple[str, ...]) -> None:
    old, new = import_module(f"virft.rewards.{name}"), import_module(f"virft.integrations.{name}")
    for one in objects:
        assert getattr(old, one) is getattr(new, one)
    public = {one for one, value in vars(old).items() if not one.startswith("_") and one != "import_module"}
    assert public == set(objects)
