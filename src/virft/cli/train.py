"""Verbs that train from a config, or plan the memory of it: train, grpo, sft, plan.

Imports are inside the functions: help needs none of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from virft.cli import arguments
from virft.cli.output import say
from virft.cli.parsers import Verbs, add_config, add_resume, add_verb
from virft.models.built_in import BUILT_IN_NAMES
from virft.models.peak_rates import PEAK_RATES
from virft.types import ImageSize

if TYPE_CHECKING:
    from virft.config.fitting import TrainingVerb
    from virft.config.schema import Method


def add_train(verbs: Verbs) -> None:
    """Add the parser of ``train``."""
    verb = add_verb(verbs, "train", "train with GRPO and demonstrations, as recommended", train_with_demonstrations)
    _add_run(verb, example="grpo.steps=10", sections=_GRPO_SECTIONS)


def train_with_demonstrations(
    *,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    from_run: Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
) -> None:
    """Train a model with GRPO and demonstrations; the trained model is saved in ``run.dir/model``.

    As ``grpo``, but with ``grpo.demonstrations``, which fade over the run, unless the config sets them.
    """
    _train("train", config, overrides, from_run=from_run, resume=resume, dry_run=dry_run)


def add_grpo(verbs: Verbs) -> None:
    """Add the parser of ``grpo``."""
    verb = add_verb(verbs, "grpo", "train with GRPO and rule-based visual rewards", grpo)
    _add_run(
        verb,
        example="grpo.steps=10",
        sections=_GRPO_SECTIONS,
    )


def grpo(
    *,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    from_run: Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
) -> None:
    """Train a model with GRPO as a config says; the trained model is saved in ``run.dir/model``.

    Demonstrations that the config file sets are used, and logged: `virft init` writes them for ``train``.
    """
    _train("grpo", config, overrides, from_run=from_run, resume=resume, dry_run=dry_run)


def add_sft(verbs: Verbs) -> None:
    """Add the parser of ``sft``."""
    verb = add_verb(verbs, "sft", "train on the ground truth (supervised fine-tuning)", sft)
    _add_run(
        verb,
        example="sft.steps=10",
        sections=("data", "model", "sft", "prompt", "augment", "run", "monitors", "parallel"),
    )


def sft(
    *,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    from_run: Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
) -> None:
    """Train a model on the ground truth as a config says; the trained model is saved in ``run.dir/model``."""
    _train("sft", config, overrides, from_run=from_run, resume=resume, dry_run=dry_run)


def _add_run(verb: argparse.ArgumentParser, *, example: str, sections: Sequence[str]) -> None:
    """Add the arguments of a training run."""
    add_config(verb, example=example, sections=sections)
    verb.add_argument(
        "--from",
        dest="from_run",
        metavar="RUN",
        type=Path,
        help="start a new run from the trained model of the run in folder RUN, with its settings, but no warm start, "
        "if there is no CONFIG; needs another run.dir",
    )
    add_resume(verb, "a run")
    verb.add_argument(
        "--dry-run",
        action="store_true",
        help="print the expected time, tokens, memory and disk space, measured on the first steps, and the settings "
        "that matter; train nothing",
    )


_GRPO_SECTIONS = (
    "data",
    "model",
    "grpo",
    "sampling",
    "reward",
    "prompt",
    "augment",
    "run",
    "monitors",
    "parallel",
)


def _train(
    verb: TrainingVerb,
    config: Path | None,
    overrides: Sequence[str],
    *,
    from_run: Path | None,
    resume: bool,
    dry_run: bool,
) -> None:
    from virft.config.fitting import method_of
    from virft.config.toml_file import COMMAND_LINE
    from virft.recipes.preflight import check_run, holds_run, load_run_config

    method = method_of(verb)
    loaded = load_run_config(config, overrides, method=verb, from_run=from_run, resume=resume)
    checked = check_run(loaded.config, method, resume=resume, dry_run=dry_run)
    origin = loaded.origins["grpo.demonstrations"]
    if verb == "grpo" and loaded.config.grpo.demonstrations != "off" and not resume and origin != COMMAND_LINE:
        say(
            f'note: grpo.demonstrations is "{loaded.config.grpo.demonstrations}" ({origin}), so this run trains on the '
            "ground truth too, as `virft train` does; GRPO alone: grpo.demonstrations=off"
        )
    if dry_run:
        from virft.recipes.estimate import dry_run_text

        print(dry_run_text(checked, loaded), end="")
        if holds_run(loaded.config) and not resume:
            say(f"\nnote: {loaded.config.run.dir} holds a run already; resume with --resume, or choose another run.dir")
        return
    from virft.recipes.train import run_training
    from virft.training.distributed import is_main_process
    from virft.training.run import BEST

    model = run_training(loaded.config, method, resume=resume, log=say, checked=checked)
    if not is_main_process():
        return
    say(f"saved model: {model}")
    if (best := model.with_name(BEST)).exists():
        say(f"best model by validation: {best}")
    train = loaded.config.data.train
    if train and (test := Path(train).with_name("test") / "card.json").is_file():
        say(f"next: virft eval {model.parent} {test.parent}")


def add_plan(verbs: Verbs) -> None:
    """Add the parser of ``plan``."""
    verb = add_verb(verbs, "plan", "print the memory of a run, and settings that fit", plan)
    add_config(verb, example="model.train=lora")
    verb.add_argument(
        "--model",
        metavar="MODEL",
        help=f"{BUILT_IN_NAMES}, a model folder, or a hub id; overrides model.path. Without CONFIG: LoRA adapters in "
        "bfloat16, and default settings. The shapes of the most used models come with virft, so that planning needs no "
        "network",
    )
    verb.add_argument(
        "--memory",
        type=arguments.number(float, above=0, below=1e6, unit="GiB"),
        metavar="GIB",
        help="memory of the device in GiB, such as 24 (default: that of this machine)",
    )
    verb.add_argument(
        "--image",
        type=arguments.image_size,
        default=ImageSize(640, 480),
        metavar="WxH",
        help="size of the images before preprocessing, in pixels",
    )
    verb.add_argument(
        "--text-tokens",
        type=arguments.positive,
        default=150,
        metavar="N",
        help="text tokens of a prompt, without its image tokens",
    )
    verb.add_argument("--method", choices=("grpo", "sft"), default="grpo", help="training method to plan for")
    verb.add_argument(
        "--processes",
        dest="num_processes",
        type=arguments.positive,
        default=1,
        metavar="N",
        help="processes of the run, one for each GPU, as `accelerate launch --num_processes` starts them; the plan is "
        "that of one of them",
    )
    verb.add_argument(
        "--samplers",
        dest="num_samplers",
        type=arguments.positive,
        metavar="M",
        help="GPUs that only sample with vLLM, in addition to the processes; prints their memory, and estimates of "
        "throughput and idle time",
    )
    verb.add_argument(
        "--gpu",
        choices=sorted(PEAK_RATES),
        default="H100",
        help="kind of all GPUs, for the estimates of --samplers",
    )
    verb.add_argument(
        "--completion-tokens",
        type=arguments.positive,
        metavar="N",
        help="median length of a completion in tokens, for the estimates of --samplers (default: half of "
        "sampling.max_completion_tokens)",
    )
    verb.add_argument(
        "--no-cache",
        dest="use_cache",
        action="store_false",
        help="compute the plan again, also if an equal one is in the cache folder (~/.cache/virft/plans)",
    )


def plan(
    *,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    model: str | None = None,
    memory: float | None = None,
    image: ImageSize,
    text_tokens: int = 150,
    method: Method = "grpo",
    num_processes: int = 1,
    num_samplers: int | None = None,
    gpu: str = "H100",
    completion_tokens: int | None = None,
    use_cache: bool = True,
) -> None:
    """Print the memory of a config's run, part by part, and the settings with which it fits into ``memory`` GiB.

    Without ``config`` the run trains LoRA adapters of ``model`` in bfloat16 with the default settings; ``overrides``
    may change both. With ``num_samplers``, GPUs that only sample, it prints estimates of throughput and idle time, too.
    Progress goes to standard error. Raises ``ConfigError`` as ``load_config`` does.
    """
    from virft.config.toml_file import load_config, parse

    chosen = [f"model.path={json.dumps(model)}"] if model is not None else []
    if config is not None or model is None:
        loaded = load_config(config, [*overrides, *chosen])
    else:
        # A plan reads no data and writes no run.
        adapters = 'data.train = "none"\nrun.dir = "none"\nmodel.train = "lora"\nmodel.dtype = "bfloat16"\n'
        loaded = parse(adapters, origin="virft plan", overrides=[*overrides, *chosen])
    from virft.planning.plan import PlanRequest, make_plan
    from virft.planning.samplers import SamplerRequest
    from virft.recipes.fitting import fit

    size, on_cpu = (int(memory * 2**30), False) if memory is not None else _this_device()
    fitted = fit(loaded, method=method).config
    if memory is None:
        from virft.models.precision import resolve_dtype

        fitted = replace(fitted, model=replace(fitted.model, dtype=resolve_dtype(fitted.model.dtype)))
    request = PlanRequest(
        config=fitted,
        memory=size,
        image=image,
        text_tokens=text_tokens,
        method=method,
        on_cpu=on_cpu,
        num_processes=num_processes,
        samplers=None
        if num_samplers is None
        else SamplerRequest(
            count=num_samplers,
            gpu=gpu,
            completion_tokens=completion_tokens or max(1, fitted.sampling.max_completion_tokens // 2),
        ),
    )
    say(make_plan(request, report=partial(print, file=sys.stderr, flush=True), use_cache=use_cache))


def _this_device() -> tuple[int, bool]:
    """Return the memory in bytes of this machine's device, and whether it is a CPU. Imports torch."""
    from virft.planning.device import device_memory
    from virft.training.distributed import device

    return device_memory(), device().type == "cpu"
