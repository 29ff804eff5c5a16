"""Short answers: a word, a number, a choice, a list or the text in an image, compared by the kind of the target."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from virft.errors import DataError
from virft.metrics.short_answers import SCORE_OF_KIND, score_short_answer, short_answer_metrics
from virft.rewards.options import RewardOptions
from virft.tasks.plain_answers import plain_reader, plain_renderer, same_descriptions
from virft.tasks.task import (
    CORRECT,
    HALF_RIGHT,
    TRUNCATED_FRAC,
    UNREADABLE_FRAC,
    WELL_FORMED_FRAC,
    BlindAnswer,
    BlindAnswers,
    Metric,
    ParsedTarget,
    Probes,
    TargetFormat,
    Task,
    TaskReward,
    constant_probes,
    mean_ratios,
)
from virft.text.prompts import PromptTexts
from virft.text.records import is_json_number, list_of, text_of
from virft.text.short_answers import normalize_vqa, number_in
from virft.types import Answer, ImageSize, Reading, RewardContext, Sample, ShortAnswer, Target, Unreadable

MAX_CHARACTERS = 1000
"""Largest length of an answer or target; a longer answer is unreadable."""
_MIN_PEOPLE = 4
"""Fewest answers of a ``vqa`` target: with three others, an answer that all gave scores 1."""
_MAX_OPTIONS = 26

# --- text ---


def parse_short_answer(text: str) -> Answer:
    """Return the text as an answer; ``Unreadable`` if it has more than ``MAX_CHARACTERS`` characters.

    >>> parse_short_answer("a red car").answers
    ('a red car',)
    """
    if len(text) > MAX_CHARACTERS:
        return Unreadable(reason=f"{len(text)} characters; expected at most {MAX_CHARACTERS}", piece=text[:80])
    return ShortAnswer(answers=(text,))


def write_short_answer(answer: ShortAnswer) -> str:
    """Return the text of an answer, or the one that a target accepts with the highest score.

    >>> write_short_answer(ShortAnswer(kind="list", answers=("red", "blue")))
    'red, blue'
    """
    if answer.kind == "list":
        return ", ".join(answer.answers)
    if answer.kind == "vqa":
        ((usual, _),) = Counter(map(normalize_vqa, answer.answers)).most_common(1)
        return usual or answer.answers[0]
    return answer.answers[0]


# --- data ---


def _to_record(sample: Sample) -> dict[str, Any]:
    target = _target_of(sample)
    record: dict[str, Any] = {"answers": list(target.answers)}
    if target.kind != "text":
        record["kind"] = target.kind
    if target.options:
        record["options"] = list(target.options)
    for name in ("relative_tolerance", "absolute_tolerance"):
        if value := getattr(target, name):
            record[name] = value
    return record


def _from_record(record: dict[str, Any], size: ImageSize, where: str) -> ParsedTarget:
    kind = record.get("kind", "text")
    if not isinstance(kind, str) or kind not in SCORE_OF_KIND:
        raise DataError(f"{where}: target.kind is {kind!r:.60}; expected {', '.join(SCORE_OF_KIND)}")
    answers = tuple(_text(value, where=where) for value in list_of(record["answers"], "target.answers", where=where))
    options = tuple(
        _text(value, where=where) for value in list_of(record.get("options", []), "target.options", where=where)
    )
    if not answers:
        raise DataError(f"{where}: target.answers is empty; expected at least one")
    tolerances = {name: _tolerance(record, name, kind, where=where) for name in _TOLERANCES}
    if options and kind != "choice":
        raise DataError(f"{where}: target.options has no effect with kind {kind}; expected kind choice")
    check = _CHECKS.get(kind)
    target = ShortAnswer(answers=answers, kind=kind, options=options, **tolerances)
    if check is not None and (fault := check(target)):
        raise DataError(f"{where}: {fault}")
    return ParsedTarget(target)


_TOLERANCES = ("relative_tolerance", "absolute_tolerance")


def _text(value: Any, *, where: str) -> str:
    """Return an answer as text; a number in a row is written as JSON writes it."""
    text = text_of(str(value) if is_json_number(value) else value, "an answer of the target", where=where)
    if len(text) > MAX_CHARACTERS:
        raise DataError(f"{where}: an answer has {len(text)} characters; expected at most {MAX_CHARACTERS}")
    if "<" in text and any(tag in text for tag in ("<answer>", "</answer>", "<think>", "</think>")):
        raise DataError(f"{where}: answer {text!r:.60} has a tag; expected text without <answer> and <think>")
    return text.strip()


def _tolerance(record: dict[str, Any], name: str, kind: str, *, where: str) -> float:
    value = record.get(name, 0.0)
    if not is_json_number(value) or not 0.0 <= value < math.inf:
        raise DataError(f"{where}: target.{name} is {value!r:.60}; expected a number of at least 0")
    if value and kind != "number":
        raise DataError(f"{where}: target.{name} has no effect with kind {kind}; expected kind number")
    return float(value)


def _check_number(target: ShortAnswer) -> str | None:
    bad = [answer for answer in target.answers if number_in(answer) is None]
    return f"answer {bad[0]!r:.60} is no number; expected one such as 12.5, 1,200 or 5%" if bad else None


def _check_choice(target: ShortAnswer) -> str | None:
    number = len(target.options)
    if not 2 <= number <= _MAX_OPTIONS:
        return f"{number} options; expected 2 to {_MAX_OPTIONS}"
    letters = [chr(ord("A") + place) for place in range(number)]
    letter_of: dict[str, str] = {}
    for letter, option in zip(letters, target.options, strict=True):
        if (first := letter_of.setdefault(" ".join(option.casefold().split()), letter)) != letter:
            return f"options {first} and {letter} are both {option!r:.60}; expected different texts"
    bad = [answer for answer in target.answers if answer not in letters]
    return f"answer {bad[0]!r:.60} is no option; expected a letter from A to {letters[-1]}" if bad else None


def _check_list(target: ShortAnswer) -> str | None:
    bad = [answer for answer in target.answers if any(mark in answer for mark in ",;\n")]
    return (
        f"item {bad[0]!r:.60} has a separator; expected items without comma, semicolon and line break" if bad else None
    )


def _check_vqa(target: ShortAnswer) -> str | None:
    number = len(target.answers)
    expected = f"expected at least {_MIN_PEOPLE}, one of each person"
    return f"{number} answers of a vqa target; {expected}" if number < _MIN_PEOPLE else None


_CHECKS = {"number": _check_number, "choice": _check_choice, "list": _check_list, "vqa": _check_vqa}


def _target_of(sample: Sample) -> ShortAnswer:
    assert isinstance(sample.target, ShortAnswer)
    return sample.target


# --- rewards ---


def _reward(reading: Reading, target: ShortAnswer, context: RewardContext, options: RewardOptions) -> dict[str, float]:
    answer = reading.answer
    return {"answer": score_short_answer(answer, target) if isinstance(answer, ShortAnswer) else 0.0}


def _explain(answer: ShortAnswer, target: ShortAnswer, context: RewardContext, options: RewardOptions) -> list[str]:
    score = score_short_answer(answer, target)
    return [f"answer {write_short_answer(answer)!r}, target {_describe(target)}, kind {target.kind}, score {score:.3f}"]


def _describe(answer: ShortAnswer) -> str:
    """Texts that a target accepts, each once, or the text of an answer."""
    if answer.kind == "list":
        return write_short_answer(answer)
    if answer.kind == "choice":
        named = [f"{one} ({answer.options[ord(one) - ord('A')]})" for one in answer.answers]
        return " or ".join(named)
    return " or ".join(dict.fromkeys(answer.answers))


# --- audit ---


def _commonest(samples: Sequence[Sample]) -> str:
    texts = [write_short_answer(_target_of(sample)) for sample in samples]
    ((usual, _),) = Counter(normalize_vqa(text) or text for text in texts).most_common(1)
    return next(text for text in texts if (normalize_vqa(text) or text) == usual)


def _letters(samples: Sequence[Sample]) -> Counter[str]:
    targets = map(_target_of, samples)
    return Counter(letter for target in targets if target.kind == "choice" for letter in target.answers)


def _probes(samples: Sequence[Sample]) -> Probes:
    """The commonest answer, all answers together, ranges, repetitions, and answers that commit to nothing."""
    usual = _commonest(samples)
    every = list(dict.fromkeys(answer for sample in samples for answer in _target_of(sample).answers))
    letters = [chr(ord("A") + place) for place in range(max(2, *(len(_target_of(one).options) for one in samples), 4))]
    shown = every[:50]
    return constant_probes(
        usual,
        {
            "commonest answer": usual,
            "commonest answer 20 times": " ".join([usual] * 20),
            "commonest answer 20 times, as a list": ", ".join([usual] * 20),
            "all answers of the data": ", ".join(shown),
            "all answers with or": " or ".join(shown),
            "all letters": " ".join(letters),
            "all letters with commas": ", ".join(letters),
            "all letters with or": " or ".join(letters),
            **{f"always {letter}": letter for letter in letters[:4]},
            "yes": "yes",
            "no": "no",
            "yes and no": "yes, no",
            "zero": "0",
            "a range": "0-100",
            "a range with words": "between 0 and 100",
            "many numbers": " ".join(map(str, range(101))),
            "a huge number": "9" * 400,
            "nothing visible": ".",
            "unanswerable": "unanswerable",
            "the commonest letters of English": "etaoin shrdlu " * 4,
            "a very long answer": f"{usual} " * (MAX_CHARACTERS // (len(usual) + 1) + 1),
        },
    )


def _blind_answers(samples: Sequence[Sample]) -> BlindAnswers:
    """The commonest answer, the commonest one to the same question, and the commonest letter."""

    def always(text: str) -> BlindAnswer:
        answer = ShortAnswer(answers=(text,))
        return lambda sample: answer

    found: dict[str, BlindAnswer] = {}
    if samples:
        overall = always(_commonest(samples))
        found["commonest answer"] = overall
        by_query: dict[str, list[Sample]] = {}
        for sample in samples:
            by_query.setdefault(sample.query, []).append(sample)
        if 1 < len(by_query) < len(samples):
            fitted = {query: always(_commonest(some)) for query, some in by_query.items()}
            found["commonest answer to the question"] = lambda sample: fitted.get(sample.query, overall)(sample)
        if letters := _letters(samples):
            found["commonest letter"] = always(letters.most_common(1)[0][0])
    return found


def _oracle(samples: Sequence[Sample]) -> Iterator[Mapping[str, Target]]:
    """Half right: every other answer is wrong."""
    for index, sample in enumerate(samples):
        target = _target_of(sample)
        correct = ShortAnswer(answers=(write_short_answer(target),))
        wrong = ShortAnswer(answers=(next((text for text in _WRONG if not _is_partly_right(text, target)), _WRONG[0]),))
        yield {CORRECT: correct, HALF_RIGHT: wrong if index % 2 else correct}


_WRONG = ("unanswerable", "nothing", "0", "~")
"""Texts that are tried as a wrong answer."""


def _is_partly_right(text: str, target: ShortAnswer) -> bool:
    return score_short_answer(ShortAnswer(answers=(text,)), target) > 0.0


_TEXTS = {
    "type": "array",
    "items": {"anyOf": [{"type": "string", "pattern": r"\S"}, {"type": "number"}]},
    "minItems": 1,
}
_AT_LEAST_0 = {"type": "number", "minimum": 0}

SHORT_ANSWER = Task(
    name="short_answer",
    target_type=ShortAnswer,
    query_hint="a question such as What colour is the car?",
    prompts=PromptTexts(
        short="{query}",
        request="{query}",
        schema="The answer is as short as possible: a word, a number or a phrase, without an explanation.",
    ),
    example="red",
    read=plain_reader(parse_short_answer),
    render=plain_renderer(write_short_answer),
    target_format=TargetFormat(
        required=frozenset({"answers"}),
        optional=frozenset({"kind", "options", *_TOLERANCES}),
        properties={
            "answers": _TEXTS,
            "kind": {"enum": list(SCORE_OF_KIND)},
            "options": {"type": "array", "items": {"type": "string", "pattern": r"\S"}, "maxItems": _MAX_OPTIONS},
            "relative_tolerance": _AT_LEAST_0,
            "absolute_tolerance": _AT_LEAST_0,
        },
        to_record=_to_record,
        from_record=_from_record,
    ),
    count_target=lambda target: {target.kind: 1},
    allows_flip=False,
    rewards={
        "robust": TaskReward(bounds={"answer": (0.0, 1.0)}, compute=_reward),
        "paper": TaskReward(bounds={"answer": (0.0, 1.0)}, compute=_reward),
    },
    explain=_explain,
    metrics=(
        Metric(
            name="mean_score",
            description="mean score: accuracy (text, number, choice), VQA accuracy (vqa), F1 (list), ANLS (ocr)",
            in_table=True,
            in_card=True,
            in_comparison=True,
        ),
        Metric(name="accuracy", description="fraction of answers with a score of 1", in_table=True, in_card=True),
        UNREADABLE_FRAC,
        TRUNCATED_FRAC,
        WELL_FORMED_FRAC,
    ),
    measure_pairs=short_answer_metrics,
    score_answer=score_short_answer,
    score_description="score of the answer by the kind of its target",
    ratios=mean_ratios("mean_score", "accuracy"),
    describe_targets=same_descriptions(_describe),
    describe_answers=same_descriptions(write_short_answer),
    answer_to_record=lambda answer: {"answer": write_short_answer(answer)},
    probes=_probes,
    blind_answers=_blind_answers,
    oracle=_oracle,
)
