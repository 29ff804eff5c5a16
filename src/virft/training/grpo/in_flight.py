"""Groups in flight: completions that are sampled before the update of an earlier step, and their place in a checkpoint.

A checkpoint holds them as JSON lines, one group a line, because the weights that sampled them are gone by then.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from virft.errors import RunError
from virft.generation.generator import EncodedPrompt, Sampling
from virft.models.renderer import RenderedPrompt
from virft.types import Completion, FinishReason, Sample


class InFlight(NamedTuple):
    """Prompts of the samples of one rank, and their completions, which may still be sampled."""

    step: int
    """Step that trains on them."""
    policy_step: int
    """Step whose weights, before its update, sample them."""
    samples: list[Sample]
    rendered: list[RenderedPrompt]
    encoded: list[EncodedPrompt]
    completions: Sampling


class SavedFlight(NamedTuple):
    """The completions of all ranks for one step, in the order of its batch."""

    step: int
    policy_step: int
    sample_ids: list[str]
    completions: list[list[Completion]]

    def require_samples(self, samples: Sequence[Sample]) -> None:
        """Raise ``RunError`` unless these are the samples of the batch."""
        if self.sample_ids != (found := [one.id for one in samples]):
            raise RunError(
                f"the checkpoint holds completions of step {self.step + 1} for the samples "
                f"{', '.join(self.sample_ids)}; expected {', '.join(found)}"
            )


def format_flight(flight: SavedFlight) -> str:
    """Format completions as JSON lines, one group a line.

    >>> format_flight(SavedFlight(7, 6, ["a"], [[]]))
    '{"step":7,"policy_step":6,"sample":"a","completions":[]}\\n'
    """
    # JSON has the shortest decimal number that is read as the same float, so log-probs lose no bit.
    return "".join(
        json.dumps(
            {
                "step": flight.step,
                "policy_step": flight.policy_step,
                "sample": sample_id,
                "completions": [_record(one) for one in completions],
            },
            separators=(",", ":"),
        )
        + "\n"
        for sample_id, completions in zip(flight.sample_ids, flight.completions, strict=True)
    )


def parse_flight(text: str) -> SavedFlight | None:
    """The inverse of ``format_flight``, to the last bit of the log-probs; None for an empty text."""
    records = [json.loads(line) for line in text.splitlines()]
    if not records:
        return None
    return SavedFlight(
        step=records[0]["step"],
        policy_step=records[0]["policy_step"],
        sample_ids=[record["sample"] for record in records],
        completions=[[_completion(one) for one in record["completions"]] for record in records],
    )


def _record(completion: Completion) -> dict[str, Any]:
    assert completion.zoom is None, "the config refuses zoom calls with completions in flight"
    return {name: value for name, value in asdict(completion).items() if name != "zoom"}


def _completion(record: dict[str, Any]) -> Completion:
    return Completion(
        token_ids=tuple(record["token_ids"]),
        token_ends=tuple(record["token_ends"]),
        sampler_logprobs=tuple(record["sampler_logprobs"]),
        text=record["text"],
        finish_reason=FinishReason(record["finish_reason"]),
    )
