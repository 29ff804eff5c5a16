"""Penalty for completions that come close to the token limit."""

from __future__ import annotations


def overlong_reward(num_tokens: int, *, max_tokens: int, overlong_tokens: int) -> float:
    """Return 0 up to ``max_tokens - overlong_tokens``, then linearly down to -1 at ``max_tokens`` (truncated).

    Source: soft overlong punishment of DAPO (arXiv 2503.14476, equation 13).

    >>> [overlong_reward(n, max_tokens=100, overlong_tokens=20) for n in (1, 80, 90, 100)]
    [0.0, 0.0, -0.5, -1.0]
    """
    too_many = num_tokens - (max_tokens - overlong_tokens)
    return -min(1.0, too_many / overlong_tokens) if too_many > 0 else 0.0
