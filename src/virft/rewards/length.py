"""What it costs to come near the end of the room for an answer."""

from __future__ import annotations


def overlong_reward(num_tokens: int, *, max_tokens: int, overlong_tokens: int) -> float:
    """0 up to ``max_tokens - overlong_tokens``, from there down to -1 at ``max_tokens``, where a completion is cut.

    Source: soft overlong punishment of DAPO (arXiv 2503.14476, equation 13).

    >>> [overlong_reward(n, max_tokens=100, overlong_tokens=20) for n in (1, 80, 90, 100)]
    [0.0, 0.0, -0.5, -1.0]
    """
    too_many = num_tokens - (max_tokens - overlong_tokens)
    return -min(1.0, too_many / overlong_tokens) if too_many > 0 else 0.0
