"""Completions that the base model samples for training samples, with their scores: one JSON line per sample.

Written by ``virft.training.grpo.base_filter.sample_base``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from virft.files import write_text
from virft.types import ImageSize

BASE_COMPLETIONS = "base_completions.jsonl"
"""Name of the file in its folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseCompletion:
    """One completion of the base model."""

    text: str
    """Decoded text, including the prefix that the prompt has opened."""
    num_tokens: int
    """Number of its tokens, with the end token."""
    score: float
    """``Task.score``: F1, IoU or accuracy of this question, from 0 to 1."""
    reward: float
    """Total reward, as in the first training step; NaN if a reward function returned no finite number."""
    well_formed: bool
    """True if the text consists of exactly the requested blocks."""
    truncated: bool
    """True if the token limit ended it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseGroup:
    """The completions of one sample, all sampled from the same prompt."""

    sample_id: str
    """Id of the sample."""
    prompt_tokens: int
    """Number of tokens of the prompt."""
    resized: ImageSize
    """Size of the target image after the model's image processor, in pixels; ``Task.read_for`` needs it."""
    seconds: float
    """Time that sampling took: that of the batch, divided by its samples."""
    completions: tuple[BaseCompletion, ...]
    """The completions in the order of their random streams."""

    @property
    def mean_score(self) -> float:
        """Mean ``Task.score`` of the completions."""
        return fmean(one.score for one in self.completions)

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt, once, and of all completions."""
        return self.prompt_tokens + sum(one.num_tokens for one in self.completions)


def read_base_completions(folder: Path, name: str = BASE_COMPLETIONS) -> dict[str, BaseGroup]:
    """Sample id -> its group, in the order of the file; empty without a file. A line that a crash has cut is skipped.

    A sample that was written twice has its first group. ``name``: of the file; another one for another model.
    """
    path = folder / name
    # Not str.splitlines: a completion may contain other line breaks, such as U+2028.
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    # A complete line ends with a line break, so the last element is empty or cut.
    found: dict[str, BaseGroup] = {}
    for line in lines[:-1]:
        group = _group_of(json.loads(line))
        found.setdefault(group.sample_id, group)
    return found


def start_base_completions(folder: Path, name: str = BASE_COMPLETIONS) -> dict[str, BaseGroup]:
    """``read_base_completions``, after which groups can be appended: a line that a crash has cut is removed."""
    found = read_base_completions(folder, name)
    if (folder / name).exists():
        write_text(folder / name, "".join(map(_line, found.values())))
    return found


def append_base_completions(folder: Path, groups: Iterable[BaseGroup], name: str = BASE_COMPLETIONS) -> None:
    """Add groups to the file, which is created if it does not exist."""
    with (folder / name).open("a", encoding="utf-8") as file:
        file.write("".join(map(_line, groups)))


def _line(group: BaseGroup) -> str:
    tree = asdict(group)
    for one in tree["completions"]:
        one["reward"] = one["reward"] if math.isfinite(one["reward"]) else None  # JSON has no NaN
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def _group_of(tree: dict[str, Any]) -> BaseGroup:
    completions = tuple(
        BaseCompletion(**one | {"reward": math.nan if one["reward"] is None else one["reward"]})
        for one in tree["completions"]
    )
    return BaseGroup(**tree | {"resized": ImageSize(*tree["resized"]), "completions": completions})
