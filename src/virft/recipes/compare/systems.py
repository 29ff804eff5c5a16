"""The systems of a comparison: the method of each, its learning rates, and the config of every run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from virft.config.schema import CompareConfig, Config, GRPOConfig, Method, SFTConfig, SFTTargets
from virft.recipes.preflight import thinking_by_origin, training_data


class System(NamedTuple):
    """A way to train in one run: SFT, or GRPO, which may begin with a warm start."""

    title: str
    """Name in tables and sentences."""
    targets: SFTTargets | None = None
    """Targets of SFT; None for GRPO."""
    is_warm_started: bool = False
    """True if the first steps are supervised (``grpo.warm_start_steps``)."""
    is_mixed: bool = False
    """True if the steps of GRPO have demonstrations (``grpo.demonstrations``)."""

    @property
    def method(self) -> Method:
        """The training method."""
        return "grpo" if self.targets is None else "sft"

    @property
    def is_sft(self) -> bool:
        """True if all its steps are supervised."""
        return self.targets is not None

    @property
    def needs_base_completions(self) -> bool:
        """True if its targets depend on what the base model samples."""
        return self.targets in ("curated", "rejection")


SYSTEMS: Mapping[str, System] = {
    "base": System("base"),
    "sft": System("SFT", "labels"),
    "curated_sft": System("curated SFT", "curated"),
    "rejection_sft": System("rejection SFT", "rejection"),
    "rft": System("RFT"),
    "sft_rft": System("SFT then RFT", is_warm_started=True),
    "mix": System("mix", is_mixed=True),
    "sft_mix": System("SFT then mix", is_warm_started=True, is_mixed=True),
}
"""The base model, and the systems of ``compare.systems``, in the order of tables."""

Rates = tuple[float, ...]
"""The learning rate of a system; two of a system with a warm start: that of the warm start, and that of GRPO."""


def format_rates(rates: Rates) -> str:
    """Format the learning rates of a system.

    >>> format_rates((1e-4,)), format_rates((1e-4, 3e-4))
    ('0.0001', '0.0001 then 0.0003')
    """
    return " then ".join(f"{rate:g}" for rate in rates)


def learning_rates(name: str, config: Config) -> list[Rates]:
    """Learning rates that are tried for a system: as many trials for each system.

    A system with a warm start tries pairs: the lowest rate of SFT and of GRPO, the second lowest of both, and so on.
    """
    plan = config.compare
    sft = plan.sft_learning_rates or (config.sft.learning_rate,)
    grpo = plan.rft_learning_rates or (config.grpo.learning_rate,)
    system = SYSTEMS[name]
    if system.is_warm_started:
        return list(zip(sorted(sft), sorted(grpo), strict=True))
    return [(rate,) for rate in (sft if system.is_sft else grpo)]


class Steps(NamedTuple):
    """Steps of a run."""

    number: int
    """Number of steps, the warm start included."""
    samples: int
    """Samples of a step."""
    warm_start: int = 0
    """Number of the first steps that are supervised; 0 without a warm start."""


def sft_config(config: Config, name: str, steps: Steps, *, rates: Rates, seed: int, base: Path, folder: Path) -> Config:
    """The config of a run of an SFT system; ``base``: folder of the base model's completions."""
    targets = SYSTEMS[name].targets
    assert targets is not None, "GRPO systems have no targets"
    sft = replace(
        _with_own_targets(config.sft, targets),
        base_completions=None if targets == "labels" else str(base),
        steps=steps.number,
        samples_per_step=steps.samples,
        warmup_steps=min(config.sft.warmup_steps, steps.number - 1),
        learning_rate=rates[0],
    )
    config = _with_possible_thinking(config, targets)
    return replace(_alone(config, seed, folder), sft=sft, grpo=without_demonstrations(config.grpo))


def grpo_config(config: Config, name: str, steps: Steps, *, rates: Rates, seed: int, folder: Path) -> Config:
    """The config of a run of a GRPO system."""
    system = SYSTEMS[name]
    grpo = replace(
        config.grpo if system.is_mixed else without_demonstrations(config.grpo),
        steps=steps.number,
        warm_start_steps=steps.warm_start,
        warmup_steps=min(config.grpo.warmup_steps, steps.number - steps.warm_start - 1),
        learning_rate=rates[-1],
    )
    sft = _with_own_targets(config.sft, "labels")
    if system.is_warm_started:
        warmup_steps = min(config.sft.warmup_steps, steps.warm_start - 1)
        sft = replace(sft, learning_rate=rates[0], warmup_steps=warmup_steps)
    return replace(_alone(config, seed, folder), sft=sft, grpo=grpo)


def shared_settings(config: Config) -> Config:
    """The config without settings that a comparison may change when it is resumed.

    These are ``[compare]``, and those that only some systems have; the config of each finished run is compared too.
    """
    return replace(
        config,
        compare=CompareConfig(),
        sft=_with_own_targets(config.sft, "labels"),
        grpo=without_demonstrations(config.grpo),
    )


def without_demonstrations(grpo: GRPOConfig) -> GRPOConfig:
    """The settings of GRPO without demonstrations."""
    return _with_defaults(grpo, ("demonstration", "near_right"))


def has_possible_thinking(config: Config) -> bool:
    """True if labels can be targets with the thinking mode of the prompts: thinking needs rationales."""
    thinking = thinking_by_origin(config.prompt, config.mixture)
    if not (config.prompt.thinking or any(thinking.values())):
        return True
    return all(
        sample.rationale is not None
        for sample in training_data(config, "grpo")
        if thinking.get(sample.origin, config.prompt.thinking)
    )


def _alone(config: Config, seed: int, folder: Path) -> Config:
    """The config of one run in ``folder``, which does not depend on what it is compared with."""
    return replace(config, seed=seed, compare=CompareConfig(), run=replace(config.run, dir=str(folder)))


def _with_own_targets(sft: SFTConfig, targets: SFTTargets) -> SFTConfig:
    others = {"labels": ("curated", "rejection"), "curated": ("rejection",), "rejection": ("curated",)}[targets]
    return replace(_with_defaults(sft, others), targets=targets, base_completions=None)


def _with_possible_thinking(config: Config, targets: SFTTargets) -> Config:
    # rejection sampling trains on the policy's own reasoning
    if targets == "rejection" or has_possible_thinking(config):
        return config
    return without_thinking(config)


def without_thinking(config: Config) -> Config:
    """The config with prompts that request no reasoning, whatever the dataset."""
    mixture = {name: replace(part, thinking=False) for name, part in config.mixture.items()}
    return replace(config, prompt=replace(config.prompt, thinking=False), mixture=mixture)


_Section = TypeVar("_Section", GRPOConfig, SFTConfig)


def _with_defaults(section: _Section, prefixes: tuple[str, ...]) -> _Section:
    """The section with default values for all settings whose names begin with one of ``prefixes``."""
    defaults: dict[str, Any] = {
        one.name: one.default for one in fields(section) if one.name.startswith(prefixes) and one.default is not MISSING
    }
    return replace(section, **defaults)
