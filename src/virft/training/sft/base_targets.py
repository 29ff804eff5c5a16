"""Supervised targets that depend on the base model: samples that it sometimes solves, or its own correct completions.

Both read the completions that the base model has sampled (``virft.data.base_completions``). Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from virft.config.schema import SFTConfig
from virft.data.base_completions import BASE_COMPLETIONS, BaseGroup, read_base_completions
from virft.errors import DataError
from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.text.answers import split_reasoning
from virft.types import Sample


def base_groups(sft: SFTConfig, samples: Iterable[Sample]) -> dict[str, BaseGroup]:
    """Sample id -> the base model's completions in ``sft.base_completions``.

    Raises ``DataError`` for a sample without completions.
    """
    folder = Path(sft.base_completions or "")
    groups = read_base_completions(folder)
    ids = [sample.id for sample in samples]
    if missing := [name for name in ids if name not in groups]:
        raise DataError(
            f"{folder / BASE_COMPLETIONS}: has no completions of {len(missing)} of {len(ids)} training samples, such "
            f"as {missing[0]}; expected those of all"
        )
    return {name: groups[name] for name in ids}


def selected_ids(sft: SFTConfig, groups: Mapping[str, BaseGroup]) -> set[str]:
    """Ids of the samples that ``sft.targets`` trains on.

    Source of ``curated``: DC-SFT (arXiv 2602.10815), which excludes samples that the base model never solves.
    """
    if sft.targets == "labels":
        return set(groups)
    if sft.targets == "curated":
        return {name for name, group in groups.items() if group.mean_score > sft.curated_above}
    return {name for name, group in groups.items() if any(one.score > sft.rejection_above for one in group.completions)}


def describe_threshold(sft: SFTConfig) -> str:
    """The score that selects samples, as text."""
    if sft.targets == "curated":
        return f"mean score above sft.curated_above = {sft.curated_above:g}"
    return f"completion whose score is above sft.rejection_above = {sft.rejection_above:g}"


def describe_selection(number: int, total: int) -> str:
    """A number of samples as text.

    >>> describe_selection(3, 8), describe_selection(8, 8)
    ('3 of 8 samples', 'all 8 samples')
    """
    return f"all {total} samples" if number == total else f"{number} of {total} samples"


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectionTargets:
    """Samples whose targets are the base model's own correct answers."""

    by_id: Mapping[str, Sequence[Sample]]
    """Sample id -> the sample with each of its targets, best score first."""
    seed: int
    """Seed of the draw of one target among several."""

    def batch(self, samples: Sequence[Sample], number: int) -> list[Sample]:
        """The samples of step ``number``, each with one of its targets; a pure function of step and place.

        Every sample must be in ``by_id``.
        """
        return [self._draw(self.by_id[sample.id], number, place) for place, sample in enumerate(samples)]

    def _draw(self, variants: Sequence[Sample], number: int, place: int) -> Sample:
        if len(variants) == 1:
            return variants[0]
        return variants[int(np.random.default_rng([self.seed, number, place]).integers(len(variants)))]


def rejection_targets(
    sft: SFTConfig,
    samples: Iterable[Sample],
    groups: Mapping[str, BaseGroup],
    *,
    space: BoxSpace,
    thinking_for: Callable[[Sample], bool],
    seed: int,
) -> RejectionTargets:
    """The targets of rejection sampling (``sft.rejection_above``, ``sft.rejection_keep``).

    A completion is parsed, and its answer becomes the target, so that data augmentation moves its boxes; with thinking,
    its reasoning becomes the rationale. Completions with an unreadable element are no target. ``space``: box space of
    the base model. ``groups``: those of ``base_groups``.

    Source: rejection-sampling fine-tuning (arXiv 2308.01825).
    """
    by_id = {}
    for sample in samples:
        if variants := _variants(sft, sample, groups[sample.id], space=space, thinking=thinking_for(sample)):
            by_id[sample.id] = variants
    return RejectionTargets(by_id=by_id, seed=seed)


def _variants(sft: SFTConfig, sample: Sample, group: BaseGroup, *, space: BoxSpace, thinking: bool) -> Sequence[Sample]:
    """The sample with each correct answer as its target, best first; equal texts once."""
    task = TASKS[sample.task]
    found: dict[str, Sample] = {}
    correct = (one for one in group.completions if one.score > sft.rejection_above)
    # sorted is stable: of equal scores, the one that was sampled first
    for one in sorted(correct, key=lambda one: -one.score):
        answer = task.read_for(one.text, sample, thinking=thinking, space=space, resized=group.resized).answer
        rationale = split_reasoning(one.text)[0] if thinking else None
        if task.target_fault(answer) is not None or rationale == "":
            continue
        variant = replace(sample, target=answer, rationale=rationale or sample.rationale)
        text = task.render_for(variant, space=space, resized=group.resized, thinking_text=rationale)
        found.setdefault(text, variant)
    return list(found.values())[: 1 if sft.rejection_keep == "best" else None]
