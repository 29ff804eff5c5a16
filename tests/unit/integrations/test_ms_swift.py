"""ms-swift makes an object of the class, without arguments, and calls it with columns."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest

from row_factories import FOX_ANSWER, fox_row, label_row
from virft.errors import ConfigError
from virft.integrations.ms_swift import make_orm
from virft.integrations.rows import ground_truth_of
from virft.tasks.reward import RewardRule

FOX, LABEL = ground_truth_of(fox_row()), ground_truth_of(label_row())
STATE = SimpleNamespace(global_step=9, max_steps=10)


def test_each_completion_gets_its_total() -> None:
    orm = make_orm(box_space="relative_1000", thinking=False)
    # as ms-swift does: it passes only those arguments that __init__ names in addition to these
    assert set(inspect.signature(orm.__init__).parameters) <= {"self", "args", "kwargs"}
    found = orm()(completions=[FOX_ANSWER, "<answer>Fox</answer>"], ground_truth=[FOX, LABEL], trainer_state=STATE)
    assert found == pytest.approx([3.0, 2.0])


def test_a_rising_threshold_follows_the_trainers_state() -> None:
    rule = RewardRule(iou_threshold_end=0.9, weights={"confidence": 0, "format": 0})
    orm = make_orm(box_space="relative_1000", thinking=False, rule=rule)
    text = "<answer>[{'Position':[250,250,416.6667,500]}]</answer>"  # IoU 2 / 3, below 0.9 at the last step
    assert orm()(completions=[text], ground_truth=[FOX], trainer_state=STATE) == [0.0]


def test_a_missing_column_is_named() -> None:
    orm = make_orm(box_space="relative_1000", thinking=False)
    with pytest.raises(ConfigError, match="no column ground_truth in the dataset"):
        orm()(completions=[FOX_ANSWER])


def test_contradictory_arguments_are_an_error_before_training() -> None:
    with pytest.raises(ConfigError, match="box_space resized_pixels needs resize"):
        make_orm(box_space="resized_pixels", thinking=False)
