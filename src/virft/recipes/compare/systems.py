"""The systems of a comparison: the stages of each, its learning rates, and the config of every run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from virft.config.schema import CompareConfig, Config, GRPOConfig, Method, SFTConfig, SFTTargets
from virft.recipes.preflight import training_data


class System(NamedTuple):
    """A way to train: SFT, GRPO, or GRPO after an SFT warm start."""

    title: str
    """Name in tables and sentences."""
    targets: SFTTargets | None = None
    """Targets of its SFT stage; None: it has none."""
    has_grpo: bool = False
    """True if it has a GRPO stage, which is then its last."""
    is_mixed: bool = False
    """True if that stage has demonstrations (``grpo.demonstrations``)."""

    @property
    def is_sft(self) -> bool:
        """True if all its stages are SFT."""
        return self.targets is not None and not self.has_grpo

    @property
    def is_warm_started(self) -> bool:
        """True if an SFT stage comes before the GRPO stage."""
        return self.targets is not None and self.has_grpo

    @property
    def needs_base_completions(self) -> bool:
        """True if its targets depend on what the base model samples."""
        return self.targets in ("curated", "rejection")


SYSTEMS: Mapping[str, System] = {
    "base": System("base"),
    "sft": System("SFT", "labels"),
    "curated_sft": System("curated SFT", "curated"),
    "rejection_sft": System("rejection SFT", "rejection"),
    "rft": System("RFT", has_grpo=True),
    "sft_rft": System("SFT then RFT", "labels", has_grpo=True),
    "mix": System("mix", has_grpo=True, is_mixed=True),
    "sft_mix": System("SFT then mix", "labels", has_grpo=True, is_mixed=True),
}
"""The base model, and the systems of ``compare.systems``, in the order of tables."""

Rates = tuple[float, ...]
"""The learning rate of each stage of a system."""


def format_rates(rates: Rates) -> str:
    """Format the learning rates of a system.

    >>> format_rates((1e-4,)), format_rates((1e-4, 3e-4))
    ('0.0001', '0.0001 then 0.0003')
    """
    return " then ".join(f"{rate:g}" for rate in rates)


def learning_rates(name: str, config: Config) -> list[Rates]:
    """Learning rates that are tried for a system: as many trials for each system.

    A system of two stages tries pairs: the lowest rate of SFT and of GRPO, the second lowest of both, and so on.
    """
    plan = config.compare
    sft = plan.sft_learning_rates or (config.sft.learning_rate,)
    grpo = plan.rft_learning_rates or (config.grpo.learning_rate,)
    system = SYSTEMS[name]
    if system.is_warm_started:
        return list(zip(sorted(sft), sorted(grpo), strict=True))
    return [(rate,) for rate in (grpo if system.has_grpo else sft)]


class Steps(NamedTuple):
    """Steps of the stages of a system; 0: it has no such stage."""

    sft: int
    sft_samples: int
    """Samples of an SFT step."""
    grpo: int

    @property
    def total(self) -> int:
        """Steps of both stages."""
        return self.sft + self.grpo


def split_steps(name: str, *, sft: int, sft_samples: int, grpo: int, warm_start_frac: float) -> Steps:
    """The steps of each stage, given those that a whole run of SFT or of GRPO has; each stage has at least one.

    >>> split_steps("sft_rft", sft=120, sft_samples=16, grpo=120, warm_start_frac=0.25)
    Steps(sft=30, sft_samples=16, grpo=90)
    """
    system = SYSTEMS[name]
    if not system.is_warm_started:
        return Steps(0, 0, grpo) if system.has_grpo else Steps(sft, sft_samples, 0)
    first = min(max(1, round(grpo * warm_start_frac)), grpo - 1)
    return Steps(max(1, round(sft * warm_start_frac)), sft_samples, grpo - first)


def sft_config(
    config: Config, targets: SFTTargets, steps: Steps, *, rate: float, seed: int, base: Path, folder: Path
) -> Config:
    """The config of an SFT stage; ``base``: folder of the base model's completions."""
    sft = replace(
        _with_own_targets(config.sft, targets),
        base_completions=None if targets == "labels" else str(base),
        steps=steps.sft,
        samples_per_step=steps.sft_samples,
        warmup_steps=min(config.sft.warmup_steps, steps.sft - 1),
        learning_rate=rate,
    )
    config = _with_possible_thinking(config, targets)
    return replace(_alone(config, seed, folder), sft=sft, grpo=without_demonstrations(config.grpo))


def grpo_config(
    config: Config, steps: Steps, *, is_mixed: bool, rate: float, seed: int, model: str, folder: Path
) -> Config:
    """The config of a GRPO stage that starts from ``model``."""
    grpo = config.grpo if is_mixed else without_demonstrations(config.grpo)
    grpo = replace(
        grpo, steps=steps.grpo, warmup_steps=min(config.grpo.warmup_steps, steps.grpo - 1), learning_rate=rate
    )
    return replace(
        _alone(config, seed, folder),
        sft=_with_own_targets(config.sft, "labels"),
        grpo=grpo,
        model=replace(config.model, path=model),
    )


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
    """True if SFT can train on labels with the thinking mode of ``[prompt]``: thinking needs rationales."""
    return not config.prompt.thinking or all(sample.rationale for sample in training_data(config, "grpo"))


def method_of(name: str) -> Method:
    """The training method of the last stage."""
    return "grpo" if SYSTEMS[name].has_grpo else "sft"


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
    return replace(config, prompt=replace(config.prompt, thinking=False))


_Section = TypeVar("_Section", GRPOConfig, SFTConfig)


def _with_defaults(section: _Section, prefixes: tuple[str, ...]) -> _Section:
    """The section with default values for all settings whose names begin with one of ``prefixes``."""
    defaults: dict[str, Any] = {
        one.name: one.default for one in fields(section) if one.name.startswith(prefixes) and one.default is not MISSING
    }
    return replace(section, **defaults)
