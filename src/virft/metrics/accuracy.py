"""Accuracy of class names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from virft.metrics.measurement import Measurement, ratio
from virft.text.labels import is_same_label, is_substring_match
from virft.types import Label, Reading, Unreadable


def accuracy(pairs: Sequence[tuple[Reading, Label]]) -> Measurement:
    """Return fractions of all questions; an unreadable answer is wrong by both rules. No questions: 0.

    ``accuracy``: equal to the target or an alias after normalisation. ``accuracy_paper_substring``: the paper's rule,
    which accepts "A or B or C"; for comparison with published numbers only. ``unreadable_frac``. Tables: ``accuracy``
    of each class, and ``confusions``, the off-diagonal cells of the confusion matrix, largest first, at most 50.
    Source: Visual-RFT (arXiv 2503.01785) for the substring rule.

    >>> def says(text): return Reading(text=text, well_formed=True, answer=Label(text=text))
    >>> cat = Label(text="cat")
    >>> accuracy([(says("Cat."), cat), (says("cat or dog"), cat), (says("dog"), cat), (says("a cat"), cat)]).values
    {'accuracy': 0.25, 'accuracy_paper_substring': 0.75, 'unreadable_frac': 0.0}
    """
    num = len(pairs)
    answers = [(reading.answer.text, target) for reading, target in pairs if isinstance(reading.answer, Label)]
    num_by_class = Counter(target.text for _, target in pairs)
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for text, target in answers:
        if is_same_label(text, target):
            right[target.text] += 1
        else:
            wrong[f"{target.text} -> {' '.join(text.split())[:80]}"] += 1
    num_right = right.total()
    num_substring = sum(is_substring_match(text, target) for text, target in answers)
    num_unreadable = sum(isinstance(reading.answer, Unreadable) for reading, _ in pairs)
    return Measurement(
        values={
            "accuracy": ratio(num_right, num),
            "accuracy_paper_substring": ratio(num_substring, num),
            "unreadable_frac": ratio(num_unreadable, num),
        },
        counts={"num_questions": num, "num_right": num_right, "num_unreadable": num_unreadable},
        tables={
            "accuracy": {label: right[label] / number for label, number in sorted(num_by_class.items())},
            "confusions": dict(sorted(wrong.items(), key=lambda one: (-one[1], one[0]))[:50]),
        },
    )
