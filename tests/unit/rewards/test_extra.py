"""Tests of ``virft.rewards.extra``."""

from __future__ import annotations

import pytest

from answer_factories import classification
from virft.errors import ConfigError
from virft.rewards.extra import load_function, place_of_extra
from virft.tasks.reward import RewardRule, compute_reward
from virft.types import Label

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass

BONUS = 0.25

@dataclass
class Settings:
    bonus: float = BONUS

def politeness(reading, target, context):
    return Settings().bonus if "please" in reading.text else 0.0
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(SOURCE, encoding="utf-8")
    return tmp_path


def test_a_function_of_a_file_is_loaded_and_adds_its_reward(folder):
    rule = RewardRule(extra=(load_function("mine.py:politeness", folder),))
    report = compute_reward(rule, "classification", classification("please"), Label(text="cat"))
    assert report.parts["politeness"] == 0.25


def test_an_absolute_path_needs_no_folder(folder):
    assert load_function(f"{folder / 'mine.py'}:politeness").__name__ == "politeness"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mine.py", "'mine.py' names no function"),
        (":politeness", "':politeness' names no function"),
        ("mine.py:", "'mine.py:' names no function"),
        ("other.py:politeness", "there is no Python file"),
        ("mine.txt:politeness", "there is no Python file"),
        ("mine.py:politness", "has no politness; did you mean politeness?"),
        ("mine.py:zzz", 'has no zzz; expected "file.py:function"'),
        ("mine.py:BONUS", "is a float; expected"),
    ],
)
def test_what_cannot_be_loaded_is_explained(folder, spec, message):
    (folder / "mine.txt").touch()
    with pytest.raises(ConfigError) as caught:
        load_function(spec, folder)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"), [("def broken(:\n", "mine.py:1: "), ("import no_such_module_here\n", "no_such_module_here")]
)
def test_a_file_that_does_not_import_is_explained(folder, source, message):
    (folder / "mine.py").write_text(source, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_function("mine.py:politeness", folder)
    assert message in str(caught.value)


def test_what_the_file_itself_raises_is_explained_with_its_line(folder):
    (folder / "mine.py").write_text("import math\n1 / 0\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^extra: .*mine\.py:2: raised ZeroDivisionError: division by zero$"):
        load_function("mine.py:politeness", folder)


def test_a_function_is_named_by_its_file(folder):
    assert place_of_extra(load_function("mine.py:politeness", folder)) == "mine.py:politeness"
