"""TRL's call, in each of its shapes, gives virft's rewards. TRL itself: ``tests/e2e/test_trl.py``."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from row_factories import FOX_ANSWER, fox_row, label_row
from virft.errors import ConfigError, DataError
from virft.integrations.trl import VisualReward, text_of_completion
from virft.tasks.reward import RewardRule

REWARD = VisualReward(box_space="relative_1000", thinking=False)


def call(reward: VisualReward, texts: list[Any], rows: list[dict[str, Any]], **more: Any) -> list[float | None]:
    """Call it as TRL 1.16 does: with a list for each column, and its additional arguments."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns = {key: [row.get(key) for row in rows] for key in keys}
    ids = [[1]] * len(texts)
    return reward(prompts=["?"] * len(texts), completions=texts, completion_ids=ids, log_extra=None, **columns, **more)


def test_each_completion_gets_its_total() -> None:
    texts = [FOX_ANSWER, "<answer>No Objects</answer>", "fox"]
    # the target: 1 + 1 + 1; no objects: format alone; no answer block: nothing
    assert call(REWARD, texts, [fox_row()] * 3) == pytest.approx([3.0, 1.0, 0.0])


def test_a_conversation_is_graded_as_its_text() -> None:
    plain = [{"role": "assistant", "content": FOX_ANSWER}]
    parts = [{"role": "assistant", "content": [{"type": "text", "text": FOX_ANSWER}]}]
    assert call(REWARD, [plain, parts], [fox_row()] * 2) == pytest.approx([3.0, 3.0])


def test_a_think_block_that_a_parser_removed_counts() -> None:
    reward = VisualReward(box_space="relative_1000", thinking=True)
    thought = [{"role": "assistant", "reasoning_content": "on the left", "content": FOX_ANSWER}]
    silent = [{"role": "assistant", "content": FOX_ANSWER}]
    row = fox_row(thinking=True)
    assert call(reward, [thought, silent], [row, row]) == pytest.approx([3.0, 2.0])


def test_a_think_block_that_the_template_opened_counts_with_and_without_a_parser() -> None:
    reward = VisualReward(box_space="relative_1000", thinking=True, think_opened=True)
    parsed = [{"role": "assistant", "reasoning_content": "on the left", "content": FOX_ANSWER}]
    row = fox_row(thinking=True)
    assert call(reward, [parsed, f"on the left</think>{FOX_ANSWER}"], [row, row]) == pytest.approx([3.0, 3.0])


def test_a_message_without_text_is_unreadable() -> None:
    assert call(REWARD, [[{"role": "assistant", "content": None}]], [fox_row()]) == [0.0]


def test_several_messages_are_refused() -> None:
    with pytest.raises(ConfigError, match="a completion of 2 messages; expected one, without tool calls"):
        text_of_completion([{"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}])


def test_rows_of_other_datasets_get_no_reward() -> None:
    foreign = {"task": None, "target": None, "image_size": None, "box_space": None, "thinking": None}
    assert call(REWARD, ["4", "<answer>Fox</answer>"], [foreign, label_row()]) == [None, 2.0]


def test_a_missing_column_is_named() -> None:
    row = fox_row()
    del row["image_size"]
    with pytest.raises(ConfigError, match=r"no column image_size in the dataset; expected those of .*trl_dataset"):
        call(REWARD, [FOX_ANSWER], [row])


def test_a_column_that_is_no_list_is_named() -> None:
    columns = {name: [value] for name, value in fox_row().items()} | {"task": "detection"}
    with pytest.raises(ConfigError, match="column task is a str; expected a list with a value for each completion"):
        REWARD(["?"], [FOX_ANSWER], **columns)


def test_rows_with_other_prompting_are_refused() -> None:
    with pytest.raises(DataError, match="its prompt was made with box_space original_pixels"):
        call(REWARD, [FOX_ANSWER], [fox_row(box_space="original_pixels")])


def test_the_target_image_must_have_its_recorded_size() -> None:
    images = [Image.new("RGB", (10, 10)), Image.new("RGB", (64, 48))]
    assert call(REWARD, [FOX_ANSWER], [fox_row(images=images, target_image=1)]) == pytest.approx([3.0])
    with pytest.raises(DataError, match="its image has 10 x 10 pixels; expected 64 x 48"):
        call(REWARD, [FOX_ANSWER], [fox_row(images=images, target_image=0)])


@pytest.mark.parametrize(("step", "expected"), [(0, 2 / 3), (9, 0.0)])
def test_a_rising_threshold_follows_the_trainers_state(step: int, expected: float) -> None:
    rule = RewardRule(iou_threshold=0.5, iou_threshold_end=0.9, weights={"confidence": 0, "format": 0})
    reward = VisualReward(box_space="relative_1000", thinking=False, rule=rule)
    text = "<answer>[{'Position':[250,250,416.6667,500]}]</answer>"  # IoU 2 / 3
    state = SimpleNamespace(global_step=step, max_steps=10)
    assert call(reward, [text], [fox_row()], trainer_state=state) == pytest.approx([expected], abs=1e-5)


def test_parts_go_into_the_trainers_log() -> None:
    logged: dict[str, float] = {}
    texts = [FOX_ANSWER, "fox", "<answer>cat</answer>"]
    call(REWARD, texts, [fox_row(), fox_row(), label_row()], log_metric=logged.__setitem__)
    # two detection samples (iou 1, 0), one of classification; one of the three texts has no answer block
    assert logged == pytest.approx(
        {
            "virft/iou": 0.5,
            "virft/confidence": 0.5,
            "virft/format": 2 / 3,
            "virft/label": 0.0,
            "virft/unreadable_frac": 1 / 3,
        }
    )


def test_nothing_is_logged_of_no_rows() -> None:
    logged: dict[str, float] = {}
    foreign = {"task": None, "target": None, "image_size": None, "box_space": None, "thinking": None}
    assert call(REWARD, ["4"], [foreign], log_metric=logged.__setitem__) == [None]
    assert logged == {}


def test_the_function_can_be_sent_to_other_processes() -> None:
    again = pickle.loads(pickle.dumps(REWARD))
    assert call(again, [FOX_ANSWER], [fox_row()]) == pytest.approx([3.0])
