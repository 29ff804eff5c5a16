"""Everything that can be refused before a model is loaded: data, run folder, trackers, rewards. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from virft.config.fitting import FittedMethod
from virft.config.schema import Config, DataConfig, Method, MixtureConfig, PromptConfig
from virft.config.toml_file import LoadedConfig, load_config
from virft.data.overlap import shared_images
from virft.data.store import Store
from virft.data.training_data import TrainingData, open_training_data
from virft.errors import ConfigError, DataError
from virft.recipes.fitting import load_fitted_config, rate_warning
from virft.recipes.own_questions import require_thinking
from virft.recipes.reward_rule import make_reward_rule
from virft.tasks import TASKS
from virft.text.prompts import read_template
from virft.training.run import CONFIG, MODEL, require_new_run
from virft.training.sft.base_targets import base_groups, describe_threshold, selected_ids
from virft.training.trackers import require_installed
from virft.types import Sample

VALIDATION_DATA = "validation_data"
"""Event: images of the validation set are training images."""
TEST_DATA = "test_data"
"""Event: the validation set is a test set."""
LEARNING_RATE = "learning_rate"
"""Event: the learning rate is far from what fits the model."""

PROMPT_LENGTH = "prompt_length"
"""Event: prompts leave too little room in the context of the model for the longest completion."""
LARGE_IMAGES = "image_tokens"
"""Event: an image has very many tokens, as ``model.max_pixels`` is not set."""

SLOW_SAMPLER = "slow_sampler"
"""Event: the built-in sampler decodes a large model on a GPU."""


_OR_RESUME = "; to resume without one, name the run: run.dir=RUN"


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedRun:
    """A training run that nothing forbids, with its data open."""

    config: Config
    method: Method
    resume: bool
    data: TrainingData
    validation: Mapping[str, Store]
    """Validation datasets, see ``validation_stores``."""


def load_run_config(
    config: Path | None,
    overrides: Sequence[str] = (),
    *,
    method: FittedMethod,
    from_run: Path | None = None,
    resume: bool = False,
) -> LoadedConfig:
    """Read the settings of a training run: a TOML file, ``KEY=VALUE`` overrides, and ``--from RUN``.

    Settings that none of them sets are fitted, see ``load_fitted_config``. ``from_run``: the folder of a finished run.
    Its trained model becomes ``model.path``, and its settings are used if there is no ``config``, without its warm
    start, which this model has behind it. Raises ``ConfigError``.
    """
    saved = CONFIG if resume else None
    if from_run is None:
        if config is None and not overrides:
            raise ConfigError("no config; expected a TOML file, KEY=VALUE, or --from RUN" + _OR_RESUME * resume)
        return load_fitted_config(config, overrides, method=method, saved=saved)
    if not (from_run / CONFIG).is_file():
        raise ConfigError(f"--from {from_run}: holds no run; expected the folder of a finished run (run.dir)")
    if not (from_run / MODEL).is_dir():
        raise ConfigError(f"--from {from_run}: has no trained model; finish the run with --resume first")
    started = [f"model.path={from_run / MODEL}", *overrides]
    if config is None and load_config(from_run / CONFIG).config.grpo.warm_start_steps:
        started = ["grpo.warm_start_steps=0", *started]
    loaded = load_fitted_config(config or from_run / CONFIG, started, method=method, saved=saved)
    if Path(loaded.config.run.dir).resolve() == from_run.resolve():
        raise ConfigError(f"--from {from_run}: run.dir is that run; expected another one, such as run.dir={from_run}_2")
    return loaded


def check_run(config: Config, method: Method, *, resume: bool = False, dry_run: bool = False) -> CheckedRun:
    """Check a run and open its data; write nothing. With ``dry_run``, the run folder may hold a run already.

    Raises ``ConfigError``, ``DataError`` or ``RunError`` for the first thing that cannot be used.
    """
    require_installed(config.run.trackers)
    if config.prompt.template != "auto":
        read_template(config.prompt.template)
    if method == "grpo":
        for preset in {
            config.reward.preset,
            *(part.preset or config.reward.preset for part in config.mixture.values()),
        }:
            make_reward_rule(config.reward, preset)
    data = training_data(config, method)
    validation = validation_stores(config.data, config.mixture)
    if resume or not (dry_run and holds_run(config)):
        require_new_run(config, resume=resume, data_hash=data.hash, trainer=method)
    data.check()
    thinking = thinking_by_origin(config.prompt, config.mixture)
    require_thinking(data, default=config.prompt.thinking, by_origin=thinking)
    for name, store in validation.items():
        store.check(decode=True)
        require_thinking(store, default=thinking.get(name, config.prompt.thinking), by_origin={})
    # the base model's completions have reasoning of their own
    is_supervised = config.sft.targets != "rejection" if method == "sft" else config.grpo.warm_start_steps > 0
    if is_supervised:
        require_rationales(data, config.prompt, config.mixture)
    if method == "grpo" and config.reward.segmenter is not None:
        _require_masks(data)
    if method == "grpo" and config.grpo.demonstrations != "off":
        require_demonstrations(data, config.prompt, config.mixture)
        if config.grpo.near_right:
            _require_boxes(data)
    return CheckedRun(config=config, method=method, resume=resume, data=data, validation=validation)


def holds_run(config: Config) -> bool:
    """True if the run folder of a config holds a run already."""
    return (Path(config.run.dir) / CONFIG).exists()


def training_data(config: Config, method: Method) -> TrainingData:
    """The training data of a run in batches of the method's size; for SFT, of the samples that ``sft.targets`` selects.

    Raises ``DataError`` if it selects none.
    """
    data = open_training_data(config, batch_size=batch_size(config, method))
    if method != "sft" or config.sft.targets == "labels":
        return data
    chosen = selected_ids(config.sft, base_groups(config.sft, data))
    if not chosen:
        raise DataError(
            f"sft.targets is {config.sft.targets}, and the base model solves none of the {len(list(data))} training "
            f"samples with a {describe_threshold(config.sft)}; expected some: lower it, or train on labels"
        )
    return data.only(chosen)


def batch_size(config: Config, method: Method) -> int:
    """Samples of a step, over all processes."""
    return config.grpo.prompts_per_step if method == "grpo" else config.sft.samples_per_step


def validation_stores(data: DataConfig, mixture: Mapping[str, MixtureConfig]) -> dict[str, Store]:
    """The validation datasets by the name of their dataset of the mixture; "" is that of ``[data]``."""
    folders = {"": data.validation} | {name: part.validation for name, part in mixture.items()}
    return {name: Store(folder) for name, folder in folders.items() if folder is not None}


def require_rationales(samples: Iterable[Sample], prompt: PromptConfig, mixture: Mapping[str, MixtureConfig]) -> None:
    """Raise ``DataError`` for the first sample that SFT is to train on with thinking and that has no rationale."""
    thinking = thinking_by_origin(prompt, mixture)
    for sample in samples:
        if thinking.get(sample.origin, prompt.thinking) and sample.rationale is None:
            raise DataError(
                f"sample {sample.id} has no rationale, which supervised training with thinking needs; "
                "expected one in every sample (virft build rows), or prompt.thinking = false"
            )


def require_demonstrations(
    samples: Iterable[Sample], prompt: PromptConfig, mixture: Mapping[str, MixtureConfig]
) -> None:
    """Raise ``DataError`` if no sample can be demonstrated: all prompts request reasoning, and no sample has any."""
    thinking = thinking_by_origin(prompt, mixture)
    if all(thinking.get(sample.origin, prompt.thinking) and sample.rationale is None for sample in samples):
        raise DataError(
            "no sample has a rationale, which grpo.demonstrations needs with thinking; expected one in some samples "
            '(virft build rows), prompt.thinking = false, or grpo.demonstrations = "off"'
        )


def _require_masks(samples: Iterable[Sample]) -> None:
    """Raise ``ConfigError`` if no target has masks that the masks of a segmenter could be compared with."""
    samples = list(samples)
    if not any(TASKS[sample.task].masks is not None and sample.has_mask for sample in samples):
        tasks = ", ".join(sorted({sample.task for sample in samples}))
        raise ConfigError(
            f"reward.segmenter is set, and no target of the training data has a mask (tasks: {tasks}); expected "
            "grounding questions with polygons or rle, detection with the outlines of objects (virft build ... "
            "--outlines), or no segmenter"
        )


def _require_boxes(samples: Iterable[Sample]) -> None:
    """Raise ``ConfigError`` if no target has a box that a near-right answer could move."""
    tasks = set()
    for sample in samples:
        boxes = TASKS[sample.task].boxes
        if boxes is not None and boxes.of_target(sample.target):
            return
        tasks.add(sample.task)
    raise ConfigError(
        f"grpo.near_right moves the boxes of targets, and no target of the training data has one (tasks: "
        f"{', '.join(sorted(tasks))}); expected boxes, or grpo.near_right = false"
    )


def thinking_by_origin(prompt: PromptConfig, mixture: Mapping[str, MixtureConfig]) -> dict[str, bool]:
    """The thinking mode of each dataset of a mixture: its own, or that of ``[prompt]``."""
    return {name: prompt.thinking if part.thinking is None else part.thinking for name, part in mixture.items()}


def run_warnings(run: CheckedRun) -> Iterator[tuple[str, str]]:
    """Yield the name of the event and the message of each warning about validation data and learning rate."""
    found = {
        VALIDATION_DATA: validation_warning(run.data, run.validation),
        TEST_DATA: _test_set_warning(run.validation),
        LEARNING_RATE: rate_warning(run.config, run.method),
    }
    yield from ((event, message) for event, message in found.items() if message is not None)


def validation_warning(data: TrainingData, validation: Mapping[str, Store]) -> str | None:
    """Warn that validation data is training data, wholly or in some images; None if it is not.

    Images are compared by content. It is not an error: to memorize a few samples on purpose is a common check.
    """
    hashes = {store.hash for store in data.stores.values()}
    for store in validation.values():
        if store.hash in hashes:
            return (
                f"the validation set {store.folder} is the training set: its score measures memorization, not "
                "generalization, and cannot choose the best model; expected other images (virft build "
                "--validation-frac 0.1)"
            )
    for store in validation.values():
        shared, number = shared_images(store, data.stores.values())
        if shared:
            return (
                f"{len(shared)} of {number} images of the validation set {store.folder} are training images, such "
                f"as {shared[0].name}: its score is too high; expected other images (virft build --validation-frac 0.1)"
            )
    return None


def _test_set_warning(validation: Mapping[str, Store]) -> str | None:
    """Warn that validation data is the test part of a split, by its card or the name of its folder; else None."""
    for store in validation.values():
        if "test" in (store.card.get("source", {}).get("split"), store.folder.absolute().name):
            return (
                f"the validation set {store.folder} is a test set: the best model is chosen on it, so its scores there "
                "are too high; expected other images (virft build --validation-frac 0.1)"
            )
    return None
