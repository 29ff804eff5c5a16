"""Completions of the base model for some training samples, cached by content. Torch is imported only to sample."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from virft import __version__
from virft.config.fitting import SMALL
from virft.config.schema import Config
from virft.config.toml_file import LoadedConfig, parse
from virft.data.base_completions import BaseGroup, read_base_completions
from virft.data.store import Store
from virft.errors import ConfigError
from virft.files import make_folder, write_text
from virft.geometry.boxes import BoxSpace
from virft.models.model_folders import ADAPTERS, find_model_folder
from virft.models.size import read_model_size
from virft.recipes.fitting import fit
from virft.tasks import TASKS
from virft.text.prompts import read_template
from virft.types import Reading, Sample

NUM_SAMPLES = 64
"""Training samples that are evaluated by default."""
BATCH = 8
"""Prompts that are sampled before their completions are saved."""
_PARSING = "parsing.json"
"""File of the cache with what parsing a completion needs and only the loaded model knows."""
_CONTENT_BYTES = 2**24
"""Files of a model up to this size are identified by their content, larger ones by size and modification time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdviceRequest:
    """Training data, model and settings that advice is about."""

    loaded: LoadedConfig
    """Settings without fitted values: ``data.train``, ``model.path``, and what the user has set."""
    config: Config
    """The settings of the completions: those of GRPO, with fitted values and without a KL penalty."""


class SampledGroup(NamedTuple):
    """A training sample with the parsed completions of the base model."""

    sample: Sample
    group: BaseGroup
    """Texts, scores and rewards."""
    readings: tuple[Reading, ...]
    """The parsed completions, in the same order."""


def make_request(data: Path, model: str, overrides: Sequence[str] = ()) -> AdviceRequest:
    """Return the request for a dataset and a model; a model of more than 50 million parameters is used in bfloat16.

    ``overrides``: settings ``KEY=VALUE``. Raises ``ConfigError`` for an invalid one, or another dataset or model.
    """
    size = read_model_size(model).num_parameters
    is_large = size is None or size >= SMALL
    own = {"data.train": str(data), "model.path": model, "run.dir": "runs/mine"}
    own |= {"model.train": "lora", "model.dtype": "bfloat16"} if is_large else {}
    # JSON strings are TOML strings too
    text = "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in own.items())
    loaded = parse(text, origin="virft advise", overrides=overrides)
    given = {"data.train": loaded.config.data.train, "model.path": loaded.config.model.path}
    for key, value in given.items():
        if value != own[key]:
            raise ConfigError(f"{key} is {value} and the advice is about {own[key]}; expected one of the two")
    config = fit(loaded, method="grpo").config
    # no KL penalty: sampling needs no reference model
    config = replace(config, grpo=replace(config.grpo, kl_coef=0.0, kl_coef_end=None))
    return AdviceRequest(loaded=loaded, config=config)


def choose_samples(samples: Iterable[Sample], number: int, *, seed: int) -> list[Sample]:
    """Return at most ``number`` samples, evenly over the classes and otherwise random, in the order of the data.

    A systematic sample: every class has its fraction of the data, rounded up or down.
    """
    known = list(samples)
    order = list(range(len(known)))
    random.Random(seed).shuffle(order)
    order.sort(key=lambda i: (known[i].task, class_name(known[i]) or ""))
    number = min(number, len(known))
    return [known[i] for i in sorted(order[i * len(known) // number] for i in range(number))]


def class_name(sample: Sample) -> str | None:
    """Return the class that a sample is about; None if its task has no classes."""
    class_of = TASKS[sample.task].class_of
    return None if class_of is None else class_of(sample)


def sample_completions(
    request: AdviceRequest, samples: Sequence[Sample], store: Store, *, log: Callable[[str], None]
) -> list[SampledGroup]:
    """Return ``grpo.group_size`` completions of the base model for each sample, as in the first step of GRPO.

    They are saved in the cache folder after each batch; equal requests use them again. Raises ``DataError`` for a
    sample that the model refuses, ``ModelError`` for a model that cannot be loaded, and ``RunStopped`` after Ctrl-C.
    """
    folder = completions_cache() / _key(request, store)
    missing = _missing(folder, samples)
    if missing:
        _sample(request, samples, folder, log)
    else:
        log(f"completions of an earlier call are used again: {folder}")
    parsing = json.loads((folder / _PARSING).read_text(encoding="utf-8"))
    groups = read_base_completions(folder)
    return [_parsed(sample, groups[sample.id], parsing) for sample in samples]


def completions_cache() -> Path:
    """Return the folder of cached completions: ``virft/advice`` in ``XDG_CACHE_HOME``, by default ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "virft" / "advice"


def _missing(folder: Path, samples: Sequence[Sample]) -> list[str]:
    known = read_base_completions(folder) if (folder / _PARSING).exists() else {}
    return [sample.id for sample in samples if sample.id not in known]


def _sample(request: AdviceRequest, samples: Sequence[Sample], folder: Path, log: Callable[[str], None]) -> None:
    # imported here: a second call needs no torch
    from virft.inference.prompting import check_prompts
    from virft.recipes.setup import load_for_training, make_prompting, make_runtime
    from virft.recipes.trainers import make_grpo_trainer
    from virft.training.grpo.base_filter import sample_base

    config = request.config
    runtime = make_runtime(config.model, config.parallel)
    loaded = load_for_training(config.model, runtime, seed=config.seed)
    prompting = make_prompting(config.prompt, config.mixture, loaded)
    check_prompts(loaded, prompting, samples)
    make_folder(folder)
    parsing = {"box_space": loaded.family.box_space, "thinking": prompting.thinking}
    write_text(folder / _PARSING, json.dumps(parsing))
    with closing(make_grpo_trainer(config, loaded, prompting, runtime)) as trainer:
        again = "the same command resumes"
        sample_base(trainer, samples, folder, batch_size=BATCH, ranks=trainer.ranks, log=log, resume=again)


def _parsed(sample: Sample, group: BaseGroup, parsing: dict[str, Any]) -> SampledGroup:
    task, space = TASKS[sample.task], BoxSpace(parsing["box_space"])
    readings = tuple(
        task.read_for(one.text, sample, thinking=parsing["thinking"], space=space, resized=group.resized)
        for one in group.completions
    )
    return SampledGroup(sample, group, readings)


# --- identity of data, model and settings ---


def _key(request: AdviceRequest, store: Store) -> str:
    """Return a hash of everything that the completions depend on. Samples are not in it: each has its own line."""
    config = request.config
    settings = asdict(config)
    settings["model"].pop("path")
    template = config.prompt.template
    parts = [
        [store.hash, store.card.get("images_hash")],
        model_identity(config.model.path),
        [settings[name] for name in ("model", "prompt", "sampling", "reward")],
        [config.grpo.group_size, config.seed],
        template if template == "auto" else read_template(template),
        __version__,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def model_identity(path: str) -> list[Any]:
    """Return what identifies the files of a model: the names, and content or size and modification time.

    Of a hub id, the name and, if it is cached on this machine, the commit. Of adapters, those of their base too.
    """
    folder = find_model_folder(path)
    if folder is None:
        return [path, _cached_commit(path)]
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.suffix != ".md")
    found: list[Any] = [[file.name, _file_identity(file)] for file in files]
    base = ""
    with suppress(OSError, ValueError, AttributeError):
        base = json.loads((folder / ADAPTERS).read_text(encoding="utf-8")).get("base_model_name_or_path", "")
    if base and (not Path(base).is_dir() or Path(base).resolve() != folder.resolve()):
        found.append(model_identity(base) if Path(base).is_dir() else [base])
    return found


def _file_identity(file: Path) -> Any:
    state = file.stat()
    if state.st_size <= _CONTENT_BYTES:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    return [state.st_size, state.st_mtime_ns]


def _cached_commit(hub_id: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, "config.json")
    return Path(found).parent.name if isinstance(found, str) else None
