"""Fitted defaults: values of settings that a config does not set, chosen by model size, training and data.

The defaults of ``virft.config.schema`` are those of Visual-RFT for a model of 2 billion parameters. A model of another
size, LoRA, or another number of samples needs other values. ``docs/config.md`` shows the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from virft.config.schema import Config, Method, without_effect
from virft.config.wording import counted

TrainingVerb = Literal["train", "grpo", "sft"]
"""A verb that trains one model."""

FittedMethod = TrainingVerb | Literal["compare"]
"""A training verb, or ``compare``, which uses both methods; ``train``: GRPO with demonstrations."""


def method_of(verb: TrainingVerb) -> Method:
    """Return the method that a verb trains with.

    >>> method_of("train")
    'grpo'
    """
    return "sft" if verb == "sft" else "grpo"


_DETECTION = "detection"
"""Task that the settings of detection are fitted to."""
_WITH_CLASSES_AND_BOXES = frozenset({_DETECTION, "multiclass_detection"})
"""Tasks whose few images are augmented."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Facts about the model and the training data of a config before either is loaded."""

    num_parameters: int | None = None
    """Number of parameters of the model; None if unknown, as for a hub id without a size in its name."""

    max_pixels: int | None = None
    """Largest image area of the model's own image processor, in pixels; None if unknown or fixed."""

    num_samples: int | None = None
    """Number of training samples; None if the dataset cannot be read."""

    num_images: int | None = None
    """Number of training images; None if the dataset cannot be read."""

    tasks: frozenset[str] = frozenset()
    """Names of the tasks of the training data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedValue:
    """Value of a setting, and why it was chosen."""

    value: Any
    """The value."""

    reason: str
    """One clause, such as "7.6M parameters, all trained"."""

    source: str = ""
    """Paper, code or measurement that the value comes from; "" if the reason is enough."""


class SizeClass(NamedTuple):
    """Learning rates of models up to a size."""

    below: float
    """Number of parameters below which a model belongs to this class."""
    grpo: float
    """Learning rate of GRPO if all weights are trained."""
    sft: float
    """Learning rate of SFT if all weights are trained."""
    grpo_source: str
    """Where the rate of GRPO comes from."""
    sft_source: str
    """Where the rate of SFT comes from."""


SMALL = 50e6
"""Number of parameters below which a model is fitted as ``virft-tiny`` is."""

_MEASURED = "measured with virft-tiny, docs/log.md"
_TUNED = "tuned with virft-tiny, docs/reproducing.md"
_BETWEEN = "between the rates of virft-tiny and of 2B models"
SIZE_CLASSES = (
    SizeClass(SMALL, 3e-4, 3e-4, _TUNED, _TUNED),
    SizeClass(1.5e9, 5e-6, 3e-5, _BETWEEN, _BETWEEN),
    SizeClass(math.inf, 1e-6, 1e-5, "Visual-RFT code, VLM-R1", "ms-swift"),
)
"""Learning rates by model size, in ascending order. An unknown size counts as large."""

LORA_FACTOR = 10
"""Learning rate of LoRA / that of training all weights. Source: LoRA Without Regret (Schulman et al., 2025); VLM-R1 and
ms-swift have the same ratio: 1e-5 and 1e-6 for GRPO, 1e-4 and 1e-5 for SFT."""

MAX_LORA_RATE = 1e-3
"""Largest rate that is fitted to LoRA: small models have no larger one that was tried."""

PAPER_MAX_PIXELS = 401408
"""Largest image area of Visual-RFT in pixels: 512 image tokens of 28 x 28."""

FEW_IMAGES = 200
"""Number of training images below which data augmentation is on."""

STEPS_OF_FEW_IMAGES = 80
"""Steps of GRPO for a small model with fewer images than that: minutes on two cores. 40 steps on 16 images were enough
in a test, docs/log.md."""

MOST_STEPS = 1000
"""Largest number of steps that is fitted."""

DEMONSTRATION_COEF = 0.5
"""Coefficient of the cross-entropy in the first step of ``virft train``; it falls to 0 in the last one."""

REPEATED_DEMONSTRATION_COEF = 0.1
"""The same if each demonstration is repeated often: then supervision overfits, and reinforcement should dominate."""

MANY_REPEATS = 25
"""Number of times that a run shows each sample, from which on ``REPEATED_DEMONSTRATION_COEF`` fits: between 21, where
0.5 was better, and 30, where 0.1 was (docs/reproducing.md)."""

NUM_VALIDATIONS = 4
"""Validations during a run, after the one before the first step: ``best`` and early stopping choose among them."""

FITTED_KEYS = (
    "model.max_pixels",
    "data.validate_every",
    "augment.resized_crop",
    "augment.horizontal_flip",
    "augment.colour_jitter",
    "reward.iou_threshold",
    "reward.iou_threshold_end",
    "reward.weights.confidence",
    "grpo.steps",
    "grpo.demonstrations",
    "grpo.demonstration_coef",
    "grpo.demonstration_coef_end",
    "grpo.learning_rate",
    "grpo.name_lr_scale",
    "grpo.kl_coef",
    "sft.steps",
    "sft.learning_rate",
    "sft.name_lr_scale",
)
"""Settings that may be fitted, in the order of the tree."""


def may_be_fitted(key: str) -> bool:
    """Return True if a setting, or an entry of a table-valued one, may be fitted.

    >>> may_be_fitted("grpo.steps"), may_be_fitted("reward.weights"), may_be_fitted("run.dir")
    (True, True, False)
    """
    return any(fitted == key or fitted.startswith(f"{key}.") for fitted in FITTED_KEYS)


TOO_FAR = 10.0
"""Factor from the fitted learning rate at which a warning is due."""


def fitted_learning_rate(method: Method, train: Literal["full", "lora"], num_parameters: int | None) -> FittedValue:
    """Return the learning rate of a training method for a model of this size.

    >>> fitted_learning_rate("grpo", "lora", 2_208_985_600).value, fitted_learning_rate("sft", "full", None).value
    (1e-05, 1e-05)
    """
    size = next(one for one in SIZE_CLASSES if (math.inf if num_parameters is None else num_parameters) <= one.below)
    rate = size.grpo if method == "grpo" else size.sft
    value = min(float(f"{rate * LORA_FACTOR:.6g}"), MAX_LORA_RATE) if train == "lora" else rate
    trained = "LoRA" if train == "lora" else "all weights trained"
    source = size.grpo_source if method == "grpo" else size.sft_source
    return FittedValue(value=value, reason=f"{format_size(num_parameters)}, {trained}", source=source)


def fitted_values(
    config: Config, explicit: frozenset[str], facts: Facts, *, method: FittedMethod
) -> dict[str, FittedValue]:
    """Return the values of settings that are not in ``explicit``, by key; only those that have an effect.

    A setting whose schema default fits is not in the result. ``explicit``: the dotted keys that the user has set; an
    entry of a table is a key of its own, such as ``reward.weights.iou``.
    """
    chosen: dict[str, FittedValue] = {}
    if method != "sft":
        chosen |= _of_grpo(config, explicit, facts, is_compared=method == "compare")
        chosen |= _of_demonstrations(config, explicit, facts, chosen, is_recommended=method == "train")
    if method in ("sft", "compare"):
        chosen |= _of_sft(config, facts, is_compared=method == "compare")
    elif config.grpo.warm_start_steps:
        chosen["sft.learning_rate"] = fitted_learning_rate("sft", config.model.train, facts.num_parameters)
    chosen |= _of_data(config, explicit, facts)
    chosen |= _of_images(config, facts)
    chosen |= _of_validation(config, explicit, chosen, method=method)
    if (demonstrations := chosen.get("grpo.demonstrations")) is not None:
        # its parameters have an effect only with it
        config = replace(config, grpo=replace(config.grpo, demonstrations=demonstrations.value))
    idle = without_effect(config)
    return {key: one for key, one in chosen.items() if key not in explicit and key not in idle}


def format_size(num_parameters: int | None) -> str:
    """Format a number of parameters.

    >>> format_size(7_085_056), format_size(2_208_985_600), format_size(None)
    ('7.1M parameters', '2.2B parameters', 'model of unknown size')
    """
    if num_parameters is None:
        return "model of unknown size"
    unit, name = (1e9, "B") if num_parameters >= 1e9 else (1e6, "M")
    number = num_parameters / unit
    return f"{number:.0f}{name} parameters" if number >= 10 else f"{number:.1f}{name} parameters"


def _is_small(facts: Facts) -> bool:
    return facts.num_parameters is not None and facts.num_parameters < SMALL


def _of_grpo(config: Config, explicit: frozenset[str], facts: Facts, *, is_compared: bool) -> dict[str, FittedValue]:
    chosen: dict[str, FittedValue] = {}
    if not (is_compared and config.compare.rft_learning_rates):
        chosen["grpo.learning_rate"] = fitted_learning_rate("grpo", config.model.train, facts.num_parameters)
    if facts.num_samples is not None:
        is_few = _is_small(facts) and facts.num_images is not None and facts.num_images < FEW_IMAGES
        least = STEPS_OF_FEW_IMAGES if is_few else 200
        chosen |= _steps(
            "grpo", config, facts.num_samples, per_step=config.grpo.prompts_per_step, passes=1, least=least
        )
    if not _is_small(facts):
        return chosen
    size = format_size(facts.num_parameters)
    if "grpo.kl_coef_end" not in explicit:
        chosen["grpo.kl_coef"] = FittedValue(
            value=0.0, reason=f"{size}: no KL penalty, no reference model to compute", source=_MEASURED
        )
    if _DETECTION in facts.tasks:
        chosen |= _names("grpo", config, size)
    if _WITH_CLASSES_AND_BOXES & facts.tasks:
        if config.reward.preset == "robust" and "reward.iou_threshold_end" not in explicit:
            chosen["reward.iou_threshold"] = FittedValue(
                value=0.0, reason=f"{size}: its first boxes rarely reach an IoU of 0.5", source=_MEASURED
            )
            if "reward.iou_threshold" not in explicit:
                chosen["reward.iou_threshold_end"] = FittedValue(value=0.5, reason="the IoU that counts as a hit")
        if config.reward.preset == "robust" and not config.reward.weights:
            chosen["reward.weights.confidence"] = FittedValue(
                value=0.1, reason=f"{size}: with 1, always No Objects is rewarded most", source=_MEASURED
            )
    return chosen


def _of_demonstrations(
    config: Config,
    explicit: frozenset[str],
    facts: Facts,
    chosen: Mapping[str, FittedValue],
    *,
    is_recommended: bool,
) -> dict[str, FittedValue]:
    """Demonstrations of the recommended method, and the coefficients of those that are set; ``chosen``: the steps.

    None if prompts request reasoning: few datasets have the rationales that demonstrations then need.
    """
    found: dict[str, FittedValue] = {}
    if is_recommended and "grpo.demonstrations" not in explicit:
        if config.prompt.thinking or any(part.thinking for part in config.mixture.values()):
            reason = "no demonstrations: prompts request reasoning, which few datasets have"
            return {"grpo.demonstrations": FittedValue(value="off", reason=reason)}
        reason = "the labels are demonstrations, which fade as the policy learns"
        found["grpo.demonstrations"] = FittedValue(value="loss", reason=reason, source=_MEASURED)
    elif config.grpo.demonstrations != "loss":
        return {}
    is_fitted = "grpo.steps" in chosen and "grpo.steps" not in explicit
    steps = chosen["grpo.steps"].value if is_fitted else config.grpo.steps
    samples = (steps - config.grpo.warm_start_steps) * config.grpo.prompts_per_step
    found["grpo.demonstration_coef"] = fitted_demonstration_coef(samples, facts.num_samples)
    found["grpo.demonstration_coef_end"] = FittedValue(value=0.0, reason="in the last step", source=_MEASURED)
    return found


def fitted_demonstration_coef(num_shown: int, num_samples: int | None) -> FittedValue:
    """Return the coefficient of demonstrations in the first step of ``virft train``.

    ``num_shown``: samples of all steps of GRPO. ``num_samples``: samples of the dataset; None if unknown.

    >>> fitted_demonstration_coef(1280, 16).value, fitted_demonstration_coef(1280, 128).value
    (0.1, 0.5)
    """
    if num_samples is None:
        return FittedValue(value=DEMONSTRATION_COEF, reason="in the first step", source=_MEASURED)
    repeats = num_shown / num_samples
    value = REPEATED_DEMONSTRATION_COEF if repeats >= MANY_REPEATS else DEMONSTRATION_COEF
    times = "once" if round(repeats) <= 1 else f"{repeats:.0f} times"
    reason = f"in the first step; each sample is shown {times}"
    return FittedValue(value=value, reason=reason, source="measured, docs/reproducing.md")


def _of_sft(config: Config, facts: Facts, *, is_compared: bool) -> dict[str, FittedValue]:
    chosen: dict[str, FittedValue] = {}
    if not (is_compared and config.compare.sft_learning_rates):
        chosen["sft.learning_rate"] = fitted_learning_rate("sft", config.model.train, facts.num_parameters)
    # in a comparison, the budget of SFT is that of RFT
    if facts.num_samples is not None and not (is_compared and config.compare.budget != "own"):
        chosen |= _steps("sft", config, facts.num_samples, per_step=config.sft.samples_per_step, passes=3, least=100)
    if _is_small(facts) and _DETECTION in facts.tasks:
        chosen |= _names("sft", config, format_size(facts.num_parameters))
    return chosen


def _names(section: str, config: Config, size: str) -> dict[str, FittedValue]:
    # DeepSpeed's optimizer has one learning rate for all weights of a part
    if config.parallel.strategy.startswith("zero"):
        return {}
    reason = f"{size}: the names of new classes were hardly trained"
    return {f"{section}.name_lr_scale": FittedValue(value=10.0, reason=reason, source=_MEASURED)}


def _steps(
    section: Method, config: Config, num_samples: int, *, per_step: int, passes: int, least: int
) -> dict[str, FittedValue]:
    """The steps of some passes over the data, at least ``least`` and at most ``MOST_STEPS``."""
    steps = math.ceil(passes * num_samples / per_step)
    times = "one pass" if passes == 1 else f"{passes} passes"
    samples = counted(num_samples, "sample", ",")
    fitted = FittedValue(value=steps, reason=f"{times} over {samples}, {per_step} per step")
    if steps > MOST_STEPS:
        fitted = FittedValue(value=MOST_STEPS, reason=f"at most {MOST_STEPS:,}; {samples}")
    elif steps <= least:
        fitted = FittedValue(value=least, reason=f"{samples}, small model", source=_MEASURED)
    # a default that fits is left alone
    return {} if fitted.value == getattr(config, section).steps else {f"{section}.steps": fitted}


def _of_data(config: Config, explicit: frozenset[str], facts: Facts) -> dict[str, FittedValue]:
    """Data augmentation for few images of a detection dataset, unless the config has an opinion about it."""
    is_set = any(key.startswith("augment.") for key in explicit)
    if (
        is_set
        or facts.num_images is None
        or facts.num_images >= FEW_IMAGES
        or not _WITH_CLASSES_AND_BOXES & facts.tasks
    ):
        return {}
    reason = f"{counted(facts.num_images, 'image')}: against overfitting"
    return {
        "augment.resized_crop": FittedValue(value=0.35, reason=reason),
        "augment.horizontal_flip": FittedValue(value=True, reason=reason),
        "augment.colour_jitter": FittedValue(value=0.3, reason=reason),
    }


def _of_images(config: Config, facts: Facts) -> dict[str, FittedValue]:
    """The paper's image size for models whose own maximum is many times as large."""
    if facts.max_pixels is None or facts.max_pixels <= 4 * PAPER_MAX_PIXELS:
        return {}
    if config.model.min_pixels is not None and config.model.min_pixels > PAPER_MAX_PIXELS:
        return {}
    reason = f"512 image tokens at most; the model's own maximum is {facts.max_pixels:,} pixels"
    return {"model.max_pixels": FittedValue(value=PAPER_MAX_PIXELS, reason=reason, source="Visual-RFT code")}


def _of_validation(
    config: Config, explicit: frozenset[str], chosen: dict[str, FittedValue], *, method: FittedMethod
) -> dict[str, FittedValue]:
    """The interval of validations, from the number of steps that is set or fitted (in a comparison, that of GRPO)."""
    key = "sft.steps" if method == "sft" else "grpo.steps"
    steps = (config.sft if method == "sft" else config.grpo).steps
    if key in chosen and key not in explicit:
        steps = chosen[key].value
    reason = f"a quarter of {counted(steps, 'step', ',')}: the best model is chosen among several"
    return {"data.validate_every": FittedValue(value=math.ceil(steps / NUM_VALIDATIONS), reason=reason)}


def describe_origin(fitted: FittedValue) -> str:
    """Describe where a fitted value comes from.

    >>> describe_origin(FittedValue(value=1e-4, reason="7.1M parameters, LoRA", source="docs/log.md"))
    'fitted: 7.1M parameters, LoRA (docs/log.md)'
    """
    return f"fitted: {fitted.reason}" + (f" ({fitted.source})" if fitted.source else "")
