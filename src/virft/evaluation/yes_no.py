"""Yes/no confidence: the probability with which a model confirms each box that it predicted.

The confidence that a model writes next to a box is text, and mostly one of a few numbers. P(yes) to a question about
the box is continuous, and needs no training. Source of the score: VQAScore, Lin et al. 2024, arXiv 2404.01291.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import torch

from virft.errors import ModelError
from virft.evaluation.predictions import SizedPrediction
from virft.geometry.boxes import BoxSpace
from virft.models.attention.layout import pack_row
from virft.models.policy import Policy
from virft.models.renderer import RenderedPrompt
from virft.tasks import TASKS
from virft.text.answers import render_corners
from virft.types import Box, Detections, ImageSize, LabelledDetections, Sample

YES_NO_QUESTION = "Is the object in the box {box} a {query}? Answer yes or no."
_YES = ("yes", "Yes", "YES", " yes", " Yes")
_NO = ("no", "No", "NO", " no", " No")


class YesNoConfidence:
    """P(yes) of every predicted box, by one forward pass of the language model for each answer.

    The prompts of an answer's boxes differ after the beginning of the question. The packed row holds what they share,
    the image included, once, and the rest of each prompt after it (prefix sharing).
    """

    def __init__(
        self,
        policy: Policy,
        tokenizer: Any,
        *,
        render: Callable[[Sample], RenderedPrompt],
        thinking: bool,
        space: BoxSpace,
        device: torch.device,
    ) -> None:
        """``render`` makes prompts without thinking; ``thinking``: the mode of the completions that are scored.

        Raises ``ModelError`` if the tokenizer begins yes and no with the same token.
        """
        self._policy, self._render, self._device = policy, render, device
        self._thinking, self._space = thinking, space
        self._yes, self._no = (_first_tokens(tokenizer, words) for words in (_YES, _NO))
        if not set(self._yes).isdisjoint(self._no):
            raise ModelError(
                "the tokenizer begins yes and no with the same token; expected different tokens (--yes-no)"
            )

    def score(self, samples: Sequence[Sample], predictions: Sequence[SizedPrediction]) -> list[SizedPrediction]:
        """Return the predictions with ``yes_probs``; one without boxes is returned as it is."""
        return [self._scored(sample, one) for sample, one in zip(samples, predictions, strict=True)]

    def _scored(self, sample: Sample, sized: SizedPrediction) -> SizedPrediction:
        prediction, resized = sized
        reading = TASKS[sample.task].read_for(
            prediction.text, sample, thinking=self._thinking, space=self._space, resized=resized
        )
        answer = reading.answer
        if not isinstance(answer, Detections | LabelledDetections) or not answer.items:
            return sized
        labels = [item.label or sample.query for item in answer.items] if isinstance(answer, LabelledDetections) else ()
        found = self.probabilities(sample, [item.box for item in answer.items], resized=resized, labels=labels)
        return SizedPrediction(replace(prediction, yes_probs=tuple(found)), resized)

    def probabilities(
        self, sample: Sample, boxes: Sequence[Box], *, resized: ImageSize, labels: Sequence[str] = ()
    ) -> list[float]:
        """Return P(yes) / (P(yes) + P(no)), in [0, 1], for each box in pixels of the original image.

        ``resized``: size of the image in the prompt. ``labels``: class of each box; empty: it is the query. P(yes) is
        the probability that the answer begins with the first token of "yes", in any case and with or without a space
        before it.
        """
        names = labels or [sample.query] * len(boxes)
        prompts = [
            self._render(self._about(sample, box, resized, name)) for box, name in zip(boxes, names, strict=True)
        ]
        ids = [one.prompt.token_ids for one in prompts]
        # At least one token of each prompt is its own, because the last hidden state of each is needed.
        length = min(_shared_length(ids), min(map(len, ids)) - 1)
        row = pack_row([ids[0][:length]], [prompts[0].positions[:, :length]], [[one[length:] for one in ids]])
        ends = torch.tensor([len(one) - length for one in ids]).cumsum(0) + (length - 1)
        with torch.no_grad():
            features = self._policy.encode_images([prompts[0].vision.to(self._device)])
            hidden = self._policy.hidden_states(row.to(self._device), features)
            logprobs = self._policy.next_log_distribution(hidden.index_select(0, ends.to(self._device)))  # [boxes, V]
        yes, no = (logprobs[:, tokens].logsumexp(-1) for tokens in (self._yes, self._no))
        found: list[float] = torch.sigmoid((yes - no).double()).tolist()
        return found

    def _about(self, sample: Sample, box: Box, resized: ImageSize, label: str) -> Sample:
        corners = render_corners(box, space=self._space, original=sample.target_size, resized=resized)
        return replace(sample, question=YES_NO_QUESTION.replace("{box}", corners).replace("{query}", label))


def _first_tokens(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """The distinct first tokens of words."""
    return sorted({tokenizer(word, add_special_tokens=False).input_ids[0] for word in words})


def _shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """Number of first tokens that all prompts share."""
    return sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False)))
