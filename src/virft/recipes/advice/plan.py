"""Settings and commands of advised training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from virft.config.fitting import SMALL, FittedValue, fitted_demonstration_coef
from virft.config.schema import MIXED, WARM_STARTED
from virft.config.toml_file import value_at
from virft.config.wording import counted
from virft.models.size import read_model_size
from virft.recipes.advice.completions import AdviceRequest
from virft.recipes.advice.features import Features
from virft.recipes.advice.rule import Advice, AdvisedSystem, Case
from virft.recipes.first_config import DataFolders, describe_gaps, find_datasets
from virft.recipes.fitting import facts_of, fit

CONFIG_NAME = "mine.toml"
"""Config of the printed commands, unless another one is written."""
_TOKEN_LIMIT = "sampling.max_completion_tokens"
_TRUNCATED_FRAC = 0.05
"""From this fraction of truncated completions, the token limit is doubled."""


class _Tuned(NamedTuple):
    """Learning rates that validation data has selected with virft-tiny."""

    sft: float
    """Best rate of SFT / fitted one."""
    grpo: float
    """The same for RFT."""
    evidence: str


_TUNED: Mapping[tuple[Case, str], _Tuned] = {
    (Case.KNOWN, "detection"): _Tuned(1 / 30, 1 / 10, "best of 3 rates on 2 training sets of known classes"),
    (Case.KNOWN, "grounding"): _Tuned(1 / 3, 1 / 3, "best of 2 rates on 1 training set"),
    (Case.REASONING, "grounding"): _Tuned(1 / 3, 1 / 3, "best of 2 rates on 1 training set"),
    (Case.NAMES, "classification"): _Tuned(1, 1, "best of 2 rates on 1 training set"),
    (Case.FEW, "detection"): _Tuned(1, 1, "best of 2 rates on 1 training set of new classes"),
    (Case.SOME, "detection"): _Tuned(1, 1, "best of 3 rates on 1 training set of new classes"),
    (Case.MANY, "detection"): _Tuned(1, 1, "that of fewer images; not tuned for this number"),
}
"""Case and task -> measured learning rates. Source: docs/reproducing.md."""
_SUPERVISED = ("sft", *WARM_STARTED)


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingLine:
    """A setting of the advised config and the reason for it; "" if the user gave it."""

    key: str
    value: Any
    reason: str = ""

    def __str__(self) -> str:
        written = tomli_w.dumps({"value": self.value}).removeprefix("value = ").rstrip("\n")
        return f"{self.key} = {written}" + (f"  # {self.reason}" if self.reason else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """Config and commands of advised training. Settings that are not listed are fitted (docs/config.md)."""

    lines: tuple[SettingLine, ...]
    """The config, a setting a line."""
    commands: tuple[str, ...]
    """Commands to run in this order."""
    notes: tuple[str, ...]
    """Sentences about settings that may help and are not measured, and about what the data lacks."""

    @property
    def toml(self) -> str:
        """The config as TOML."""
        return "\n".join(map(str, self.lines)) + "\n"


def plan_training(
    request: AdviceRequest,
    features: Features,
    advice: Advice,
    *,
    name: str = CONFIG_NAME,
) -> TrainingPlan:
    """Return config and commands of the advised training; empty if none is advised.

    ``name``: file of the config.
    """
    notes = _notes(features, advice)
    if advice.system == "none":
        return TrainingPlan(lines=(), commands=(), notes=tuple(notes))
    number = features.num_samples - features.num_demonstrable
    if number and advice.system in _SUPERVISED:
        notes.append(
            "this config is refused: SFT with thinking needs a rationale in every sample, and "
            f"{counted(number, 'sample')} of {features.num_samples} {'has' if number == 1 else 'have'} none; add "
            "rationales (virft build rows), or set prompt.thinking = false"
        )
    gaps = describe_gaps(DataFolders(Path(str(request.config.data.train)), _validation(request)))
    own = _own_lines(request)
    given = {line.key: line.value for line in own}
    advised = _advised_lines(request, features, advice)
    notes += [
        f"{line.key} is set to {given[line.key]}; {line.reason}: try {line.value}"
        for line in advised
        if line.key == _TOKEN_LIMIT and line.key in given
    ]
    advised = [line for line in advised if line.key not in given]
    rates = [one for one in _rates(request, features, advice) if one.is_fitted]
    notes += [*gaps, *(f"{one.key} = {one.value:g} is fitted: {one.evidence}" for one in rates)]
    return TrainingPlan(lines=(*own, *advised), commands=tuple(_commands(advice.system, name)), notes=tuple(notes))


def _own_lines(request: AdviceRequest) -> list[SettingLine]:
    """Data, model, and what the user has set."""
    loaded = request.loaded
    lines = {key: SettingLine(key=key, value=value_at(loaded.config, key)) for key in sorted(loaded.explicit)}
    first = ["data.train", "data.validation", "run.dir", "model.path"]
    if "data.validation" not in lines and (validation := _validation(request)) is not None:
        reason = "chooses the best model of the run"
        lines["data.validation"] = SettingLine(key="data.validation", value=str(validation), reason=reason)
    order = [key for key in first if key in lines] + [key for key in lines if key not in first]
    return [lines[key] for key in order]


def _validation(request: AdviceRequest) -> Path | None:
    """The validation dataset that is set, else the one next to the training dataset, if there is one."""
    if (chosen := request.config.data.validation) is not None:
        return Path(chosen)
    return find_datasets(Path(str(request.config.data.train))).validation


def _advised_lines(request: AdviceRequest, features: Features, advice: Advice) -> list[SettingLine]:
    system = advice.system
    lines = _steps(request, system)
    lines += [
        SettingLine(key=rate.key, value=rate.value, reason=rate.evidence)
        for rate in _rates(request, features, advice)
        if not rate.is_fitted
    ]
    if system in MIXED:
        coef = _demonstration_coef(request, system)
        lines += [
            SettingLine(key="grpo.demonstrations", value="loss"),
            SettingLine(key="grpo.demonstration_coef", value=coef.value, reason=coef.reason),
            SettingLine(key="grpo.demonstration_coef_end", value=0.0, reason="in the last step"),
        ]
    if (truncated := features.value("truncated")) > _TRUNCATED_FRAC:
        limit = request.config.sampling.max_completion_tokens
        reason = f"{truncated:.0%} of the completions were cut at {limit} tokens"
        lines.append(SettingLine(key=_TOKEN_LIMIT, value=2 * limit, reason=reason))
    return lines


def _steps(request: AdviceRequest, system: AdvisedSystem) -> list[SettingLine]:
    grpo, sft = (fit(request.loaded, method=method) for method in ("grpo", "sft"))
    reasons = {"grpo": grpo.origins["grpo.steps"], "sft": sft.origins["sft.steps"]}
    steps = {"grpo": grpo.config.grpo.steps, "sft": sft.config.sft.steps}
    if system == "sft":
        return [SettingLine(key="sft.steps", value=steps["sft"], reason=reasons["sft"])]
    if system not in WARM_STARTED:
        return [SettingLine(key="grpo.steps", value=steps["grpo"], reason=reasons["grpo"])]
    return [
        SettingLine(key="grpo.steps", value=steps["grpo"], reason=reasons["grpo"]),
        SettingLine(key="grpo.warm_start_steps", value=steps["grpo"] // 2, reason="the first half is supervised"),
    ]


def _demonstration_coef(request: AdviceRequest, system: AdvisedSystem) -> FittedValue:
    grpo = fit(request.loaded, method="grpo").config.grpo
    steps = grpo.steps - (grpo.steps // 2 if system in WARM_STARTED else 0)
    return fitted_demonstration_coef(steps * grpo.prompts_per_step, facts_of(request.config).num_samples)


class _Rate(NamedTuple):
    """A measured learning rate."""

    key: str
    value: float
    is_fitted: bool
    """True if the fitted value is the same."""
    evidence: str


def _rates(request: AdviceRequest, features: Features, advice: Advice) -> list[_Rate]:
    """Learning rates, for models of the size and cases in which some were measured, without those that are set."""
    size = read_model_size(request.config.model.path).num_parameters
    tuned = _TUNED.get((advice.case, features.task))
    if tuned is None or advice.system == "none" or size is None or size >= SMALL:
        return []
    fitted = {
        "sft": fit(request.loaded, method="sft").config.sft.learning_rate,
        "grpo": request.config.grpo.learning_rate,
    }
    used = {"sft"} if advice.system == "sft" else {"grpo"}
    used |= {"sft"} if advice.system in WARM_STARTED else set()
    of_mix = "; chosen for RFT, not for mix" if advice.system in MIXED else ""
    return [
        _Rate(
            key=f"{method}.learning_rate",
            value=float(f"{fitted[method] * factor:.2g}"),
            is_fitted=factor == 1,
            evidence=f"{tuned.evidence}, virft-tiny, docs/reproducing.md" + of_mix * (method == "grpo"),
        )
        for method, factor in (("sft", tuned.sft), ("grpo", tuned.grpo))
        if method in used and f"{method}.learning_rate" not in request.loaded.explicit
    ]


def _commands(system: AdvisedSystem, name: str) -> list[str]:
    if system == "sft":
        return [f"virft sft {name}"]
    return [f"virft {'train' if system in MIXED else 'grpo'} {name}"]


def _notes(features: Features, advice: Advice) -> list[str]:
    notes = []
    if advice.case == Case.SOLVED:
        notes.append("collect samples that the model does not solve, such as other views, backgrounds or classes")
    zero_std = 1 - features.value("nonzero_std")
    if advice.system not in ("none", "sft") and advice.case != Case.UNREADABLE and zero_std > 0.5:
        notes.append(
            f"{zero_std:.0%} of the groups have equal rewards, so RFT learns nothing from them; grpo.refill_rounds = 2 "
            "replaces them by groups of other samples, for more time per step (not measured)"
        )
    if features.value("readable") < 0.9 and advice.case not in (Case.TRUNCATED, Case.UNREADABLE):
        notes.append(
            f"{1 - features.value('readable'):.0%} of the completions are unreadable; see the answers with `virft ask`"
        )
    return notes
