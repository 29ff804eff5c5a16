"""README.md of a trained model, from the files of its run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from virft.config.schema import Config
from virft.config.toml_file import load
from virft.errors import RunError
from virft.files import write_text
from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.text.prompts import BUILT_IN, fill_template
from virft.training.monitors import VALIDATION_SCORE
from virft.training.run import CARD, CONFIG, METRICS, TIMINGS, RunFolder

MARK = "<!-- made by virft of the run's files, again by `virft push`; without this line it stays as it is -->"

_SPACES = {
    BoxSpace.RELATIVE_1000: "0..1000 relative to width and height of the image",
    BoxSpace.RESIZED_PIXELS: "pixels of the image after the processor resized it",
    BoxSpace.ORIGINAL_PIXELS: "pixels of the image",
}


def model_card(run: Path, *, model: str, adapters: bool) -> str:
    """The text of README.md for a model of a run: the folder ``model`` in it.

    ``adapters``: the folder holds PEFT adapters, not a whole model. Scores are those that lie in ``eval/*/scores.json``
    now, of answers of this model; validations of the run are told apart. Names no folder of this machine.
    """
    try:
        config, card = load(run / CONFIG).config, json.loads((run / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{run}: cannot be read as a run ({error}); expected {CONFIG} and {CARD}") from error
    base = card.get("base") or {"name": None, "hub_id": None, "license": None}
    data = card.get("data") or []
    values = {
        "mark": MARK,
        "name": f"{run.absolute().name}",
        "front": yaml.safe_dump(_front_matter(card, base, data, adapters), sort_keys=False, allow_unicode=True),
        "base": base["hub_id"] or base["name"] or "a base model",
        "method": card["trainer"],
        "settings": _settings(config, card["trainer"], _num_steps(run, model)),
        "data": data,
        "card": card,
        "space": _SPACES.get(card.get("box_space")),
        "thinking": config.prompt.thinking,
        "questions": _questions(config, card, data),
        "max_pixels": config.model.max_pixels,
        "scores": _scores(run, model),
        "validation": _validation(run),
        "adapters": adapters,
    }
    return _environment().get_template("model_card.md.jinja").render(**values)


def card_of_model(folder: Path, *, adapters: bool) -> str | None:
    """The card of a model folder in a run; None of a folder that lies in no run."""
    if not (folder.absolute().parent / CONFIG).is_file():
        return None
    return model_card(folder.absolute().parent, model=folder.absolute().name, adapters=adapters)


def renew_card(folder: Path) -> None:
    """Makes README.md of a model folder in a run again, with the scores there are now, unless a user changed it."""
    path = folder / "README.md"
    if path.exists() and MARK not in path.read_text(encoding="utf-8"):
        return
    text = card_of_model(folder, adapters=(folder / "adapter_config.json").is_file())
    if text is not None:
        write_text(path, text)


def _front_matter(
    card: Mapping[str, Any], base: Mapping[str, Any], data: list[dict[str, Any]], adapters: bool
) -> dict[str, Any]:
    """As the Hub documents it. What is not known is left out; a base that is in no hub is named in the text only."""
    tasks = sorted({task for one in data for task in one["tasks"]})
    sets = sorted({one["hub_id"] for one in data if one["hub_id"]})
    front = {
        "base_model": base["hub_id"],
        "library_name": "peft" if adapters else "transformers",
        "license": base["license"],
        "pipeline_tag": "image-text-to-text",
        "tags": ["virft", card["trainer"], *(["lora"] if adapters else []), *tasks],
        "datasets": sets,
    }
    return {key: value for key, value in front.items() if value}


def _settings(config: Config, trainer: str, num_steps: int | None) -> dict[str, str]:
    own = config.grpo if trainer == "grpo" else config.sft
    rows = {
        "steps": f"{own.steps}" if num_steps is None else f"{num_steps} of {own.steps}",
        "trained": _trained(config),
        "learning rate": f"{own.learning_rate:g}",
        "seed": str(config.seed),
    }
    if trainer == "grpo":
        weights = ", ".join(f"{name} x {weight:g}" for name, weight in config.reward.weights.items())
        extra = [spec.rpartition(":")[2] for spec in config.reward.extra]
        rows |= {
            "questions a step": f"{config.grpo.prompts_per_step}, {config.grpo.group_size} answers each",
            "reward": f"preset {config.reward.preset}" + "".join(f", {one}" for one in (weights, *extra) if one),
            "KL coefficient": _from_to(config.grpo.kl_coef, config.grpo.kl_coef_end),
            "temperature": f"{config.sampling.temperature:g}",
        }
    else:
        rows |= {"samples a step": str(config.sft.samples_per_step)}
    return rows


def _from_to(start: float, end: float | None) -> str:
    return f"{start:g}" if end is None else f"{start:g} to {end:g}"


def _trained(config: Config) -> str:
    if config.model.train == "lora":
        return f"adapters of the language model (LoRA, rank {config.model.lora_rank}, alpha {config.model.lora_alpha})"
    return "all weights but those of the vision tower" if config.model.freeze_vision else "all weights"


def _questions(config: Config, card: Mapping[str, Any], data: list[dict[str, Any]]) -> dict[str, str]:
    """What the model is asked, by task; a template of the user's own is the same for all."""
    if (template := card.get("prompt_template")) is None:
        return {}
    tasks = [task for task in TASKS if any(task in one["tasks"] for one in data)]
    asked = {
        task: fill_template(
            TASKS[task].prompts,
            "{query}",
            template=template,
            thinking=config.prompt.thinking,
            space=BoxSpace(card["box_space"]),
        )
        for task in tasks
    }
    return asked if template in BUILT_IN or not asked else {"all": template}


def _num_steps(run: Path, model: str) -> int | None:
    """Steps done; of another model than the last, such as the best one, it is not known."""
    steps = [record["step"] + 1 for record in RunFolder(run).records(TIMINGS)]
    return max(steps, default=0) if model == "model" else None


def _scores(run: Path, model: str) -> list[dict[str, str]]:
    """A row for each number of each data set that answers of this model were measured on."""
    rows = []
    for file in sorted(run.glob("eval/*/scores.json")):
        try:
            tree = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            continue  # being written, or cut
        if Path(str(tree["model"])).name != model:
            continue
        for task, found in tree["tasks"].items():
            for metric in TASKS[task].described_metrics:
                if metric.in_card and metric.name in found["values"]:
                    rows.append(_score_row(tree, task, found, metric.name))
    return rows


def _score_row(tree: Mapping[str, Any], task: str, found: Mapping[str, Any], key: str) -> dict[str, str]:
    ends = found["intervals"].get(key)
    return {
        "data": Path(tree["data"]).name,
        "hash": tree["data_hash"][:12],
        "task": task,
        "protocol": found["protocol"],
        "questions": str(found["num_samples"]),
        "name": key,
        "value": f"{found['values'][key]:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else ""),
    }


def _validation(run: Path) -> tuple[float, float] | None:
    """Validation score before the first step and at the end of the log; None without any."""
    found = [record[VALIDATION_SCORE] for record in RunFolder(run).records(METRICS) if VALIDATION_SCORE in record]
    return (found[0], found[-1]) if found else None


@cache
def _environment() -> Environment:
    """Markdown, so nothing is escaped but what would end a cell of a table."""
    environment = Environment(
        loader=PackageLoader("virft.publishing"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    return environment


def _cell(value: Any) -> str:
    r"""A value as a cell of a table.

    >>> _cell("a|b\n<c>")
    'a\\|b &lt;c>'
    """
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
