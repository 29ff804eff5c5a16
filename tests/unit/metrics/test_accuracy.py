"""Tests of ``virft.metrics.accuracy``."""

from __future__ import annotations

from answer_factories import classification
from virft.metrics.accuracy import accuracy
from virft.text.answers import read_classification
from virft.types import Label

CAT = Label(text="cat")


def test_strict_accuracy_is_reported_next_to_the_papers_rule():
    pairs = [(classification(text), CAT) for text in ("Cat", "cat or dog", "dog", "tomcat")]
    pairs.append((read_classification("cat", thinking=False), CAT))  # no answer block
    measured = accuracy(pairs)
    # 1 of 5 is the name; 3 of 5 hold it; 1 of 5 cannot be read
    assert measured.values == {"accuracy": 0.2, "accuracy_paper_substring": 0.6, "unreadable_frac": 0.2}
    assert measured.counts == {"num_questions": 5, "num_right": 1, "num_unreadable": 1}


def test_aliases_count_for_strict_accuracy():
    measured = accuracy([(classification("tomcat"), Label(text="cat", aliases=("tomcat",)))])
    assert measured.values["accuracy"] == 1.0


def test_no_questions_give_zeros():
    assert set(accuracy([]).values.values()) == {0.0}
    assert accuracy([]).counts["num_questions"] == 0
