"""Builders for tasks whose answer is plain text, such as a name or a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from virft.geometry.boxes import BoxSpace
from virft.rewards.options import RewardOptions
from virft.tasks.task import CORRECT, HALF_RIGHT, BlindAnswer, Descriptions, ReadText, RenderTarget, fit_blind
from virft.text.answers import read_content, render_content
from virft.types import Answer, ImageSize, Reading, RewardContext, Sample, Target


def plain_reader(parse: Callable[[str], Answer]) -> ReadText:
    """Return a reader of answer blocks with plain text: ``parse`` returns the answer or ``Unreadable``.

    Plain text has no place in the image, so image sizes and box space are not used.
    """

    def read(text: str, *, thinking: bool, space: BoxSpace, original: ImageSize, resized: ImageSize) -> Reading:
        return read_content(text, thinking=thinking, parse=parse)

    return read


def plain_renderer(write: Callable[[Any], str]) -> RenderTarget:
    """Return a writer of completions whose answer block holds ``write(target)``."""

    def render(
        target: Any, /, *, space: BoxSpace, original: ImageSize, resized: ImageSize, thinking_text: str | None
    ) -> str:
        return render_content(write(target), thinking_text=thinking_text)

    return render


def same_descriptions(text: Callable[[Any], str]) -> Descriptions:
    """Return descriptions that are the same text everywhere."""
    return Descriptions(full=text, short=text, caption=text)


def compare_texts(
    answer_text: Callable[[Any], str], target_text: Callable[[Any], str]
) -> Callable[[Any, Any, RewardContext, RewardOptions], list[str]]:
    """Return the function ``Task.explain`` that prints answer and target in one line.

    >>> compare_texts(str, str)(2, 3, RewardContext(), None)
    ['answer 2, target 3']
    """

    def explain(answer: Any, target: Any, context: RewardContext, options: RewardOptions) -> list[str]:
        return [f"answer {answer_text(answer)}, target {target_text(target)}"]

    return explain


def every_other_correct(
    correct: Callable[[Any], Target], wrong: Callable[[Any], Target]
) -> Callable[[Sequence[Sample]], Iterator[Mapping[str, Target]]]:
    """Return the function ``Task.oracle`` for answers that are either correct or wrong.

    The answer of medium quality is wrong for every other sample.
    """

    def oracle(samples: Sequence[Sample]) -> Iterator[Mapping[str, Target]]:
        for index, sample in enumerate(samples):
            answer = wrong if index % 2 else correct
            yield {CORRECT: correct(sample.target), HALF_RIGHT: answer(sample.target)}

    return oracle


def fit_commonest(
    name: str, samples: Sequence[Sample], answer_of: Callable[[Sample], Answer], *, by_query: bool = False
) -> dict[str, BlindAnswer]:
    """Return the blind baseline that answers the commonest target of training samples; see ``fit_blind``."""

    def fit(some: Sequence[Sample]) -> BlindAnswer:
        ((commonest, _),) = Counter(map(answer_of, some)).most_common(1)
        return lambda sample: commonest

    return fit_blind(name, samples, fit, by_query=by_query)
