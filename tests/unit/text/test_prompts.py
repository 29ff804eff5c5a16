"""Templates of questions, and completions that a prompt has begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from virft.errors import ConfigError
from virft.geometry.boxes import BoxSpace
from virft.text.prompts import PromptTexts, fill_template, opened_prefix, read_template

TEXTS = PromptTexts(short="Detect {query}.", request="Find every {query}.", schema="Boxes as {coordinates}.")


def test_paper_question_joins_request_blocks_and_schema() -> None:
    text = fill_template(TEXTS, "fox", template="paper", thinking=False)
    assert text == (
        "Find every fox. Write only the answer, between <answer> and </answer>. "
        "Boxes as whole numbers from 0 to 1000 relative to the width and height of the image."
    )
    assert "<think>" in fill_template(TEXTS, "fox", template="paper", thinking=True)


def test_short_question_requests_thinking_in_two_words() -> None:
    assert fill_template(TEXTS, "fox", template="short", thinking=True) == "Detect fox. Think first."


def test_paper_question_states_the_box_space() -> None:
    text = fill_template(TEXTS, "fox", template="paper", thinking=False, space=BoxSpace.RESIZED_PIXELS)
    assert text.endswith("Boxes as whole numbers in pixels.")


def test_query_with_braces_is_inserted_unchanged() -> None:
    assert fill_template(TEXTS, "{query}{x}", template="short", thinking=False) == "Detect {query}{x}."


def test_template_without_a_query_is_a_bug() -> None:
    with pytest.raises(ValueError, match=r"a template without \{query\}: .Find it"):
        fill_template(TEXTS, "fox", template="Find it.", thinking=False)


def test_template_file_may_hold_json_braces(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text('Find {query}, answer {"box": []}\n')
    template = read_template(str(path))
    assert fill_template(TEXTS, "fox", template=template, thinking=False) == 'Find fox, answer {"box": []}'


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
def test_a_prompt_opens_the_completion_only_if_it_ends_in_an_open_think_tag(prompt: str, opened: str) -> None:
    assert opened_prefix(prompt) == opened
