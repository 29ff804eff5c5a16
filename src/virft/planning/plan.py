"""A memory plan as text, computed once and then read from the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from virft import __version__
from virft.config.schema import Config, Method
from virft.errors import ConfigError, RunError
from virft.files import write_text
from virft.models.built_in import local_folder
from virft.models.known_models import known_models
from virft.planning.samplers import SamplerRequest
from virft.types import ImageSize

_SECTIONS = ("model", "sampling", "grpo", "sft", "parallel", "seed")
"""Parts of a config that a plan depends on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """Everything that a plan depends on, except for the versions of the software."""

    config: Config
    """Settings of the run."""

    memory: int
    """Memory of the device in bytes."""

    image: ImageSize
    """Size in pixels of the images of the run."""

    text_tokens: int
    """Text tokens of a prompt."""

    method: Method
    """Training method."""

    on_cpu: bool
    """Plan for this machine's CPU, not for a GPU."""

    num_processes: int = 1
    """World size of the run."""

    samplers: SamplerRequest | None = None
    """GPUs that only sample; None: the processes sample."""


def make_plan(request: PlanRequest, *, report: Callable[[str], None], use_cache: bool = True) -> str:
    """Return the memory of the run, part by part, and the settings with which it fits.

    ``report`` gets a line for each candidate that is computed. With ``use_cache``, the plan of an equal request by the
    same version is read from ``cache_folder``, and a new one is written there. Plans of models whose files are on the
    hub, and plans with a segmenter, are not cached.

    Raises ``ConfigError`` for a number of processes or samplers that the config cannot have.
    """
    _require_vllm(request)
    key = _key(request) if use_cache else None
    cached = None if key is None else cache_folder() / f"{key}.txt"
    if cached is not None and cached.exists():
        report(f"cached: {cached} (--no-cache computes the plan again)")
        return cached.read_text(encoding="utf-8")
    # Imported here: a cached plan needs no torch.
    from virft.planning.cluster_text import format_cluster
    from virft.planning.fit import find_fit
    from virft.planning.memory import Planner
    from virft.planning.text import format_fit, format_plan, format_verdict, format_warnings

    report(f"reading the shapes of {request.config.model.path}")
    planner = Planner(
        request.config,
        image=request.image,
        text_tokens=request.text_tokens,
        method=request.method,
        on_cpu=request.on_cpu,
        num_processes=request.num_processes,
        device_memory=request.memory,
        has_samplers=request.samplers is not None,
        report=report,
    )
    fit = find_fit(request.config, planner, memory=request.memory, image=request.image, text_tokens=request.text_tokens)
    verdict = format_verdict(planner, fit, memory=request.memory)
    text = f"{verdict}\n\n{format_plan(planner)}\n\n{format_fit(planner, fit, memory=request.memory)}"
    if request.samplers is not None:
        text += f"\n\n{format_cluster(planner, request.samplers, memory=request.memory)}"
    text += format_warnings(planner)
    if cached is not None:
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            write_text(cached, text)
        except (OSError, RunError) as error:
            report(f"not cached: {error}")
    return text


def cache_folder() -> Path:
    """Return the folder of cached plans: ``virft/plans`` in ``XDG_CACHE_HOME``, by default ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "virft" / "plans"


def _require_vllm(request: PlanRequest) -> None:
    """Raise ``ConfigError`` for samplers that nothing could run on."""
    if request.samplers is None:
        return
    if request.method != "grpo":
        raise ConfigError(f"--samplers with --method {request.method}, which does not sample; expected grpo")
    if (engine := request.config.sampling.engine) != "vllm":
        raise ConfigError(
            f'--samplers with sampling.engine = "{engine}", which samples in the trainers; expected "vllm"'
        )


def _key(request: PlanRequest) -> str | None:
    """Return a hash of request, model and versions; None if the files of the model are not on this machine.

    None with a segmenter, too: its files would be part of the key.
    """
    if request.config.reward.segmenter is not None:
        return None
    path = request.config.model.path
    folder = local_folder(path)
    if folder.is_dir():
        if (folder / "adapter_config.json").exists():
            return None  # the files of the base decide
        model = {file.name: file.read_text(encoding="utf-8") for file in sorted(folder.glob("*config.json"))}
    elif (known := known_models().get(path)) is not None:
        model = {"config.json": json.dumps(known.config), "preprocessor": json.dumps(known.image_processor)}
    else:
        return None
    settings = asdict(request.config)
    parts = [
        {name: settings[name] for name in _SECTIONS},
        [request.memory, request.image, request.text_tokens, request.method, request.on_cpu, request.num_processes],
        None if request.samplers is None else asdict(request.samplers),
        model,
        [__version__, _code_state(), version("torch"), version("transformers")],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _code_state() -> list[int]:
    """Return total size and newest modification time of virft's modules: a changed checkout makes new plans."""
    states = [file.stat() for file in Path(__file__).parents[1].rglob("*.py")]
    return [sum(one.st_size for one in states), max(one.st_mtime_ns for one in states)]
