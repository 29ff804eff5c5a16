"""Questions of every task and template."""

from __future__ import annotations

from pathlib import Path

import pytest

from factories import sample
from virft.errors import ConfigError
from virft.geometry.boxes import BoxSpace
from virft.text.prompts import opened_by, question, question_of, read_template
from virft.types import TaskName


def test_short_questions_are_what_the_built_in_model_was_taught() -> None:
    asked = [question(task, "fox", template="short", thinking=False) for task in TaskName]
    assert asked == ["Detect fox.", "Which fox is this?", "Locate fox."]
    assert question(TaskName.GROUNDING, "the red fox", template="short", thinking=True) == (
        "Locate the red fox. Think first."
    )


@pytest.mark.parametrize("task", list(TaskName))
def test_paper_question_names_query_and_tags(task: TaskName) -> None:
    plain = question(task, "fox", template="paper", thinking=False)
    thinking = question(task, "fox", template="paper", thinking=True)
    assert "fox" in plain
    assert "<answer>" in plain
    assert "<think>" not in plain
    assert "<think>" in thinking
    assert "{" not in plain.replace("{'Position'", "").replace("}, ...]", "")


def test_paper_question_tells_the_box_space() -> None:
    def asked(space: BoxSpace) -> str:
        return question(TaskName.DETECTION, "fox", template="paper", thinking=False, space=space)

    assert "from 0 to 1000" in asked(BoxSpace.RELATIVE_1000)
    assert "in pixels" in asked(BoxSpace.RESIZED_PIXELS)


def test_query_with_braces_is_put_in_as_it_is() -> None:
    assert question(TaskName.DETECTION, "{query}{x}", template="short", thinking=False) == "Detect {query}{x}."


def test_question_of_the_dataset_wins() -> None:
    kept = sample(question="Where is Reynard?")
    assert question_of(kept, template="short", thinking=True) == "Where is Reynard?"
    assert question_of(sample(), template="short", thinking=False) == "Detect fox."


def test_template_file_may_hold_json_braces(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text('Find {query}, answer {"box": []}\n')
    template = read_template(str(path))
    assert question(TaskName.GROUNDING, "fox", template=template, thinking=False) == 'Find fox, answer {"box": []}'


def test_template_file_that_is_of_no_use_is_reported(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("Find the fox.")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 {query}")
    with pytest.raises(ConfigError, match=r"plain.txt has no \{query\} in it; expected paper, short, auto"):
        read_template(str(tmp_path / "plain.txt"))
    with pytest.raises(ConfigError, match=r"latin.txt is not UTF-8 text"):
        read_template(str(tmp_path / "latin.txt"))
    with pytest.raises(ConfigError, match=r"prompt.template: cannot read papr \(No such file"):
        read_template("papr")


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("Assistant:<think>", "<think>"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("Think between <think> and </think>.<|im_end|>\n<|im_start|>assistant\n", ""),
        ("Begin with <think>\n<|im_end|>\n<|im_start|>assistant\n", ""),
        ("", ""),
    ],
)
def test_a_prompt_has_begun_the_answer_only_where_it_ends_in_an_open_thought(prompt: str, opened: str) -> None:
    assert opened_by(prompt) == opened
