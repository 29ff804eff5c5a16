"""Run folders: config, card and logs of a run, started or resumed."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from virft import __version__
from virft.config.schema import Config, DtypeName
from virft.config.setting import format_value
from virft.config.toml_file import dump, first_difference, load_config
from virft.data.base_completions import BASE_COMPLETIONS
from virft.errors import RunError
from virft.files import UNFINISHED, check_output, make_folder, put_back, sync, write_text

RUN_SCHEMA_VERSION = 2
"""Format of a run folder, in its card: names of settings, of metrics, and of the keys of ``events.jsonl``."""
CONFIG, CARD = "config.toml", "card.json"
METRICS, ROLLOUTS, TIMINGS = "metrics.jsonl", "rollouts.jsonl", "timings.jsonl"
EVENTS = "events.jsonl"
"""Alarms of monitors and incidents: interruptions, rollbacks, changed settings. Unlike the metrics, it differs between
a run that was interrupted and one that was not."""
END, RESUME = "end", "resume"
"""Events: a run ended before its last step, and was resumed."""
BEST, MODEL = "best", "model"
CHECKPOINTS = "checkpoints"
VALIDATION_PREFIX = "validation_"
"""Begin of the keys of validation scores in ``metrics.jsonl``."""

_LOGS = (METRICS, ROLLOUTS, TIMINGS, EVENTS)
INCIDENT = "incident"
"""Key of ``events.jsonl``: true for an event that would not recur if its step were repeated."""

_MAY_CHANGE = (
    "model.gradient_checkpointing",
    "model.compile",
    "run.save_dtype",
    "model.feature_cache_gib",
    "reward.segmenter_cache_gib",
    "data.num_workers",
    "sampling.prompts_per_batch",
    "sampling.vllm_mode",
    "sampling.vllm_gpu_memory",
    "sampling.vllm_devices",
    "sampling.vllm_servers",
    "sampling.vllm_tensor_parallel",
    "sampling.vllm_timeout_minutes",
    "sampling.vllm_restarts",
    "grpo.microbatch_tokens",
    "sft.microbatch_tokens",
    "parallel.timeout_minutes",
    "run.save_every",
    "run.keep_checkpoints",
    "run.log_every",
)
"""Settings that may change on resume, as ``[monitors]`` may: they affect memory, time or output, but no result."""

_REMAINS_OF_A_START = {CARD, CARD + UNFINISHED, CONFIG + UNFINISHED}
"""Files of a run that was killed before its config was complete. Such a folder counts as empty."""


class RunFolder:
    """The folder that a run writes into.

    ``metrics.jsonl`` and ``rollouts.jsonl`` contain deterministic values only: equal runs write equal files. Rank 0
    writes; in the other ranks ``writes`` is off and they only read.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.folder = folder
        self._writes = writes

    @classmethod
    def join(cls, folder: Path) -> RunFolder:
        """The folder that rank 0 has opened. Raises ``RunError`` if it does not exist on this machine."""
        if not (folder / CONFIG).exists():
            raise RunError(
                f"{folder}: rank 0 has opened it, but it does not exist on the machine of this process; "
                "expected run.dir on a file system that all machines share"
            )
        return cls(folder, writes=False)

    @classmethod
    def open(cls, config: Config, *, resume: bool, card: Mapping[str, Any]) -> RunFolder:
        """The folder ``config.run.dir``, new or resumed. Raises ``RunError`` as ``require_new_run`` does."""
        require_new_run(config, resume=resume, data_hash=card["data_hash"], trainer=card["trainer"])
        run = cls(Path(config.run.dir))
        if not (run.folder / CONFIG).exists() or ended_unsaved(run.folder):
            make_folder(run.folder)
            write_text(run.folder / CARD, json.dumps(card, indent=2, sort_keys=True) + "\n")
            # The config last: a folder with a config is a run, and one without is taken as new after a crash.
            write_text(run.folder / CONFIG, dump(config))
            # The events last: after a crash they still say that nothing was saved.
            for name in _LOGS:
                (run.folder / name).unlink(missing_ok=True)
        else:
            run._take_over(config)
        # a crash while a model folder was replaced has left the previous one under another name
        for name in (BEST, MODEL):
            put_back(run.folder / name)
        return run

    def _take_over(self, config: Config) -> None:
        """Record the settings that changed on resume, and save the new config."""
        saved = load_config(self.folder / CONFIG).config
        if (difference := first_difference(saved, config)) is not None:
            message = f"resumed with other settings: {difference.describe('before', 'now')}"
            self.append_event(0, "settings", action="continued", message=message, is_incident=True)
            write_text(self.folder / CONFIG, dump(config))

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Append a record to a log as one line of compact JSON, keys in the given order."""
        if not self._writes:
            return
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")

    def append_event(
        self,
        step: int,
        event: str,
        *,
        action: str,
        message: str,
        observed: Mapping[str, float] | None = None,
        is_incident: bool = False,
    ) -> None:
        """Append a record to ``events.jsonl``: a monitor or kind of ``event``, its numbers, and the run's reaction."""
        numbers = {"observed": dict(observed)} if observed else {}
        self.append(
            EVENTS,
            {"step": step, "event": event, **numbers, "action": action, "message": message, INCIDENT: is_incident},
        )

    def sync_logs(self) -> None:
        """Flush all logs to the disk, so that they survive a power cut."""
        if self._writes:
            for name in _LOGS:
                if (self.folder / name).exists():
                    sync(self.folder / name)
            sync(self.folder)

    def records(self, name: str) -> list[dict[str, Any]]:
        """The records of a log, without a last line that a crash has cut."""
        return [json.loads(line) for line in _lines(self.folder / name) if _step_of(line) < float("inf")]

    def cut_logs(self, num_steps: int) -> None:
        """Drop the records of steps from ``num_steps`` on, which a resumed run repeats; incidents stay."""
        for name in _LOGS if self._writes else ():
            path = self.folder / name
            if not path.exists():
                continue
            kept = [line for line in _lines(path) if _step_of(line) < num_steps or _is_incident(line)]
            write_text(path, "".join(line + "\n" for line in kept))


def ended_unsaved(folder: Path) -> bool:
    """Return True if the run in a folder has ended before it saved anything, so that the folder may be used again.

    False for a run that is still training or was killed: it has recorded no end.
    """
    if not is_unsaved(folder):
        return False
    ends = [one["event"] for one in RunFolder(folder).records(EVENTS) if one.get("event") in (END, RESUME)]
    return ends[-1:] == [END]


def is_unsaved(folder: Path) -> bool:
    """Return True if the run in a folder has saved no checkpoint, no model and no completions of the base model."""
    return not has_checkpoint(folder) and not any((folder / name).exists() for name in (BEST, MODEL, BASE_COMPLETIONS))


def has_checkpoint(folder: Path) -> bool:
    """Return True if the run in a folder has saved a checkpoint, complete or not."""
    return any((folder / CHECKPOINTS).glob("step_*"))


def describe_start(folder: Path, *, resume: bool) -> str | None:
    """Return a line about a run that starts with the first step although the folder or ``resume`` suggests another.

    None if nothing does. To be called before the folder is opened.
    """
    if not (folder / CONFIG).exists():
        return f"no run in {folder}; starting a new one" if resume else None
    if has_checkpoint(folder):
        return None
    return f"the run in {folder} had saved no checkpoint; starting with the first step"


def require_new_run(config: Config, *, resume: bool, data_hash: str, trainer: str) -> None:
    """Raise ``RunError`` unless this run may write into ``config.run.dir``. Changes nothing.

    It must be possible to write the folder, which must be new or empty, or its run must have ended before it saved
    anything. With ``resume`` it may hold a run with the same settings (else the message names the first that differs),
    on the same data, by the same ``trainer`` ("grpo" or "sft") and of this format. The number of steps may grow if no
    step depends on it.
    """
    folder = Path(config.run.dir)
    if (folder / CONFIG).exists():
        if ended_unsaved(folder):
            return
        if not resume:
            raise RunError(f"{folder}: already holds a run; resume with --resume, or choose another run.dir")
        # before the config is read: an older one has settings that this version does not know
        require_current_format(folder)
        saved = _with_changes(load_config(folder / CONFIG).config, config)
        reason = _needs_number_of_steps(saved, trainer)
        if reason is None:
            saved = _with_more_steps(saved, config, trainer)
        if (difference := first_difference(saved, config)) is not None:
            is_extension = difference.key == f"{trainer}.steps" and difference.right > difference.left
            raise RunError(
                f"{folder}: holds a run of another config: {difference.describe('saved', 'now')}; "
                + (
                    f"it cannot be extended, because {reason}; start a new run from its model with `virft {trainer} "
                    f"--from {folder} run.dir=ANOTHER`"
                    if is_extension
                    else "resume with the same settings, or choose another run.dir"
                )
            )
        started = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if started["data_hash"] != data_hash:
            raise RunError(
                f"{folder}: was started on other data (hash {started['data_hash'][:12]}, now {data_hash[:12]}); "
                "expected an unchanged data.train, or another run.dir"
            )
        if started["trainer"] != trainer:
            raise RunError(f"{folder}: holds a run of `virft {started['trainer']}`; choose another run.dir")
    elif folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; expected a new folder as run.dir")
    elif folder.exists() and {one.name for one in folder.iterdir()} - _REMAINS_OF_A_START:
        raise RunError(f"{folder}: is not empty and holds no run; choose another run.dir")
    check_output(folder)


def require_current_format(folder: Path) -> None:
    """Raise ``RunError`` if another version of virft wrote this run folder, in a format that this one cannot read.

    A card that is missing or corrupt is the caller's to report.
    """
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(card, dict):
        return
    found = card.get("schema_version")
    if found != RUN_SCHEMA_VERSION:
        state = "is missing" if found is None else f"is {found}"
        raise RunError(
            f"{folder / CARD}: schema_version {state}, so another version of virft wrote this run folder; expected "
            f"{RUN_SCHEMA_VERSION}: open it with that version, or train into another run.dir"
        )


def dtype_of_run(folder: Path) -> DtypeName | None:
    """Return the precision that a run was started in, by its card; None if it has none or does not say."""
    try:
        found = json.loads((folder / CARD).read_text(encoding="utf-8"))["dtype"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return found if found in get_args(DtypeName) else None


def _lines(path: Path) -> list[str]:
    """Lines of a log; none if there is no file."""
    # Not str.splitlines: a completion may contain other line breaks, such as U+2028. A crash may have cut a character.
    return path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []


def _step_of(line: str) -> float:
    """The step of a log line; infinity for a line that a crash has cut, so that it is dropped."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _is_incident(line: str) -> bool:
    try:
        return bool(json.loads(line).get(INCIDENT))
    except (ValueError, AttributeError):
        return False


def _with_changes(saved: Config, now: Config) -> Config:
    """The saved config of a run, with the current values of the settings that may change on resume."""
    sections: dict[str, dict[str, Any]] = {}
    for key in _MAY_CHANGE:
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = getattr(getattr(now, section), name)
    parts: dict[str, Any] = {name: replace(getattr(saved, name), **found) for name, found in sections.items()}
    return replace(saved, **parts, monitors=now.monitors)


def _needs_number_of_steps(config: Config, trainer: str) -> str | None:
    """The reason why steps depend on the number of all steps, so that it cannot grow; None if none does."""
    section = config.grpo if trainer == "grpo" else config.sft
    if section.schedule != "constant":
        return f"{trainer}.schedule {format_value(section.schedule)} decays to 0 in the last step"
    if trainer == "sft":
        return None
    scheduled = {
        "reward.iou_threshold_end": config.reward.iou_threshold_end,
        "grpo.kl_coef_end": config.grpo.kl_coef_end,
        "grpo.demonstration_coef_end": config.grpo.demonstration_coef_end,
    }
    for key, value in scheduled.items():
        if value is not None:
            return f"{key} is reached in the last step"
    if config.sampling.max_staleness:
        return "sampling.max_staleness samples the groups of the next step, of which the last step has none"
    if config.grpo.refill_rounds:
        return "grpo.refill_rounds draws samples that depend on the number of steps"
    if config.reward.extra:
        return "reward.extra may use the fraction of the run that is done"
    return None


def _with_more_steps(saved: Config, now: Config, trainer: str) -> Config:
    """The saved config with the current number of steps, if that is larger."""
    if trainer == "grpo":
        return replace(saved, grpo=replace(saved.grpo, steps=max(saved.grpo.steps, now.grpo.steps)))
    return replace(saved, sft=replace(saved.sft, steps=max(saved.sft.steps, now.sft.steps)))


def run_card(
    *, trainer: str, commit: str | None, data_hash: str, model: str, seed: int = 0, num_processes: int = 1, **facts: Any
) -> dict[str, Any]:
    """Provenance of a run: command, commit, versions, machine, world size, seed, data, and additional ``facts``."""
    return {
        "schema_version": RUN_SCHEMA_VERSION,
        "trainer": trainer,
        "argv": sys.argv,
        "commit": commit,
        "virft": __version__,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "numpy", "tokenizers")},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "num_processes": num_processes,
        "model": model,
        "seed": seed,
        "data_hash": data_hash,
        **facts,
    }
