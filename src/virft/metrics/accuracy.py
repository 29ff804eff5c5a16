"""How often a class name is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from virft.metrics.measurement import Measurement, share
from virft.text.labels import is_same_label, is_substring_match
from virft.types import Label, Reading, Unreadable


def accuracy(pairs: Sequence[tuple[Reading, Label]]) -> Measurement:
    """Shares of all questions; an unreadable answer is wrong by both rules. No questions: 0.

    ``accuracy``: equal after normalising, or by an alias. ``accuracy_paper_substring``: the paper's
    rule, which pays for "A or B or C"; for comparison with published numbers only. Tables: ``accuracy`` of each class,
    and ``confusions``, how often which answer was given for another class, most often first, at most 50.
    ``unreadable_frac``. Source: Visual-RFT (arXiv 2503.01785) for the substring rule.

    >>> def says(text): return Reading(text=text, well_formed=True, answer=Label(text=text))
    >>> cat = Label(text="cat")
    >>> accuracy([(says("Cat."), cat), (says("cat or dog"), cat), (says("dog"), cat), (says("a cat"), cat)]).values
    {'accuracy': 0.25, 'accuracy_paper_substring': 0.75, 'unreadable_frac': 0.0}
    """
    num = len(pairs)
    answers = [(reading.answer.text, target) for reading, target in pairs if isinstance(reading.answer, Label)]
    asked = Counter(target.text for _, target in pairs)
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
            "accuracy": share(num_right, num),
            "accuracy_paper_substring": share(num_substring, num),
            "unreadable_frac": share(num_unreadable, num),
        },
        counts={"num_questions": num, "num_right": num_right, "num_unreadable": num_unreadable},
        tables={
            "accuracy": {label: right[label] / number for label, number in sorted(asked.items())},
            "confusions": dict(sorted(wrong.items(), key=lambda one: (-one[1], one[0]))[:50]),
        },
    )
